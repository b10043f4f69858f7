// The paper of the painter: the shown map, drawn with pointer or keys, what lies under it, and the model's grid over it.

import { element } from "./elements.mjs";
import { passToGraph } from "./host.mjs";
import { clean, fill, invert, painted, pictureOf, SIDE } from "./pixels.mjs";

const KEY_STEP = 8;
const GRID_COLOUR = "rgb(227 162 59 / 60%)";

/** What painters share, as people expect of paint programs: the brush of one is the brush of all. */
export const brush = { tool: "brush", size: 32, grid: false };

export class Paper {
  /** @param onDrawn called with the map, a data URL or null, when something was drawn */
  constructor(onDrawn) {
    this.onDrawn = onDrawn;
    this.cells = null; // rows and columns of the model
    this.canvas = element("canvas", { class: "nvg-map", width: SIDE, height: SIDE, tabindex: 0, role: "img" });
    this.canvas.title = "Arrows move, Space paints, [ and ] change the size";
    this.pen = this.canvas.getContext("2d", { willReadFrequently: true });
    this.under = element("img", { class: "nvg-under", alt: "" });
    this.before = element("img", { class: "nvg-before", alt: "" });
    for (const picture of [this.under, this.before]) picture.draggable = false;
    this.grid = element("canvas", { class: "nvg-grid" });
    this.ring = element("div", { class: "nvg-ring" });
    const paper = element("div", { class: "nvg-paper" }, this.under, this.before, this.canvas, this.grid, this.ring);
    this.element = element("div", { class: "nvg-desk" }, paper);
    this.listen();
  }

  listen() {
    passToGraph(this.canvas);
    this.canvas.addEventListener("pointerdown", (event) => this.begin(event));
    this.canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const end of ["pointerup", "pointercancel"]) this.canvas.addEventListener(end, () => this.end());
    for (const end of ["pointerleave", "blur"]) {
      this.canvas.addEventListener(end, () => this.ring.classList.remove("nvg-seen"));
    }
    this.canvas.addEventListener("keydown", (event) => this.onKey(event));
  }

  /** Shows a map; it is there when the promise resolves. @returns {Promise<boolean>} false: the map is damaged */
  async show(map) {
    this.map = map;
    const picture = map && (await pictureOf(map));
    if (this.map !== map) return true; // another one came meanwhile
    if (picture) this.pen.putImageData(painted(picture), 0, 0);
    else this.pen.clearRect(0, 0, SIDE, SIDE);
    return Boolean(picture) || !map;
  }

  /** Shows pictures under the map, or none: the map before, and one to paint after. */
  lay(before, under) {
    for (const [picture, url] of [
      [this.before, before],
      [this.under, under],
    ]) {
      picture.hidden = !url;
      if (url && picture.getAttribute("src") !== url) picture.src = url;
    }
    this.canvas.classList.toggle("nvg-over", Boolean(under));
  }

  // --------------------------------------------------------------------------------------------------------- grid

  /** Draws the grid for as long as it is to be seen, anew whenever the paper gets another size on the screen. */
  keepGrid() {
    this.grid.hidden = !brush.grid;
    if (!brush.grid || this.frame) return;
    const next = () => {
      this.frame = brush.grid && this.grid.isConnected ? requestAnimationFrame(next) : 0;
      this.drawGrid();
    };
    this.frame = requestAnimationFrame(next);
  }

  /** In pixels of the screen, so that no line is thinner than one: the graph may be zoomed. */
  drawGrid() {
    const size = Math.round(this.grid.getBoundingClientRect().width * window.devicePixelRatio);
    const [rows, columns] = this.cells ?? [1, 1];
    const state = `${size} ${rows} ${columns}`;
    if (!size || state === this.gridState) return;
    this.gridState = state;
    this.grid.width = this.grid.height = size;
    const pen = this.grid.getContext("2d");
    pen.fillStyle = GRID_COLOUR;
    const at = (line, count) => Math.min(Math.round((line / count) * size), size - 1);
    for (let line = 0; line <= columns; line++) pen.fillRect(at(line, columns), 0, 1, size);
    for (let line = 0; line <= rows; line++) pen.fillRect(0, at(line, rows), size, 1);
  }

  close() {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
  }

  // ------------------------------------------------------------------------------------------------------ drawing

  begin(event) {
    if (event.button !== 0 && event.button !== 5) return; // 5: the other end of a pen
    this.canvas.setPointerCapture(event.pointerId);
    this.canvas.focus({ preventScroll: true });
    event.preventDefault();
    const point = this.pointOf(event);
    if (brush.tool === "fill") return this.fillAt(point);
    this.erasing = brush.tool === "eraser" || event.button === 5;
    this.last = point;
    this.draw(point);
  }

  move(event) {
    this.point = this.pointOf(event);
    this.placeRing();
    if (!this.last) return;
    const steps = event.getCoalescedEvents?.() ?? [];
    for (const step of steps.length ? steps : [event]) this.draw(this.pointOf(step));
  }

  end() {
    if (!this.last) return;
    this.last = null;
    this.edit(() => {});
  }

  /** A line from the last point to this one. */
  draw([x, y]) {
    Object.assign(this.pen, { lineCap: "round", lineJoin: "round", lineWidth: brush.size, strokeStyle: "#fff" });
    this.pen.globalCompositeOperation = this.erasing ? "destination-out" : "source-over";
    this.pen.beginPath();
    this.pen.moveTo(...this.last);
    this.pen.lineTo(x + 0.01, y); // a line of no length would leave no dot
    this.pen.stroke();
    this.last = [x, y];
  }

  fillAt([x, y]) {
    this.edit((data) => fill(data, Math.floor(x), Math.floor(y)));
  }

  invert() {
    this.edit(invert);
  }

  /** Changes the pixels, and hands on what is painted now. */
  edit(change) {
    const pixels = this.pen.getImageData(0, 0, SIDE, SIDE);
    change(pixels.data);
    const isPainted = clean(pixels.data);
    this.pen.putImageData(pixels, 0, 0);
    this.onDrawn(isPainted ? this.canvas.toDataURL("image/png") : null);
  }

  /** Where on the map a pointer is; the graph may be zoomed. */
  pointOf(event) {
    const box = this.canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * SIDE, ((event.clientY - box.top) / box.height) * SIDE];
  }

  /** The ring shows where and how wide brush and eraser draw. */
  placeRing() {
    const [x, y] = this.point;
    const size = brush.tool === "fill" ? 4 : brush.size;
    const percent = (value) => `${(value / SIDE) * 100}%`;
    Object.assign(this.ring.style, { left: percent(x), top: percent(y), width: percent(size), height: percent(size) });
    this.ring.classList.add("nvg-seen");
  }

  onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return; // the host's: undo, queue, save
    if (event.key === "Tab" || event.key === "Escape") return;
    event.stopPropagation(); // no other key is to delete or move the node
    const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    this.point ??= [SIDE / 2, SIDE / 2];
    if (arrow) {
      const step = event.shiftKey ? 1 : KEY_STEP;
      this.point = this.point.map((value, axis) => Math.min(Math.max(value + arrow[axis] * step, 0), SIDE - 1));
    } else if (event.key === " " || event.key === "Enter") {
      this.dab();
    } else if (event.key === "[" || event.key === "]") {
      brush.size = Math.min(Math.max(brush.size + (event.key === "]" ? 4 : -4), 2), 128);
      this.onBrush?.();
    } else return;
    event.preventDefault();
    this.placeRing();
  }

  /** One touch of the tool, by key. */
  dab() {
    if (brush.tool === "fill") return this.fillAt(this.point);
    this.erasing = brush.tool === "eraser";
    this.last = this.point;
    this.draw(this.point);
    this.end();
  }
}

// The paper of the painter: the shown map or the colours, drawn with pointer or keys, and what lies under it.

import { element } from "./elements.mjs";
import { Grid } from "./grid.mjs";
import { passToGraph } from "./host.mjs";
import { clean, coloured, fill, fillColour, harden, invert, painted, pictureOf, SIDE, stamp, without } from "./pixels.mjs";
import { drawOutline, drawShape, isStroke } from "./shapes.mjs";

const KEY_STEP = 8;
const SIZES = [2, 128];
const TOOL_KEYS = { b: "brush", e: "eraser", f: "fill", r: "box", l: "lasso" };
const WHITE = [255, 255, 255];
const EMPTY = [0, 0, 0, 0];

/** What painters share, as people expect of paint programs: the brush of one is the brush of all. */
export const brush = { tool: "brush", size: 32, grid: false };

export class Paper {
  /** @param onDrawn called with the picture, a data URL or null, when something was drawn */
  constructor(onDrawn) {
    this.onDrawn = onDrawn;
    this.ink = WHITE; // red, green and blue to paint in; null: what is painted becomes empty
    this.isHard = false; // colours, every pixel one of them; else a map with soft edges
    this.points = null; // of what is being drawn
    this.canvas = element("canvas", { class: "nvg-map", width: SIDE, height: SIDE, tabindex: 0, role: "img" });
    this.canvas.title =
      "Arrows move, Space paints, Enter ends a lasso, [ and ] change the size; B, E, F, R, L are brush, eraser, fill, " +
      "box, lasso; digits are colours";
    this.pen = this.canvas.getContext("2d", { willReadFrequently: true });
    this.under = element("img", { class: "nvg-under", alt: "" });
    this.before = element("img", { class: "nvg-before", alt: "" });
    for (const picture of [this.under, this.before]) picture.draggable = false;
    this.grid = new Grid();
    this.ring = element("div", { class: "nvg-ring" });
    const layers = [this.under, this.before, this.canvas, this.grid.element, this.ring];
    this.element = element("div", { class: "nvg-desk" }, element("div", { class: "nvg-paper" }, ...layers));
    this.listen();
  }

  listen() {
    passToGraph(this.canvas);
    this.canvas.addEventListener("pointerdown", (event) => this.begin(event));
    this.canvas.addEventListener("pointermove", (event) => this.move(event));
    this.canvas.addEventListener("pointerup", (event) => this.isOurs(event) && this.end());
    this.canvas.addEventListener("pointercancel", (event) => this.isOurs(event) && this.cancel());
    this.canvas.addEventListener("pointerleave", () => this.ring.classList.remove("nvg-seen"));
    this.canvas.addEventListener("blur", () => {
      this.ring.classList.remove("nvg-seen");
      if (this.pointer === null) this.cancel(); // what was begun by keys
    });
    this.canvas.addEventListener("keydown", (event) => this.onKey(event));
  }

  /** Shows a picture; it is there when the promise resolves. @returns {Promise<boolean>} false: it is damaged */
  async show(url, isHard) {
    this.points = null;
    Object.assign(this, { map: url, isHard });
    const picture = url && (await pictureOf(url));
    if (this.map !== url || this.isHard !== isHard) return true; // another one came meanwhile
    if (picture) this.pen.putImageData(isHard ? coloured(picture) : painted(picture), 0, 0);
    else this.pen.clearRect(0, 0, SIDE, SIDE);
    return Boolean(picture) || !url;
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

  close() {
    this.grid.close();
  }

  get pixels() {
    return this.pen.getImageData(0, 0, SIDE, SIDE);
  }

  // ------------------------------------------------------------------------------------------------------ drawing

  /** Whether an event is of the pointer that draws; a second finger does not. */
  isOurs(event) {
    return this.points && this.pointer === event.pointerId;
  }

  begin(event) {
    if (event.button !== 0 && event.button !== 5) return; // 5: the other end of a pen
    if (this.points && this.pointer !== null) return;
    this.cancel(); // what was begun by keys
    this.canvas.setPointerCapture(event.pointerId);
    this.canvas.focus({ preventScroll: true });
    event.preventDefault();
    const point = this.pointOf(event);
    if (brush.tool === "fill") return this.fillAt(point);
    this.start(point, event.pointerId, event.button === 5 || event.shiftKey);
  }

  move(event) {
    this.point = this.pointOf(event);
    this.placeRing();
    if (!this.isOurs(event)) return;
    const steps = event.getCoalescedEvents?.() ?? [];
    for (const step of steps.length ? steps : [event]) this.goOn(this.pointOf(step));
  }

  /** Begins a stroke or a shape; `pointer` is null where keys draw it. */
  start(point, pointer, isErased = false) {
    Object.assign(this, { points: [point], pointer, begun: this.pixels, tool: brush.tool });
    this.isErased = isErased || brush.tool === "eraser" || !this.ink;
    this.goOn(point);
  }

  goOn(point) {
    this.points.push(point);
    if (isStroke(this.tool)) return this.drawOn(this.pen, this.points.slice(-2));
    this.pen.putImageData(this.begun, 0, 0);
    this.drawOn(this.pen, this.points);
    drawOutline(this.pen, this.tool, this.points);
  }

  drawOn(pen, points, isErased = this.isErased) {
    drawShape(pen, this.tool, points, { size: brush.size, colour: `rgb(${this.ink ?? WHITE})`, isErased });
  }

  end() {
    const { points, begun } = this;
    this.points = null;
    if (this.isHard) {
      // The edge of a stroke on the screen is soft, which would mix two colours to a third: only where it was counts.
      const wet = new OffscreenCanvas(SIDE, SIDE).getContext("2d");
      this.drawOn(wet, points, false);
      this.pen.putImageData(begun, 0, 0);
      const pixel = this.isErased ? EMPTY : [...this.ink, 255];
      return this.edit((data) => stamp(data, wet.getImageData(0, 0, SIDE, SIDE).data, pixel));
    }
    if (!isStroke(this.tool)) {
      this.pen.putImageData(begun, 0, 0);
      this.drawOn(this.pen, points);
    }
    this.edit(() => {});
  }

  /** Takes back what is being drawn. */
  cancel() {
    if (!this.points) return;
    this.points = null;
    this.pen.putImageData(this.begun, 0, 0);
  }

  fillAt([x, y]) {
    const [column, row] = [Math.floor(x), Math.floor(y)];
    const pixel = this.ink ? [...this.ink, 255] : EMPTY;
    this.edit((data) => (this.isHard ? fillColour(data, column, row, pixel) : fill(data, column, row)));
  }

  invert() {
    this.edit(invert);
  }

  /** Changes the pixels, and hands on what is painted now. */
  edit(change) {
    this.onDrawn(this.changed(change));
  }

  /** The picture without a colour, as a data URL, or null where nothing else is painted. */
  withoutColour(rgb) {
    return this.changed((data) => without(data, rgb));
  }

  changed(change) {
    const { pixels } = this;
    change(pixels.data);
    const isPainted = this.isHard ? harden(pixels.data) : clean(pixels.data);
    this.pen.putImageData(pixels, 0, 0);
    return isPainted ? this.canvas.toDataURL("image/png") : null;
  }

  /** Where on the map a pointer is; the graph may be zoomed. */
  pointOf(event) {
    const box = this.canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * SIDE, ((event.clientY - box.top) / box.height) * SIDE];
  }

  /** The ring shows where and how wide brush and eraser draw. */
  placeRing() {
    const [x, y] = this.point;
    const size = isStroke(brush.tool) ? brush.size : 4;
    const percent = (value) => `${(value / SIDE) * 100}%`;
    Object.assign(this.ring.style, { left: percent(x), top: percent(y), width: percent(size), height: percent(size) });
    this.ring.classList.add("nvg-seen");
  }

  // --------------------------------------------------------------------------------------------------------- keys

  onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return; // the host's: undo, queue, save
    if (event.key === "Tab" || (event.key === "Escape" && !this.points)) return;
    event.stopPropagation(); // no other key is to delete or move the node
    const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    this.point ??= [SIDE / 2, SIDE / 2];
    if (arrow) this.moveBy(arrow, event.shiftKey ? 1 : KEY_STEP);
    else if (event.key === "Escape") this.cancel();
    else if (event.key === " " || event.key === "Enter") this.dab(event.key === "Enter");
    else if (event.key === "[" || event.key === "]") this.resize(event.key === "]" ? 4 : -4);
    else if (TOOL_KEYS[event.key]) this.onTool?.(TOOL_KEYS[event.key]);
    else if (/^[0-9]$/.test(event.key)) this.onColour?.(Number(event.key) - 1);
    else return;
    event.preventDefault();
    this.placeRing();
  }

  moveBy(arrow, step) {
    this.point = this.point.map((value, axis) => Math.min(Math.max(value + arrow[axis] * step, 0), SIDE));
    if (!this.points || this.pointer !== null) return;
    this.points.pop(); // the last one goes with the keys
    this.goOn(this.point);
  }

  resize(by) {
    brush.size = Math.min(Math.max(brush.size + by, SIZES[0]), SIZES[1]);
    this.onBrush?.();
  }

  /** One touch of the tool, by key; a box takes two, and a lasso one for each corner and one more to end it. */
  dab(isEnter) {
    if (this.points) {
      if (this.tool === "lasso" && !isEnter) return this.points.push(this.point);
      return this.end();
    }
    const point = this.point.map((value) => Math.min(value, SIDE - 1));
    if (brush.tool === "fill") return this.fillAt(point);
    this.start(this.point, null);
    if (isStroke(brush.tool)) this.end();
  }
}

// The widget of NVGPaintStructure's `painting`: a map per split, drawn with pointer or keys, kept in the workflow.
//
// The core painter of hosts from 0.17 on (PAINTER) cannot stand in for it. Its value is the name of a file that it
// uploads to the server's input folder when the graph is queued, so the painting would not be in the workflow; it holds
// one mask; it writes only to a widget that is called "mask"; and it exists in Vue nodes only.

import { modelOf, passToGraph, takePlace, undoably } from "./host.mjs";
import { format, History, parse } from "./painting.mjs";

const SIDE = 256; // pixels of a map; many times the model's positions, and a PNG of some two kilobytes
const MOST_MAPS = 12;
const KEY_STEP = 8;

const TOOLS = {
  brush: ["Brush", "Paint"],
  eraser: ["Eraser", "Erase; the other end of a pen always does"],
  fill: ["Fill", "Fill the area around a point up to what is painted"],
};

/** What painters share, as people expect of paint programs: the brush of one is the brush of all. */
const brush = { tool: "brush", size: 32, grid: false };

/** Histories and the maps that were shown, by node: the host's undo builds the whole graph, and us, anew. */
const desks = new Map();

/** Makes the widget, as the host's `getCustomWidgets` asks for. */
export function painter(node, name, [, options]) {
  const view = new Painter(node, options.default ?? "");
  const widget = node.addDOMWidget(name, "nvg_painting", view.element, {
    getValue: () => view.text,
    setValue: (text) => view.load(text ?? ""),
    getMinHeight: () => 260,
    hideOnZoom: false,
  });
  view.onPainted = () => widget.callback?.(view.text);
  return { widget, minWidth: 320, minHeight: 500 };
}

class Painter {
  constructor(node, text) {
    this.node = node;
    this.history = new History(text);
    this.maps = parse(text) ?? [null];
    this.shown = 0;
    this.onPainted = () => {};
    this.build();
    this.listen();
    this.refresh();
    takePlace(node, this.element);
  }

  /** The value, as kept in the workflow. */
  get text() {
    return this.history.text;
  }

  // ------------------------------------------------------------------------------------------------- the elements

  build() {
    this.element = element("div", { class: "nvg-painter", role: "group", "aria-label": "Painter of structure maps" });
    this.tabs = element("div", { class: "nvg-tabs", role: "tablist", "aria-label": "Maps, one per split" });
    this.tools = Object.fromEntries(
      Object.entries(TOOLS).map(([tool, [name, what]]) => [tool, button(name, what, () => this.take(tool))]),
    );
    this.size = element("input", { type: "range", min: 2, max: 128, title: "Size of brush and eraser" });
    this.size.setAttribute("aria-label", "Brush size");
    this.undo = button("Undo", "Take the last change of the painting back", () => this.step(-1));
    this.redo = button("Redo", "Make it again", () => this.step(1));
    const invert = button("Invert", "Swap painted and empty", () => this.invert());
    this.clear = button("Clear", "Empty this map", () => this.keep(null));
    this.gridSwitch = button("Grid", "Show the positions of the model", () => this.toggleGrid());
    const row = (...children) => {
      const made = element("div", { class: "nvg-row" });
      made.append(...children);
      return made;
    };

    this.canvas = element("canvas", { width: SIDE, height: SIDE, tabindex: 0, role: "img" });
    this.canvas.title = "Arrows move, Space paints, [ and ] change the size";
    this.pen = this.canvas.getContext("2d", { willReadFrequently: true });
    this.before = element("img", { class: "nvg-before", alt: "" });
    this.before.draggable = false;
    this.grid = element("div", { class: "nvg-grid" });
    this.ring = element("div", { class: "nvg-ring" });
    const paper = element("div", { class: "nvg-paper" });
    paper.append(this.before, this.canvas, this.grid, this.ring);
    const desk = element("div", { class: "nvg-desk" });
    desk.append(paper);
    this.status = element("div", { class: "nvg-status", role: "status" });
    this.element.append(
      this.tabs,
      row(...Object.values(this.tools), this.size),
      row(this.undo, this.redo, invert, this.clear, this.gridSwitch),
      desk,
      this.status,
    );
  }

  listen() {
    passToGraph(this.canvas);
    this.element.addEventListener("pointerdown", (event) => {
      if (event.button === 0) event.stopPropagation(); // in Vue nodes it would drag the node
    });
    this.canvas.addEventListener("pointerdown", (event) => this.begin(event));
    this.canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const end of ["pointerup", "pointercancel"]) this.canvas.addEventListener(end, () => this.end());
    this.canvas.addEventListener("pointerleave", () => this.ring.classList.remove("nvg-seen"));
    this.canvas.addEventListener("blur", () => this.ring.classList.remove("nvg-seen"));
    this.canvas.addEventListener("keydown", (event) => this.onKey(event));
    this.tabs.addEventListener("keydown", (event) => this.onTabKey(event));
    this.size.addEventListener("input", () => (brush.size = Number(this.size.value)));
    this.element.addEventListener("pointerenter", () => this.refresh()); // another painter may have changed the brush
  }

  /** Makes everything but the map itself show how things are. */
  refresh() {
    const chips = this.maps.map((map, index) => this.tab(map, index));
    const add = button("+", "Add a map: a further split", () => this.addMap());
    const remove = button("−", "Remove this map", () => this.removeMap());
    add.disabled = this.maps.length >= MOST_MAPS;
    remove.disabled = this.maps.length < 2;
    const focused = this.tabs.contains(document.activeElement);
    this.tabs.replaceChildren(...chips, add, remove);
    if (focused) chips[this.shown].focus();

    for (const [tool, one] of Object.entries(this.tools)) one.setAttribute("aria-pressed", tool === brush.tool);
    this.size.value = brush.size;
    this.undo.disabled = !this.history.canUndo;
    this.redo.disabled = !this.history.canRedo;
    this.clear.disabled = !this.maps[this.shown];
    this.gridSwitch.setAttribute("aria-pressed", brush.grid);
    this.grid.hidden = !brush.grid;
    if (brush.grid) this.measure();

    const before = this.mapBefore();
    this.before.hidden = !before;
    if (before) this.before.src = before;
    this.canvas.setAttribute("aria-label", `Map ${this.shown + 1} of ${this.maps.length}`);
    this.status.textContent = this.statusText();
  }

  statusText() {
    if (!parse(this.text)) return "The painting cannot be read here. Painting replaces it.";
    if (this.maps[this.shown]) return `Map ${this.shown + 1}: splits every region of the map before in two.`;
    if (this.shown && this.mapBefore()) return `Map ${this.shown + 1} is empty: the map before is used again.`;
    return "Paint the area that is to be one half.";
  }

  tab(map, index) {
    const chosen = index === this.shown;
    const one = button(String(index + 1), `Map ${index + 1}${map ? "" : ", empty"}`, () => this.show(index));
    one.setAttribute("role", "tab");
    one.setAttribute("aria-selected", chosen);
    one.tabIndex = chosen ? 0 : -1;
    one.classList.toggle("nvg-empty", !map);
    return one;
  }

  /** The nearest painted map before the one shown. */
  mapBefore() {
    return this.maps.slice(0, this.shown).findLast(Boolean) ?? null;
  }

  async measure() {
    const [rows, columns] = (await modelOf(this.node)).grid ?? [0, 0];
    this.grid.style.setProperty("--nvg-rows", rows || 1);
    this.grid.style.setProperty("--nvg-columns", columns || 1);
    if (brush.grid && !rows) this.status.textContent = "The grid is shown once a model is connected that can be asked.";
  }

  // --------------------------------------------------------------------------------------------- maps and history

  /** Takes a value that comes from outside: a loaded workflow, a copy, the host's undo. */
  load(text) {
    takePlace(this.node, this.element);
    const desk = desks.get(this.deskKey());
    if (desk?.history.texts.includes(text)) Object.assign(this, desk);
    this.history.goTo(text);
    this.adopt();
  }

  deskKey() {
    return `${this.node.graph?.id}/${this.node.id}`;
  }

  adopt() {
    this.maps = parse(this.text) ?? [null];
    this.show(Math.min(this.shown, this.maps.length - 1));
  }

  /** Shows a map; what is drawn on it is there when the promise resolves. */
  async show(index) {
    this.shown = index;
    if (this.node.graph) desks.set(this.deskKey(), { history: this.history, shown: index });
    this.refresh();
    const map = this.maps[index];
    const picture = map && (await pictureOf(map));
    if (this.maps[index] !== map || this.shown !== index) return; // another one came meanwhile
    if (picture) this.pen.putImageData(painted(picture), 0, 0);
    else this.pen.clearRect(0, 0, SIDE, SIDE);
    if (map && !picture) this.status.textContent = "This map is damaged. Clear it and paint again.";
  }

  /** Makes a map, as a data URL or null, that of the shown tab. */
  keep(map) {
    this.change(this.maps.with(this.shown, map));
    if (!map) this.pen.clearRect(0, 0, SIDE, SIDE);
  }

  addMap() {
    this.change([...this.maps, null]);
    this.show(this.maps.length - 1);
  }

  removeMap() {
    this.change(this.maps.toSpliced(this.shown, 1));
    this.show(Math.min(this.shown, this.maps.length - 1));
  }

  change(maps) {
    this.maps = maps;
    const text = format(maps);
    if (text !== this.text) {
      undoably(() => {
        this.history.add(text);
        this.onPainted();
      });
      desks.set(this.deskKey(), { history: this.history, shown: this.shown });
    }
    this.refresh();
  }

  step(by) {
    undoably(() => {
      this.history.step(by);
      this.onPainted();
    });
    this.adopt();
  }

  // ------------------------------------------------------------------------------------------------------ drawing

  take(tool) {
    brush.tool = tool;
    this.refresh();
  }

  toggleGrid() {
    brush.grid = !brush.grid;
    this.refresh();
  }

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
    this.keepDrawn();
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
    const pixels = this.pen.getImageData(0, 0, SIDE, SIDE);
    fill(pixels.data, Math.floor(x), Math.floor(y));
    this.pen.putImageData(pixels, 0, 0);
    this.keepDrawn();
  }

  invert() {
    const pixels = this.pen.getImageData(0, 0, SIDE, SIDE);
    for (let at = 0; at < pixels.data.length; at += 4) pixels.data.set([255, 255, 255, 255 - pixels.data[at + 3]], at);
    this.pen.putImageData(pixels, 0, 0);
    this.keepDrawn();
  }

  /** Keeps what is on the canvas as the map. */
  keepDrawn() {
    const { data } = this.pen.getImageData(0, 0, SIDE, SIDE);
    const isPainted = data.some((value, at) => at % 4 === 3 && value > 0);
    this.keep(isPainted ? this.canvas.toDataURL("image/png") : null);
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
      this.refresh();
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

  onTabKey(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    this.show((this.shown + step + this.maps.length) % this.maps.length);
  }
}

/** Paints the empty area around a pixel, and its soft edge, in RGBA data of a map. */
function fill(data, x, y) {
  const waiting = [y * SIDE + x];
  while (waiting.length) {
    const at = waiting.pop();
    if (at < 0 || at >= SIDE * SIDE || data[4 * at + 3] === 255) continue;
    const isEdge = data[4 * at + 3] >= 128;
    data.set([255, 255, 255, 255], 4 * at);
    if (isEdge) continue;
    if (at % SIDE > 0) waiting.push(at - 1);
    if (at % SIDE < SIDE - 1) waiting.push(at + 1);
    waiting.push(at - SIDE, at + SIDE);
  }
}

/** What is painted in a picture, as white of that opacity: what is opaque, or bright where everything is opaque. */
function painted(picture) {
  const paper = new OffscreenCanvas(SIDE, SIDE).getContext("2d");
  paper.drawImage(picture, 0, 0, SIDE, SIDE);
  const pixels = paper.getImageData(0, 0, SIDE, SIDE);
  const { data } = pixels;
  const isOpaque = data.every((value, at) => at % 4 !== 3 || value === 255);
  for (let at = 0; at < data.length; at += 4) {
    const bright = 0.299 * data[at] + 0.587 * data[at + 1] + 0.114 * data[at + 2];
    data.set([255, 255, 255, isOpaque ? bright : data[at + 3]], at);
  }
  return pixels;
}

/** A picture of a data URL, or null where it is damaged. */
async function pictureOf(url) {
  const picture = new Image();
  picture.src = url;
  try {
    await picture.decode();
    return picture;
  } catch {
    return null;
  }
}

function element(kind, attributes) {
  const made = document.createElement(kind);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function button(name, what, onClick) {
  const made = element("button", { type: "button", title: what });
  made.textContent = name;
  if (!/\w{2}/.test(name)) made.setAttribute("aria-label", what);
  made.addEventListener("click", onClick);
  return made;
}

// The widget of NVGPaintStructure's `painting`: colours with classes, and a map per split, drawn with pointer or keys, kept
// in the workflow.
//
// The core painter of hosts from 0.17 on (PAINTER) cannot stand in for it. Its value is the name of a file that it
// uploads to the server's input folder when the graph is queued, so the painting would not be in the workflow; it holds
// one mask; it writes only to a widget that is called "mask"; and it exists in Vue nodes only.

import { COLOURS, deskOf, FREE, freeSoon } from "./desk.mjs";
import { button, element } from "./elements.mjs";
import { Legend } from "./legend.mjs";
import { Opening } from "./opening.mjs";
import { rgbOf } from "./palette.mjs";
import { brush, Paper } from "./paper.mjs";
import { shareOf } from "./pixels.mjs";
import { addWidget } from "./surfaces.mjs";
import { Under } from "./under.mjs";
import { modelOf } from "./upstream.mjs";
import { viewElement } from "./view.mjs";

const MOST_MAPS = 12;

const TOOLS = {
  brush: ["Brush", "Paint (B)"],
  eraser: ["Eraser", "Erase (E); the other end of a pen and Shift always do"],
  fill: ["Fill", "Fill the area around a point (F)"],
  box: ["Box", "Paint a box from corner to corner (R)"],
  lasso: ["Lasso", "Paint what you go around (L)"],
};

/** Makes the widget, as the host's `getCustomWidgets` asks for. */
export function painter(node, name, [, options]) {
  const widget = addWidget(node, name, options.default ?? "", {
    type: "nvg_painting",
    makeView: (value) => new Painter(value),
    options: { getMinHeight: () => 340, hideOnZoom: false },
  });
  return { widget, minWidth: 340, minHeight: 640 };
}

class Painter {
  constructor(value) {
    this.value = value;
    this.desk = deskOf(value);
    this.paper = new Paper((map) => {
      this.paper.map = map; // it is what is seen already
      this.desk.keep(map);
    });
    this.paper.onBrush = () => this.refresh();
    this.paper.onTool = (tool) => this.take(tool);
    this.paper.onColour = (index) => this.desk.showsColours && this.desk.choose(index);
    this.under = new Under(value, this.desk, (url) => this.paper.lay(this.desk.mapBefore, url));
    this.legend = new Legend(value, this.desk, (index) => this.removeColour(index));
    this.opening = new Opening((picture, colours) => this.desk.open(picture, colours));
    this.build();
    this.listen();
    this.update();
  }

  // ------------------------------------------------------------------------------------------------- the elements

  build() {
    this.tabs = element("div", { class: "nvg-tabs", role: "tablist", "aria-label": "Colours, and maps, one per split" });
    this.tools = Object.fromEntries(
      Object.entries(TOOLS).map(([tool, [name, what]]) => [tool, button(name, what, () => this.take(tool))]),
    );
    this.size = element("input", { type: "range", min: 2, max: 128, title: "Size of brush and eraser ([ and ])" });
    this.size.setAttribute("aria-label", "Brush size");
    this.undo = button("Undo", "Take the last change of the painting back", () => this.desk.step(-1));
    this.redo = button("Redo", "Make it again", () => this.desk.step(1));
    this.invert = button("Invert", "Swap painted and empty", () => this.paper.invert());
    this.clear = button("Clear", "Empty what is shown", () => this.desk.keep(null));
    this.gridSwitch = button("Grid", "Show the positions of the model", () => this.toggleGrid());
    this.status = element("div", { class: "nvg-status", role: "status" });
    const row = (...children) => element("div", { class: "nvg-row" }, ...children);
    this.element = viewElement("nvg-painter");
    this.element.setAttribute("role", "group");
    this.element.setAttribute("aria-label", "Painter of regions and structure maps");
    this.element.append(
      this.tabs,
      row(...Object.values(this.tools), this.size),
      row(this.undo, this.redo, this.invert, this.clear, this.gridSwitch),
      row(...this.under.elements, this.opening.choice),
      this.legend.element,
      this.paper.element,
      this.status,
    );
  }

  listen() {
    // In Vue nodes they would drag the node; those of front end 1.35 begin to on the way, where Shift is held.
    this.element.addEventListener("pointerdown", (event) => event.button === 0 && event.stopPropagation());
    this.element.addEventListener("pointermove", (event) => event.buttons & 1 && event.stopPropagation());
    this.element.addEventListener("pointerenter", () => {
      this.value.check();
      this.refresh(); // another painter may have changed the brush
    });
    this.tabs.addEventListener("keydown", (event) => this.onTabKey(event));
    this.size.addEventListener("input", () => (brush.size = Number(this.size.value)));
    this.element.addEventListener("dragover", (event) => event.preventDefault());
    this.element.addEventListener("drop", (event) => this.under.onDrop(event));
  }

  /** Shows the value, if it is another one now. */
  update() {
    const { desk, paper } = this;
    desk.sync();
    this.refresh();
    const { layer, showsColours } = desk;
    if (layer === paper.map && showsColours === paper.isHard) return;
    paper.show(layer, showsColours).then((isGood) => {
      this.status.textContent = isGood ? this.statusText() : "This picture is damaged. Clear it and paint again.";
    });
  }

  close() {
    this.paper.close();
    this.under.close();
    this.legend.close();
    freeSoon();
  }

  /** Makes everything but the painted picture itself show how things are. */
  refresh() {
    const { desk, paper } = this;
    this.refreshTabs();
    for (const [tool, one] of Object.entries(this.tools)) one.setAttribute("aria-pressed", tool === brush.tool);
    this.size.value = brush.size;
    this.undo.disabled = !desk.history.canUndo;
    this.redo.disabled = !desk.history.canRedo;
    this.invert.hidden = desk.showsColours;
    this.clear.disabled = !desk.layer;
    this.gridSwitch.setAttribute("aria-pressed", brush.grid);
    this.legend.element.hidden = !desk.showsColours;
    this.legend.update();
    paper.ink = desk.showsColours ? this.inkOf(desk.chosen) : this.inkOf();
    this.status.textContent = this.statusText();
    if (brush.grid) this.measure();
    paper.grid.show(brush.grid);
    this.under.list();
    paper.canvas.setAttribute("aria-label", desk.showsColours ? "Colours" : `Map ${desk.shown + 1} of ${desk.maps.length}`);
  }

  /** Red, green and blue of a colour of the legend, null for none; without one, white. */
  inkOf(index) {
    if (index === undefined) return rgbOf("#ffffff");
    return index === FREE ? null : rgbOf(this.desk.legend[index].colour);
  }

  removeColour(index) {
    const picture = this.paper.withoutColour(this.inkOf(index));
    this.paper.map = picture;
    this.desk.removeColour(index, picture);
  }

  take(tool) {
    brush.tool = tool;
    this.refresh();
  }

  toggleGrid() {
    brush.grid = !brush.grid;
    this.refresh();
  }

  async measure() {
    const { node, hosts } = this.value.origin;
    this.paper.grid.cells = (await modelOf(node, hosts)).grid ?? null;
    if (brush.grid && !this.paper.grid.cells) {
      this.status.textContent = "The grid is shown once a model is connected that can be asked.";
    }
  }

  // ------------------------------------------------------------------------------------------------ tabs and status

  refreshTabs() {
    const { desk } = this;
    const tabs = [this.tab(COLOURS), ...desk.maps.map((_, index) => this.tab(index))];
    const add = button("Add map", "A map: what is painted on it splits every region in two", () => desk.addMap());
    const remove = button("−", "Remove this map", () => desk.removeMap());
    add.disabled = desk.maps.length >= MOST_MAPS;
    remove.disabled = desk.showsColours;
    remove.hidden = !desk.maps.length;
    const focused = this.tabs.contains(document.activeElement);
    this.tabs.replaceChildren(...tabs, add, remove);
    if (focused) tabs[desk.shown + 1].focus();
  }

  tab(index) {
    const { desk } = this;
    const isEmpty = !(index === COLOURS ? desk.painting.picture : desk.maps[index]);
    const [name, what] = index === COLOURS ? ["Colours", "Colours"] : [String(index + 1), `Map ${index + 1}`];
    const one = button(name, `${what}${isEmpty ? ", empty" : ""}`, () => desk.show(index));
    const isChosen = index === desk.shown;
    one.setAttribute("role", "tab");
    one.setAttribute("aria-selected", isChosen);
    one.tabIndex = isChosen ? 0 : -1;
    one.classList.toggle("nvg-empty", isEmpty);
    return one;
  }

  onTabKey(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const count = this.desk.maps.length + 1;
    this.desk.show(((this.desk.shown + 1 + step + count) % count) - 1);
  }

  statusText() {
    const { desk } = this;
    if (!desk.isReadable) return "The painting cannot be read here. Painting replaces it.";
    if (desk.showsColours) return this.colourText();
    if (desk.layer) return `Map ${desk.shown + 1}: splits every region of the map before in two.`;
    if (desk.mapBefore) return `Map ${desk.shown + 1} is empty: the map before is used again.`;
    return "Paint the area that is to be one half.";
  }

  colourText() {
    const { desk } = this;
    if (desk.chosen === FREE) return "Free: takes colours away. There the picture has its own class.";
    const { name } = desk.legend[desk.chosen];
    const share = desk.painting.picture ? shareOf(this.paper.pixels.data, this.inkOf(desk.chosen)) : 0;
    const what = `Colour ${desk.chosen + 1}${name && `, ${name},`}`;
    if (!share) return name ? `${what} is not painted yet.` : "Choose a colour and paint. It can have a class.";
    const maps = desk.maps.some(Boolean) ? " The structure follows the maps." : "";
    return `${what} covers ${Math.max(1, Math.round(100 * share))}% of the picture.${maps}`;
  }
}

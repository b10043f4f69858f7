// The widget of NVGPaintStructure's `painting`: a map per split, drawn with pointer or keys, kept in the workflow.
//
// The core painter of hosts from 0.17 on (PAINTER) cannot stand in for it. Its value is the name of a file that it
// uploads to the server's input folder when the graph is queued, so the painting would not be in the workflow; it holds
// one mask; it writes only to a widget that is called "mask"; and it exists in Vue nodes only.

import { deskOf, freeSoon } from "./desk.mjs";
import { button, element } from "./elements.mjs";
import { picturesBeside } from "./host.mjs";
import { brush, Paper } from "./paper.mjs";
import { addWidget } from "./surfaces.mjs";
import { modelOf } from "./upstream.mjs";
import { viewElement } from "./view.mjs";

const MOST_MAPS = 12;
const UNDER = "nvg_under"; // the node's property that names the picture under the map
const FILE = "file";
const TRIES = 8;

const TOOLS = {
  brush: ["Brush", "Paint"],
  eraser: ["Eraser", "Erase; the other end of a pen always does"],
  fill: ["Fill", "Fill the area around a point up to what is painted"],
};

/** Makes the widget, as the host's `getCustomWidgets` asks for. */
export function painter(node, name, [, options]) {
  const widget = addWidget(node, name, options.default ?? "", {
    type: "nvg_painting",
    makeView: (value) => new Painter(value),
    options: { getMinHeight: () => 280, hideOnZoom: false },
  });
  return { widget, minWidth: 320, minHeight: 520 };
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
    this.build();
    this.listen();
    this.update();
  }

  // ------------------------------------------------------------------------------------------------- the elements

  build() {
    this.tabs = element("div", { class: "nvg-tabs", role: "tablist", "aria-label": "Maps, one per split" });
    this.tools = Object.fromEntries(
      Object.entries(TOOLS).map(([tool, [name, what]]) => [tool, button(name, what, () => this.take(tool))]),
    );
    this.size = element("input", { type: "range", min: 2, max: 128, title: "Size of brush and eraser" });
    this.size.setAttribute("aria-label", "Brush size");
    this.undo = button("Undo", "Take the last change of the painting back", () => this.desk.step(-1));
    this.redo = button("Redo", "Make it again", () => this.desk.step(1));
    const invert = button("Invert", "Swap painted and empty", () => this.paper.invert());
    this.clear = button("Clear", "Empty this map", () => this.desk.keep(null));
    this.gridSwitch = button("Grid", "Show the positions of the model", () => this.toggleGrid());
    this.under = element("select", { title: "A picture under the map, to paint after", "aria-label": "Picture under" });
    this.file = element("input", { type: "file", accept: "image/*", hidden: "" });
    this.status = element("div", { class: "nvg-status", role: "status" });
    const row = (...children) => element("div", { class: "nvg-row" }, ...children);
    this.element = viewElement("nvg-painter");
    this.element.setAttribute("role", "group");
    this.element.setAttribute("aria-label", "Painter of structure maps");
    this.element.append(
      this.tabs,
      row(...Object.values(this.tools), this.size),
      row(this.undo, this.redo, invert, this.clear, this.gridSwitch),
      row(this.under, this.file),
      this.paper.element,
      this.status,
    );
  }

  listen() {
    this.element.addEventListener("pointerdown", (event) => {
      if (event.button === 0) event.stopPropagation(); // in Vue nodes it would drag the node
    });
    this.element.addEventListener("pointerenter", () => {
      this.value.check();
      this.refresh(); // another painter may have changed the brush
    });
    this.tabs.addEventListener("keydown", (event) => this.onTabKey(event));
    this.size.addEventListener("input", () => (brush.size = Number(this.size.value)));
    for (const event of ["pointerdown", "focus"]) this.under.addEventListener(event, () => this.listPictures());
    this.under.addEventListener("change", () => this.chooseUnder());
    this.file.addEventListener("change", () => this.layFile(this.file.files[0]));
    this.element.addEventListener("dragover", (event) => event.preventDefault());
    this.element.addEventListener("drop", (event) => this.onDrop(event));
  }

  /** Shows the value, if it is another one now. */
  update() {
    this.desk.sync();
    this.refresh();
    const { map } = this.desk;
    if (map === this.paper.map) return;
    this.paper.show(map).then((isGood) => {
      if (!isGood) this.status.textContent = "This map is damaged. Clear it and paint again.";
    });
  }

  close() {
    this.paper.close();
    clearTimeout(this.waiting);
    freeSoon();
  }

  /** Makes everything but the map itself show how things are. */
  refresh() {
    const { desk } = this;
    this.refreshTabs();
    for (const [tool, one] of Object.entries(this.tools)) one.setAttribute("aria-pressed", tool === brush.tool);
    this.size.value = brush.size;
    this.undo.disabled = !desk.history.canUndo;
    this.redo.disabled = !desk.history.canRedo;
    this.clear.disabled = !desk.map;
    this.gridSwitch.setAttribute("aria-pressed", brush.grid);
    this.status.textContent = this.statusText();
    if (brush.grid) this.measure();
    this.paper.keepGrid();
    this.listPictures();
    this.paper.canvas.setAttribute("aria-label", `Map ${desk.shown + 1} of ${desk.maps.length}`);
  }

  refreshTabs() {
    const { desk } = this;
    const chips = desk.maps.map((map, index) => this.tab(map, index));
    const add = button("+", "Add a map: a further split", () => desk.addMap());
    const remove = button("−", "Remove this map", () => desk.removeMap());
    add.disabled = desk.maps.length >= MOST_MAPS;
    remove.disabled = desk.maps.length < 2;
    const focused = this.tabs.contains(document.activeElement);
    this.tabs.replaceChildren(...chips, add, remove);
    if (focused) chips[desk.shown].focus();
  }

  statusText() {
    const { desk } = this;
    if (!desk.isReadable) return "The painting cannot be read here. Painting replaces it.";
    if (desk.map) return `Map ${desk.shown + 1}: splits every region of the map before in two.`;
    if (desk.mapBefore) return `Map ${desk.shown + 1} is empty: the map before is used again.`;
    return "Paint the area that is to be one half.";
  }

  tab(map, index) {
    const chosen = index === this.desk.shown;
    const one = button(String(index + 1), `Map ${index + 1}${map ? "" : ", empty"}`, () => this.desk.show(index));
    one.setAttribute("role", "tab");
    one.setAttribute("aria-selected", chosen);
    one.tabIndex = chosen ? 0 : -1;
    one.classList.toggle("nvg-empty", !map);
    return one;
  }

  onTabKey(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const { length } = this.desk.maps;
    this.desk.show((this.desk.shown + step + length) % length);
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
    this.paper.cells = (await modelOf(node, hosts)).grid ?? null;
    if (brush.grid && !this.paper.cells) {
      this.status.textContent = "The grid is shown once a model is connected that can be asked.";
    }
  }

  // -------------------------------------------------------------------------------------------- the picture under

  /** Offers the pictures that there are, and lays the chosen one under the map. */
  listPictures() {
    const pictures = picturesBeside(this.value.node);
    const { under } = this.desk;
    const options = [["", "Nothing under the map"], ...pictures.map(({ key, title }) => [key, title])];
    options.push([FILE, under ? "The picture from a file" : "A picture from a file ..."]);
    const chosen = under ? FILE : (this.value.node.properties?.[UNDER] ?? "");
    const state = JSON.stringify(options);
    if (state !== this.listed) {
      this.listed = state;
      this.under.replaceChildren(...options.map(([key, title]) => new Option(title, key)));
    }
    this.under.value = options.some(([key]) => key === chosen) ? chosen : "";
    const url = under ?? pictures.find(({ key }) => key === chosen)?.url;
    this.paper.lay(this.desk.mapBefore, url);
    if (chosen && !url) this.listLater();
  }

  /** After a workflow is loaded, its pictures come a little later. */
  listLater() {
    if (this.waiting || this.tries >= TRIES) return;
    this.tries = (this.tries ?? 0) + 1;
    this.waiting = setTimeout(() => {
      this.waiting = 0;
      if (this.element.isConnected) this.listPictures();
    }, 300 * this.tries);
  }

  chooseUnder() {
    const chosen = this.under.value;
    if (chosen === FILE) {
      this.listPictures(); // until there is a file, what was chosen stays
      return this.file.click();
    }
    this.desk.drop();
    this.tries = 0;
    this.value.node.properties[UNDER] = chosen;
    this.value.update();
  }

  layFile(file) {
    this.file.value = "";
    if (!file?.type.startsWith("image/")) return;
    this.desk.drop();
    this.desk.under = URL.createObjectURL(file);
    this.value.update();
  }

  onDrop(event) {
    const file = [...event.dataTransfer.files].find((one) => one.type.startsWith("image/"));
    if (!file) return;
    event.preventDefault();
    event.stopPropagation(); // the host would open it as a workflow
    this.layFile(file);
  }
}

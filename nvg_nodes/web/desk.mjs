// A painting while it is being made: its colours and maps, its history, and the picture under it, shared by all views of
// one widget.

import { isGone } from "./host.mjs";
import { format, History, parse } from "./painting.mjs";
import { nextColour } from "./palette.mjs";

const FREED_AFTER_MS = 3000; // the host's undo has built a node anew by then

/** What is shown instead of a map: the colours. */
export const COLOURS = -1;
/** What is chosen instead of a colour: that there is none. */
export const FREE = -1;

/** By node and widget: the host's undo builds the whole graph, and us, anew. */
export const kept = new Map();
const desks = new WeakMap();

/** The desk of a widget's value. */
export function deskOf(value) {
  if (!desks.has(value)) desks.set(value, new Desk(value));
  return desks.get(value);
}

/** Frees, in a while, what was kept for nodes that are gone by then. */
export function freeSoon() {
  setTimeout(() => {
    for (const [key, desk] of kept) {
      if (!isGone(desk.value.node)) continue;
      desk.drop();
      kept.delete(key);
    }
  }, FREED_AFTER_MS);
}

class Desk {
  constructor(value) {
    this.value = value;
    this.history = new History(value.text);
    this.shown = undefined; // COLOURS, or the number of a map
    this.chosen = 0; // of the legend, or FREE
    this.under = null; // a picture from a file, as a URL; not kept in the workflow
    this.sync();
  }

  get key() {
    return `${this.value.node.graph?.id}/${this.value.node.id}/${this.value.name}`;
  }

  /** Goes to the widget's text, if it is another one now. */
  sync() {
    const { text } = this.value;
    const before = kept.get(this.key);
    if (before && before !== this && isGone(before.value.node)) {
      [this.under, before.under] = [before.under, null];
      const { history, shown, chosen } = before;
      if (history.texts.includes(text)) Object.assign(this, { history, shown, chosen });
    }
    if (this.value.node.graph) kept.set(this.key, this);
    if (!this.history.goTo(text)) this.shown = undefined;
    if (text !== this.textOf) this.adopt(text);
  }

  adopt(text) {
    this.textOf = text;
    this.painting = parse(text) ?? parse("");
    if (!this.painting.legend.length) this.painting.legend = [{ colour: nextColour([]), name: "" }];
    if (this.shown >= 0 && !this.painting.maps.length) this.painting.maps = [null]; // its tab stays
    const { maps, picture, legend } = this.painting;
    this.shown ??= maps.length && !picture ? 0 : COLOURS;
    this.shown = Math.min(this.shown, maps.length - 1);
    this.chosen = Math.min(this.chosen, legend.length - 1);
  }

  get isReadable() {
    return Boolean(parse(this.value.text));
  }

  get maps() {
    return this.painting.maps;
  }

  get legend() {
    return this.painting.legend;
  }

  get showsColours() {
    return this.shown === COLOURS;
  }

  /** The picture that is shown: of the colours, or of a map. */
  get layer() {
    return this.showsColours ? this.painting.picture : this.maps[this.shown];
  }

  /** The nearest painted map before the one shown. */
  get mapBefore() {
    return this.maps.slice(0, Math.max(this.shown, 0)).findLast(Boolean) ?? null;
  }

  /** Lets go of the picture from a file. */
  drop() {
    if (this.under) URL.revokeObjectURL(this.under);
    this.under = null;
  }

  show(index) {
    this.shown = index;
    this.value.update();
  }

  /** Takes a colour of the legend, or FREE. */
  choose(index) {
    if (index >= this.legend.length || index === this.chosen) return;
    this.chosen = index;
    this.value.update();
  }

  /** Makes a picture, as a data URL or null, the shown one. */
  keep(picture) {
    this.change(this.showsColours ? { picture } : { maps: this.maps.with(this.shown, picture) });
  }

  addMap() {
    this.shown = this.maps.length;
    this.change({ maps: [...this.maps, null] });
  }

  removeMap() {
    const maps = this.maps.toSpliced(this.shown, 1);
    this.shown = Math.min(this.shown, maps.length - 1);
    this.change({ maps });
  }

  addColour() {
    const colour = nextColour(this.legend.map((entry) => entry.colour));
    if (!colour) return;
    this.chosen = this.legend.length;
    this.change({ legend: [...this.legend, { colour, name: "" }] });
  }

  /** Takes a colour out of the legend; `picture` is what is left of the painting. */
  removeColour(index, picture) {
    const legend = this.legend.toSpliced(index, 1);
    if (this.chosen >= index) this.chosen = Math.max(this.chosen - 1, 0);
    this.change({ legend: legend.length ? legend : [{ colour: nextColour([]), name: "" }], picture });
  }

  /** The class of a colour, while it is being typed. */
  typeClass(index, name) {
    this.adjust({ legend: this.named(index, name) });
    this.history.type(this.textOf);
    this.value.type(this.textOf);
  }

  setClass(index, name) {
    this.change({ legend: this.named(index, name) });
  }

  named(index, name) {
    return this.legend.with(index, { ...this.legend[index], name });
  }

  /** Colours in place of all that is there: one per region of a structure. */
  open(picture, colours) {
    Object.assign(this, { shown: COLOURS, chosen: 0 });
    this.change({ maps: [], picture, legend: colours.map((colour) => ({ colour, name: "" })) });
  }

  change(parts) {
    this.adjust(parts);
    this.history.add(this.textOf);
    this.value.write(this.textOf);
  }

  adjust(parts) {
    this.painting = { ...this.painting, ...parts };
    this.textOf = format(this.painting);
  }

  step(by) {
    this.history.step(by);
    this.adopt(this.history.text);
    this.value.write(this.history.text);
  }
}

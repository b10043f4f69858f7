// A painting while it is being made: its maps, its history, and the picture under it, shared by all views of one widget.

import { isGone } from "./host.mjs";
import { format, History, parse } from "./painting.mjs";

const FREED_AFTER_MS = 3000; // the host's undo has built a node anew by then

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
    this.shown = 0;
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
      if (before.history.texts.includes(text)) Object.assign(this, { history: before.history, shown: before.shown });
    }
    if (this.value.node.graph) kept.set(this.key, this);
    this.history.goTo(text);
    if (text !== this.mapsOf) this.adopt(text);
  }

  adopt(text) {
    this.mapsOf = text;
    this.maps = parse(text) ?? [null];
    this.shown = Math.min(this.shown, this.maps.length - 1);
  }

  get isReadable() {
    return Boolean(parse(this.value.text));
  }

  get map() {
    return this.maps[this.shown];
  }

  /** Lets go of the picture from a file. */
  drop() {
    if (this.under) URL.revokeObjectURL(this.under);
    this.under = null;
  }

  /** The nearest painted map before the one shown. */
  get mapBefore() {
    return this.maps.slice(0, this.shown).findLast(Boolean) ?? null;
  }

  show(index) {
    this.shown = index;
    this.value.update();
  }

  /** Makes a map, as a data URL or null, that of the shown tab. */
  keep(map) {
    this.change(this.maps.with(this.shown, map), this.shown);
  }

  addMap() {
    this.change([...this.maps, null], this.maps.length);
  }

  removeMap() {
    const maps = this.maps.toSpliced(this.shown, 1);
    this.change(maps, Math.min(this.shown, maps.length - 1));
  }

  change(maps, shown) {
    Object.assign(this, { maps, shown });
    const text = format(maps);
    this.mapsOf = text;
    if (text === this.value.text) return this.value.update();
    this.history.add(text);
    this.value.write(text);
  }

  step(by) {
    this.history.step(by);
    this.adopt(this.history.text);
    this.value.write(this.history.text);
  }
}

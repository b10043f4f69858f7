// A widget of ours wherever the host shows it: on its node, classic or Vue; on the node of a subgraph that it is
// promoted to; in the Parameters panel; in App mode. One value, and a view for every place.
//
// Vue nodes and App mode mount the widget's element themselves. In the panel the host makes a small canvas for widgets
// that it does not know and asks them to draw there: a second view comes into its place (rows.mjs fills the canvases
// that it asks nobody to draw on). Of promoted widgets front end 1.35 makes copies that share the element; 1.58 makes
// plain objects without one, which are replaced by real widgets.

import { isGone, isGraphCanvas, subgraphNodes, undoably } from "./host.mjs";
import { innermost } from "./upstream.mjs";

/** How each of our widget types is made, by type. */
const kinds = new Map();
/** The values by the element of the view on their node. */
const values = new WeakMap();
/** Views in panels by the host's canvas that they stand in for. */
const inPanels = new WeakMap();

/** The value of a widget: a text, kept by a store, shown by views that have `element`, `update()` and `close()`. */
export class Value {
  /**
   * @param node the node that carries the widget
   * @param {string} name
   * @param {{get: () => string, set: (text: string) => void}} store
   * @param {{node: object, hosts: object[]}} origin the node whose input it stands for, and the subgraph nodes around it
   */
  constructor(node, name, store, origin = { node, hosts: [] }) {
    Object.assign(this, { node, name, store, origin });
    this.views = new Set();
    this.onWritten = () => {};
    this.seen = this.text;
  }

  get text() {
    return this.store.get() ?? "";
  }

  /** What the user made, in one of the views. */
  write(text) {
    if (isGone(this.node)) return; // a field that goes with its node loses the focus, and says that it changed
    undoably(() => {
      this.store.set(text);
      this.onWritten(text);
    });
    this.update();
  }

  /** What the user is about to make: no step of the host's undo yet. */
  type(text) {
    if (isGone(this.node)) return;
    this.store.set(text);
    this.onWritten(text);
    this.update();
  }

  /** What comes from outside: a loaded workflow, a copy, the host's undo. */
  load(text) {
    this.store.set(text);
    this.update();
  }

  /** Shows a text that the host has changed without asking us. */
  check() {
    if (this.text !== this.seen) this.update();
  }

  update() {
    this.seen = this.text;
    for (const view of [...this.views]) {
      if (view.canvas && !view.canvas.isConnected) this.drop(view); // its panel is closed
      else view.update();
    }
  }

  /** A further view. */
  view(make) {
    const view = make(this);
    this.views.add(view);
    values.set(view.element, this);
    return view;
  }

  drop(view) {
    this.views.delete(view);
    view.close();
  }

  /** Its widget is removed; or only for a while, so the view on the node stays. */
  close() {
    this.isClosed = true;
    for (const view of [...this.views]) {
      if (view.canvas) this.drop(view);
      else view.close();
    }
  }
}

/**
 * Makes a widget, as the host's `getCustomWidgets` asks for.
 * @param kind {type, makeView(value), options, size(widget)}; `type` names the widget to the host
 */
export function addWidget(node, name, text, kind) {
  kinds.set(kind.type, kind);
  const value = new Value(node, name, { get: () => text, set: (given) => (text = given ?? "") });
  return placed(node, name, value, kind);
}

/** Makes the promoted widgets of a subgraph's node ours. */
export function adoptPromoted(host) {
  if (isGone(host)) return; // not yet in its graph: once it is, the host promotes again
  for (const input of host.inputs) {
    const promoted = input._widget;
    const kind = kinds.get(promoted?.type);
    if (!kind) continue;
    if (promoted.element) equip(promoted, values.get(promoted.element), kind);
    else input._widget = replaced(host, input, promoted, kind);
  }
}

/** The same for all of the open workflow; shows what the host has put into them meanwhile. */
export function adoptAllPromoted() {
  for (const host of subgraphNodes()) {
    adoptPromoted(host);
    for (const widget of host.widgets ?? []) values.get(widget.element)?.check();
  }
}

/** A real widget in place of the host's description of a promoted one. */
function replaced(host, input, promoted, kind) {
  const store = { get: () => promoted.value, set: (text) => (promoted.value = text) };
  const value = new Value(host, input.name, store, innermost(host, input.name));
  // Its place is among the promoted ones, to which `widgets` of a subgraph's node adds what is added by others.
  host.addCustomWidget = (widget) => widget;
  try {
    return placed(host, input.name, value, kind);
  } finally {
    delete host.addCustomWidget;
  }
}

function placed(node, name, value, kind) {
  const { element } = value.view(kind.makeView);
  const widget = node.addDOMWidget(name, kind.type, element, {
    ...kind.options,
    getValue: () => value.text,
    setValue: (text) => {
      value.load(text);
      takePlaces(value, element, kind);
    },
  });
  kind.size?.(widget);
  value.onWritten = (text) => widget.callback?.(text);
  value.labelOf = () => node.getSlotFromWidget?.(widget)?.label ?? widget.label ?? name;
  const { onRemove } = widget;
  widget.onRemove = function () {
    value.close();
    onRemove?.call(this);
  };
  equip(widget, value, kind);
  takePlaces(value, element, kind);
  return widget;
}

/** Lets a widget come into a panel where it is asked to draw on the panel's canvas. */
function equip(widget, value, kind) {
  if (!value || Object.hasOwn(widget, "draw")) return;
  let { draw, width } = widget;
  widget.draw = function (context, ...rest) {
    value.check();
    const canvas = context.canvas;
    if (isGraphCanvas(canvas) || !canvas.isConnected) {
      width = this.width;
      return draw?.call(this, context, ...rest);
    }
    this.width = width; // the panel has put its own there, which would make the view on the node as narrow
    if (values.get(inPanels.get(canvas)?.element) !== value) comeInto(canvas, value, kind);
  };
}

/** Whether a widget, on a node of any graph, is of this file. */
export function isOurs(widget) {
  return kinds.has(widget.type) && values.has(widget.element);
}

/** Puts a view of such a widget in place of a canvas that the host leaves blank. */
export function showIn(canvas, widget) {
  const value = values.get(widget.element);
  if (values.get(inPanels.get(canvas)?.element) !== value) comeInto(canvas, value, kinds.get(widget.type));
}

function comeInto(canvas, value, kind) {
  const before = inPanels.get(canvas);
  const view = value.view(kind.makeView);
  view.canvas = canvas;
  view.element.classList.add("nvg-panel");
  canvas.style.display = "none";
  if (before) {
    values.get(before.element)?.drop(before);
    before.element.replaceWith(view.element);
  } else canvas.after(view.element);
  inPanels.set(canvas, view);
}

/**
 * Puts a widget's views where those of its predecessor still are. The host's undo builds every node anew under its old
 * id, and its Vue nodes and panels go on showing the elements of the nodes that are gone; classic nodes do not.
 */
function takePlaces(value, element, kind) {
  for (const old of document.querySelectorAll(".nvg-view")) {
    const owner = values.get(old);
    const isPredecessor = owner && owner !== value && owner.node.id === value.node.id && owner.name === value.name;
    if (!isPredecessor || !(owner.isClosed || isGone(owner.node))) continue;
    const canvas = old.classList.contains("nvg-panel") && old.previousElementSibling;
    if (canvas) comeInto(canvas, value, kind);
    else if (window.LiteGraph.vueNodesMode) old.replaceWith(element);
  }
}

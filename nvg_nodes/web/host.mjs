// What several of our widgets need of the host: the model that a node gets, and the host's undo.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const MODEL = "NVG_MODEL";
const LOADER = "NVGLoadModel";
const [MUTED, BYPASSED] = [2, 4];
const SUBGRAPH_INPUTS = -10; // the id that links from a subgraph's own inputs begin at

/**
 * What the server knows about the model that a node gets, before anything runs.
 * @returns {Promise<{classes: string[], grid?: [number, number]}>} no classes where it cannot be told: no loader, a hub
 *   id, released files, a checkpoint that is not there
 */
export async function modelOf(node) {
  const unknown = { classes: [] };
  const loader = upstream(node, node.findInputSlot("model"), (type) => type === MODEL || type === "*");
  if (loader?.type !== LOADER || valueOf(loader, "hub_id")?.trim()) return unknown;
  const checkpoint = valueOf(loader, "checkpoint");
  if (!checkpoint) return unknown;
  try {
    const answer = await api.fetchApi(`/nvg/classes?checkpoint=${encodeURIComponent(checkpoint)}`);
    return answer.ok ? await answer.json() : unknown;
  } catch {
    return unknown; // the server is away: the host says so itself
  }
}

/** Makes a change that the host's undo takes back as one step. */
export function undoably(change) {
  app.canvas.emitBeforeChange();
  try {
    change();
  } finally {
    app.canvas.emitAfterChange();
  }
}

const owners = new WeakMap();

/**
 * Puts a widget's element where that of its predecessor still is. The host's undo builds every node anew under its old
 * id, and its Vue nodes go on showing the elements of the nodes that are gone; classic ones do not.
 */
export function takePlace(node, element) {
  owners.set(element, node);
  if (!window.LiteGraph.vueNodesMode) return;
  for (const old of document.getElementsByClassName(element.className)) {
    const owner = owners.get(old);
    const isGone = owner?.id === node.id && owner.graph?.getNodeById(owner.id) !== owner;
    if (isGone) return old.replaceWith(element);
  }
}

/** Hands wheel and middle button on to the graph, which lies behind our elements, as the host does for its own. */
export function passToGraph(element) {
  const pass = (forward) => (event) => {
    // Vue nodes are the host's own elements: there it takes these events as they bubble up.
    if (!window.LiteGraph.vueNodesMode) forward(event);
  };
  const ifMiddle = (forward) => (event) => (event.button === 1 || event.buttons & 4) && forward(event);
  element.addEventListener("wheel", pass((event) => (event.preventDefault(), app.canvas.processMouseWheel(event))));
  element.addEventListener("pointerdown", pass(ifMiddle((event) => app.canvas.processMouseDown(event))));
  element.addEventListener("pointermove", pass(ifMiddle((event) => app.canvas.processMouseMove(event))));
  element.addEventListener("pointerup", pass(ifMiddle((event) => app.canvas.processMouseUp(event))));
}

/** The node that a value comes from, through reroutes, bypassed and other nodes that hand it on, and subgraphs. */
function upstream(node, slot, isPassed) {
  const seen = new Set();
  for (let link = linkInto(node, slot); link && !seen.has(link); link = linkInto(node, slot)) {
    seen.add(link);
    if (link.origin_id === SUBGRAPH_INPUTS) {
      node = nodeAround(node.graph);
      slot = link.origin_slot;
      continue;
    }
    node = node.graph.getNodeById(link.origin_id);
    let output = link.origin_slot;
    while (node?.isSubgraphNode?.()) [node, output] = innerEnd(node, output);
    slot = node?.inputs?.findIndex((input, index) => isPassed(input.type) && linkInto(node, index)) ?? -1;
    if (slot < 0) return node?.mode === BYPASSED || node?.mode === MUTED ? null : node;
  }
  return null;
}

/** What a widget holds, or the node that it is connected to. */
function valueOf(node, name) {
  const slot = node.findInputSlot(name);
  if (!linkInto(node, slot)) return node.widgets?.find((widget) => widget.name === name)?.value;
  const value = upstream(node, slot, () => true)?.widgets?.[0]?.value;
  return typeof value === "string" ? value : undefined;
}

function linkInto(node, slot) {
  return node?.graph && slot >= 0 ? node.getInputLink(slot) : null;
}

/** The node that stands for a subgraph in the graph around it. */
function nodeAround(subgraph) {
  const root = subgraph.rootGraph;
  for (const graph of [root, ...root.subgraphs.values()]) {
    const found = graph.nodes.find((node) => node.subgraph === subgraph);
    if (found) return found;
  }
}

/** The node inside a subgraph, and its slot, that an output of the subgraph's node comes from. */
function innerEnd(node, output) {
  const link = node.resolveSubgraphOutputLink(output)?.link;
  return link ? [node.subgraph.getNodeById(link.origin_id), link.origin_slot] : [];
}

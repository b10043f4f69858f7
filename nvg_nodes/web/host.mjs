// What our widgets need of the host: its server, its undo, its graph, and the pictures that nodes show.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

/** What the server says about a checkpoint; undefined where it says nothing. */
export async function fetchClasses(checkpoint) {
  try {
    const answer = await api.fetchApi(`/nvg/classes?checkpoint=${encodeURIComponent(checkpoint)}`);
    return answer.ok ? await answer.json() : undefined;
  } catch {
    return undefined; // the server is away: the host says so itself
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

/** Hands wheel and middle button on to the graph, which lies behind our elements, as the host does for its own. */
export function passToGraph(element) {
  const pass = (forward) => (event) => {
    // Vue nodes are the host's own elements: there it takes these events as they bubble up. Panels scroll.
    if (!window.LiteGraph.vueNodesMode && element.closest(".dom-widget")) forward(event);
  };
  const ifMiddle = (forward) => (event) => (event.button === 1 || event.buttons & 4) && forward(event);
  element.addEventListener("wheel", pass((event) => (event.preventDefault(), app.canvas.processMouseWheel(event))));
  element.addEventListener("pointerdown", pass(ifMiddle((event) => app.canvas.processMouseDown(event))));
  element.addEventListener("pointermove", pass(ifMiddle((event) => app.canvas.processMouseMove(event))));
  element.addEventListener("pointerup", pass(ifMiddle((event) => app.canvas.processMouseUp(event))));
}

/** Whether a canvas is one of the graph's own, and no panel's. */
export function isGraphCanvas(canvas) {
  return canvas === app.canvas.canvas || canvas === app.canvas.bgcanvas;
}

/** Whether a node is in its graph no longer: deleted, or built anew under its id by the host's undo. */
export function isGone(node) {
  const graph = node.graph;
  return !graph || graph.getNodeById(node.id) !== node || !graphs().includes(graph);
}

/** The graph of the workflow that is open, and its subgraphs. */
function graphs() {
  const root = app.graph.rootGraph ?? app.graph;
  return [root, ...(root.subgraphs?.values() ?? [])];
}

/** All nodes of the open workflow that stand for subgraphs. */
export function subgraphNodes() {
  return graphs().flatMap((graph) => graph.nodes.filter((node) => node.isSubgraphNode?.()));
}

/** The nodes of the subgraph whose node is selected; where none is, all nodes of graphs that are not open. */
export function nodesInside() {
  const selected = [...app.canvas.selectedItems].filter((item) => item.isSubgraphNode?.());
  const inside = selected.length ? selected.map((node) => node.subgraph) : graphs();
  return [...new Set(inside)].filter((graph) => graph !== app.canvas.graph).flatMap((graph) => graph.nodes);
}

/**
 * The pictures that other nodes of the open workflow show: loaded ones, previews, results.
 * @returns {{key: string, title: string, url: string}[]} the key stays the same when the workflow is loaded again
 */
export function picturesBeside(node) {
  return beside(node, picturesOf).map(({ given, ...of }) => ({ ...of, url: given }));
}

/**
 * The structures that nodes of the open workflow made when they ran last, this node's too.
 * @returns {{key: string, title: string, structure: {grid: [number, number], splits: number, labels: string}}[]}
 *   `labels` has one hexadecimal digit for every position: its region after so many splits
 */
export function structuresBeside() {
  const structuresOf = (_node, locator) => app.nodeOutputs?.[locator]?.nvg_structure ?? [];
  return beside(null, structuresOf).map(({ given, ...of }) => ({ ...of, structure: given }));
}

/** All that `find(node, locator)` finds at the nodes of the open workflow but one. */
function beside(node, find) {
  return graphs().flatMap((graph, depth) =>
    graph.nodes
      .filter((other) => other !== node)
      .flatMap((other) => {
        const found = find(other, depth ? `${graph.id}:${other.id}` : String(other.id));
        const title = other.getTitle?.() ?? other.title ?? other.type;
        return found.map((given, index) => ({
          key: `${depth ? graph.id : ""}/${other.id}/${index}`,
          title: found.length > 1 ? `${title} ${index + 1}` : title,
          given,
        }));
      }),
  );
}

function picturesOf(node, locator) {
  const shown = (node.imgs ?? []).map((picture) => picture.src).filter(Boolean);
  if (shown.length) return shown;
  const images = app.nodeOutputs?.[locator]?.images ?? [];
  return images
    .filter((one) => one?.filename)
    .map(({ filename, subfolder = "", type = "output" }) =>
      api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`),
    );
}

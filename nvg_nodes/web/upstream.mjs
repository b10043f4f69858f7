// Which model a node gets, read from the graph before anything runs.

import { fetchClasses } from "./host.mjs";

const MODEL = "NVG_MODEL";
const LOADER = "NVGLoadModel";
const [MUTED, BYPASSED] = [2, 4];
const SUBGRAPH_INPUTS = -10; // the id that links from a subgraph's own inputs begin at; a text on front end 1.58

/**
 * What the server knows about the model that a node gets.
 * @param node the node with the `model` input
 * @param {Array} hosts the subgraph nodes that it is seen through, outermost first; where none is given, and a subgraph
 *   has several nodes, the first counts
 * @returns {Promise<{classes: string[], grid?: [number, number]}>} no classes where it cannot be told: no loader, a hub
 *   id, released files, a checkpoint that is not there
 */
export async function modelOf(node, hosts = []) {
  const unknown = { classes: [] };
  const walk = new Walk(hosts);
  const loader = walk.upstream(node, node.findInputSlot("model"), (type) => type === MODEL || type === "*");
  if (loader?.type !== LOADER || walk.valueOf(loader, "hub_id")?.trim()) return unknown;
  const checkpoint = walk.valueOf(loader, "checkpoint");
  return (checkpoint && (await fetchClasses(checkpoint))) || unknown;
}

/**
 * The node inside a subgraph, however deep, that an input of the subgraph's node leads to.
 * @returns {{node: object, hosts: object[]} | undefined} the node, and the subgraph nodes around it, outermost first
 */
export function innermost(host, inputName, hosts = []) {
  const slot = host.subgraph.inputNode.slots.find((one) => one.name === inputName);
  for (const id of slot?.linkIds ?? []) {
    const link = host.subgraph.getLink(id);
    const node = link && host.subgraph.getNodeById(link.target_id);
    if (!node) continue;
    const around = [...hosts, host];
    return node.isSubgraphNode?.() ? innermost(node, node.inputs[link.target_slot].name, around) : { node, hosts: around };
  }
}

/** A walk against the direction of the links; it knows which subgraph nodes it is inside. */
class Walk {
  constructor(hosts) {
    this.hosts = [...hosts];
  }

  /** The node that a value comes from, through reroutes, bypassed and other nodes that hand it on, and subgraphs. */
  upstream(node, slot, isPassed) {
    const seen = new Set();
    for (let link = linkInto(node, slot); link && !seen.has(link); link = linkInto(node, slot)) {
      seen.add(link);
      if (Number(link.origin_id) === SUBGRAPH_INPUTS) {
        node = this.around(node.graph);
        slot = link.origin_slot;
        continue;
      }
      node = node.graph.getNodeById(link.origin_id);
      let output = link.origin_slot;
      while (node?.isSubgraphNode?.()) {
        this.hosts.push(node);
        [node, output] = innerEnd(node, output);
      }
      slot = node?.inputs?.findIndex((input, index) => isPassed(input.type) && linkInto(node, index)) ?? -1;
      if (slot < 0) return node?.mode === BYPASSED || node?.mode === MUTED ? null : node;
    }
    return null;
  }

  /** What a widget holds, or the node that it is connected to, or the widget that stands for it on a subgraph's node. */
  valueOf(node, name) {
    let slot = node.findInputSlot(name);
    let link = linkInto(node, slot);
    if (!link) return node.widgets?.find((widget) => widget.name === name)?.value;
    const walk = new Walk(this.hosts);
    while (link && Number(link.origin_id) === SUBGRAPH_INPUTS) {
      node = walk.around(node.graph);
      slot = link.origin_slot;
      link = linkInto(node, slot);
      const promoted = node?.inputs?.[slot]?.widget?.name;
      if (!link) return node?.widgets?.find((widget) => widget.name === promoted)?.value;
    }
    const value = walk.upstream(node, slot, () => true)?.widgets?.[0]?.value;
    return typeof value === "string" ? value : undefined;
  }

  /** The node that stands for a subgraph in the graph around it. */
  around(subgraph) {
    const known = this.hosts.pop();
    if (known?.subgraph === subgraph) return known;
    const root = subgraph.rootGraph;
    for (const graph of [root, ...root.subgraphs.values()]) {
      const found = graph.nodes.find((node) => node.subgraph === subgraph);
      if (found) return found;
    }
  }
}

/** The link into an input, in the graph around; `getInputLink` of a subgraph's node gives one inside the subgraph. */
function linkInto(node, slot) {
  if (!node?.graph || slot < 0) return null;
  return window.LiteGraph.LGraphNode.prototype.getInputLink.call(node, slot);
}

/** The node inside a subgraph, and its slot, that an output of the subgraph's node comes from. */
function innerEnd(node, output) {
  const link = node.resolveSubgraphOutputLink(output)?.link;
  return link ? [node.subgraph.getNodeById(link.origin_id), link.origin_slot] : [];
}

// Rows of the Parameters panel that stand for nodes inside a subgraph seen from outside: the advanced inputs of the
// subgraph's node, and favourites. Front end 1.58 looks such a node up in the graph that is open, does not find it, and
// leaves the row's canvas blank. Which widget a row is for is told from its words.

import { nodesInside } from "./host.mjs";
import { isOurs, showIn } from "./surfaces.mjs";

const ROW = ".widget-item";
const FOUND = "nvg-row"; // the animation that nvg.css gives to the canvas of a new row
const SUBGRAPH_INPUTS = -10;

/** Fills such rows from now on. */
export function fillRows() {
  document.addEventListener("animationstart", (event) => {
    if (event.animationName === FOUND) fill(event.target);
  });
}

function fill(canvas) {
  const words = wordsOf(canvas.closest(ROW));
  const rows = [...document.querySelectorAll(`${ROW} canvas`)].filter((one) => wordsOf(one.closest(ROW)) === words);
  const widgets = nodesInside().flatMap((node) =>
    (node.widgets ?? []).filter(
      (widget) =>
        isOurs(widget) && squeezed((widget.label || widget.name) + node.title) === words && !isPromoted(node, widget),
    ),
  );
  // Where words are the same, the order is; rather blank than another node's.
  if (widgets.length === rows.length) showIn(canvas, widgets[rows.indexOf(canvas)]);
}

/** The row's label and the title of its node. */
function wordsOf(row) {
  return squeezed(row.firstElementChild?.textContent ?? "");
}

function squeezed(text) {
  return text.replace(/\s/g, "");
}

/** Whether a widget has its row among the subgraph's own inputs. */
function isPromoted(node, widget) {
  const link = node.graph.getLink(node.inputs?.find((input) => input.widget?.name === widget.name)?.link);
  return Number(link?.origin_id) === SUBGRAPH_INPUTS;
}

// What the tools draw: a stroke along points, a box between two of them, an area that they go around.

import { SIDE } from "./pixels.mjs";

const SNAP = 4;
/** The tools that draw along the way of the pointer; the others draw what lies between its points. */
const ALONG = ["brush", "eraser"];

/** Whether a tool's picture only grows while it is drawn. */
export function isStroke(tool) {
  return ALONG.includes(tool);
}

/**
 * Draws what a tool makes of points.
 * @param {CanvasRenderingContext2D} pen
 * @param {string} tool
 * @param {[number, number][]} points at least one
 * @param {{size: number, colour: string, isErased: boolean}} ink `size` is the width of a stroke
 */
export function drawShape(pen, tool, points, { size, colour, isErased }) {
  pen.save();
  pen.globalCompositeOperation = isErased ? "destination-out" : "source-over";
  Object.assign(pen, { lineCap: "round", lineJoin: "round", lineWidth: size, strokeStyle: colour, fillStyle: colour });
  pen.beginPath();
  if (tool === "box") addBox(pen, points);
  else {
    pen.moveTo(...points[0]);
    for (const [x, y] of points) pen.lineTo(x + 0.01, y); // a line of no length would leave no dot
  }
  if (isStroke(tool)) pen.stroke();
  else pen.fill();
  pen.restore();
}

/** A box between the first point and the last; near the border of the picture it ends there. */
function addBox(pen, points) {
  const snapped = (value) => (value < SNAP ? 0 : value > SIDE - SNAP ? SIDE : Math.round(value));
  const [[left, top], [right, bottom]] = [points[0], points.at(-1)].map((point) => point.map(snapped));
  pen.rect(left, top, right - left, bottom - top);
}

/** Marks a shape on the way: the outline of a box or a lasso that is not closed yet. */
export function drawOutline(pen, tool, points) {
  pen.save();
  pen.beginPath();
  if (tool === "box") addBox(pen, points);
  else for (const point of points) pen.lineTo(...point);
  for (const [colour, dash] of [
    ["#000", []],
    ["#fff", [4, 4]],
  ]) {
    pen.strokeStyle = colour;
    pen.setLineDash(dash);
    pen.stroke();
  }
  pen.restore();
}

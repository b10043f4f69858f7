// What is painted, as pixels: RGBA data of a map, of which only the opacity counts.

/** Pixels along a side of a map: many times the model's positions, and a PNG of some two kilobytes. */
export const SIDE = 256;
const HALF = 128; // of the opacity: from here on a pixel is inside, as nvg_nodes/layout.py reads it

/** Paints the empty area around a pixel, and its soft edge. */
export function fill(data, x, y) {
  const waiting = [y * SIDE + x];
  while (waiting.length) {
    const at = waiting.pop();
    if (at < 0 || at >= SIDE * SIDE || data[4 * at + 3] === 255) continue;
    const isEdge = data[4 * at + 3] >= HALF;
    data.set([255, 255, 255, 255], 4 * at);
    if (isEdge) continue;
    if (at % SIDE > 0) waiting.push(at - 1);
    if (at % SIDE < SIDE - 1) waiting.push(at + 1);
    waiting.push(at - SIDE, at + SIDE);
  }
}

/** Swaps painted and empty. */
export function invert(data) {
  for (let at = 0; at < data.length; at += 4) data.set([255, 255, 255, 255 - data[at + 3]], at);
}

/**
 * Empties what an eraser's soft edge left: pixels too faint to count that are no edge of anything painted.
 * @returns {boolean} whether anything painted is left
 */
export function clean(data) {
  const isInside = (x, y) => x >= 0 && x < SIDE && y >= 0 && y < SIDE && data[4 * (y * SIDE + x) + 3] >= HALF;
  const isEdge = (x, y) => [-1, 0, 1].some((down) => [-1, 0, 1].some((right) => isInside(x + right, y + down)));
  let isPainted = false;
  for (let at = 0; at < SIDE * SIDE; at++) {
    const opacity = data[4 * at + 3];
    isPainted ||= opacity >= HALF;
    if (opacity > 0 && opacity < HALF && !isEdge(at % SIDE, Math.floor(at / SIDE))) data[4 * at + 3] = 0;
  }
  return isPainted;
}

/** What is painted in a picture, as white of that opacity: what is opaque, or bright where everything is opaque. */
export function painted(picture) {
  const paper = new OffscreenCanvas(SIDE, SIDE).getContext("2d");
  paper.drawImage(picture, 0, 0, SIDE, SIDE);
  const pixels = paper.getImageData(0, 0, SIDE, SIDE);
  const { data } = pixels;
  const isOpaque = data.every((value, at) => at % 4 !== 3 || value === 255);
  for (let at = 0; at < data.length; at += 4) {
    const bright = 0.299 * data[at] + 0.587 * data[at + 1] + 0.114 * data[at + 2];
    data.set([255, 255, 255, isOpaque ? bright : data[at + 3]], at);
  }
  return pixels;
}

/** A picture of a data URL, or null where it is damaged. */
export async function pictureOf(url) {
  const picture = new Image();
  picture.src = url;
  try {
    await picture.decode();
    return picture;
  } catch {
    return null;
  }
}

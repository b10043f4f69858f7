// What is painted, as pixels: RGBA data. Of a map only the opacity counts, and its edges are soft; with colours a pixel
// has one of them as it is, or none.

/** Pixels along a side of a painting: many times the model's positions, and a PNG of some two kilobytes. */
export const SIDE = 256;
const HALF = 128; // of the opacity: from here on a pixel is inside, as the nodes read it

/** The pixels around a point that can be reached without leaving its kind. */
function reach(x, y, isInside, isEdge, visit) {
  const waiting = [y * SIDE + x];
  while (waiting.length) {
    const at = waiting.pop();
    if (at < 0 || at >= SIDE * SIDE || !isInside(at)) continue;
    const stops = isEdge(at);
    visit(at);
    if (stops) continue;
    if (at % SIDE > 0) waiting.push(at - 1);
    if (at % SIDE < SIDE - 1) waiting.push(at + 1);
    waiting.push(at - SIDE, at + SIDE);
  }
}

/** Paints the empty area of a map around a pixel, and its soft edge. */
export function fill(data, x, y) {
  const opacity = (at) => data[4 * at + 3];
  reach(
    x,
    y,
    (at) => opacity(at) < 255,
    (at) => opacity(at) >= HALF,
    (at) => data.set([255, 255, 255, 255], 4 * at),
  );
}

/** Gives the area of one colour around a pixel another one: red, green, blue, opacity. */
export function fillColour(data, x, y, pixel) {
  const kind = kindAt(data, y * SIDE + x);
  if (kind === kindOf(pixel)) return;
  reach(
    x,
    y,
    (at) => kindAt(data, at) === kind,
    () => false,
    (at) => data.set(pixel, 4 * at),
  );
}

function kindOf([red, green, blue, opacity]) {
  return opacity >= HALF ? (red << 16) | (green << 8) | blue : -1;
}

function kindAt(data, at) {
  const first = 4 * at;
  return data[first + 3] >= HALF ? (data[first] << 16) | (data[first + 1] << 8) | data[first + 2] : -1;
}

/** Gives all pixels that a stamp covers one value: red, green, blue, opacity. */
export function stamp(data, stamped, pixel) {
  for (let at = 0; at < data.length; at += 4) if (stamped[at + 3] >= HALF) data.set(pixel, at);
}

/** Swaps painted and empty. */
export function invert(data) {
  for (let at = 0; at < data.length; at += 4) data.set([255, 255, 255, 255 - data[at + 3]], at);
}

/** Empties the pixels of a colour. */
export function without(data, rgb) {
  const kind = kindOf([...rgb, 255]);
  for (let at = 0; at < SIDE * SIDE; at++) if (kindAt(data, at) === kind) data.set([0, 0, 0, 0], 4 * at);
}

/** The share of all pixels that has a colour. */
export function shareOf(data, rgb) {
  const kind = kindOf([...rgb, 255]);
  let count = 0;
  for (let at = 0; at < SIDE * SIDE; at++) count += kindAt(data, at) === kind;
  return count / (SIDE * SIDE);
}

/**
 * Empties what an eraser's soft edge left on a map: pixels too faint to count that are no edge of anything painted.
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

/** Makes every pixel of colours wholly opaque or empty. @returns {boolean} whether anything painted is left */
export function harden(data) {
  let isPainted = false;
  for (let at = 0; at < data.length; at += 4) {
    if (data[at + 3] >= HALF) {
      data[at + 3] = 255;
      isPainted = true;
    } else data.set([0, 0, 0, 0], at);
  }
  return isPainted;
}

/** What is painted on a map, as white of that opacity: what is opaque, or bright where everything is opaque. */
export function painted(picture) {
  const pixels = pixelsOf(picture, true);
  const { data } = pixels;
  const isOpaque = data.every((value, at) => at % 4 !== 3 || value === 255);
  for (let at = 0; at < data.length; at += 4) {
    const bright = 0.299 * data[at] + 0.587 * data[at + 1] + 0.114 * data[at + 2];
    data.set([255, 255, 255, isOpaque ? bright : data[at + 3]], at);
  }
  return pixels;
}

/** The colours of a picture as they are. */
export function coloured(picture) {
  const pixels = pixelsOf(picture, false);
  harden(pixels.data);
  return pixels;
}

function pixelsOf(picture, imageSmoothingEnabled) {
  const paper = new OffscreenCanvas(SIDE, SIDE).getContext("2d");
  paper.imageSmoothingEnabled = imageSmoothingEnabled;
  paper.drawImage(picture, 0, 0, SIDE, SIDE);
  return paper.getImageData(0, 0, SIDE, SIDE);
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

/** A picture, as a data URL, of what draws on an empty canvas of the size of a painting. */
export function drawn(draw) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = SIDE;
  draw(canvas.getContext("2d"));
  return canvas.toDataURL("image/png");
}

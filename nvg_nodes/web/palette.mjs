// The colours that a painting has.

/** Of the legend, in the order in which they are offered, with what they are called. */
const COLOURS = {
  "#e3a23b": "amber",
  "#4a90d9": "blue",
  "#5fa84f": "green",
  "#dd6f9a": "rose",
  "#9a7be0": "violet",
  "#35b3a6": "teal",
  "#d9534a": "red",
  "#b5c845": "lime",
  "#a8764a": "brown",
  "#7cc4ee": "sky",
  "#5566c9": "indigo",
  "#f0b0c8": "pink",
  "#86893a": "olive",
  "#9a9a9a": "grey",
  "#ededed": "white",
  "#2f4a7a": "navy",
};

/** How many colours a painting can have. */
export const MOST_COLOURS = Object.keys(COLOURS).length;

/** What a colour is called; nothing where it is none of ours. */
export function nameOf(colour) {
  return COLOURS[colour] ?? "";
}

/** The first colour that is not taken. */
export function nextColour(taken) {
  return Object.keys(COLOURS).find((colour) => !taken.includes(colour));
}

/** Red, green and blue of "#rrggbb". */
export function rgbOf(colour) {
  return [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
}

/** The colours of a structure's regions, those of the maps that nvg_model/render.py draws: siblings look alike. */
export function regionColours(count) {
  return Array.from({ length: count }, (_, label) => hex(0.85 * ((label + 0.5) / count), 0.8 + finer(label, count)));
}

/** From the fourth split on the second child is lighter. */
function finer(label, count) {
  const depth = Math.log2(count);
  let lighter = 0;
  for (let split = 3; split < depth; split++) {
    const bit = (label >> (depth - 1 - split)) & 1;
    lighter += ((bit - 0.5) * 0.15) / 2 ** (split - 3);
  }
  return lighter;
}

function hex(hue, value) {
  const channel = (shift) => {
    const along = (shift + hue * 6) % 6;
    const share = value - value * 0.7 * Math.max(0, Math.min(along, 4 - along, 1));
    return Math.round(share * 255).toString(16).padStart(2, "0");
  };
  return `#${channel(5)}${channel(3)}${channel(1)}`;
}

// A painting as kept in the workflow, and its history. painting.py, which reads the same text, says what is in it.

const VERSION = 1;
const REMEMBERED = 50;

/**
 * What a text says.
 * @param {string} text
 * @returns {{maps: (string | null)[], picture: string | null, legend: {colour: string, name: string}[]} | undefined}
 *   the maps, one per split; the picture of the colours; the colours with their classes; undefined where the text is no
 *   painting of this version
 */
export function parse(text) {
  const nothing = { maps: [], picture: null, legend: [] };
  if (!text.trim()) return nothing;
  if (text.trimStart().startsWith("data:image/")) return { ...nothing, maps: [text.trim()] };
  try {
    const { version, masks, colours = {} } = JSON.parse(text);
    const isPicture = (one) => one === null || typeof one === "string";
    const { picture = null, legend = [] } = colours;
    const good = Array.isArray(masks) && masks.every(isPicture) && isPicture(picture) && legend.every(isEntry);
    if (version !== VERSION || !good || !masks.length) return undefined;
    return {
      maps: masks.some(Boolean) ? masks : [],
      picture,
      legend: legend.map((entry) => ({ colour: entry.colour.toLowerCase(), name: entry.class ?? "" })),
    };
  } catch {
    return undefined;
  }
}

function isEntry({ colour, class: name = "" }) {
  return /^#[0-9a-f]{6}$/i.test(colour) && typeof name === "string";
}

/** The text of a painting: the inverse of `parse`. */
export function format({ maps, picture, legend }) {
  const hasColours = picture || legend.length > 1 || legend.some(({ name }) => name);
  if (!hasColours && !maps.some(Boolean)) return "";
  const painting = { version: VERSION, masks: maps.length ? maps : [null] };
  if (hasColours) {
    painting.colours = { picture, legend: legend.map(({ colour, name }) => ({ colour, class: name })) };
  }
  return JSON.stringify(painting);
}

/** The texts that a painting went through, and which of them is shown. */
export class History {
  constructor(text) {
    this.texts = [text];
    this.at = 0;
    this.isTyped = false; // the last text came about letter by letter, and is one step
  }

  get text() {
    return this.texts[this.at];
  }

  get canUndo() {
    return this.at > 0;
  }

  get canRedo() {
    return this.at < this.texts.length - 1;
  }

  /** What was painted last; what had been undone is forgotten. */
  add(text) {
    this.isTyped = false;
    if (text === this.text) return;
    this.texts = [...this.texts.slice(0, this.at + 1), text].slice(-REMEMBERED);
    this.at = this.texts.length - 1;
  }

  /** What is being typed: all letters together are one step. */
  type(text) {
    if (this.isTyped) this.texts[this.at] = text;
    else this.add(text);
    this.isTyped = true;
  }

  /**
   * Goes to a text that came from outside: the host's undo leads to one that we know, a loaded workflow does not.
   * @returns {boolean} whether it is known
   */
  goTo(text) {
    const nearest = (best, other, index) =>
      other === text && (best < 0 || Math.abs(index - this.at) < Math.abs(best - this.at)) ? index : best;
    const known = this.texts.reduce(nearest, -1);
    if (known < 0) this.texts = [text];
    if (known !== this.at) this.isTyped = false;
    this.at = Math.max(known, 0);
    return known >= 0;
  }

  /** Steps back (-1) or forth (1), where there is something. */
  step(by) {
    this.isTyped = false;
    this.at = Math.min(Math.max(this.at + by, 0), this.texts.length - 1);
  }
}

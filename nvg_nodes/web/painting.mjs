// A painting as kept in the workflow, and its history. nodes_paint.py reads the same text: nothing; a picture as a
// data URL; or JSON {"version": 1, "masks": [data URL or null, ...]}, a mask per split, null repeating the one before.

const VERSION = 1;
const REMEMBERED = 50;

/**
 * The maps of a painting.
 * @param {string} text
 * @returns {(string | null)[] | undefined} at least one; undefined where the text is no painting of this version
 */
export function parse(text) {
  if (!text.trim()) return [null];
  if (text.trimStart().startsWith("data:image/")) return [text.trim()];
  try {
    const { version, masks } = JSON.parse(text);
    const good = Array.isArray(masks) && masks.every((mask) => mask === null || typeof mask === "string");
    return version === VERSION && good && masks.length ? masks : undefined;
  } catch {
    return undefined;
  }
}

/** The text of a painting: the inverse of `parse`. */
export function format(maps) {
  return maps.some(Boolean) ? JSON.stringify({ version: VERSION, masks: maps }) : "";
}

/** The texts that a painting went through, and which of them is shown. */
export class History {
  constructor(text) {
    this.texts = [text];
    this.at = 0;
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
    this.texts = [...this.texts.slice(0, this.at + 1), text].slice(-REMEMBERED);
    this.at = this.texts.length - 1;
  }

  /** Goes to a text that came from outside: the host's undo leads to one that we know, a loaded workflow does not. */
  goTo(text) {
    const nearest = (best, other, index) =>
      other === text && (best < 0 || Math.abs(index - this.at) < Math.abs(best - this.at)) ? index : best;
    const known = this.texts.reduce(nearest, -1);
    if (known < 0) this.texts = [text];
    this.at = Math.max(known, 0);
  }

  /** Steps back (-1) or forth (1), where there is something. */
  step(by) {
    this.at = Math.min(Math.max(this.at + by, 0), this.texts.length - 1);
  }
}

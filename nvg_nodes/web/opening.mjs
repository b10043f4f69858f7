// Opens a structure that a node made: its regions become colours, to be changed.

import { element } from "./elements.mjs";
import { structuresBeside } from "./host.mjs";
import { regionColours } from "./palette.mjs";
import { drawn, SIDE } from "./pixels.mjs";

const NONE = "No structure yet: run the workflow first";

export class Opening {
  /** @param {(picture: string, colours: string[]) => void} open takes what is to be painted on */
  constructor(open) {
    this.open = open;
    this.choice = element("select", {
      title: "Open a structure that a node made in the last run, with its regions as colours",
      "aria-label": "Open a structure",
    });
    for (const event of ["pointerdown", "focus"]) this.choice.addEventListener(event, () => this.list());
    this.choice.addEventListener("change", () => this.choose());
    this.list();
  }

  list() {
    const found = structuresBeside();
    const state = JSON.stringify(found.map(({ key, title, structure }) => [key, title, structure.splits]));
    if (state === this.listed) return;
    this.listed = state;
    const first = new Option("Open a structure ...", "");
    const groups = found.map(({ title, structure }, index) =>
      element("optgroup", { label: title }, ...choices(structure, index)),
    );
    const none = new Option(NONE, "none");
    none.disabled = true;
    this.choice.replaceChildren(first, ...(groups.length ? groups : [none]));
  }

  choose() {
    const [index, splits] = this.choice.value.split("/").map(Number);
    const chosen = structuresBeside()[index];
    this.choice.value = "";
    if (!chosen) return;
    const colours = regionColours(2 ** splits);
    this.open(pictureOf(chosen.structure, splits, colours), colours);
  }
}

function choices({ splits }, index) {
  return Array.from({ length: splits }, (_, split) => new Option(`${2 ** (split + 1)} regions`, `${index}/${split + 1}`));
}

/** The regions after so many splits, each in its colour. */
function pictureOf({ grid: [rows, columns], splits: most, labels }, splits, colours) {
  const at = (line, count) => Math.round((line / count) * SIDE);
  return drawn((pen) => {
    [...labels].forEach((digit, position) => {
      const [row, column] = [Math.floor(position / columns), position % columns];
      const [left, top] = [at(column, columns), at(row, rows)];
      pen.fillStyle = colours[parseInt(digit, 16) >> (most - splits)];
      pen.fillRect(left, top, at(column + 1, columns) - left, at(row + 1, rows) - top);
    });
  });
}

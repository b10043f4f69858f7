// The model's positions as a grid over the paper.

import { element } from "./elements.mjs";

const GRID_COLOUR = "rgb(227 162 59 / 60%)";

export class Grid {
  constructor() {
    this.cells = null; // rows and columns of the model
    this.element = element("canvas", { class: "nvg-grid" });
  }

  /** Draws the grid for as long as it is to be seen, anew whenever the paper gets another size on the screen. */
  show(isSeen) {
    this.isSeen = isSeen;
    this.element.hidden = !isSeen;
    if (!isSeen || this.frame) return;
    const next = () => {
      this.frame = this.isSeen && this.element.isConnected ? requestAnimationFrame(next) : 0;
      this.draw();
    };
    this.frame = requestAnimationFrame(next);
  }

  /** In pixels of the screen, so that no line is thinner than one: the graph may be zoomed. */
  draw() {
    const size = Math.round(this.element.getBoundingClientRect().width * window.devicePixelRatio);
    const [rows, columns] = this.cells ?? [1, 1];
    const state = `${size} ${rows} ${columns}`;
    if (!size || state === this.state) return;
    this.state = state;
    this.element.width = this.element.height = size;
    const pen = this.element.getContext("2d");
    pen.fillStyle = GRID_COLOUR;
    const at = (line, count) => Math.min(Math.round((line / count) * size), size - 1);
    for (let line = 0; line <= columns; line++) pen.fillRect(at(line, columns), 0, 1, size);
    for (let line = 0; line <= rows; line++) pen.fillRect(0, at(line, rows), size, 1);
  }

  close() {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
  }
}

// The picture under the paper, to paint after: one that another node shows, or one from a file.

import { element } from "./elements.mjs";
import { picturesBeside } from "./host.mjs";

const PROPERTY = "nvg_under"; // the node's property that names it
const FILE = "file";
const TRIES = 8;

export class Under {
  /**
   * @param value the widget's value
   * @param desk its desk
   * @param {(url: string | undefined) => void} lay shows a picture
   */
  constructor(value, desk, lay) {
    Object.assign(this, { value, desk, lay });
    this.choice = element("select", { title: "A picture to paint after; it is only seen", "aria-label": "Picture under" });
    this.file = element("input", { type: "file", accept: "image/*", hidden: "" });
    this.elements = [this.choice, this.file];
    for (const event of ["pointerdown", "focus"]) this.choice.addEventListener(event, () => this.list());
    this.choice.addEventListener("change", () => this.choose());
    this.file.addEventListener("change", () => this.layFile(this.file.files[0]));
  }

  /** Offers the pictures that there are, and lays the chosen one under the paper. */
  list() {
    const pictures = picturesBeside(this.value.node);
    const { under } = this.desk;
    const options = [["", "Nothing under the map"], ...pictures.map(({ key, title }) => [key, title])];
    options.push([FILE, under ? "The picture from a file" : "A picture from a file ..."]);
    const chosen = under ? FILE : (this.value.node.properties?.[PROPERTY] ?? "");
    const state = JSON.stringify(options);
    if (state !== this.listed) {
      this.listed = state;
      this.choice.replaceChildren(...options.map(([key, title]) => new Option(title, key)));
    }
    this.choice.value = options.some(([key]) => key === chosen) ? chosen : "";
    const url = under ?? pictures.find(({ key }) => key === chosen)?.url;
    this.lay(url);
    if (chosen && !url) this.listLater();
  }

  /** After a workflow is loaded, its pictures come a little later. */
  listLater() {
    if (this.waiting || this.tries >= TRIES) return;
    this.tries = (this.tries ?? 0) + 1;
    this.waiting = setTimeout(() => {
      this.waiting = 0;
      if (this.choice.isConnected) this.list();
    }, 300 * this.tries);
  }

  choose() {
    const chosen = this.choice.value;
    if (chosen === FILE) {
      this.list(); // until there is a file, what was chosen stays
      return this.file.click();
    }
    this.desk.drop();
    this.tries = 0;
    this.value.node.properties[PROPERTY] = chosen;
    this.value.update();
  }

  layFile(file) {
    this.file.value = "";
    if (!file?.type.startsWith("image/")) return;
    this.desk.drop();
    this.desk.under = URL.createObjectURL(file);
    this.value.update();
  }

  /** A file dropped on the painter. */
  onDrop(event) {
    const file = [...event.dataTransfer.files].find((one) => one.type.startsWith("image/"));
    if (!file) return;
    event.preventDefault();
    event.stopPropagation(); // the host would open it as a workflow
    this.layFile(file);
  }

  close() {
    clearTimeout(this.waiting);
  }
}

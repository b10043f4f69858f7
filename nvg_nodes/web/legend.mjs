// The legend of the painter: the colours, each with a class of the model that the node gets, or none.

import { comboField, Offer } from "./class_list.mjs";
import { FREE } from "./desk.mjs";
import { button, element } from "./elements.mjs";
import { MOST_COLOURS, nameOf, rgbOf } from "./palette.mjs";

export class Legend {
  /**
   * @param value the widget's value
   * @param desk its desk
   * @param {(index: number) => void} remove takes a colour away
   */
  constructor(value, desk, remove) {
    Object.assign(this, { value, desk, remove });
    this.element = element("div", { class: "nvg-legend", role: "group", "aria-label": "Colours and their classes" });
    this.entries = [];
  }

  /** Shows the colours and classes as they are. */
  update() {
    const { legend, chosen } = this.desk;
    const state = legend.map(({ colour }) => colour).join();
    if (state !== this.shown) {
      this.shown = state;
      this.build();
    }
    this.free.setAttribute("aria-pressed", chosen === FREE);
    this.entries.forEach(({ swatch, text, row }, index) => {
      swatch.setAttribute("aria-pressed", chosen === index);
      row.classList.toggle("nvg-chosen", chosen === index);
      if (text.value !== legend[index].name) text.value = legend[index].name;
    });
  }

  build() {
    this.close();
    const { legend, chosen } = this.desk;
    const isFocused = this.element.contains(document.activeElement);
    this.free = button("0", "Free: takes the colour away (0)", () => this.desk.choose(FREE));
    this.free.className = "nvg-swatch nvg-free";
    this.entries = legend.map(({ colour }, index) => this.entry(colour, index));
    const add = button("Add colour", "A further colour", () => this.desk.addColour());
    add.disabled = legend.length >= MOST_COLOURS;
    const free = element("div", { class: "nvg-entry nvg-rest" }, this.free, element("span", {}, "Free"), add);
    this.element.replaceChildren(free, ...this.entries.map(({ row }) => row));
    if (isFocused) (this.entries[chosen]?.swatch ?? this.free).focus();
  }

  entry(colour, index) {
    const number = index + 1;
    const key = number < 10 ? ` (${number})` : "";
    const swatch = button(String(number), `Colour ${number}, ${nameOf(colour) || colour}${key}`, () =>
      this.desk.choose(index),
    );
    swatch.className = "nvg-swatch";
    const [red, green, blue] = rgbOf(colour);
    const isBright = 0.299 * red + 0.587 * green + 0.114 * blue > 140;
    Object.assign(swatch.style, { background: colour, color: isBright ? "#000" : "#fff" });
    const text = comboField("input", `Class of colour ${number}`);
    Object.assign(text, { type: "text", placeholder: "no class", title: "What is drawn there: a class of the model" });
    const offer = new Offer(this.value.origin, text, true);
    text.addEventListener("focus", () => {
      this.desk.choose(index);
      offer.open();
    });
    text.addEventListener("input", () => {
      this.desk.typeClass(index, text.value);
      offer.open(true);
    });
    text.addEventListener("change", () => this.desk.setClass(index, text.value.trim()));
    const remove = button("×", `Remove colour ${number}`, () => this.remove(index));
    const row = element("div", { class: "nvg-entry" }, swatch, text, remove);
    return { swatch, text, row, offer };
  }

  close() {
    for (const { offer } of this.entries) offer.close();
  }
}

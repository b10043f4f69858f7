// The list of classes under a text field, filtered by what is typed; where the field takes several, names with commas get
// lines of their own.

import { element } from "./elements.mjs";
import { modelOf } from "./upstream.mjs";

const NO_CLASS = "unconditional";
const SEPARATORS = /[,\n]/;
let fields = 0;

/** A field that an `Offer` can stand under; `kind` is textarea or input. */
export function comboField(kind, label) {
  return element(kind, {
    role: "combobox",
    spellcheck: "false",
    autocomplete: "off",
    "aria-label": label,
    "aria-autocomplete": "list",
    "aria-expanded": "false",
    "aria-controls": `nvg-classes-${++fields}`,
  });
}

/** The list under a field. */
export class Offer {
  /**
   * @param {{node: object, hosts: object[]}} origin the node whose classes are offered (see `modelOf`)
   * @param {HTMLTextAreaElement | HTMLInputElement} text a `comboField`
   * @param {boolean} isSingle whether it takes one class only
   */
  constructor(origin, text, isSingle = false) {
    this.origin = origin;
    this.text = text;
    this.isSingle = isSingle;
    this.list = document.createElement("ul");
    this.list.className = "nvg-classes";
    this.list.id = text.getAttribute("aria-controls");
    this.list.setAttribute("role", "listbox");
    this.classes = [];
    this.asked = 0; // how often the list was opened or closed: an answer to an earlier time comes too late
    this.chosen = -1;
    text.addEventListener("click", () => this.open());
    text.addEventListener("keydown", (event) => this.onKey(event));
    for (const event of ["blur", "wheel"]) text.addEventListener(event, () => this.close());
    this.list.addEventListener("pointerdown", (event) => {
      event.preventDefault(); // the field keeps the focus
      event.stopPropagation();
    });
    this.list.addEventListener("click", (event) => this.choose(event.target.closest("li")));
    this.list.addEventListener("wheel", (event) => event.stopPropagation());
  }

  get isOpen() {
    return this.list.isConnected;
  }

  /** Shows the classes; only those that match what is typed if `filtered`. */
  async open(filtered = false) {
    const asked = ++this.asked;
    if (!this.isOpen || !this.classes.length) {
      const { classes } = await modelOf(this.origin.node, this.origin.hosts);
      if (asked !== this.asked) return;
      this.classes = classes;
    }
    if (!this.classes.length || document.activeElement !== this.text) return this.close();
    this.show(filtered);
  }

  show(filtered) {
    const word = this.word.toLowerCase();
    const rank = (name) => (name.startsWith(word) ? 0 : 1);
    const names = [...this.classes, NO_CLASS].map((name) => ({ name, low: name.toLowerCase() }));
    const shown = filtered ? names.filter(({ low }) => low.includes(word)) : names;
    if (filtered) shown.sort((a, b) => rank(a.low) - rank(b.low));
    if (!shown.length) return this.close();
    this.list.replaceChildren(...shown.map(({ name }, index) => this.item(name, index)));
    if (!this.isOpen) document.body.append(this.list);
    this.text.setAttribute("aria-expanded", "true");
    this.place();
    this.mark(filtered && word ? 0 : shown.findIndex(({ low }) => low === word));
  }

  /** What is being typed. */
  get word() {
    if (this.isSingle) return this.text.value.trim();
    return entryAt(this.text.value, this.text.selectionStart, this.classes).word;
  }

  item(name, index) {
    const item = document.createElement("li");
    item.id = `${this.list.id}-${index}`;
    item.textContent = name;
    item.setAttribute("role", "option");
    return item;
  }

  /** Puts the list under the field, or above where there is more room. */
  place() {
    const field = this.text.getBoundingClientRect();
    const [below, above] = [window.innerHeight - field.bottom, field.top];
    const up = below < 160 && above > below;
    Object.assign(this.list.style, {
      left: `${field.left}px`,
      minWidth: `${field.width}px`,
      maxHeight: `${Math.min(300, (up ? above : below) - 8)}px`,
      top: up ? "auto" : `${field.bottom + 2}px`,
      bottom: up ? `${window.innerHeight - field.top + 2}px` : "auto",
    });
  }

  /** Makes an item the one that Enter chooses; -1: none. */
  mark(index) {
    this.chosen = index;
    for (const [at, item] of [...this.list.children].entries()) item.setAttribute("aria-selected", at === index);
    const item = this.list.children[index];
    item?.scrollIntoView({ block: "nearest" });
    if (item) this.text.setAttribute("aria-activedescendant", item.id);
    else this.text.removeAttribute("aria-activedescendant");
  }

  onKey(event) {
    const count = this.list.children.length;
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && !this.isOpen) this.open();
    else if (step) this.mark((Math.max(this.chosen, step < 0 ? 0 : -1) + step + count) % count);
    else if (event.key === "Enter" && !event.ctrlKey && !event.metaKey) this.choose(this.list.children[this.chosen]);
    else if (event.key === "Escape" && this.isOpen) this.close();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** Writes the name of an item in place of the entry that is being edited. */
  choose(item) {
    if (item && this.isOpen) {
      const name = item.textContent;
      const [text, caret] = this.isSingle
        ? [name, name.length]
        : replaced(this.text.value, this.text.selectionStart, name, this.classes);
      this.text.value = text;
      this.text.setSelectionRange(caret, caret);
      this.text.dispatchEvent(new Event("change"));
    }
    this.close();
  }

  close() {
    this.asked++;
    this.list.remove();
    this.text.setAttribute("aria-expanded", "false");
    this.text.removeAttribute("aria-activedescendant");
  }
}

/** The entry at a place of a text: a line that is a class as a whole, else what is between two separators. */
function entryAt(text, at, classes) {
  const bounds = (separators) => {
    let [start, end] = [at, at];
    while (start > 0 && !separators.test(text[start - 1])) start--;
    while (end < text.length && !separators.test(text[end])) end++;
    return { start, end, word: text.slice(start, end).trim() };
  };
  const line = bounds(/\n/);
  return classes.includes(line.word) ? line : bounds(SEPARATORS);
}

/** The text with a name in place of the entry at a place, and where the caret comes to stand. */
function replaced(text, at, name, classes) {
  const { start, end } = entryAt(text, at, classes);
  let [before, after] = [text.slice(0, start), text.slice(end)];
  if (name.includes(",")) {
    // Such a class needs a line of its own.
    before = before.replace(/[,\s]+$/, "");
    after = after.replace(/^[,\s]+/, "");
    const caret = (before ? before.length + 1 : 0) + name.length;
    return [[before, name, after].filter(Boolean).join("\n"), caret];
  }
  if (before.endsWith(",")) before += " ";
  return [before + name + after, before.length + name.length];
}

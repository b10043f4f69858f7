// The widget of class_name: a text field that offers the classes of the model that the node gets. Its value is the text,
// so that several classes, numbers and names that are not in the list can be typed too.

import { comboField, Offer } from "./class_list.mjs";
import { addWidget } from "./surfaces.mjs";
import { viewElement } from "./view.mjs";

const HEIGHT = 28;

/** Makes the widget, as the host's `getCustomWidgets` asks for. */
export function classField(node, name, [, options]) {
  const widget = addWidget(node, name, options.default ?? "", {
    type: showsOurs() ? "nvg_class" : "text",
    makeView: (value) => new ClassField(value),
    options: { margin: 4, hideOnZoom: false },
    size: (made) => {
      made.computeSize = (width) => [width, HEIGHT];
      made.computeLayoutSize = undefined; // or it would take part of the height that is left over
    },
  });
  return { widget };
}

/** Whether Vue nodes show elements of packs. Older ones know the host's own types only: there it is a plain field. */
function showsOurs() {
  const [major, minor] = (window.__COMFYUI_FRONTEND_VERSION__ ?? "").split(".").map(Number);
  return !(major === 1 && minor < 31);
}

class ClassField {
  constructor(value) {
    this.value = value;
    this.element = viewElement("nvg-class");
    this.text = comboField("textarea", value.name); // an input would lose the lines of a list of classes
    this.text.rows = 1;
    this.label = document.createElement("span");
    this.label.textContent = value.name;
    this.element.append(this.label, this.text);
    this.offer = new Offer(value.origin, this.text);
    this.listen();
    this.update();
  }

  listen() {
    this.text.addEventListener("focus", () => {
      this.label.textContent = this.value.labelOf(); // in the user's language, which the host sets later
      this.value.check();
      this.offer.open();
    });
    this.text.addEventListener("input", () => {
      this.value.type(this.text.value);
      this.offer.open(true);
    });
    this.text.addEventListener("change", () => this.value.write(this.text.value));
    this.element.addEventListener("pointerdown", (event) => event.button === 0 && event.stopPropagation());
  }

  update() {
    if (this.text.value !== this.value.text) this.text.value = this.value.text;
    if (this.value.labelOf) this.label.textContent = this.value.labelOf();
  }

  close() {
    this.offer.close();
  }
}

// The front-end extension of NVG. ComfyUI loads every .js file under WEB_DIRECTORY as an extension, so this is the only
// one; its modules end in .mjs.

import { app } from "../../scripts/app.js";
import { fillAbsent } from "./absent.mjs";
import { classField } from "./class_field.mjs";
import { painter } from "./painter.mjs";
import { fillRows } from "./rows.mjs";
import { adoptAllPromoted, adoptPromoted } from "./surfaces.mjs";

/** Our widgets: the type that the front end knows each by, by the name of the input that it stands for. */
const WIDGETS = { class_name: "NVG_CLASS", painting: "NVG_PAINTING" };

const COLOURS = {
  NVG_MODEL: "#a58be0",
  NVG_STRUCTURE: "#e3a23b",
  NVG_SEQUENCE: "#45b39d",
  NVG_STATE: "#dd7596",
  NVG_SETTINGS: "#8fa3ad",
  NVG_REGIONS: "#7fb04f",
};

app.registerExtension({
  name: "nvg",

  init() {
    const sheet = document.createElement("link");
    sheet.rel = "stylesheet";
    sheet.href = new URL("nvg.css", import.meta.url);
    document.head.append(sheet);
    // Vue nodes take the colours of slots and links from here. In a rule, as the host clears those that its palette
    // does not name from the style attributes of the root or the body.
    const rules = Object.entries(COLOURS).map(([type, colour]) => `--color-datatype-${type}: ${colour};`);
    const colours = document.createElement("style");
    colours.textContent = `:root { ${rules.join(" ")} }`;
    document.head.append(colours);
    fillRows();
  },

  getCustomWidgets: () => ({ NVG_CLASS: classField, NVG_PAINTING: painter }),

  beforeRegisterNodeDef(nodeType, definition) {
    if (!definition.name.startsWith("NVG")) return;
    fillAbsent(nodeType, definition);
    // The input stays a STRING, with another widget; without this extension it is a plain text field.
    for (const inputs of Object.values(definition.input)) {
      for (const [name, [type, options]] of Object.entries(inputs)) {
        if (type === "STRING" && name in WIDGETS) inputs[name] = [type, { ...options, widgetType: WIDGETS[name] }];
      }
    }
  },

  nodeCreated(node) {
    if (!node.isSubgraphNode?.()) return;
    node.subgraph.events.addEventListener("widget-promoted", () => adoptPromoted(node));
  },

  afterConfigureGraph() {
    adoptAllPromoted();
    // Only now, as the host's palette empties the colours of types that it does not name; one that does name them wins.
    for (const colours of [app.canvas.default_connection_color_byType, app.canvas.constructor.link_type_colors]) {
      for (const [type, colour] of Object.entries(COLOURS)) colours[type] ||= colour;
    }
  },
});

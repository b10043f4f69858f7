// Widgets that a node got later, with a default that is better than what it did before: a new node has the default, and a
// node of a workflow from before does what it did. What that is, the server says with the input as `absent`.

/** Lets nodes of a type that are loaded without such a widget's value have the one that means what they did. */
export function fillAbsent(nodeType, definition) {
  const inputs = Object.assign({}, ...Object.values(definition.input));
  const absent = Object.entries(inputs).filter(([, [, options]]) => options?.absent !== undefined);
  if (!absent.length) return;
  const { onConfigure } = nodeType.prototype;
  nodeType.prototype.onConfigure = function (info, ...rest) {
    const widgets = (this.widgets ?? []).filter((widget) => widget.serialize !== false);
    for (const [name, [, options]] of absent) {
      const widget = widgets.find((one) => one.name === name);
      if (widget && isMissing(info.widgets_values, name, widgets.indexOf(widget))) widget.value = options.absent;
    }
    return onConfigure?.call(this, info, ...rest);
  };
}

function isMissing(values, name, index) {
  if (!values) return true;
  return Array.isArray(values) ? index >= values.length : !(name in values);
}

// Short ways to make elements.

export function element(kind, attributes, ...children) {
  const made = document.createElement(kind);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export function button(name, what, onClick) {
  const made = element("button", { type: "button", title: what }, name);
  if (!/\w{2}/.test(name)) made.setAttribute("aria-label", what);
  made.addEventListener("click", onClick);
  return made;
}

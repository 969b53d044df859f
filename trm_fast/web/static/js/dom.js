// Elements, messages and numbers.

/** Makes an element. Attributes that start with "on" are listeners; "text" is its text; CSS variables start with "--". */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name.startsWith("--")) node.style.setProperty(name, value);
    else if (name === "text") node.textContent = value;
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

/** A form control with its label. */
export function field(label, control, attributes = {}) {
  return el("label", attributes, el("span", { text: label }), control);
}

export function check(label, checked, onchange) {
  const box = el("input", { type: "checkbox", onchange });
  box.checked = checked;
  return { box, label: el("label", { class: "inline" }, box, el("span", { text: label })) };
}

export function button(text, onclick, attributes = {}) {
  return el("button", { type: "button", onclick, ...attributes, text });
}

export function option(value, text = value) {
  return el("option", { value, text });
}

/** Says something to screen readers, without showing it. */
export function announce(text) {
  const box = document.getElementById("announcer");
  if (box.textContent !== text) box.textContent = text;
}

/** Shows what went wrong, until the next action. */
export function showProblem(error) {
  const box = document.getElementById("problem");
  box.textContent = error ? String(error.message || error) : "";
  box.hidden = !error;
}

export function percent(value, digits = 1) {
  return value === null || value === undefined ? "–" : `${(100 * value).toFixed(digits)} %`;
}

export function count(value) {
  return value === null || value === undefined ? "–" : Math.round(value).toLocaleString("en-US");
}

export function save(name, blob) {
  const link = el("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

/** The integer in an input, or null if it is empty. */
export function numberOf(input) {
  return input.value.trim() === "" ? null : Number(input.value);
}

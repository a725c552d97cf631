// Creates and updates elements. Text is inserted as text nodes only: no markup is parsed.

import { plain } from "./text.js";

const SVG = "http://www.w3.org/2000/svg";

/** Return a new element; children are elements or texts. */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Return untrusted text of at most so many characters. */
export function bdi(text, most, kind) {
  return el("bdi", { class: kind }, plain(text, most));
}

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("focusable", "false");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

export function byId(id) {
  return document.getElementById(id);
}

export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function setAttribute(element, name, value) {
  if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

/** Show that there is no value, and why; never a zero. */
export function absent(reason) {
  return el("span", { class: "absent" }, el("span", { "aria-hidden": "true" }, "— "), el("span", { class: "reason" }, reason));
}

/** An icon and a word; the colour only repeats their meaning. */
export function badge(tone, sign, word) {
  return el("span", { class: `badge ${tone}${word.length > 14 ? " long" : ""}` }, icon(sign), el("bdi", {}, word));
}

/** A command and a button that copies it: what is copied is what is seen. */
export function commandOf(command) {
  const shown = plain(command, MOST_COMMAND);
  const code = el("code", {}, shown);
  if (shown !== command) return el("div", { class: "command" }, code);
  const button = el("button", { type: "button", class: "copy", "aria-label": `Copy: ${shown}` }, "Copy");
  button.addEventListener("click", async () => {
    setText(button, (await copied(command, code)) ? "Copied" : "Selected");
    setTimeout(() => setText(button, "Copy"), 2000);
  });
  return el("div", { class: "command" }, code, button);
}
const MOST_COMMAND = 600;

async function copied(text, element) {
  try {
    await navigator.clipboard.writeText(text); // which only a secure context has
    return true;
  } catch {
    getSelection().selectAllChildren(element);
    return false;
  }
}

/** Redraw the element only if the value has changed. */
export function draw(element, value, drawer) {
  const signature = JSON.stringify(value);
  if (drawn.get(element) === signature) return;
  drawn.set(element, signature);
  element.replaceChildren(...[drawer(value)].flat());
}
const drawn = new WeakMap();

/** Keep one child per item, in the items' order; a child stays the same element while its item's key exists. */
export function keyed(parent, items, keyOf, make, update) {
  const before = kept.get(parent) ?? new Map();
  const after = new Map();
  for (const item of items) {
    let key = String(keyOf(item));
    while (after.has(key)) key += "\u0000";
    const child = before.get(key) ?? make(item);
    update?.(child, item);
    after.set(key, child);
  }
  for (const [key, child] of before) if (!after.has(key)) child.remove();
  let place = null;
  for (const child of after.values()) {
    const next = place === null ? parent.firstChild : place.nextSibling;
    if (next !== child) parent.insertBefore(child, next);
    place = child;
  }
  kept.set(parent, after);
}
const kept = new WeakMap();

/**
 * Fill the place with a table of the items, or with a sentence if there are none.
 * Roles are explicit because narrow screens lay out the rows as blocks, which removes a table's implicit roles.
 */
export function table(place, { caption, columns, empty, keyOf, rowState }, items) {
  if (items.length === 0) {
    draw(place, ["empty", empty], () => el("p", { class: "empty" }, empty));
    return;
  }
  draw(place, ["table", caption], () => newTable(caption, columns));
  keyed(place.querySelector("tbody"), items, keyOf, () => newRow(columns), (row, item) => {
    if (rowState) setAttribute(row, "data-state", rowState(item));
    columns.forEach((column, at) => draw(row.cells[at].firstChild, column.value(item), column.draw));
  });
}

function newTable(caption, columns) {
  const titles = columns.map((column) => el("th", { scope: "col", role: "columnheader", class: column.kind }, column.title));
  return el(
    "table",
    { role: "table" },
    el("caption", {}, caption),
    el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, ...titles)),
    el("tbody", { role: "rowgroup" }),
  );
}

function newRow(columns) {
  const cells = columns.map((column, at) =>
    at === 0
      ? el("th", { scope: "row", role: "rowheader", class: column.kind }, el("div"))
      : el("td", { role: "cell", "data-title": column.title, class: column.kind }, el("div")),
  );
  return el("tr", { role: "row" }, ...cells);
}

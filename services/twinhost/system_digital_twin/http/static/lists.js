// Lists of which a page is shown at a time; what is searched, and the page, are in the address. Of a listing, the page has all
// items; of records, mainpc filters them, and sends a page at a time.

import { answerTo } from "./asked.js";
import { draw, el, keyed, setAttribute, setText, table } from "./dom.js";
import { setParameters } from "./router.js";
import { count } from "./text.js";

const ROWS = 25;
const TYPED_MS = 200;
const NEWEST = { before: "" };

/** Return a field for words; what is typed is taken once its writer pauses. */
function newSearch(attributes, take) {
  const box = el("input", { type: "search", autocomplete: "off", spellcheck: "false", ...attributes });
  let timer = 0;
  box.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => take(box.value.trim()), TYPED_MS);
  });
  return box;
}

/** Show a value that came from the address, unless it is just being typed. */
function setValue(input, value) {
  if (document.activeElement !== input && input.value !== value) input.value = value;
}

/** Return a text and two buttons, each of which sets a parameter to its value. */
function newPager(caption, name, back, next) {
  const turn = ({ currentTarget }) => currentTarget.ariaDisabled === "false" && setParameters({ [name]: currentTarget.value });
  const buttons = [back, next].map((word) => el("button", { type: "button" }, word));
  for (const button of buttons) button.addEventListener("click", turn);
  return el("nav", { class: "pager", "aria-label": `Pages: ${caption}` }, el("span", { role: "status" }), ...buttons);
}

/** Say what is shown, and where the buttons lead; null disables one. */
function drawPager(pager, words, values) {
  const [text, ...buttons] = pager.children;
  setText(text, words);
  buttons.forEach((button, at) => {
    setAttribute(button, "aria-disabled", String(values[at] === null)); // "disabled" would take the focus away
    button.value = values[at] ?? "";
  });
}

/** Fill the place with a page of the items that have the words of the search; `all` is how many there are in all. */
export function listing(place, columns, items, { q = "", page = "1" }, all = items.length) {
  draw(place, "listing", () => {
    const box = newSearch({}, (words) => setParameters({ q: words, page: "" }));
    const bar = el("div", { class: "search" }, el("label", {}, "Search ", box), el("p", { class: "quiet", role: "status" }));
    return [bar, el("div"), newPager(columns.caption, "page", "Back", "Next")];
  });
  const [bar, rows, pager] = place.children;
  const words = q.toLowerCase().split(/\s+/).filter(Boolean);
  const found = words.length === 0 ? items : items.filter((item) => hasWords(item, words));
  const pages = Math.max(1, Math.ceil(found.length / ROWS));
  const at = Math.min(pages, Math.max(1, Number(page) || 1));
  const first = (at - 1) * ROWS;
  bar.hidden = items.length <= ROWS && q === "";
  setValue(bar.querySelector("input"), q);
  setText(bar.querySelector("p"), wordsOf(found.length, items.length, all, q));
  table(rows, q ? { ...columns, empty: "Nothing has these words." } : columns, found.slice(first, first + ROWS));
  pager.hidden = pages === 1;
  const shown = `${count(first + 1)} to ${count(Math.min(first + ROWS, found.length))} of ${count(found.length)}`;
  drawPager(pager, shown, [at === 1 ? null : at === 2 ? "" : at - 1, at === pages ? null : at + 1]);
}

function wordsOf(found, sent, all, q) {
  const cut = sent < all ? `; the page receives ${count(sent)} of ${count(all)}` : "";
  return q || cut ? `${count(found)} found${cut}` : "";
}

function hasWords(item, words) {
  const text = Object.values(item).flat().join(" ").toLowerCase();
  return words.every((word) => text.includes(word));
}

/** Draw filters, each with a name, a title, and a kind: "text", "time", or its choices as pairs of value and word. */
function drawFilters(place, specs, parameters) {
  draw(place, specs, () => el("form", { class: "filters", role: "search" }, ...specs.map(newFilter)));
  const form = place.firstChild;
  for (const { name, kind } of specs) {
    const value = parameters[name] ?? "";
    setValue(form.elements[name], kind === "time" ? localOf(value) : value);
  }
}

function newFilter({ name, title, kind }) {
  const take = (value) => setParameters({ ...NEWEST, [name]: value });
  const input = kind === "text" ? newSearch({ name }, take) : newChoice(name, kind, take);
  input.addEventListener("keydown", (event) => event.key === "Enter" && event.preventDefault());
  return el("label", {}, el("span", {}, title), input);
}

function newChoice(name, kind, take) {
  const isTime = kind === "time";
  const options = isTime ? [] : kind.map(([value, word]) => el("option", { value }, word));
  const input = isTime ? el("input", { name, type: "datetime-local" }) : el("select", { name }, ...options);
  input.addEventListener("change", () => take(isTime ? isoOf(input.value) : input.value));
  return input;
}

/** Return a time of an address as the window's clock shows it, and the other way round. */
function localOf(iso) {
  const at = new Date(iso);
  return Number.isNaN(at.getTime()) ? "" : new Date(at - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
}

function isoOf(local) {
  const at = new Date(local);
  return Number.isNaN(at.getTime()) ? "" : at.toISOString();
}

/** Draw a list of records, or a sentence if there are none. */
export function drawList(place, caption, empty, records, keyOf, parts) {
  const any = records.length > 0;
  draw(place, any ? "" : empty, () => (any ? el("ol", { class: "records", role: "list", "aria-label": caption }) : el("p", { class: "empty" }, empty)));
  if (any) keyed(place.firstChild, records, keyOf, (record) => el("li", {}, ...parts(record).filter(Boolean)));
}

/** Draw records with filters and pages, by what mainpc answers; `filters` and `words` get the answer, null before it. */
export function drawRecords(place, parameters, { caption, path, rows, query, sign = "", filters, words = () => "", keyOf, parts }) {
  const { answer, fault } = answerTo(path, { ...query, limit: ROWS }, { sign: query.before ? "" : sign, rows });
  draw(place, caption, () => [el("div"), el("div"), el("div")]);
  const [form, list, pages] = place.children;
  drawFilters(form, [...filters(answer), { name: "since", title: "From", kind: "time" }, { name: "until", title: "To", kind: "time" }], parameters);
  const found = fault === null ? (answer?.[rows] ?? []) : [];
  const empty = fault ?? (answer === null ? "Loading …" : "Nothing matches.");
  drawList(list, caption, empty, found, keyOf, parts);
  draw(pages, caption, () => newPager(caption, "before", "Newest", "Older"));
  drawPager(pages.firstChild, words(answer), [parameters.before ? "" : null, answer?.next_before ?? null]);
  return answer;
}

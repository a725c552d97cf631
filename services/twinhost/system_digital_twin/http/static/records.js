// A list of records with filters and pages, which are in the address. mainpc filters, and sends a page at a time.

import { answerTo } from "./asked.js";
import { draw, el, keyed, setText } from "./dom.js";
import { setParameters } from "./router.js";

const ROWS = 25;
const TYPED_MS = 300;
const NEWEST = { before: "" };

/** Draw filters, each with a name, a title, and a kind: "text", "time", or its choices as pairs of value and word. */
function drawFilters(place, specs, parameters) {
  draw(place, specs, () => el("form", { class: "filters", role: "search" }, ...specs.map(newFilter)));
  const form = place.firstChild;
  for (const { name, kind } of specs) {
    const value = parameters[name] ?? "";
    const shown = kind === "time" ? localOf(value) : value;
    const input = form.elements[name];
    if (document.activeElement !== input && input.value !== shown) input.value = shown;
  }
}

function newFilter({ name, title, kind }) {
  const input = Array.isArray(kind)
    ? el("select", { name }, ...kind.map(([value, word]) => el("option", { value }, word)))
    : el("input", { name, type: kind === "time" ? "datetime-local" : "search", autocomplete: "off", spellcheck: "false" });
  let timer = 0;
  const take = () => setParameters({ ...NEWEST, [name]: kind === "time" ? isoOf(input.value) : input.value.trim() });
  input.addEventListener(kind === "text" ? "input" : "change", () => {
    clearTimeout(timer);
    timer = setTimeout(take, kind === "text" ? TYPED_MS : 0);
  });
  input.addEventListener("keydown", (event) => event.key === "Enter" && event.preventDefault());
  return el("label", {}, el("span", {}, title), input);
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

/** Draw the pages of a list: what is shown in words, and the way to the newest and to older ones. */
function drawPages(place, caption, words, parameters, next) {
  draw(place, caption, () => {
    const newest = el("button", { type: "button" }, "Newest");
    const older = el("button", { type: "button" }, "Older");
    newest.addEventListener("click", () => setParameters(NEWEST));
    older.addEventListener("click", () => setParameters({ before: older.value }));
    return el("nav", { class: "pager", "aria-label": `Pages: ${caption}` }, el("span", { role: "status" }), newest, older);
  });
  const [text, newest, older] = place.firstChild.children;
  setText(text, words);
  newest.disabled = !parameters.before;
  older.disabled = !next;
  older.value = next ?? "";
}

/** Draw records with filters and pages, by what mainpc answers; `filters` and `words` get the answer, null before it. */
export function drawRecords(place, parameters, { caption, path, rows, query, sign = "", filters, words = () => "", keyOf, parts }) {
  const { answer, fault } = answerTo(path, { ...query, limit: ROWS }, { sign: query.before ? "" : sign, rows });
  draw(place, caption, () => [el("div"), el("div"), el("div")]);
  const [form, list, pages] = place.children;
  drawFilters(form, [...filters(answer), { name: "since", title: "From", kind: "time" }, { name: "until", title: "To", kind: "time" }], parameters);
  const found = fault === null ? (answer?.[rows] ?? []) : [];
  const empty = fault ?? (answer === null ? "Loading …" : "Nothing matches.");
  draw(list, found.length > 0 ? "" : empty, () => (found.length > 0 ? el("ol", { class: "records", role: "list", "aria-label": caption }) : el("p", { class: "empty" }, empty)));
  if (found.length > 0) keyed(list.firstChild, found, keyOf, (record) => el("li", {}, ...parts(record).filter(Boolean)));
  drawPages(pages, caption, words(answer), parameters, answer?.next_before);
  return answer;
}

// A table of which a page is shown at a time, with a search; both are in the address.

import { draw, el, setText, table } from "./dom.js";
import { setParameters } from "./router.js";
import { count } from "./text.js";

const ROWS = 25;
const TYPED_MS = 150;

/** Fill the place with a page of the items that have the words of the search; `all` is how many there are in all. */
export function listing(place, columns, items, { q = "", page = "1" }, all = items.length) {
  draw(place, "listing", () => newListing(columns.caption));
  const [bar, rows, pager] = place.children;
  const words = q.toLowerCase().split(/\s+/).filter(Boolean);
  const found = words.length === 0 ? items : items.filter((item) => hasWords(item, words));
  const pages = Math.max(1, Math.ceil(found.length / ROWS));
  const at = Math.min(pages, Math.max(1, Number(page) || 1));
  const first = (at - 1) * ROWS;
  bar.hidden = items.length <= ROWS && q === "";
  const box = bar.querySelector("input");
  if (document.activeElement !== box && box.value !== q) box.value = q;
  setText(bar.querySelector("p"), wordsOf(found.length, items.length, all, q));
  table(rows, q ? { ...columns, empty: "Nothing has these words." } : columns, found.slice(first, first + ROWS));
  pager.hidden = pages === 1;
  const [back, text, next] = pager.children;
  back.disabled = at === 1;
  next.disabled = at === pages;
  back.value = at - 1;
  next.value = at + 1;
  setText(text, `${count(first + 1)} to ${count(Math.min(first + ROWS, found.length))} of ${count(found.length)}`);
}

function wordsOf(found, sent, all, q) {
  const cut = sent < all ? `; the page receives ${count(sent)} of ${count(all)}` : "";
  return q || cut ? `${count(found)} found${cut}` : "";
}

function hasWords(item, words) {
  const text = Object.values(item).flat().join(" ").toLowerCase();
  return words.every((word) => text.includes(word));
}

function newListing(caption) {
  const box = el("input", { type: "search", autocomplete: "off", spellcheck: "false" });
  let timer = 0;
  box.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => setParameters({ q: box.value.trim(), page: "" }), TYPED_MS);
  });
  const turn = ({ currentTarget }) => setParameters({ page: currentTarget.value === "1" ? "" : currentTarget.value });
  const back = el("button", { type: "button" }, "Back");
  const next = el("button", { type: "button" }, "Next");
  back.addEventListener("click", turn);
  next.addEventListener("click", turn);
  return [
    el("div", { class: "search" }, el("label", {}, "Search ", box), el("p", { class: "quiet", role: "status" })),
    el("div", {}),
    el("nav", { class: "pager", "aria-label": `Pages: ${caption}` }, back, el("span", {}), next),
  ];
}

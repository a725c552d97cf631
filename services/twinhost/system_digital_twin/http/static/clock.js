// The time as mainpc tells it, so that a browser with a wrong clock shows right ages.

import { ago } from "./text.js";

let ahead = 0; // how far mainpc's clock is ahead of this browser's, in ms

export function setServerTime(iso) {
  const told = Date.parse(iso);
  if (!Number.isNaN(told)) ahead = told - Date.now();
}

export function now() {
  return Date.now() + ahead;
}

/** Return a time element that says how long ago it was, and goes on saying it (see `tick`). */
export function agoElement(iso) {
  const element = document.createElement("time");
  element.dateTime = iso;
  element.dataset.ago = "";
  refresh(element);
  return element;
}

/** Bring every age on the page up to date. */
export function tick() {
  document.querySelectorAll("time[data-ago]").forEach(refresh);
}

function refresh(element) {
  const text = ago((now() - Date.parse(element.dateTime)) / 1000);
  if (element.textContent !== text) element.textContent = text;
}

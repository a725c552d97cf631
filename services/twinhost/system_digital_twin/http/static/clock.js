// mainpc's time, so that a browser with a wrong clock shows correct ages.

import { ago } from "./text.js";

let ahead = 0; // how far mainpc's clock is ahead of this browser's, in ms

export function setServerTime(iso) {
  const serverTime = Date.parse(iso);
  if (!Number.isNaN(serverTime)) ahead = serverTime - Date.now();
}

export function now() {
  return Date.now() + ahead;
}

/** Return a time element that shows how long ago it was; `tick` updates it. */
export function agoElement(iso) {
  const element = document.createElement("time");
  element.dateTime = iso;
  element.dataset.ago = "";
  refresh(element);
  return element;
}

/** Update every age on the page. */
export function tick() {
  document.querySelectorAll("time[data-ago]").forEach(refresh);
}

function refresh(element) {
  const text = ago((now() - Date.parse(element.dateTime)) / 1000);
  if (element.textContent !== text) element.textContent = text;
}

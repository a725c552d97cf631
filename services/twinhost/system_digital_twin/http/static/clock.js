// mainpc's time, so that a browser with a wrong clock shows correct ages.

import { el, setText } from "./dom.js";
import { ago, clock, duration } from "./text.js";

let ahead = 0; // how far mainpc's clock is ahead of this browser's, in ms

export function setServerTime(iso) {
  const serverTime = Date.parse(iso);
  if (!Number.isNaN(serverTime)) ahead = serverTime - Date.now();
}

export function now() {
  return Date.now() + ahead;
}

const WORDS = { ago, old: duration, for: (seconds) => `for ${duration(seconds)}`, left: (seconds) => duration(-seconds) };

/** Return a time element that shows how long ago it was, for how long ("for"), or how long it is until then ("left"). */
export function agoElement(iso, as = "ago") {
  const element = el("time", { datetime: iso, "data-ago": as });
  refresh(element);
  return element;
}

/** Return a time element with the time of day, and the date unless it is today. */
export function clockElement(iso) {
  return el("time", { datetime: iso }, clock(iso, now()));
}

/** Update every age on the page. */
export function tick() {
  document.querySelectorAll("time[data-ago]").forEach(refresh);
}

function refresh(element) {
  setText(element, WORDS[element.dataset.ago]((now() - Date.parse(element.dateTime)) / 1000));
}

// Events that agents published.

import { clockElement } from "../clock.js";
import { el } from "../dom.js";
import { feed, longText, panels } from "../panel.js";
import { count, plain } from "../text.js";

export const title = () => "Events";

export function drawEvents(place, events) {
  feed(place, "Events, newest first", "No events yet.", events, (event) => [
    el("p", { class: "feed-head" }, el("bdi", { class: "name" }, plain(event.type, 80)), clockElement(event.time)),
    el("p", { class: "under" }, "from ", el("bdi", {}, plain(event.source, 80))),
    longText(event.data),
  ]);
}

export function draw(place, { events = [] }) {
  const shown = panels(place, [{ id: "events", title: "Events", hint: "Events that agents published, newest first." }]);
  shown.events.count(events.length > 0 ? `newest ${count(events.length)}` : "");
  drawEvents(shown.events.content, events);
}

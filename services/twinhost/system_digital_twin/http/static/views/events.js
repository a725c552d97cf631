// Events that agents published, of all that are stored.

import { clockElement } from "../clock.js";
import { bdi, el } from "../dom.js";
import { longText, panels } from "../panel.js";
import { drawRecords } from "../lists.js";

export const title = () => "Events";

export const eventOf = ({ type, time, source, data }) => [
  el("p", { class: "record-head" }, bdi(type, 80, "name"), clockElement(time)),
  el("p", { class: "under" }, "from ", bdi(source, 80)),
  longText(data),
];

export function draw(place, { events = [] }, parameters) {
  const shown = panels(place, [{ id: "events", title: "Events", hint: "Events that agents published, newest first." }]);
  const { type, agent, text, since, until, before } = parameters;
  drawRecords(shown.events.content, parameters, {
    caption: "Events",
    path: "/api/events",
    rows: "events",
    query: { type, agent, text, since, until, before },
    sign: events[0]?.seq ?? 0,
    filters: () => [
      { name: "type", title: "Type", kind: "text" },
      { name: "agent", title: "Agent", kind: "text" },
      { name: "text", title: "Words in it", kind: "text" },
    ],
    keyOf: (event) => event.seq,
    parts: storedEvent,
  });
}

const storedEvent = ({ event_type: type, time, source_agent: source, data }) => eventOf({ type, time, source, data });

// Events that agents published, of all that are stored.

import { answerTo } from "../asked.js";
import { clockElement } from "../clock.js";
import { draw as drawInto, el } from "../dom.js";
import { ROWS, drawFilters, drawPages } from "../filters.js";
import { feed, longText, panels, records } from "../panel.js";
import { plain } from "../text.js";

export const title = () => "Events";

export function drawEvents(place, events) {
  feed(place, "Events, newest first", "No events yet.", events, eventOf);
}

const eventOf = ({ type, time, source, data }) => [
  el("p", { class: "feed-head" }, el("bdi", { class: "name" }, plain(type, 80)), clockElement(time)),
  el("p", { class: "under" }, "from ", el("bdi", {}, plain(source, 80))),
  longText(data),
];

export function draw(place, { events = [] }, parameters) {
  const shown = panels(place, [{ id: "events", title: "Events", hint: "Events that agents published, newest first." }]);
  const { type, agent, text, since, until, before } = parameters;
  const sign = before ? "" : (events[0]?.seq ?? 0);
  const { answer, fault } = answerTo("/api/events", { type, agent, text, since, until, before, limit: ROWS }, { sign, rows: "events" });
  drawInto(shown.events.content, "events", () => [el("div"), el("div"), el("div")]);
  const [filters, list, pages] = shown.events.content.children;
  drawFilters(filters, [
    { name: "type", title: "Type", kind: "text" },
    { name: "agent", title: "Agent", kind: "text" },
    { name: "text", title: "Words in it", kind: "text" },
    { name: "since", title: "From", kind: "time" },
    { name: "until", title: "To", kind: "time" },
  ], parameters);
  const empty = fault ?? (answer === null ? "Loading …" : "No event matches.");
  records(list, "Events, newest first", empty, fault ? [] : (answer?.events ?? []), (event) => event.seq, storedEvent);
  drawPages(pages, { caption: "Events", words: "", parameters, answer });
}

const storedEvent = ({ event_type: type, time, source_agent: source, data }) => eventOf({ type, time, source, data });

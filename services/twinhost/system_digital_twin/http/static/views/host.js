// One machine: its charts over a range, what is wrong with it, and what is on it.

import { answerTo } from "../asked.js";
import { drawTroubles, levelOfHost, troubleList } from "../attention.js";
import { now } from "../clock.js";
import { draw as drawInto, el, setAttribute, setText, table } from "../dom.js";
import { listing } from "../lists.js";
import { drawFigures, liveCourse, marksOf, newHost, timeOf, updateHost } from "../machines.js";
import { panels } from "../panel.js";
import { setParameters } from "../router.js";
import { count, plain } from "../text.js";
import { AGENTS } from "./agents.js";
import { KEYS } from "./keys.js";
import { LEASES } from "./leases.js";

const LIVE = "5m";
const RANGES = [[LIVE, "5 min", 300], ["1h", "1 h", 3_600], ["6h", "6 h", 21_600], ["1d", "1 day", 86_400], ["7d", "7 days", 604_800], ["30d", "30 days", 2_592_000]];

export const title = ({ name }) => plain(name, 60);

export function draw(place, state, parameters) {
  const { name, range = LIVE } = parameters;
  const at = (state.hosts ?? []).findIndex((one) => one.name === name);
  if (at < 0) {
    drawInto(place, "none", () => el("p", { class: "empty" }, "mainpc knows no machine of this name."));
    return;
  }
  drawInto(place, ["host", at], () => [
    el("h2", { class: "unseen" }, plain(name, 60)),
    troubleList(),
    el("div", { class: "ranges", role: "group", "aria-label": "Range of the charts" }, ...RANGES.map(newRange)),
    el("p", { class: "hint", role: "status" }),
    newHost(at),
    el("details", { class: "figures" }, el("summary", {}, "The charts as a table"), el("div", { id: "figures" })),
    el("div", {}),
  ]);
  const [, troubles, ranges, hint, machine, figures, parts] = place.children;
  const host = state.hosts[at];
  drawTroubles(troubles, state, (item) => item.host === name, parameters);
  for (const button of ranges.children) setAttribute(button, "aria-pressed", String(button.value === range));
  const { course, fault, ...time } = range === LIVE ? live(host) : past(name, range);
  const means = range === LIVE ? "" : "Means of a minute, or of an hour for ranges above a day; the figures are of now. ";
  setText(hint, fault ?? `${means}Dotted: a severe error (red), a trouble (amber), a start of its agent or a takeover (grey), a lease that is held (blue).`);
  updateHost(machine, host, { ...time, course, marks: marksOf(state)(host), level: levelOfHost(state, name) });
  drawFigures(figures.lastChild, host, course);
  const shown = panels(parts, [{ id: "agents", title: "Agents" }, { id: "identities", title: "Keys" }, { id: "leases", title: "Leases" }], "h3");
  const agents = (state.agents ?? []).filter((agent) => agent.location === name);
  shown.agents.count(count(agents.length));
  listing(shown.agents.content, AGENTS, agents, parameters);
  table(shown.identities.content, { ...KEYS, empty: "No key is for this machine alone." }, (state.sessions ?? []).filter((session) => session.host === name).slice(0, 25));
  table(shown.leases.content, { ...LEASES, empty: "No memory of it is leased." }, (state.leases ?? []).filter((lease) => lease.host === name).slice(0, 25));
}

function newRange([key, words]) {
  const button = el("button", { type: "button", value: key }, words);
  button.addEventListener("click", () => setParameters({ range: key === LIVE ? "" : key }));
  return button;
}

function live(host) {
  const course = liveCourse(host);
  return { course, ...timeOf([course]) };
}

/** Return what is stored of a range. */
function past(name, range) {
  const { answer, fault } = answerTo("/api/history", { host: name, range });
  const to = now() / 1000;
  return { course: answer ?? { t: [] }, fault, from: to - (RANGES.find(([one]) => one === range)?.[2] ?? 300), to };
}

// Errors that agents reported: by shape, and each that is stored.

import { answerTo } from "../asked.js";
import { clockElement } from "../clock.js";
import { badge, bdi, commandOf, draw as drawInto, el, table } from "../dom.js";
import { longText, panels } from "../panel.js";
import { drawRecords } from "../lists.js";
import { addressOf, link } from "../router.js";
import { count, many, plain } from "../text.js";
import { wordOfSeverity } from "../words.js";

const EVER = "1970-01-01T00:00:00Z"; // mainpc would count those of a day
const SEVERITIES = ["", "critical", "error", "warning", "info"];
const MOST_SHAPES = 50;

export const title = () => "Errors";

export const headOf = ({ severity, type, time, agent, message }) => [
  el("p", { class: "record-head" }, severityBadge(severity), bdi(type, 80, "name"), clockElement(time)),
  el("p", { class: "under" }, "from ", link("agent", agent, bdi(agent, 80))),
  longText(message),
];

function severityBadge(severity) {
  const { tone, sign, word } = wordOfSeverity(severity);
  return badge(tone, sign, word);
}

const SHAPES = {
  caption: "Errors by shape: messages that differ in numbers and names alone",
  empty: "No errors reported.",
  keyOf: (group) => group.shape_id,
  rowState: (group) => (group.count > group.acknowledged ? "warn" : "good"),
  columns: [
    {
      title: "Error",
      value: (group) => [group.shape_id, plain(group.error_type, 60), plain(group.message, 160)],
      draw: ([id, type, message]) => [el("a", { href: addressOf("errors", "", { shape_id: id }) }, el("bdi", { class: "name" }, type)), el("bdi", { class: "under" }, message)],
    },
    { title: "Severity", kind: "short", value: (group) => group.severity, draw: severityBadge },
    {
      title: "Count",
      kind: "short",
      value: (group) => [group.count, group.acknowledged],
      draw: ([all, acknowledged]) => [el("span", { class: "times" }, count(all)), acknowledged ? el("span", { class: "under" }, `${count(acknowledged)} acknowledged`) : null].filter(Boolean),
    },
    { title: "First", kind: "short", value: (group) => group.first, draw: clockElement },
    { title: "Last", kind: "short", value: (group) => group.last, draw: clockElement },
    { title: "From", value: (group) => group.agent_id, draw: (agent) => link("agent", agent, bdi(agent, 60)) },
  ],
};

export function draw(place, { errors = [], counts = {} }, parameters) {
  const shown = panels(place, [
    { id: "shapes", title: "By shape", hint: "All that is stored, the worst that nobody has acknowledged first; each shows its newest error, and leads to all of them." },
    { id: "errors", title: "Errors", hint: "Errors that agents reported, newest first." },
  ]);
  const { severity, type, agent, text, shape_id: shape, since, until, before } = parameters;
  const sign = `${Math.max(0, ...errors.map((error) => error.seq))} ${counts.severe_errors_24h}`;
  const groups = answerTo("/api/error_counts", { since: EVER, acknowledged: "true", limit: MOST_SHAPES }, { sign });
  const all = groups.answer;
  shown.shapes.count(all ? `${count(all.shapes)}, of ${many(all.total, "error", "errors")}` : "");
  table(shown.shapes.content, all === null ? { ...SHAPES, empty: groups.fault ?? "Loading …" } : SHAPES, (all?.groups ?? []).toSorted((one, other) => rankOf(one) - rankOf(other)));
  drawInto(shown.errors.content, "errors", () => [el("div", { class: "chosen" }), el("div")]);
  const [chosen, list] = shown.errors.content.children;
  drawInto(chosen, shape ?? null, (id) => (id === null ? [] : ofOneShape(id)));
  drawRecords(list, parameters, {
    caption: "Errors",
    path: "/api/errors",
    rows: "errors",
    query: { severity, type, agent, text, shape_id: shape, since, until, before },
    sign,
    filters: () => [
      { name: "severity", title: "Severity", kind: SEVERITIES.map((level) => [level, level ? wordOfSeverity(level).word : "Any"]) },
      { name: "type", title: "Type", kind: "text" },
      { name: "agent", title: "Agent", kind: "text" },
      { name: "text", title: "Words in it", kind: "text" },
    ],
    keyOf: (error) => `${error.seq} ${error.acknowledged_by}`,
    parts: errorOf,
  });
}

const rankOf = (group) => (group.count > group.acknowledged ? SEVERITIES.indexOf(group.severity) : SEVERITIES.length);

function ofOneShape(id) {
  return [
    el("p", {}, "Errors of one shape. ", el("a", { href: addressOf("errors") }, "Show all")),
    el("p", { class: "hint" }, "To acknowledge those that are stored, on mainpc:"),
    commandOf(`./twinhost call SystemDigitalTwin acknowledge_errors shape_id=${plain(id, 20)}`),
  ];
}

function errorOf(error) {
  const { severity, error_type: type, time, agent_id: agent, message, acknowledged_by: by, acknowledged_at: at } = error;
  const more = [["Context", error.context], ["Stack trace", error.stack_trace], ["Task", error.related_task_id]].filter(([, value]) => value);
  return [
    ...headOf({ severity, type, time, agent, message }),
    by ? el("p", { class: "under" }, "Acknowledged by ", bdi(by, 60), " at ", clockElement(at)) : null,
    more.length > 0 ? el("details", { class: "data" }, el("summary", {}, more.map(([name]) => name).join(", ")), el("div", {}, ...more.map(([, value]) => el("pre", { class: "mono" }, el("bdi", {}, textOf(value)))))) : null,
  ];
}

/** Return untrusted text of several lines. */
function textOf(value) {
  const text = typeof value === "string" ? value : JSON.stringify(value, null, 1);
  return text.split("\n", 200).map((line) => line.match(/^ */)[0] + plain(line.trim(), 400)).join("\n");
}

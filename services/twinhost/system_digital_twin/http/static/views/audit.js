// The audit log: whether it is intact, and its lines as they lie in the files.

import { definitions, drawTroubles, troubleList } from "../attention.js";
import { clockElement, now } from "../clock.js";
import { badge, bdi, commandOf, draw as drawInto, el } from "../dom.js";
import { panels } from "../panel.js";
import { drawRecords } from "../lists.js";
import { clock, count, many, plain, sentence } from "../text.js";

const KINDS = ["audit_tampered", "audit_contradicted", "restored"]; // of troubles
const NO_FIELDS = ["seq", "time", "event", "prev", "hash"]; // which are shown apart

let known = []; // events, as mainpc listed them last

export const title = () => "Audit log";

export function draw(place, state, parameters) {
  drawInto(place, "audit", () => [troubleList(), el("div", {})]);
  const [troubles, parts] = place.children;
  drawTroubles(troubles, state, (item) => KINDS.includes(item.kind), parameters);
  const shown = panels(parts, [
    { id: "verified", title: "Verification" },
    { id: "audit", title: "Audit log", hint: "What happened to keys, connections, and grants on mainpc, newest first." },
  ]);
  const { event, who, since, until, before } = parameters;
  const answer = drawRecords(shown.audit.content, parameters, {
    caption: "Audit log",
    path: "/api/audit",
    rows: "lines",
    query: { event, who, since, until, before },
    filters: (newest) => [
      { name: "event", title: "Event", kind: [["", "Any"], ...(known = newest?.events ?? known).map((one) => [one, wordsOf(one)])] },
      { name: "who", title: "Name or address", kind: "text" },
    ],
    words: reachedOf,
    keyOf: (line) => `${line.position} ${line.intact}`,
    parts: lineOf,
  });
  drawInto(shown.verified.content, [answer?.intact, answer?.first, answer?.last, answer === null], verification);
  shown.audit.count(answer ? many(answer.last, "line", "lines") : "");
}

const wordsOf = (event) => sentence(plain(event, 60).replaceAll("_", " "));

function reachedOf(answer) {
  if (!answer?.reached) return "";
  return answer.next_before ? `Searched back to ${clock(answer.reached, now())}.` : "Searched to the oldest line.";
}

function verification([intact, first, last, isLoading]) {
  if (isLoading) return el("p", { class: "empty" }, "Loading …");
  const verdict = { true: badge("good", "ok", "Intact"), false: badge("bad", "bad", "Changed") }[intact] ?? badge("silent", "unknown", "Not inspected yet");
  return [
    el("p", { class: "verdict" }, verdict, el("span", {}, first ? `Lines ${count(first)} to ${count(last)} of the chain are kept.` : "The log is empty.")),
    el("p", { class: "hint" }, "mainpc inspects it at its start, every hour, and within seconds of a change by another program. On mainpc, this checks every line, and what other machines have seen of it:"),
    commandOf("./twinhost audit verify"),
  ];
}

function lineOf({ position, text, fields, intact }) {
  const facts = Object.entries(fields ?? {}).filter(([name]) => !NO_FIELDS.includes(name));
  const head = fields
    ? [el("bdi", { class: "name" }, wordsOf(fields.event)), el("span", { class: "quiet" }, "line ", plain(fields.seq, 20)), clockElement(plain(fields.time, 40))]
    : [el("span", { class: "name" }, "Not a line of the log")];
  return [
    el("p", { class: "record-head" }, intact ? null : badge("bad", "bad", fields ? "Changed" : "Foreign"), ...head),
    facts.length > 0 ? definitions(facts.map(([name, value]) => [plain(name, 40).replaceAll("_", " "), [el("bdi", {}, valueOf(value))]])) : null,
    el(
      "details",
      { class: "data mono" },
      el("summary", {}, "Evidence"),
      el("div", {}, definitions([
        ["Hash", [intact ? "fits what the line says" : "does not fit what the line says"]],
        ["At", ["file and byte ", bdi(position, 40)]],
        ["As it lies there", [bdi(text, 4_100)]],
      ])),
    ),
  ];
}

const valueOf = (value) => (Array.isArray(value) ? value.map((part) => plain(part, 100)).join(", ") : plain(value, 600));

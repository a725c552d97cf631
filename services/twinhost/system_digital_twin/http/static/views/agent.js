// One agent: its status, keys, leases, errors, and events.

import { definitions, drawTroubles, troubleList } from "../attention.js";
import { bdi, commandOf, draw as drawInto, el, setText, table } from "../dom.js";
import { hostOr, lastSeen, monoOr, panels, statusBadge, textOr } from "../panel.js";
import { drawList } from "../lists.js";
import { link } from "../router.js";
import { plain } from "../text.js";
import { unregistering } from "./agents.js";
import { headOf } from "./errors.js";
import { eventOf } from "./events.js";
import { KEYS } from "./keys.js";
import { LEASES } from "./leases.js";

const MOST = 10; // of errors, and of events

export const title = ({ name }) => plain(name, 60);

export function draw(place, state, { name, ...parameters }) {
  drawInto(place, "agent", () => [
    el("header", { class: "page-head" }, el("h2", {}), el("div", {})),
    troubleList(),
    el("div", {}),
  ]);
  const [head, troubles, parts] = place.children;
  const agent = (state.agents ?? []).find((one) => one.name === name);
  setText(head.firstChild, plain(name, 80));
  drawInto(head.lastChild, agent?.status ?? null, (status) => (status === null ? [] : statusBadge(status)));
  drawTroubles(troubles, state, (item) => isAbout(item, name), parameters);
  const shown = panels(parts, [
    { id: "about", title: "Registration" },
    { id: "keys", title: "Keys" },
    { id: "leases", title: "Leases" },
    { id: "errors", title: "Errors", hint: "Among the newest that the page receives; the page Errors has all." },
    { id: "events", title: "Events", hint: "Among the newest that the page receives; the page Events has all." },
  ], "h3");
  drawInto(shown.about.content, agent ?? null, registration);
  table(shown.keys.content, { ...KEYS, empty: "No authorised key has this name." }, (state.sessions ?? []).filter((session) => session.name === name));
  table(shown.leases.content, { ...LEASES, empty: "It has leased no memory." }, (state.leases ?? []).filter((lease) => lease.holder === name));
  drawList(shown.errors.content, "Errors", "No errors reported.", (state.errors ?? []).filter((error) => error.agent === name).slice(0, MOST), (error) => error.seq, headOf);
  drawList(shown.events.content, "Events", "No events yet.", (state.events ?? []).filter((event) => event.source === name).slice(0, MOST), (event) => event.seq, eventOf);
}

function isAbout(item, name) {
  return item.subject === name || item.evidence.some(({ value }) => value === name);
}

function registration(agent) {
  if (agent === null) return el("p", { class: "empty" }, "No agent of this name is registered, or it is not among those that the page receives.");
  const others = (agent.dependencies ?? []).map((one) => link("agent", one, bdi(one, 40, "chip")));
  return [
    definitions([
      ["Last seen", [lastSeen(agent.last_seen)]],
      ["Type", [textOr("not reported")(plain(agent.agent_type, 40))]],
      ["Machine", [hostOr("unknown")(agent.location)]],
      ["Address", [monoOr("none")(plain(agent.endpoint, 60))]],
      ["Registered by", [textOr("unknown")(plain(agent.registered_by, 60))]],
      ["Depends on", others.length > 0 ? others : [textOr("none")("")]],
    ]),
    agent.gone ? el("div", {}, el("p", { class: "hint" }, "It has been silent for more than a day. To unregister it, on mainpc:"), commandOf(unregistering(agent))) : null,
  ].filter(Boolean);
}

// One key: whose it is, what it may do, and how long it is valid.

import { definitions, drawTroubles, troubleList } from "../attention.js";
import { clockElement } from "../clock.js";
import { absent, bdi, draw as drawInto, el, setText, table } from "../dom.js";
import { drawKeyLeft, hostOr, keyLeft, lastSeen, nameOf, panels } from "../panel.js";
import { plain } from "../text.js";
import { BUDGETS } from "./budgets.js";
import { connectionsOf, rolesOf } from "./keys.js";

export const title = ({ name }) => plain(name, 30);

export function draw(place, state, { name, ...parameters }) {
  drawInto(place, "key", () => [
    el("header", { class: "page-head" }, el("h2", {})),
    troubleList(),
    el("div", {}),
  ]);
  const [head, troubles, parts] = place.children;
  const key = (state.sessions ?? []).find((one) => one.fingerprint === name);
  setText(head.firstChild, key ? `Key of ${plain(key.name, 60)}` : "Unknown key");
  const isAbout = (item) => item.subject === key?.name || item.evidence.some(({ value }) => value === name);
  drawTroubles(troubles, state, isAbout, parameters);
  const shown = panels(parts, [
    { id: "about", title: "Authorisation" },
    { id: "budgets", title: "Budgets", hint: "What its identity uses, of the largest parts of all." },
  ], "h3");
  drawInto(shown.about.content, [name, key ?? null, keyLeft(key ?? {})], authorisation);
  table(shown.budgets.content, BUDGETS, (state.usage ?? []).filter((use) => use.name === key?.name));
}

function authorisation([fingerprint, key, left]) {
  const print = ["Fingerprint", [bdi(fingerprint, 80, "mono")]];
  if (key === null) return [definitions([print]), el("p", { class: "empty" }, "No authorised key has this fingerprint. It may have been revoked or replaced.")];
  return definitions([
    print,
    ["Identity", [nameOf("agent", key.name)(plain(key.name, 60))]],
    ["Machine", [hostOr("any")(key.host)]],
    ["Roles", [rolesOf((key.roles ?? []).map((role) => plain(role, 24)))].flat()],
    ["Connections", [connectionsOf(key.sessions)]],
    ["Last seen", [lastSeen(key.last_seen)]],
    ["Valid from", [key.valid_from ? clockElement(key.valid_from) : absent("unknown")]],
    ["Valid until", [key.valid_until ? clockElement(key.valid_until) : absent("unknown")]],
    ["Valid for", [drawKeyLeft(left)].flat()],
  ]);
}

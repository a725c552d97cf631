// Every authorised key.

import { absent, bdi, el } from "../dom.js";
import { listing } from "../lists.js";
import { drawKeyLeft, hostOr, keyLeft, lastSeen, nameOf, panels } from "../panel.js";
import { agoElement } from "../clock.js";
import { link } from "../router.js";
import { count, plain } from "../text.js";

export const title = () => "Keys";

const isSoon = (key) => ["soon", "ended"].includes(keyLeft(key)?.[0]);

export const KEYS = {
  caption: "Identities with their connections and keys",
  empty: "No key is authorised.",
  keyOf: (session) => `${session.name} ${session.fingerprint}`,
  rowState: (session) => (isSoon(session) ? "warn" : "good"),
  columns: [
    { title: "Name", value: (session) => session.name, draw: (who) => nameOf("agent", who)(plain(who, 60)) },
    { title: "Machine", value: (session) => session.host, draw: hostOr("any") },
    { title: "Roles", value: (session) => (session.roles ?? []).slice(0, 8).map((role) => plain(role, 24)), draw: rolesOf },
    { title: "Connections", kind: "short", value: (session) => session.sessions, draw: connectionsOf },
    { title: "Last seen", kind: "short", value: (session) => session.last_seen, draw: lastSeen },
    { title: "Key", value: (session) => session.fingerprint, draw: fingerprint },
    { title: "Key age", kind: "short", value: (session) => session.valid_from, draw: ageOf },
    { title: "Key valid for", value: keyLeft, draw: drawKeyLeft },
  ],
};

function ageOf(from) {
  return from ? agoElement(from, "old") : absent("unknown");
}

export function rolesOf(roles) {
  return roles.length > 0 ? roles.map((role) => el("bdi", { class: "chip" }, role)) : absent("no role");
}

export function connectionsOf(open) {
  return open > 0 ? `${count(open)} open` : el("span", { class: "quiet" }, "none open");
}

function fingerprint(text) {
  return text ? link("key", text, bdi(text, 80, "mono fingerprint")) : absent("no key");
}

export function draw(place, { sessions = [], counts = {} }, parameters) {
  const { identities } = panels(place, [{ id: "identities", title: "Keys", hint: "Authorised keys with their owners and expiry." }]);
  identities.count(count(counts.sessions ?? sessions.length));
  listing(identities.content, KEYS, sessions, parameters, counts.sessions);
}

// Leases of memory.

import { agoElement } from "../clock.js";
import { absent, badge, bdi, el, table } from "../dom.js";
import { listing } from "../lists.js";
import { hostOr, name, nameOf, panels, textOr } from "../panel.js";
import { link } from "../router.js";
import { count, isNumber, memory, plain } from "../text.js";

export const title = () => "Leases";

export const LEASES = {
  caption: "Leases of memory with their holder and expiry",
  empty: "No memory is leased.",
  keyOf: (lease) => lease.lease_id,
  columns: [
    { title: "Holder", value: (lease) => plain(lease.holder, 60), draw: name },
    { title: "Amount", kind: "short", value: (lease) => (isNumber(lease.amount_mb) ? memory(lease.amount_mb) : null), draw: textOr("unknown") },
    { title: "Kind", kind: "short", value: (lease) => ({ vram: "VRAM", ram: "RAM" })[lease.resource] ?? plain(lease.resource, 20), draw: textOr("unknown") },
    {
      title: "Machine",
      value: (lease) => [lease.host, cardOf(lease)],
      draw: ([host, card]) => [hostOr("unknown")(host), card ? el("bdi", { class: "under" }, card) : null].filter(Boolean),
    },
    {
      title: "State",
      value: (lease) => lease.state,
      draw: (state) => (state === "committed" ? badge("good", "ok", "In use") : badge("calm", "unknown", state === "reserved" ? "Reserved" : plain(state, 20))),
    },
    { title: "Expires in", kind: "short", value: (lease) => lease.expires_at, draw: (at) => (at ? agoElement(at, "left") : absent("no expiry")) },
  ],
};

function cardOf({ gpu, capacity_reported_by: by }) {
  if (!gpu || !isNumber(gpu.index)) return null;
  return ["GPU", count(gpu.index), plain(gpu.uuid, 50), by && `as ${plain(by, 30)} reports`].filter(Boolean).join(" ");
}

const WAITING = {
  caption: "Requests that wait for memory, in the order in which they will be served",
  empty: "Nobody waits for memory.",
  keyOf: (wait) => `${wait.holder} ${wait.since} ${wait.amount_mb}`,
  columns: [
    { title: "Who", value: (wait) => wait.holder, draw: (who) => nameOf("agent", who)(plain(who, 60)) },
    LEASES.columns[1],
    LEASES.columns[2],
    { title: "Machine", value: (wait) => wait.host, draw: hostOr("any") },
    { title: "Waits", kind: "short", value: (wait) => wait.since, draw: (since) => agoElement(since, "for") },
    { title: "At most", kind: "short", value: (wait) => wait.until, draw: (until) => agoElement(until, "left") },
    { title: "Priority", kind: "short", value: (wait) => count(wait.priority), draw: textOr("none") },
    { title: "Behind", value: (wait) => wait.behind, draw: (others) => (others.length > 0 ? others.map((who) => chip(who)) : absent("nobody")) },
    {
      title: "Held by",
      value: (wait) => wait.held_by.map(({ holder, amount_mb: amount }) => [holder, memory(amount)]),
      draw: (held) => (held.length > 0 ? held.map(([who, amount]) => chip(who, ` ${amount}`)) : absent("no lease")),
    },
  ],
};

const chip = (who, ...more) => el("span", { class: "chip" }, link("agent", who, bdi(who, 40)), ...more);

export function draw(place, state, parameters) {
  const { leases, waiting } = panels(place, [
    { id: "leases", title: "Leases", hint: "Memory reserved for agents, so that it is not allocated twice." },
    { id: "waiting", title: "Queue", hint: "Requests that wait for memory, the next one first. Behind: who comes before, and wants the same memory. Held by: who has leased it, most first." },
  ]);
  leases.count(count(state.counts?.leases ?? 0));
  listing(leases.content, LEASES, state.leases ?? [], parameters, state.counts?.leases);
  const queue = state.waiting ?? [];
  const all = state.counts?.waiting ?? queue.length;
  waiting.count(queue.length < all ? `first ${count(queue.length)} of ${count(all)}` : count(all));
  table(waiting.content, WAITING, queue);
}

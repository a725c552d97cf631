// Leases of memory.

import { agoElement } from "../clock.js";
import { absent, badge, el } from "../dom.js";
import { listing } from "../listing.js";
import { hostOr, name, panels, textOr } from "../panel.js";
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

export function draw(place, state, parameters) {
  const { leases } = panels(place, [{ id: "leases", title: "Leases", hint: "Memory reserved for agents, so that it is not allocated twice." }]);
  leases.count(count(state.counts?.leases ?? 0));
  listing(leases.content, LEASES, state.leases ?? [], parameters, state.counts?.leases);
}

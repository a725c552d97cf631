// The first page: what is wrong, both machines and their link, and where the rest is.

import { drawAttention } from "../attention.js";
import { draw as drawInto, el } from "../dom.js";
import { drawFailover } from "../failover.js";
import { drawMachines } from "../machines.js";
import { addressOf } from "../router.js";
import { count } from "../text.js";

export const title = () => "";

export function draw(place, state, parameters) {
  drawInto(place, "overview", () => [
    el("section", { "aria-label": "What needs attention" }),
    el("section", { id: "machines", "aria-labelledby": "machines-title" }, el("h2", { id: "machines-title", class: "unseen" }, "Machines"), el("div", { class: "hosts", id: "hosts" })),
    el("section", { id: "failover", class: "panel", "aria-labelledby": "failover-title", hidden: true }),
    el("nav", { class: "tiles", "aria-label": "What there is" }),
  ]);
  const [attention, machines, failover, tiles] = place.children;
  drawAttention(attention, state, parameters);
  drawMachines(machines.lastChild, state);
  drawFailover(failover, state);
  drawInto(tiles, figuresOf(state), (figures) => figures.map(([view, title, figure]) => el("a", { href: addressOf(view) }, el("b", {}, figure), el("span", {}, title))));
}

function figuresOf({ counts = {}, refused = {} }) {
  const refusals = Object.values(refused).reduce((sum, times) => sum + times, 0);
  return [
    ["agents", counts.agents === 1 ? "agent" : "agents", count(counts.agents ?? 0)],
    ["keys", counts.sessions === 1 ? "key" : "keys", count(counts.sessions ?? 0)],
    ["leases", counts.leases === 1 ? "lease" : "leases", count(counts.leases ?? 0)],
    ["errors", "severe errors in 24 hours", count(counts.severe_errors_24h ?? 0)],
    ["refused", "refused connections since the start", count(refusals)],
  ];
}

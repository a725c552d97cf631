// Where each agent with a standby is active, what follows it, and how safe the log is; nothing without a log.

import { agoElement } from "./clock.js";
import { absent, badge, bdi, draw, el, table } from "./dom.js";
import { count, many } from "./text.js";

const AGENTS = {
  caption: "Where each agent is active",
  empty: "No agent has written to the log.",
  keyOf: (row) => row.agent,
  rowState: (row) => (row.holder === null || row.standbys.length === 0 ? "warn" : "good"),
  columns: [
    { title: "Agent", value: (row) => row.agent, draw: (agent) => bdi(agent, 60, "name") },
    {
      title: "Active on",
      value: (row) => [row.holder, row.moved_from],
      draw: ([holder, from]) => [holder === null ? badge("bad", "bad", "nobody now") : bdi(holder, 60, "name"), from ? el("span", { class: "under" }, "took over from ", bdi(from, 60)) : null].filter(Boolean),
    },
    { title: "Since", kind: "short", value: (row) => row.since, draw: (since) => agoElement(since, "for") },
    { title: "Epoch", kind: "number", value: (row) => row.epoch, draw: count },
    { title: "Transactions", kind: "number", value: (row) => row.transactions, draw: count },
    {
      title: "Standby",
      value: (row) => row.standbys.map(({ name, behind }) => [name, behind]),
      draw: (standbys) => (standbys.length === 0 ? badge("warn", "warn", "none follows") : standbys.map(([name, behind]) => el("span", {}, bdi(name, 60, "name"), ` ${many(behind, "transaction", "transactions")} behind`))),
    },
  ],
};

/** Draw the section, which is hidden where mainpc has no log. */
export function drawFailover(place, { failover }) {
  place.hidden = !failover;
  if (!failover) return;
  draw(place, "failover", () => [el("h2", { id: "failover-title" }, "Failover"), el("p", { class: "hint" }), el("div")]);
  const [, copiesAndWitness, agents] = place.children;
  draw(copiesAndWitness, [failover.copies, failover.witness], () => [copies(failover.copies), " ", witness(failover.witness)]);
  table(agents, AGENTS, failover.agents);
}

function copies(number) {
  if (number === null) return el("span", {}, "The database’s service keeps the copies.");
  return number === 1 ? badge("bad", "bad", "1 copy") : badge("good", "ok", `${count(number)} copies`);
}

function witness(one) {
  if (!one) return absent("no witness");
  return one.answers ? badge("good", "ok", "Witness well") : badge("warn", "warn", "Witness silent");
}

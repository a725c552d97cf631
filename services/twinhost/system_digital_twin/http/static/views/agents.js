// Every registered agent, and those that have been silent for so long that they should be unregistered.

import { absent, commandOf, el, table } from "../dom.js";
import { listing } from "../lists.js";
import { hostOr, lastSeen, monoOr, name, nameOf, panels, statusBadge, textOr } from "../panel.js";
import { count, plain, quoted } from "../text.js";
import { wordOfStatus } from "../words.js";

export const title = () => "Agents";

export const AGENTS = {
  caption: "Agents with their status and last heartbeat",
  empty: "No agent is registered yet.",
  keyOf: (agent) => agent.name,
  rowState: (agent) => wordOfStatus(agent.status).tone,
  columns: [
    {
      title: "Agent",
      value: (agent) => [agent.name, plain(agent.agent_type, 30)],
      draw: ([who, kind]) => [nameOf("agent", who)(plain(who, 60)), kind ? el("bdi", { class: "under" }, kind) : null].filter(Boolean),
    },
    { title: "Status", value: (agent) => agent.status, draw: statusBadge },
    { title: "Last seen", kind: "short", value: (agent) => agent.last_seen, draw: lastSeen },
    { title: "Machine", value: (agent) => agent.location, draw: hostOr("unknown") },
    { title: "Address", value: (agent) => plain(agent.endpoint, 50), draw: monoOr("none") },
    { title: "Registered by", kind: "short", value: (agent) => (agent.registered_by === agent.name ? "itself" : plain(agent.registered_by, 40)), draw: textOr("unknown") },
    {
      title: "Depends on",
      value: (agent) => (agent.dependencies ?? []).slice(0, 12).map((one) => plain(one, 30)),
      draw: (others) => (others.length > 0 ? others.map((one) => el("bdi", { class: "chip" }, one)) : absent("none")),
    },
  ],
};

const GONE = {
  caption: "Agents that have been silent for more than a day, and the command that unregisters each",
  empty: "None.",
  keyOf: (agent) => agent.name,
  rowState: () => "silent",
  columns: [
    { title: "Agent", value: (agent) => plain(agent.name, 60), draw: name },
    { title: "Last seen", kind: "short", value: (agent) => agent.last_seen, draw: lastSeen },
    { title: "To unregister it", value: unregistering, draw: commandOf },
  ],
};

/** Return the shell command that unregisters an agent, whatever its name is. */
export function unregistering({ name: agent }) {
  return `./twinhost agents unregister ${quoted(agent)}`;
}

export function draw(place, { agents = [], counts = {} }, parameters) {
  const shown = panels(place, [
    { id: "agents", title: "Agents", hint: "Registered agents and their last heartbeat." },
    { id: "gone", title: "Silent for more than a day", hint: "They stay on the attention list. Unregister those that do not come back." },
  ]);
  const gone = agents.filter((agent) => agent.gone);
  const here = agents.filter((agent) => !agent.gone);
  const allGone = counts.gone ?? gone.length;
  const all = counts.agents === undefined ? here.length : counts.agents - allGone;
  shown.agents.count(count(all));
  listing(shown.agents.content, AGENTS, here, parameters, all);
  shown.gone.panel.hidden = allGone === 0;
  shown.gone.count(gone.length < allGone ? `${count(gone.length)} of ${count(allGone)}` : count(allGone));
  table(shown.gone.content, GONE, gone);
}

// The memory, as its agent says with its heartbeats: how much there is and whose, and what is hidden.

import { definitions } from "../attention.js";
import { agoElement } from "../clock.js";
import { commandOf, draw as drawInto, el, table } from "../dom.js";
import { barOf, hostOr, name, nameOf, panels } from "../panel.js";
import { bytes, count, plain } from "../text.js";

export const title = () => "Memory";

const COUNTS = [["memories", "Memories"], ["interactions", "Interactions"], ["sessions", "Sessions"], ["twins", "Twins"], ["error_patterns", "Error patterns"]];

const WRITERS = {
  caption: "Who has stored how much, the largest first",
  empty: "Nobody has stored anything.",
  keyOf: (writer) => writer.name,
  columns: [
    { title: "Writer", value: (writer) => writer.name, draw: (who) => nameOf("agent", who)(plain(who, 60)) },
    {
      title: "Stored",
      kind: "number",
      value: (writer) => [writer.stored_bytes, writer.share],
      draw: ([size, share]) => [el("span", { class: "times" }, bytes(size)), barOf(share)],
    },
  ],
};

const HIDDEN = {
  caption: "Quarantined writers",
  empty: "Nobody is quarantined.",
  keyOf: (writer) => writer.name,
  rowState: () => "warn",
  columns: [
    { title: "Writer", value: (writer) => plain(writer.name, 60), draw: name },
    { title: "Since", kind: "short", value: (writer) => writer.since, draw: (since) => agoElement(since) },
    { title: "By", value: (writer) => plain(writer.by, 60), draw: name },
  ],
};

export function draw(place, state) {
  const kept = state.memory;
  if (!kept) {
    drawInto(place, "none", () => el("p", { class: "empty" }, "No agent has said anything of a memory since mainpc’s start."));
    return;
  }
  const { memory, writers, quarantine } = panels(place, [
    { id: "memory", title: "Memory", hint: "How much there is, as its agent says; hidden and forgotten entries count too. The page never has their content." },
    { id: "writers", title: "Writers", hint: "What each has stored." },
    { id: "quarantine", title: "Quarantine", hint: "What these wrote is hidden from every reply, and not deleted." },
  ]);
  drawInto(memory.content, [kept.name, kept.host, kept.as_of, COUNTS.map(([field]) => kept[field])], countsOf);
  const most = kept.writers[0]?.stored_bytes || 1;
  writers.count(partOf(kept.writers, kept.all_writers));
  table(writers.content, WRITERS, kept.writers.map((writer) => ({ ...writer, share: Math.round((100 * writer.stored_bytes) / most) })));
  quarantine.count(partOf(kept.quarantined, kept.all_quarantined));
  drawInto(quarantine.content, "quarantine", () => [el("div"), el("p", { class: "hint" }, "To hide what somebody wrote, and to show it again, on mainpc:"), commandOf("./twinhost memory quarantine NAME"), commandOf("./twinhost memory release NAME")]);
  table(quarantine.content.firstChild, HIDDEN, kept.quarantined);
}

const partOf = (shown, all) => (shown.length < all ? `${count(shown.length)} of ${count(all)}` : count(all));

function countsOf([agent, host, asOf, counts]) {
  return definitions([
    ["Agent", [nameOf("agent", agent)(plain(agent, 60))]],
    ["Machine", [hostOr("unknown")(host)]],
    ...COUNTS.map(([, word], at) => [word, [count(counts[at])]]),
    ["As of", [agoElement(asOf)]],
  ]);
}

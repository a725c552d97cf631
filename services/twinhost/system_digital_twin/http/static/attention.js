// The attention list: the server says what is wrong, and this shows it; it judges only whether it is still told.

import { agoElement, clockElement, now } from "./clock.js";
import { badge, bdi, byId, commandOf, draw, el, icon, keyed, setAttribute, setText } from "./dom.js";
import { link, parameter, setParameters } from "./router.js";
import { clock, many, plain, quoted } from "./text.js";

const LEVELS = {
  well: { sign: "ok", word: "Well", tone: "good" },
  attention: { sign: "warn", word: "Attention", tone: "warn" },
  broken: { sign: "bad", word: "Broken", tone: "bad" },
};
const MOST_TEXT = 400;

let lost = null; // { at }: when the newest state was received, null if none was; null while mainpc answers

export function setLost(since) {
  lost = since;
}

/** Draw what every page shows: the level in the header, and what a screen reader announces. */
export function drawLevel(state) {
  const { level, title, text } = summaryOf(state);
  setAttribute(byId("level"), "data-level", level);
  setAttribute(byId("level-icon"), "href", `#i-${signOf(level)}`);
  setText(byId("level-word"), lost ? title : title.replace(/\.$/, ""));
  setText(byId("announce"), lost ? `${title} ${text}` : title);
  const loading = byId("loading-title"); // until the first state
  if (loading === null) return;
  setText(loading, title);
  setText(byId("loading-text"), text);
}

/** Return the title of the window: what is wrong, then the page. */
export function titleOf(state, page) {
  const { level, title } = summaryOf(state);
  return [level === "well" ? "" : title.replace(/\.$/, ""), page, "twinhost"].filter(Boolean).join(" · ");
}

/** Draw the first sentence and the list below it. */
export function drawAttention(place, state, parameters) {
  draw(place, "attention", () => [
    el("div", { class: "summary", id: "summary" }, icon("unknown"), el("div", {}, el("h2", { id: "summary-title" }), el("p", { class: "quiet", id: "summary-text" }))),
    troubleList("troubles"),
    el("details", { class: "figures", id: "acknowledged", hidden: true }, el("summary", {}), troubleList()),
  ]);
  const { level, title, text } = summaryOf(state);
  const [summary, list, acknowledged] = place.children;
  setAttribute(summary, "data-level", level);
  setAttribute(summary.querySelector("use"), "href", `#i-${signOf(level)}`);
  setText(summary.querySelector("h2"), title);
  setText(summary.querySelector("p"), text);
  drawTroubles(list, state, (item) => !item.acknowledged, parameters);
  const old = drawTroubles(acknowledged.lastChild, state, (item) => item.acknowledged, parameters);
  acknowledged.hidden = old.length === 0;
  setText(acknowledged.firstChild, `${many(old.length, "trouble", "troubles")} acknowledged`);
  if (old.some((item) => item.id === parameters.item) && !acknowledged.dataset.seen) acknowledged.open = true;
  acknowledged.dataset.seen = "yes";
}

export function troubleList(id) {
  return el("ol", { class: "troubles", id, role: "list" });
}

/** Draw some of the troubles as a list, each of which opens; that in the address is open. Returns them. */
export function drawTroubles(list, state, isOne, parameters) {
  const items = (state.attention?.items ?? []).filter(isOne);
  list.hidden = items.length === 0;
  keyed(list, items, (item) => item.id, (item) => newTrouble(item, item.id === parameters.item), updateTrouble);
  return items;
}

function summaryOf(state) {
  if (state === null) {
    return lost
      ? { level: "unknown", title: "mainpc does not answer", text: "The page connects as soon as it does." }
      : { level: "unknown", title: "Loading …", text: "Requesting the state from mainpc." };
  }
  const { level = "unknown", headline = "", as_of: asOf, items = [] } = state.attention ?? {};
  if (lost) {
    const at = clock(new Date(lost.at).toISOString(), now());
    const again = "The page reconnects by itself.";
    return items.length === 0
      ? { level: "unknown", title: `Was well until ${at}`, text: `Connection to mainpc lost at ${at}. ${again}` }
      : { level: "unknown", title: `Connection to mainpc lost at ${at}`, text: `What is below was so then. ${again}` };
  }
  const hosts = many(state.hosts?.length ?? 0, "machine", "machines");
  const agents = many(state.counts?.agents ?? 0, "agent", "agents");
  const text = items.length === 0 ? `Nothing needs attention on ${hosts}, with ${agents}.` : `${items.length === 1 ? "It" : "Each"} opens to its cause and to the command that fixes it. As of ${clock(asOf, now())}.`;
  return { level, title: plain(headline, MOST_TEXT), text };
}

const signOf = (level) => LEVELS[level]?.sign ?? (lost ? "broken" : "unknown");

function newTrouble(item, isOpen) {
  const head = el("summary", {}, el("span", { class: "trouble-sign" }), el("span", { class: "trouble-what" }), el("span", { class: "trouble-since" }));
  const parts = (...names) => el("div", {}, ...names.map((name) => el("div", { class: name })));
  const body = el("div", { class: "trouble-body" }, parts("facts", "explains", "evidence"), parts("remedies", "acknowledge"));
  const details = el("details", { class: "trouble", open: isOpen }, head, body);
  details.addEventListener("toggle", () => {
    if (details.open) setParameters({ item: item.id });
    else if (parameter("item") === item.id) setParameters({ item: "" });
  });
  const element = el("li", {}, details);
  if (isOpen) requestAnimationFrame(() => element.scrollIntoView({ block: "nearest" }));
  return element;
}

function updateTrouble(element, item) {
  const [head, body] = element.firstChild.children;
  const [sign, what, since] = head.children;
  const [facts, explains, evidence] = body.firstChild.children;
  const [remedies, acknowledge] = body.lastChild.children;
  setAttribute(element.firstChild, "data-level", item.level);
  draw(sign, item.level, levelBadge);
  draw(what, item.what, (text) => bdi(text, MOST_TEXT));
  draw(since, item.since, (iso) => agoElement(iso, "for"));
  draw(facts, [item.since, item.host, item.cause, item.acknowledged], () => factsOf(item));
  draw(explains, item.explains, explained);
  draw(remedies, item.remedies, (all) => (all.length > 0 ? [el("h3", {}, "To fix it"), ...all.map(remedy)] : []));
  draw(acknowledge, [item.id, !item.acknowledged], ([id, isNew]) => (isNew ? acknowledging(id) : []));
  draw(evidence, item.evidence, seen);
}

export function levelBadge(level) {
  const { tone, sign, word } = LEVELS[level] ?? { tone: "warn", sign: "warn", word: plain(level, 20) };
  return badge(tone, sign, word);
}

/** Return the worst level of what is wrong on a host and nobody has acknowledged; null if nothing is. */
export function levelOfHost({ attention = {} }, host) {
  const levels = (attention.items ?? []).filter((item) => item.host === host && !item.acknowledged).map((item) => item.level);
  if (levels.length === 0) return null;
  return levels.includes("broken") ? "broken" : levels[0];
}

function factsOf({ since, host, cause, acknowledged }) {
  const facts = [
    ["Since", [clockElement(since), " (", agoElement(since), ")"]],
    host ? ["On", [link("host", host, bdi(host, 60))]] : null,
    cause ? ["Cause", [bdi(cause, MOST_TEXT)]] : null,
    acknowledged ? ["Acknowledged", ["by ", bdi(acknowledged.by, 60), " at ", clockElement(acknowledged.at)]] : null,
  ].filter(Boolean);
  return definitions(facts);
}

export function definitions(facts) {
  return el("dl", { class: "facts-list" }, ...facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, ...value))));
}

function explained(explains) {
  const consequences = explains.filter(({ id }) => !id.startsWith("disk_nearly_full:")); // of a full disk
  if (consequences.length === 0) return [];
  const rows = consequences.map(({ what, since }) => el("li", {}, bdi(what, MOST_TEXT), el("span", { class: "quiet" }, " since ", clockElement(since))));
  return [el("h3", {}, "It explains"), el("ul", {}, ...rows)];
}

function remedy({ on, command, why }) {
  const reason = why ? el("p", { class: "under" }, bdi(why, MOST_TEXT)) : null;
  if (!command) return el("div", { class: "remedy" }, reason);
  return el("div", { class: "remedy" }, el("p", { class: "remedy-on" }, "On ", bdi(on, 60, "name")), commandOf(command), reason);
}

function acknowledging(id) {
  return [
    el("h3", {}, "To acknowledge it"),
    el("div", { class: "remedy" }, commandOf(`./twinhost attention acknowledge ${quoted(id)}`), el("p", { class: "under" }, "It then comes last, until it gets worse or ends.")),
  ];
}

function seen(rows) {
  if (rows.length === 0) return [];
  return [el("h3", {}, "What was seen"), definitions(rows.map(({ name, value }) => [plain(name, 80), [bdi(value, MOST_TEXT, "mono")]]))];
}

// The tables and lists below the machines.

import { agoElement, now } from "./clock.js";
import { absent, badge, byId, draw, el, keyed, setText, table } from "./dom.js";
import { amount, clock, count, days, duration, isNumber, memory, percent, plain } from "./text.js";
import { wordOfSeverity, wordOfStatus, wordsOfCause } from "./words.js";

export const ENDS_SOON_S = 14 * 86400; // from then on, mainpc warns too
const NEARLY_USED = 0.8; // of a budget: from then on, mainpc warns too
const MOST_ROWS = 300;
const MOST_DATA = 140;
const MOST_DATA_OPENED = 4000;

const name = (text) => (text ? el("bdi", { class: "name" }, text) : absent("no name"));
const lastSeen = (iso) => (iso ? agoElement(iso) : absent("never"));
const textOr = (reason) => (text) => (text ? el("bdi", {}, text) : absent(reason));
const monoOr = (reason) => (text) => (text ? el("bdi", { class: "mono" }, text) : absent(reason));

const fingerprint = (text) => (text ? el("bdi", { class: "mono fingerprint" }, text) : absent("no key"));

const AGENTS = {
  caption: "Agents with their status and last heartbeat",
  empty: "No agent is registered yet.",
  keyOf: (agent) => agent.name,
  rowState: (agent) => wordOfStatus(agent.status).tone,
  columns: [
    {
      title: "Agent",
      value: (agent) => [plain(agent.name, 60), plain(agent.agent_type, 30)],
      draw: ([who, kind]) => [name(who), kind ? el("bdi", { class: "under" }, kind) : null].filter(Boolean),
    },
    {
      title: "Status",
      value: (agent) => agent.status,
      draw: (status) => {
        const { tone, sign, word } = wordOfStatus(status);
        return badge(tone, sign, word);
      },
    },
    { title: "Last seen", kind: "short", value: (agent) => agent.last_seen, draw: lastSeen },
    { title: "Machine", value: (agent) => plain(agent.location, 30), draw: textOr("unknown") },
    { title: "Address", value: (agent) => plain(agent.endpoint, 50), draw: monoOr("none") },
    { title: "Registered by", value: (agent) => (agent.registered_by === agent.name ? "itself" : plain(agent.registered_by, 40)), draw: textOr("unknown") },
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
    { title: "To unregister it", value: unregistering, draw: (command) => el("code", {}, command) },
  ],
};

/** Return the shell command that unregisters an agent; other than plain names are escaped to ASCII and quoted. */
function unregistering({ name: agent }) {
  const isPlain = /^[A-Za-z][\w.-]*$/.test(agent) && !["true", "false", "null"].includes(agent);
  const escaped = (mark) => `\\u${mark.charCodeAt(0).toString(16).padStart(4, "0")}`;
  const field = isPlain ? `agent_name=${agent}` : `'agent_name=${JSON.stringify(agent).replace(/[^ -~]|'/g, escaped)}'`;
  return `docker compose run --rm cli call SystemDigitalTwin unregister ${field}`;
}

const SESSIONS = {
  caption: "Identities with their connections and keys",
  empty: "No key is authorised yet.",
  keyOf: (session) => `${session.name} ${session.fingerprint}`,
  rowState: (session) => (isNumber(session.key_left_s) && session.key_left_s < ENDS_SOON_S ? "warn" : "good"),
  columns: [
    { title: "Name", value: (session) => plain(session.name, 60), draw: name },
    { title: "Machine", value: (session) => plain(session.host, 30), draw: textOr("any") },
    {
      title: "Roles",
      value: (session) => (session.roles ?? []).slice(0, 8).map((role) => plain(role, 24)),
      draw: (roles) => (roles.length > 0 ? roles.map((role) => el("bdi", { class: "chip" }, role)) : absent("no role")),
    },
    {
      title: "Connections",
      kind: "short",
      value: (session) => session.sessions,
      draw: (open) => (open > 0 ? `${count(open)} open` : el("span", { class: "quiet" }, "none open")),
    },
    { title: "Last seen", kind: "short", value: (session) => session.last_seen, draw: lastSeen },
    { title: "Key", value: (session) => plain(session.fingerprint, 80), draw: fingerprint },
    {
      title: "Key age",
      kind: "short",
      value: (session) => (isNumber(session.key_age_s) ? duration(session.key_age_s) : null),
      draw: (age) => age ?? absent("unknown"),
    },
    { title: "Key valid for", value: keyLeft, draw: drawKeyLeft },
  ],
};

function keyLeft({ key_left_s: left, key_age_s: age }) {
  if (!isNumber(left)) return null;
  const share = isNumber(age) && age + left > 0 ? Math.round((100 * Math.max(0, left)) / (age + left)) : null;
  return [left <= 0 ? "ended" : left < ENDS_SOON_S ? "soon" : "long", left < 86400 ? duration(left) : days(left), share];
}

function drawKeyLeft(value) {
  if (value === null) return absent("unknown");
  const [state, text, share] = value;
  if (state === "ended") return badge("bad", "bad", "Expired");
  const bar = share === null ? null : el("span", { class: "bar", "aria-hidden": "true" }, el("i"));
  bar?.firstChild.style.setProperty("width", `${share}%`);
  const words = state === "soon" ? badge("warn", "warn", `${text}, rotate it`) : el("span", {}, text);
  return [words, bar].filter(Boolean);
}

const BUDGETS = {
  caption: "Budgets on mainpc by their used part, the largest first",
  empty: "No budget is in use.",
  keyOf: (use) => `${use.name} ${use.limit}`,
  rowState: (use) => (use.share < NEARLY_USED ? "good" : "warn"),
  columns: [
    { title: "Name", value: (use) => plain(use.name, 60), draw: name },
    { title: "Limit", value: (use) => plain(use.limit, 30), draw: textOr("unknown") },
    { title: "Used", kind: "short", value: (use) => [use.used, use.most].map(amount), draw: ([used, most]) => `${used} of ${most}` },
    {
      title: "Part",
      kind: "number",
      value: (use) => Math.round(100 * use.share),
      draw: (share) => {
        const bar = el("span", { class: "bar", "aria-hidden": "true" }, el("i"));
        bar.firstChild.style.setProperty("width", `${Math.min(100, share)}%`);
        return [el("span", { class: "times" }, percent(share)), bar];
      },
    },
  ],
};

const LEASES = {
  caption: "Leases of memory with their holder and expiry",
  empty: "No memory is leased.",
  keyOf: (lease) => lease.lease_id,
  columns: [
    { title: "Holder", value: (lease) => plain(lease.holder, 60), draw: name },
    { title: "Amount", kind: "short", value: (lease) => (isNumber(lease.amount_mb) ? memory(lease.amount_mb) : null), draw: textOr("unknown") },
    {
      title: "Kind",
      kind: "short",
      value: (lease) => ({ vram: "VRAM", ram: "RAM" })[lease.resource] ?? plain(lease.resource, 20),
      draw: textOr("unknown"),
    },
    {
      title: "Machine",
      value: (lease) => [plain(lease.host, 30), cardOf(lease)],
      draw: ([host, card]) => [textOr("unknown")(host), card ? el("bdi", { class: "under" }, card) : null].filter(Boolean),
    },
    {
      title: "State",
      value: (lease) => lease.state,
      draw: (state) =>
        state === "committed" ? badge("good", "ok", "In use") : badge("calm", "unknown", state === "reserved" ? "Reserved" : plain(state, 20)),
    },
    {
      title: "Expires in",
      kind: "short",
      value: (lease) => (isNumber(lease.expires_in_s) ? duration(lease.expires_in_s) : null),
      draw: (left) => left ?? absent("no expiry"),
    },
  ],
};

function cardOf({ gpu, capacity_reported_by: by }) {
  if (!gpu || !isNumber(gpu.index)) return null;
  return ["GPU", count(gpu.index), plain(gpu.uuid, 50), by && `as ${plain(by, 30)} reports`].filter(Boolean).join(" ");
}

export function drawAgents({ agents = [], counts = {} }) {
  const gone = agents.filter((agent) => agent.gone);
  drawGone(gone, counts.gone ?? gone.length);
  const here = agents.filter((agent) => !agent.gone);
  const all = counts.agents === undefined ? here.length : counts.agents - (counts.gone ?? 0);
  const shown = here.length <= MOST_ROWS ? here : unhealthyFirst(here).slice(0, MOST_ROWS);
  setText(byId("agents-count"), shown.length < all ? `${count(shown.length)} of ${count(all)}` : count(all));
  table(byId("agents-table"), AGENTS, shown);
}

function drawGone(gone, all) {
  byId("gone").hidden = all === 0;
  setText(byId("gone-count"), gone.length < all ? `${count(gone.length)} of ${count(all)}` : count(all));
  table(byId("gone-table"), GONE, gone);
}

function unhealthyFirst(agents) {
  const isHealthy = (agent) => Number(wordOfStatus(agent.status).tone === "good");
  return [...agents].sort((a, b) => isHealthy(a) - isHealthy(b));
}

export function drawSessions({ sessions = [], counts = {} }) {
  setText(byId("identities-count"), count(counts.sessions ?? sessions.length));
  table(byId("identities-table"), SESSIONS, sessions.slice(0, MOST_ROWS));
}

export function drawBudgets({ usage = [] }) {
  table(byId("budgets-table"), BUDGETS, usage);
}

export function drawLeases({ leases = [], counts = {} }) {
  setText(byId("leases-count"), count(counts.leases ?? leases.length));
  table(byId("leases-table"), LEASES, leases.slice(0, MOST_ROWS));
}

export function drawRefused({ refused = {} }) {
  const causes = Object.entries(refused)
    .filter(([, times]) => times > 0)
    .sort(([, a], [, b]) => b - a);
  setText(byId("refused-count"), count(causes.reduce((sum, [, times]) => sum + times, 0)));
  const most = causes[0]?.[1] ?? 1;
  const columns = [
    {
      title: "Cause",
      value: ([cause]) => wordsOfCause(cause),
      draw: ([title, why]) => [el("bdi", { class: "name" }, title), why ? el("span", { class: "under" }, why) : null].filter(Boolean),
    },
    {
      title: "Count",
      kind: "number",
      value: ([, times]) => [times, Math.max(2, Math.round((100 * times) / most))],
      draw: ([times, share]) => {
        const bar = el("span", { class: "bar", "aria-hidden": "true" }, el("i"));
        bar.firstChild.style.setProperty("width", `${share}%`);
        return [el("span", { class: "times" }, count(times)), bar];
      },
    },
  ];
  const caption = "Refused connections by cause";
  table(byId("refused-list"), { caption, columns, keyOf: ([cause]) => cause, empty: "No connection was refused." }, causes);
}

export function drawEvents({ events = [] }) {
  setText(byId("events-count"), events.length > 0 ? `newest ${count(events.length)}` : "");
  drawFeed(byId("events-list"), "Events, newest first", "No events yet.", events, (event) => [
    el("p", { class: "feed-head" }, el("bdi", { class: "name" }, plain(event.type, 80)), whenElement(event.time)),
    el("p", { class: "under" }, "from ", el("bdi", {}, plain(event.source, 80))),
    longText(event.data),
  ]);
}

export function drawErrors({ errors = [] }) {
  setText(byId("errors-count"), errors.length > 0 ? `newest ${count(errors.length)}` : "");
  drawFeed(byId("errors-list"), "Errors: severe ones of the last 24 hours first", "No errors reported.", errors, (error) => {
    const { tone, sign, word } = wordOfSeverity(error.severity);
    return [
      el("p", { class: "feed-head" }, badge(tone, sign, word), el("bdi", { class: "name" }, plain(error.type, 80)), whenElement(error.time)),
      el("p", { class: "under" }, "from ", el("bdi", {}, plain(error.agent, 80))),
      longText(error.message),
    ];
  });
}

/** A scrollable list; it is focusable, so that the keyboard can scroll it. */
function drawFeed(place, label, empty, items, parts) {
  const any = items.length > 0;
  draw(place, any, () =>
    any
      ? el("div", { class: "feed", tabindex: "0", role: "region", "aria-label": label }, el("ol", { role: "list" }))
      : el("p", { class: "empty" }, empty),
  );
  if (any) keyed(place.querySelector("ol"), items, (item) => item.seq, (item) => el("li", {}, ...parts(item).filter(Boolean)));
}

function whenElement(iso) {
  const element = el("time", { datetime: plain(iso, 40) }, clock(iso, now()));
  return element;
}

function longText(value) {
  const empty = value === null || value === undefined || value === "" || (typeof value === "object" && Object.keys(value).length === 0);
  if (empty) return null;
  const short = plain(value, MOST_DATA);
  const whole = plain(value, MOST_DATA_OPENED);
  const kind = typeof value === "string" ? "data" : "data mono";
  if (short === whole) return el("p", { class: kind }, el("bdi", {}, whole));
  return el("details", { class: kind }, el("summary", {}, el("bdi", {}, short)), el("p", {}, el("bdi", {}, whole)));
}

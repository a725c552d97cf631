// One sentence on how things are; it is what a screen reader is told when it changes.

import { byId, draw, el, setAttribute, setText } from "./dom.js";
import { duration, isNumber, listed, many, plain } from "./text.js";
import { ENDS_SOON_S } from "./sections.js";
import { wordOfStatus, wordsOfCause } from "./words.js";

const DAY_S = 86400;
const SIGNS = { good: "ok", warn: "warn", bad: "bad", silent: "unknown" };

/** Show the sentence for the state, or for the silence since `lostAt`. */
export function drawSummary(state) {
  const { level, title, text } = summaryOf(state);
  setAttribute(byId("summary"), "data-level", level);
  setAttribute(byId("summary-icon"), "href", `#i-${SIGNS[level]}`);
  setText(byId("summary-title"), title);
  setText(byId("summary-text"), text);
  document.title = level === "good" ? "twinhost" : `${title} · twinhost`;
  announce(`${title} ${text}`);
}

export function drawBanners(state) {
  byId("banner-insecure").hidden = state.secure !== false;
  const warnings = (state.warnings ?? []).slice(0, 20).map((warning) => plain(warning, 300));
  byId("banner-warnings").hidden = warnings.length === 0;
  draw(byId("warnings"), warnings, () => warnings.map((warning) => el("li", {}, el("bdi", {}, warning))));
  setText(byId("uptime"), isNumber(state.uptime_s) ? `mainpc’s agent has been up for ${duration(state.uptime_s)}.` : "");
}

/** Show that what is on the page is old, or that it no longer is. */
export function drawLost(lostFor, everSeen) {
  const lost = lostFor !== null;
  byId("banner-stale").hidden = !lost;
  if (!lost) return;
  const title = everSeen ? "Connection to mainpc lost" : "mainpc does not answer";
  const old = everSeen ? `What you see below is ${duration(lostFor)} old. ` : "";
  setText(byId("stale-title"), title);
  setText(byId("stale-text"), `${old}The page keeps trying and comes back by itself.`);
  document.title = `${title} · twinhost`;
  announce(`${title}. The page keeps trying.`);
}

function announce(text) {
  setText(byId("announce"), text);
}

function summaryOf(state) {
  const hosts = state.hosts ?? [];
  const gone = state.counts?.gone ?? 0;
  const agents = (state.agents ?? []).filter((agent) => !agent.gone);
  const ofHosts = new Set(hosts.map((host) => host.agent));
  const silentHosts = hosts.filter((host) => host.status === "NO_RESPONSE");
  const newHosts = hosts.filter((host) => host.status === "unknown");
  const silent = agents.filter((agent) => agent.status === "NO_RESPONSE" && !ofHosts.has(agent.name));
  const odd = agents.filter((agent) => wordOfStatus(agent.status).tone === "warn");
  const mute = hosts.filter((host) => host.stale && wordOfStatus(host.status).tone === "good");
  const keys = (state.sessions ?? []).filter((one) => !one.roles?.includes("invitation")); // one ends within minutes, as it should
  const ending = keys.filter((one) => isNumber(one.key_left_s) && one.key_left_s < ENDS_SOON_S);
  const severe = state.counts?.severe_errors_24h ?? 0;
  const refused = Object.entries(state.refused_24h ?? {}).sort(([, a], [, b]) => b - a);
  const refusals = refused.reduce((sum, [, times]) => sum + times, 0);
  const names = (list) => listed(list.map((one) => one.name));
  const since = state.uptime_s < DAY_S ? "since mainpc’s start" : "in the last 24 hours"; // they are counted from there
  const troubles = [
    state.secure === false && ["bad", "Encryption is off."],
    silentHosts.length > 0 && ["bad", `${names(silentHosts)} ${silentHosts.length === 1 ? "gives" : "give"} no response.`],
    state.status === "error" && ["bad", "mainpc’s own check says that something is broken."],
    severe > 0 && ["bad", `${many(severe, "error", "errors")} in the last 24 hours${newestOf(state.errors)}.`],
    newHosts.length > 0 && ["warn", `${names(newHosts)} ${newHosts.length === 1 ? "has" : "have"} not reported yet.`],
    silent.length > 0 && ["warn", `No response from ${many(silent.length, "agent", "agents")}: ${names(silent)}.`],
    odd.length > 0 && ["warn", `Not healthy, by ${odd.length === 1 ? "its" : "their"} own word: ${names(odd)}.`],
    mute.length > 0 && ["warn", `No figures come from ${names(mute)}.`],
    ending.length > 0 && ["warn", `${ending.length === 1 ? "A key ends" : "Keys end"} soon: ${names(ending)}.`],
    refusals > 0 && [
      "warn",
      `${many(refusals, "connection", "connections")} refused ${since}: ${listed(refused.map(([cause]) => wordsOfCause(cause)[0].toLowerCase()))}.`,
    ],
    state.status === "degraded" && ["warn", "mainpc’s own check says that something is amiss."],
  ].filter(Boolean);
  if (troubles.length === 0) {
    return {
      level: "good",
      title: "All is well.",
      text: `${many(hosts.length, "machine", "machines")} and ${many((state.counts?.agents ?? agents.length + gone) - gone, "agent", "agents")} respond, and every message between them is encrypted.`,
    };
  }
  const [[level, title], ...others] = troubles;
  return { level, title, text: others.map(([, text]) => text).join(" ") || "Everything else is well." };
}

/** Return ", the newest TYPE from AGENT" of the first error, which is the newest that calls for attention. */
function newestOf([error] = []) {
  return error?.attention ? `, the newest ${plain(error.type, 60)} from ${plain(error.agent, 40)}` : "";
}

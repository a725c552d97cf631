// The summary sentence, which screen readers announce when it changes.

import { byId, draw, el, setAttribute, setText } from "./dom.js";
import { duration, isNumber, listed, many, plain } from "./text.js";
import { ENDS_SOON_S } from "./sections.js";
import { fullWithin, wordOfResource, wordOfStatus, wordsOfCause } from "./words.js";

const DAY_S = 86400;
const HOUR_S = 3600;
const SIGNS = { good: "ok", warn: "warn", bad: "bad", silent: "unknown" };

/** Show the summary of the state. */
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

/** Show or hide the banner that the data is outdated. */
export function drawLost(lostFor, everSeen) {
  const lost = lostFor !== null;
  byId("banner-stale").hidden = !lost;
  if (!lost) return;
  const title = everSeen ? "Connection to mainpc lost" : "mainpc does not answer";
  const old = everSeen ? `The data below is ${duration(lostFor)} old. ` : "";
  setText(byId("stale-title"), title);
  setText(byId("stale-text"), `${old}The page reconnects automatically.`);
  document.title = `${title} · twinhost`;
  announce(`${title}. The page reconnects automatically.`);
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
  const unhealthy = agents.filter((agent) => wordOfStatus(agent.status).tone === "warn");
  const stale = hosts.filter((host) => host.stale && wordOfStatus(host.status).tone === "good");
  const keys = (state.sessions ?? []).filter((one) => !one.roles?.includes("invitation")); // which expires within minutes by design
  const filling = hosts.flatMap((host, at) =>
    fullWithin(host, HOUR_S)
      .filter((one) => !isNamed(one, hosts.slice(0, at).filter((other) => host.same_machine?.includes(other.name))))
      .map((one) => ({ name: `${wordOfResource(one)} of ${plain(host.name, 40)}` })),
  );
  const expiring = keys.filter((one) => isNumber(one.key_left_s) && one.key_left_s < ENDS_SOON_S);
  const severe = state.counts?.severe_errors_24h ?? 0;
  const refused = Object.entries(state.refused_24h ?? {}).sort(([, a], [, b]) => b - a);
  const refusals = refused.reduce((sum, [, times]) => sum + times, 0);
  const names = (list) => listed(list.map((one) => one.name));
  const since = state.uptime_s < DAY_S ? "since mainpc’s start" : "in the last 24 hours"; // the counts begin there
  const problems = [
    state.secure === false && ["bad", "Encryption is off."],
    silentHosts.length > 0 && ["bad", `${names(silentHosts)} ${silentHosts.length === 1 ? "does" : "do"} not respond.`],
    state.status === "error" && ["bad", "mainpc’s health check reports an error; see the warnings."],
    severe > 0 && ["bad", `${many(severe, "error", "errors")} in the last 24 hours${newestOf(state.errors)}.`],
    newHosts.length > 0 && ["warn", `${names(newHosts)} ${newHosts.length === 1 ? "has" : "have"} not reported yet.`],
    silent.length > 0 && ["warn", `No response from ${many(silent.length, "agent", "agents")}: ${names(silent)}.`],
    unhealthy.length > 0 && ["warn", `Not healthy: ${names(unhealthy)}.`],
    stale.length > 0 && ["warn", `No metrics from ${names(stale)}.`],
    filling.length > 0 && ["warn", `${names(filling)} will be full within an hour.`],
    expiring.length > 0 && ["warn", `${expiring.length === 1 ? "A key expires" : "Keys expire"} soon: ${names(expiring)}.`],
    refusals > 0 && [
      "warn",
      `${many(refusals, "connection", "connections")} refused ${since}: ${listed(refused.map(([cause]) => lowerFirst(wordsOfCause(cause)[0])))}.`,
    ],
    state.status === "degraded" && ["warn", "mainpc’s health is degraded; see the warnings."],
  ].filter(Boolean);
  if (problems.length === 0) {
    return {
      level: "good",
      title: "All is well.",
      text: `${many(hosts.length, "machine", "machines")} and ${many((state.counts?.agents ?? agents.length + gone) - gone, "agent", "agents")} respond, and every message between them is encrypted.`,
    };
  }
  const [[level, title], ...others] = problems;
  return { level, title, text: others.map(([, text]) => text).join(" ") || "Everything else is well." };
}

/** Return whether a resource that fills is that of another host on the same machine too. */
function isNamed(one, others) {
  const isSame = (its) => its.resource === one.resource && its.name === one.name && Math.abs(its.total_mb - one.total_mb) < 1;
  return others.some((other) => fullWithin(other, HOUR_S).some(isSame));
}

function lowerFirst(text) {
  return text.charAt(0).toLowerCase() + text.slice(1);
}

/** Return ", the newest TYPE from AGENT" of the first error, which is the newest that needs attention. */
function newestOf([error] = []) {
  return error?.attention ? `, the newest ${plain(error.type, 60)} from ${plain(error.agent, 40)}` : "";
}

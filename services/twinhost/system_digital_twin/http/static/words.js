// Labels for statuses, severities, and forecasts.

import { duration, isNumber, plain } from "./text.js";

const STATUSES = {
  HEALTHY: { tone: "good", sign: "ok", word: "Healthy" },
  ok: { tone: "good", sign: "ok", word: "Healthy" },
  NO_RESPONSE: { tone: "silent", sign: "silent", word: "No response" },
  unknown: { tone: "silent", sign: "unknown", word: "Not seen yet" },
};

/** Return the label of a status; an agent may report any status. */
export function wordOfStatus(status) {
  if (Object.hasOwn(STATUSES, status)) return STATUSES[status];
  return { tone: "warn", sign: "warn", word: plain(status, 40) || "No status" };
}

const SEVERITIES = {
  info: { tone: "calm", sign: "info", word: "Info" },
  warning: { tone: "warn", sign: "warn", word: "Warning" },
  error: { tone: "bad", sign: "bad", word: "Error" },
  critical: { tone: "bad", sign: "bad", word: "Critical" },
};

export function wordOfSeverity(severity) {
  if (Object.hasOwn(SEVERITIES, severity)) return SEVERITIES[severity];
  return { tone: "warn", sign: "warn", word: plain(severity, 20) || "Error" };
}

const WEEK_S = 7 * 86400;
const RESOURCES = { ram: "RAM", vram: "VRAM", disk: "Disk" };

function wordOfResource({ resource, name }) {
  return `${RESOURCES[resource] ?? plain(resource, 20)}${name ? ` (${plain(name, 40)})` : ""}`;
}

/** Return which disks of a host are full, and when its growing resources will be. */
export function wordsOfForecasts(host) {
  const full = (host.machine?.disks ?? []).filter((disk) => disk.free_mb < 1).map((disk) => `The disk of its ${plain(disk.name, 20)} is full.`);
  const known = (host.forecasts ?? []).filter(({ growth_mb_per_hour: growth }) => isNumber(growth));
  const soon = known.filter(({ time_to_full_s: left }) => isNumber(left) && left <= WEEK_S).map((forecast) => {
    const { time_to_full_s: left, interval } = forecast;
    return `${wordOfResource(forecast)} will be full in about ${duration(left)} (${duration(interval.low)} to ${duration(interval.high)}).`;
  });
  const none = `No forecast: ${plain(host.forecasts?.[0]?.reason, 60) || "not measured yet"}.`;
  return [...full, ...soon].join(" ") || (known.length === 0 ? none : "At this rate, nothing will be full within a week.");
}

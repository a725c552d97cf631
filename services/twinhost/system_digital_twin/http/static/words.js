// Plain words for what the protocol calls by its own names.

import { plain } from "./text.js";

const STATUSES = {
  HEALTHY: { tone: "good", sign: "ok", word: "Healthy" },
  ok: { tone: "good", sign: "ok", word: "Healthy" },
  NO_RESPONSE: { tone: "silent", sign: "silent", word: "No response" },
  unknown: { tone: "silent", sign: "unknown", word: "Not seen yet" },
};

/** Return how a status looks and reads; an agent may call its own as it likes. */
export function wordOfStatus(status) {
  if (Object.hasOwn(STATUSES, status)) return STATUSES[status];
  return { tone: "warn", sign: "warn", word: plain(status, 40) || "No status" };
}

const CAUSES = {
  key_not_authorized: ["Unknown key", "Nobody has let this key in."],
  key_revoked: ["Withdrawn key", "It was let in once, and no longer is."],
  key_expired: ["Expired key", "Its last day is over."],
  key_not_yet_valid: ["Key from the future", "Its first day has not come, or a clock is wrong."],
  too_many_sessions: ["Too many sessions", "Its key has as many connections as it may have."],
  handler_fault: ["Could not be checked", "A fault of ours: refused to be safe."],
  wrong_server_key_or_mismatched_halves: ["Wrong or broken keys", "It expects another server, or its key’s halves don’t match."],
  mechanism_mismatch: ["Came without encryption", "Or with a kind that isn’t spoken here."],
  not_zmtp: ["Spoke another language", "A browser or a scanner, perhaps."],
  broken_off_or_plain_client: ["Hung up half-way", "Gave up, or came without encryption."],
  timed_out: ["Said nothing", "Connected, and was silent for too long."],
  oversized_handshake: ["Too long a greeting", "More bytes than a greeting has."],
  too_many_pending_handshakes: ["Too many at once", "The oldest unfinished ones have to go."],
};

/** Return the title and the explanation of a refusal's cause. */
export function wordsOfCause(cause) {
  if (Object.hasOwn(CAUSES, cause)) return CAUSES[cause];
  return [plain(cause, 60).replaceAll("_", " "), ""];
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

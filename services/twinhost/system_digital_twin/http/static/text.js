// Formats numbers and times, and sanitises untrusted text.

const number = new Intl.NumberFormat("en-GB");
const compact = new Intl.NumberFormat("en-GB", { notation: "compact", maximumSignificantDigits: 3 });
const oneDecimal = new Intl.NumberFormat("en-GB", { maximumFractionDigits: 1 });
const twoDigits = new Intl.NumberFormat("en-GB", { maximumSignificantDigits: 2 });
const clockTime = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const minuteTime = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const dayAndTime = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });

// Control characters, bidirectional overrides, and invisible characters: a name could imitate another (spoofing).
const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\u{e0000}-\u{e0fff}]/gu;
const PILED_MARKS = /(\p{M}{3})\p{M}+/gu;

/** Return untrusted text as one line: hidden characters escaped, truncated to `most` characters. */
export function plain(value, most = 120) {
  const whole = typeof value === "string" ? value : value === null || value === undefined ? "" : JSON.stringify(value);
  const head = whole.length > most * 2 ? whole.slice(0, most * 2) : whole; // the rest is ignored
  const seen = Array.from(
    head
      .replace(/[\t\n\r ]+/g, " ")
      .replace(UNSEEN, (mark) => `\\u${mark.codePointAt(0).toString(16).padStart(4, "0")}`)
      .replace(PILED_MARKS, "$1"),
  );
  if (seen.length <= most && head.length === whole.length) return seen.join("");
  const left = seen.slice(0, most).join("").trimEnd();
  return `${left} … (${count(whole.length)} characters)`;
}

export function count(value) {
  return number.format(value);
}

/** Return a number of whatever unit, a long one in short: 12, 4.29bn. */
export function amount(value) {
  return compact.format(value);
}

export function isNumber(value) {
  return typeof value === "number" && Number.isFinite(value);
}

export function percent(value) {
  return `${value > 0 && value < 10 ? value.toFixed(1) : Math.round(value)} %`;
}

export function milliseconds(value) {
  if (value >= 1000) return `${oneDecimal.format(value / 1000)} s`;
  if (value >= 100) return `${Math.round(value)} ms`;
  return `${value < 10 ? value.toFixed(value < 0.1 ? 2 : 1) : oneDecimal.format(value)} ms`;
}

export function millisecondsOfAxis(value) {
  return value >= 1000 ? `${oneDecimal.format(value / 1000)} s` : `${twoDigits.format(value)} ms`;
}

/** Return an amount of memory that is given in units of 2**20 bytes. */
export function memory(mb) {
  return mb < 1024 ? `${count(Math.round(mb))} MB` : `${gigabytes(mb)} GB`;
}

/** Return "3.1 of 16 GB": both in the unit of the whole. */
export function memoryOf(used, total) {
  if (!isNumber(total)) return memory(used);
  return total < 1024 ? `${count(Math.round(used))} of ${memory(total)}` : `${gigabytes(used, 1)} of ${memory(total)}`;
}

export function bytesPerSecond(value) {
  if (value < 1e6) return `${oneDecimal.format(value / 1e3)} kB/s`;
  return `${oneDecimal.format(value / 1e6)} MB/s`;
}

/** Return a number of bytes in its largest unit. */
export function bytes(value) {
  return value < 2 ** 20 ? `${oneDecimal.format(value / 1024)} kB` : memory(value / 2 ** 20);
}

function gigabytes(mb, decimals = 0) {
  const value = mb / 1024;
  if (value >= 100) return count(Math.round(value));
  return decimals > 0 ? value.toFixed(decimals) : oneDecimal.format(value);
}

/** Return a duration in its largest unit that fits. */
export function duration(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h`;
  return days(seconds);
}

export function days(seconds) {
  const whole = Math.floor(seconds / 86400);
  return `${count(whole)} ${whole === 1 ? "day" : "days"}`;
}

export function ago(seconds) {
  return seconds < 2 ? "just now" : `${duration(seconds)} ago`;
}

/** Return the time of day, with the date unless it is today. */
export function clock(iso, now) {
  const at = new Date(iso);
  if (Number.isNaN(at.getTime())) return "";
  return at.toDateString() === new Date(now).toDateString() ? clockTime.format(at) : dayAndTime.format(at);
}

/** Of seconds since 1970: the time of day, its minute, the day, and both. */
export const clockOf = (seconds) => clockTime.format(seconds * 1000);
export const minuteOf = (seconds) => minuteTime.format(seconds * 1000);
export const dayOf = (seconds) => day.format(seconds * 1000);
export const dayAndMinuteOf = (seconds) => dayAndTime.format(seconds * 1000);

export function many(value, one, more) {
  return `${count(value)} ${value === 1 ? one : more}`;
}

/** Return a word for a shell, in quotes where it needs them, and in ASCII. */
export function quoted(word) {
  if (/^[\w%+,./:=@-]+$/.test(word)) return word;
  if (/^[ -~]*$/.test(word)) return `'${word.replaceAll("'", `'\\''`)}'`;
  const escaped = (mark) => (mark === "'" || mark === "\\" ? `\\${mark}` : `\\u${mark.charCodeAt(0).toString(16).padStart(4, "0")}`);
  return `$'${word.replace(/[^ -~]|['\\]/gu, (mark) => (mark.length > 1 ? `\\U${mark.codePointAt(0).toString(16).padStart(8, "0")}` : escaped(mark)))}'`;
}

export function sentence(text) {
  return text.replace(/^./, (first) => first.toUpperCase());
}

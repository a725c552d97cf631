// What the pages below the overview are made of: panels, and the cells of their tables.

import { absent, badge, bdi, draw, el, setText } from "./dom.js";
import { agoElement, now } from "./clock.js";
import { link } from "./router.js";
import { days, duration, plain } from "./text.js";
import { wordOfStatus } from "./words.js";

const MOST_DATA = 140;
const MOST_DATA_OPENED = 4000;
const ENDS_SOON_S = 14 * 86400; // a key: from then on, mainpc warns too

/** Make panels in a place, once: each with an id, a title, and a hint. Returns their contents and counts, by id. */
export function panels(place, specs, heading = "h2") {
  draw(place, specs, () =>
    specs.map(({ id, title, hint }) =>
      el(
        "section",
        { class: "panel", id, "aria-labelledby": `${id}-title` },
        el(heading, { id: `${id}-title` }, title, " ", el("span", { class: "count", id: `${id}-count` })),
        hint ? el("p", { class: "hint" }, hint) : null,
        el("div", { id: `${id}-table` }),
      ),
    ),
  );
  return Object.fromEntries(
    specs.map(({ id }, at) => {
      const panel = place.children[at];
      return [id, { panel, content: panel.lastChild, count: (text) => setText(panel.querySelector(".count"), text) }];
    }),
  );
}

export const name = (text) => (text ? el("bdi", { class: "name" }, text) : absent("no name"));
export const nameOf = (view, key) => (text) => (text ? link(view, key, el("bdi", { class: "name" }, text)) : absent("no name"));
export const lastSeen = (iso) => (iso ? agoElement(iso) : absent("never"));
export const textOr = (reason) => (text) => (text ? el("bdi", {}, text) : absent(reason));
export const monoOr = (reason) => (text) => (text ? el("bdi", { class: "mono" }, text) : absent(reason));
export const hostOr = (reason) => (host) => (host ? link("host", host, bdi(host, 30)) : absent(reason));

export function statusBadge(status) {
  const { tone, sign, word } = wordOfStatus(status);
  return badge(tone, sign, word);
}

/** Return until when a key is valid: "ended", "soon", or "long", the text, and the part that is left in percent. */
export function keyLeft({ valid_from: from, valid_until: until }) {
  const end = Date.parse(until);
  if (Number.isNaN(end)) return null;
  const left = (end - now()) / 1000;
  const whole = (end - Date.parse(from)) / 1000;
  const share = whole > 0 ? Math.round((100 * Math.max(0, left)) / whole) : null;
  return [left <= 0 ? "ended" : left < ENDS_SOON_S ? "soon" : "long", left < 86400 ? duration(left) : days(left), share];
}

export function drawKeyLeft(value) {
  if (value === null) return absent("unknown");
  const [state, text, share] = value;
  if (state === "ended") return badge("bad", "bad", "Expired");
  return [state === "soon" ? badge("warn", "warn", `${text}, rotate it`) : el("span", {}, text), share === null ? null : barOf(share)].filter(Boolean);
}

export function barOf(share) {
  const bar = el("span", { class: "bar", "aria-hidden": "true" }, el("i"));
  bar.firstChild.style.setProperty("width", `${Math.min(100, share)}%`);
  return bar;
}

export function longText(value) {
  const empty = value === null || value === undefined || value === "" || (typeof value === "object" && Object.keys(value).length === 0);
  if (empty) return null;
  const short = plain(value, MOST_DATA);
  const whole = plain(value, MOST_DATA_OPENED);
  const kind = typeof value === "string" ? "data" : "data mono";
  if (short === whole) return el("p", { class: kind }, el("bdi", {}, whole));
  return el("details", { class: kind }, el("summary", {}, el("bdi", {}, short)), el("p", {}, el("bdi", {}, whole)));
}

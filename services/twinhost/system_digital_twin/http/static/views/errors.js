// Errors that agents reported.

import { clockElement } from "../clock.js";
import { badge, el } from "../dom.js";
import { feed, longText, panels } from "../panel.js";
import { link } from "../router.js";
import { count, plain } from "../text.js";
import { wordOfSeverity } from "../words.js";

export const title = () => "Errors";

export function drawErrors(place, errors) {
  feed(place, "Errors: severe ones of the last 24 hours first", "No errors reported.", errors, (error) => {
    const { tone, sign, word } = wordOfSeverity(error.severity);
    return [
      el("p", { class: "feed-head" }, badge(tone, sign, word), el("bdi", { class: "name" }, plain(error.type, 80)), clockElement(error.time)),
      el("p", { class: "under" }, "from ", link("agent", error.agent, el("bdi", {}, plain(error.agent, 80)))),
      longText(error.message),
    ];
  });
}

export function draw(place, { errors = [] }) {
  const shown = panels(place, [
    { id: "errors", title: "Errors", hint: "Errors that agents reported. Those of severity error or critical from the last 24 hours come first, then the newest." },
  ]);
  shown.errors.count(errors.length > 0 ? `newest ${count(errors.length)}` : "");
  drawErrors(shown.errors.content, errors);
}

// Refused connections, by cause.

import { el, table } from "../dom.js";
import { barOf, panels } from "../panel.js";
import { count } from "../text.js";
import { wordsOfCause } from "../words.js";

export const title = () => "Refused connections";

export function draw(place, { refused = {} }) {
  const shown = panels(place, [{ id: "refused", title: "Refused connections", hint: "Connections refused since mainpc’s last start, by cause." }]);
  const causes = Object.entries(refused)
    .filter(([, times]) => times > 0)
    .sort(([, a], [, b]) => b - a);
  shown.refused.count(count(causes.reduce((sum, [, times]) => sum + times, 0)));
  const most = causes[0]?.[1] ?? 1;
  const columns = [
    {
      title: "Cause",
      value: ([cause]) => wordsOfCause(cause),
      draw: ([words, why]) => [el("bdi", { class: "name" }, words), why ? el("span", { class: "under" }, why) : null].filter(Boolean),
    },
    {
      title: "Count",
      kind: "number",
      value: ([, times]) => [times, Math.max(2, Math.round((100 * times) / most))],
      draw: ([times, share]) => [el("span", { class: "times" }, count(times)), barOf(share)],
    },
  ];
  const caption = "Refused connections by cause";
  table(shown.refused.content, { caption, columns, keyOf: ([cause]) => cause, empty: "No connection was refused." }, causes);
}

// Refused connections, by cause.

import { el, table } from "../dom.js";
import { barOf, name, panels } from "../panel.js";
import { count, plain, sentence } from "../text.js";

export const title = () => "Refused connections";

export function draw(place, { refused = {}, causes = {} }) {
  const shown = panels(place, [{ id: "refused", title: "Refused connections", hint: "Connections refused since mainpc’s last start, by cause." }]);
  const counted = Object.entries(refused)
    .filter(([, times]) => times > 0)
    .sort(([, a], [, b]) => b - a);
  shown.refused.count(count(counted.reduce((sum, [, times]) => sum + times, 0)));
  const most = counted[0]?.[1] ?? 1;
  const columns = [
    {
      title: "Cause",
      value: ([cause]) => sentence(plain(causes[cause] ?? cause)),
      draw: name,
    },
    {
      title: "Count",
      kind: "number",
      value: ([, times]) => [times, Math.max(2, Math.round((100 * times) / most))],
      draw: ([times, share]) => [el("span", { class: "times" }, count(times)), barOf(share)],
    },
  ];
  const caption = "Refused connections by cause";
  table(shown.refused.content, { caption, columns, keyOf: ([cause]) => cause, empty: "No connection was refused." }, counted);
}

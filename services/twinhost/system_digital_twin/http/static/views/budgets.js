// What identities use of their budgets.

import { name, barOf, hostOr, panels, textOr } from "../panel.js";
import { el } from "../dom.js";
import { listing } from "../lists.js";
import { amount, percent, plain } from "../text.js";

const NEARLY_USED = 0.8; // from then on, its machine warns too

export const title = () => "Budgets";

export const BUDGETS = {
  caption: "Budgets by their used part, the largest first",
  empty: "No budget is in use.",
  keyOf: (use) => `${use.host} ${use.name} ${use.limit}`,
  rowState: (use) => (use.share < NEARLY_USED ? "good" : "warn"),
  columns: [
    { title: "Name", value: (use) => plain(use.name, 60), draw: name },
    { title: "Machine", value: (use) => use.host, draw: hostOr("unknown") },
    { title: "Limit", value: (use) => plain(use.limit, 30), draw: textOr("unknown") },
    { title: "Used", kind: "short", value: (use) => [use.used, use.most].map(amount), draw: ([used, most]) => `${used} of ${most}` },
    { title: "Part", kind: "number", value: (use) => Math.round(100 * use.share), draw: (share) => [el("span", { class: "times" }, percent(share)), barOf(share)] },
  ],
};

export function draw(place, { usage = [] }, parameters) {
  const { budgets } = panels(place, [
    { id: "budgets", title: "Budgets", hint: "What identities use of their budgets, the largest parts first." },
  ]);
  listing(budgets.content, BUDGETS, usage, parameters);
}

// The two machines side by side, with the link between them; and one machine alone.

import { levelBadge, levelOfHost } from "./attention.js";
import { now } from "./clock.js";
import { absent, badge, bdi, draw, el, icon, keyed, setAttribute, setText, table } from "./dom.js";
import { addressOf } from "./router.js";
import { bytesPerSecond, clockOf, count, dayAndMinuteOf, duration, isNumber, many, memory, memoryOf, milliseconds, millisecondsOfAxis, percent, plain } from "./text.js";
import { inOrder, stepOf, Trend } from "./trend.js";
import { wordOfStatus, wordsOfForecasts } from "./words.js";

const SHORTEST_SPAN_S = 300;
const DAY_S = 86400;

const METRICS = [
  {
    field: "cpu_percent",
    title: "CPU",
    top: () => 100,
    word: (value) => percent(value),
    axis: (value) => `${Math.round(value)} %`,
    missing: () => "no data yet",
  },
  {
    field: "ram_used_mb",
    title: "RAM",
    top: (host) => host.capacity?.ram_total_mb,
    word: (value, total) => memoryOf(value, total),
    axis: memory,
    missing: () => "no data yet",
  },
  {
    field: "vram_used_mb",
    title: "VRAM",
    top: (host) => host.now?.vram_total_mb ?? host.capacity?.vram_total_mb,
    word: (value, total) => memoryOf(value, total),
    axis: memory,
    missing: (host) => ((host.gpus ?? []).length === 0 ? "no GPU" : "no data yet"),
  },
];
const LATENCY = { field: "latency_ms", title: "Round-trip time", word: milliseconds, axis: millisecondsOfAxis };

/** Draw both machines and the link into the place; `hosts` come in the order in which they are shown. */
export function drawMachines(place, state) {
  const hosts = state.hosts ?? [];
  const shown = hosts.flatMap((host, at) => (at === 1 ? [{ link: true }, { host, at }] : [{ host, at }]));
  const courses = hosts.map(liveCourse);
  const time = timeOf(courses);
  const marks = marksOf(state);
  keyed(
    place,
    shown,
    (item) => (item.link ? "the link" : `host ${item.host.name}`),
    (item) => (item.link ? newLink() : newHost(item.at)),
    (element, item) =>
      item.link ? updateLink(element, state, courses, time) : updateHost(element, item.host, { ...time, course: courses[item.at], marks: marks(item.host), level: levelOfHost(state, item.host.name) }),
  );
}

/** Return the samples that mainpc has in memory: `t`, and a list for each metric. */
export function liveCourse({ history = {} }) {
  const places = inOrder(history.t ?? []);
  return Object.fromEntries(Object.entries({ t: [], ...history }).map(([name, values]) => [name, places.map((at) => values[at])]));
}

/** Return the span of live charts: as long as mainpc keeps samples, at least five minutes, whatever clocks did. */
export function timeOf(courses) {
  const to = now() / 1000;
  return { from: to - Math.max(SHORTEST_SPAN_S, ...courses.map(({ t }) => stepOf(t) * t.length)), to };
}

/** Return a function that finds what to mark in a host's charts: errors, troubles, starts of its agents, and leases. */
export function marksOf({ errors = [], events = [], agents = [], leases = [], agent, uptime_s: uptime }) {
  const hostOf = new Map(agents.map((one) => [one.name, one.location]));
  const isSevere = (error) => error.severity === "error" || error.severity === "critical";
  return ({ name, agent: own }) => {
    const ofKind = (kind, moments) => moments.map((iso) => ({ kind, time: Date.parse(iso) / 1000 }));
    const told = (type) => events.filter((event) => event.type === type && event.data?.host === name);
    return [
      ...ofKind("lease", leases.filter((lease) => lease.host === name).map((lease) => lease.since)),
      ...ofKind("start", [...told("agent_started"), ...told("took_over")].map((event) => event.time)),
      ...ofKind("trouble", told("trouble_began").map((event) => event.data.since)),
      ...ofKind("error", errors.filter((error) => isSevere(error) && hostOf.get(error.agent) === name).map((error) => error.time)),
      ...(own === agent && isNumber(uptime) ? [{ kind: "start", time: now() / 1000 - uptime }] : []),
    ];
  };
}

const parts = new WeakMap(); // the parts of an element that was created here

export function newHost(tone) {
  const title = el("h3", {}, el("a", {}));
  const status = el("div", { class: "host-status" });
  const about = el("p", { class: "host-about" });
  const forecast = el("p", { class: "host-forecast" });
  const note = el("p", { class: "host-note" });
  const metrics = METRICS.map(newMetric);
  const element = el(
    "article",
    { class: `host tone-${tone}` },
    el("header", { class: "host-head" }, icon("machine"), title, status, about),
    ...metrics.map((metric) => metric.element),
    forecast,
    note,
  );
  parts.set(element, { title, status, about, forecast, note, metrics });
  return element;
}

function newMetric({ title, axis }) {
  const value = el("p", { class: "metric-value" });
  const detail = el("p", { class: "metric-detail" });
  const chart = el("div", { class: "chart", role: "img" });
  const element = el(
    "section",
    { class: "metric" },
    el("div", { class: "metric-head" }, el("h4", {}, title), value),
    detail,
    chart,
  );
  const metric = { element, value, detail, chart, pointed: null };
  metric.trend = new Trend(chart, {
    label: axis,
    onPoint: (point) => {
      metric.pointed = point;
      metric.redraw?.();
    },
  });
  return metric;
}

/** Update a machine; `view` has the course of its metrics, from when to when, what to mark, and how bad it is. */
export function updateHost(element, host, view) {
  const part = parts.get(element);
  setText(part.title.firstChild, plain(host.name, 40));
  setAttribute(part.title.firstChild, "href", addressOf("host", host.name));
  setText(part.forecast, wordsOfForecasts(host));
  setAttribute(element, "aria-label", `Machine ${plain(host.name, 40)}`);
  const status = wordOfStatus(host.status);
  setAttribute(element, "data-state", host.stale && status.tone === "good" ? "silent" : status.tone);
  draw(part.status, [host.status, host.stale, view.level], () => [
    status.tone === "good" && view.level ? levelBadge(view.level) : badge(status.tone, status.sign, status.word),
    host.stale && status.tone === "good" ? badge("silent", "unknown", "No metrics") : null,
  ].filter(Boolean));
  draw(part.about, [host.agent, host.endpoint], () => [
    bdi(host.agent, 60),
    bdi(host.endpoint, 60, "mono"),
  ]);
  setText(part.note, noteOf(host));
  METRICS.forEach((metric, at) => updateMetric(part.metrics[at], metric, host, view));
}

/** Return the text below the charts: what was measured, the disks, and the network. */
function noteOf(host) {
  const { machine } = host;
  const names = host.same_machine.map((name) => plain(name, 40)).join(", ");
  const traffic = machine?.network;
  return [
    host.limited ? "Measured within its container’s limits, by an older version." : "Measured for the whole machine.",
    machine?.virtual_machine ? `This is the virtual machine of ${plain(machine.virtual_machine, 40)}, not the computer.` : "",
    names ? `It is the same machine as ${names}: its capacity is counted once.` : "",
    ...(machine?.disks ?? []).map(
      (disk) => `Disk of its ${plain(disk.name, 20)}: ${memory(disk.free_mb)} free of ${memory(disk.total_mb)}.`,
    ),
    traffic ? `Network: ${bytesPerSecond(traffic.received_bytes_per_s)} in, ${bytesPerSecond(traffic.sent_bytes_per_s)} out.` : "",
  ].filter(Boolean).join(" ");
}

function updateMetric(part, metric, host, view) {
  const total = metric.top(host);
  const most = Math.max(0, ...(view.course[metric.field] ?? []).filter(isNumber));
  const top = isNumber(total) && total > 0 ? total : most * 1.25 || 1;
  const word = (figure) => metric.word(figure, total);
  part.redraw = () => drawValue(part, host.now?.[metric.field], host.stale ? "no recent data" : metric.missing(host), word, view);
  part.redraw();
  drawDetail(part.detail, metric, host);
  showTrend(part, metric, host, view, top, word);
}

function drawValue(part, value, reason, word, { from, to }) {
  const { pointed } = part;
  draw(part.value, [value, reason, pointed], () => {
    if (pointed) return [word(pointed.value), el("span", { class: "at" }, ` at ${to - from > DAY_S ? dayAndMinuteOf(pointed.time) : clockOf(pointed.time)}`)];
    return isNumber(value) ? word(value) : absent(reason);
  });
}

/** Draw the details below a figure, and what the agent's container uses. */
function drawDetail(place, metric, host) {
  const { machine, container, gpus } = host;
  draw(place, [metric.field, machine, container, gpus], () => {
    if (metric.field === "cpu_percent") return cpuDetail(machine, container).map((text) => el("span", {}, text));
    if (metric.field === "ram_used_mb") return ramDetail(machine, container).map((text) => el("span", {}, text));
    return gpus.map(({ name, used_mb: used, total_mb: total, utilisation_percent: busy, temperature_c: heat, reported_by: reporters }) =>
      el(
        "span",
        {},
        bdi(name, 60),
        gpus.length > 1 && isNumber(used) ? ` ${memoryOf(used, total)}` : "",
        isNumber(busy) ? ` busy ${percent(busy)}` : "",
        isNumber(heat) ? ` ${Math.round(heat)} °C` : "",
        reporters ? ` reported by ${reporters.map((name) => plain(name, 40)).join(", ")}` : "", // no driver measures it
      ),
    );
  });
}

function cpuDetail(machine, container) {
  return [
    isNumber(machine?.cpus) ? many(machine.cpus, "core", "cores") : null,
    machine?.load ? `load ${machine.load.map((value) => value.toFixed(2)).join(", ")}` : null,
    isNumber(machine?.temperature_c) ? `${Math.round(machine.temperature_c)} °C` : null,
    isNumber(container?.cpu_percent) ? `its container: ${percent(container.cpu_percent)} of ${container.cpus}` : null,
  ].filter(Boolean);
}

function ramDetail(machine, container) {
  return [
    machine?.swap_total_mb > 0 ? `swap ${memoryOf(machine.swap_used_mb, machine.swap_total_mb)}` : null,
    isNumber(container?.ram_used_mb) ? `its container: ${memoryOf(container.ram_used_mb, container.ram_limit_mb)}` : null,
  ].filter(Boolean);
}

/** Draw the chart, or nothing if no sample in the time span has a value. */
function showTrend(part, { field, title }, host, { course, from, to, marks }, top, word) {
  const values = course.t.map((time, at) => (time >= from ? course[field]?.[at] ?? null : null));
  const known = values.filter(isNumber);
  part.chart.hidden = known.length === 0;
  if (known.length === 0) return;
  part.trend.show({ times: course.t, values, from, to, top, marks });
  const low = word(Math.min(...known));
  const high = word(Math.max(...known));
  setAttribute(part.chart, "aria-label", `Chart: ${title} of ${plain(host.name, 40)}, last ${duration(to - from)}, between ${low} and ${high}.`);
}

function newLink() {
  const seal = el("span", { class: "seal" });
  const word = el("h3", { class: "link-word" });
  const text = el("p", { class: "link-text" });
  const rate = el("p", { class: "link-rate" });
  const metric = newMetric(LATENCY);
  const element = el(
    "section",
    { class: "link tone-2", "aria-label": "The link between the machines" },
    el("div", { class: "wire", "aria-hidden": "true" }, el("i", { class: "pulse there" }), el("i", { class: "pulse back" }), seal),
    el("div", { class: "link-body" }, word, text, rate, metric.element),
  );
  parts.set(element, { seal, word, text, rate, metric });
  return element;
}

function updateLink(element, state, courses, time) {
  const { seal, word, text, rate, metric } = parts.get(element);
  const link = state.link ?? {};
  const disconnected = state.hosts.slice(0, 2).filter((host) => !["good", "warn"].includes(wordOfStatus(host.status).tone));
  const condition = disconnected.length > 0 ? "broken" : link.encrypted ? "encrypted" : "open";
  const [sign, title, sentence] = {
    broken: ["broken", "Disconnected", `${disconnected.map((host) => plain(host.name, 40)).join(" and ")} can’t be reached.`],
    encrypted: ["lock", "Encrypted", `Only these ${state.hosts.length > 2 ? "" : "two "}machines can read the traffic.`],
    open: ["unlocked", "Not encrypted", "Anybody on the network can read and change the traffic."],
  }[condition];
  setAttribute(element, "data-link", condition);
  setAttribute(element, "data-busy", String(link.messages_per_s > 0));
  draw(seal, sign, icon);
  setText(word, title);
  setText(text, sentence);
  draw(rate, link.messages_per_s ?? null, (value) =>
    isNumber(value)
      ? [el("b", {}, value < 10 ? String(Math.round(value * 10) / 10) : count(Math.round(value))), " requests per second at mainpc"]
      : absent("not counted"),
  );
  const measured = state.hosts.map((host, at) => ({ host, course: courses[at] })).filter(({ course }) => (course.latency_ms ?? []).some(isNumber));
  const { host = {}, course = { t: [] } } = measured.find((one) => isNumber(one.host.now?.latency_ms)) ?? measured.at(-1) ?? {};
  const most = Math.max(...(course.latency_ms ?? []).filter(isNumber), 0);
  metric.redraw = () => drawValue(metric, link.latency_ms, condition === "broken" ? "no response" : "not measured", milliseconds, time);
  metric.redraw();
  showTrend(metric, LATENCY, host, { ...time, course, marks: [] }, roundUp(most * 1.2), milliseconds);
}

/** Return the next round number, so that the scale does not jump with every sample. */
function roundUp(value) {
  if (value <= 0) return 1;
  const size = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * size).find((step) => step >= value) ?? value;
}

/** Draw the figures of a machine's charts as a table. */
export function drawFigures(place, host, course) {
  const rows = [...METRICS, LATENCY].map((metric) => figuresOf(host, course, metric));
  const column = (title, at) => ({
    title,
    value: (row) => [row.figures?.[at] ?? null, row.reason],
    draw: ([text, reason]) => text ?? absent(reason),
  });
  const columns = [
    { title: "Metric", value: (row) => row.title, draw: (title) => el("bdi", {}, title) },
    column("Now", 0),
    column("Lowest", 1),
    column("Average", 2),
    column("Highest", 3),
  ];
  const caption = `The metrics of the charts, of ${many(course.t.length, "sample", "samples")}`;
  table(place, { caption, columns, keyOf: (row) => row.title, empty: "No machine has reported yet." }, rows);
}

function figuresOf(host, course, metric) {
  const current = host.now?.[metric.field];
  const known = (course[metric.field] ?? []).filter(isNumber);
  const { title, word } = metric;
  if (known.length === 0) return { title, figures: null, reason: metric.missing?.(host) ?? "not measured" };
  const mean = known.reduce((sum, value) => sum + value, 0) / known.length;
  const figures = [isNumber(current) ? word(current) : null, word(Math.min(...known)), word(mean), word(Math.max(...known))];
  return { title, reason: "no recent data", figures };
}

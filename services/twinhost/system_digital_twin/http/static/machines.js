// The two machines side by side, with the link between them.

import { now } from "./clock.js";
import { absent, badge, byId, draw, el, icon, keyed, setAttribute, setText, table } from "./dom.js";
import { bytesPerSecond, clockOf, count, isNumber, many, memory, memoryOf, milliseconds, millisecondsOfAxis, percent, plain } from "./text.js";
import { Trend } from "./trend.js";
import { wordOfStatus, wordsOfForecasts } from "./words.js";

const SHORTEST_SPAN_S = 300;

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
    top: (host) => host.now?.ram_total_mb,
    word: (value, total) => memoryOf(value, total),
    axis: memory,
    missing: () => "no data yet",
  },
  {
    field: "vram_used_mb",
    title: "VRAM",
    top: (host) => host.now?.vram_total_mb,
    word: (value, total) => memoryOf(value, total),
    axis: memory,
    missing: (host) => ((host.gpus ?? []).length === 0 ? "no GPU" : "no data yet"),
  },
];
const LATENCY = { field: "latency_ms", title: "Round-trip time", word: milliseconds, axis: millisecondsOfAxis };

/** Draw both machines and the link; `hosts` come in the order in which they are shown. */
export function drawMachines(state) {
  const hosts = state.hosts ?? [];
  const shown = hosts.flatMap((host, at) => (at === 1 ? [{ link: true }, { host, at }] : [{ host, at }]));
  const span = spanOf(hosts);
  keyed(
    byId("hosts"),
    shown,
    (item) => (item.link ? "the link" : `host ${item.host.name}`),
    (item) => (item.link ? newLink() : newHost(item.at)),
    (element, item) => (item.link ? updateLink(element, state, span) : updateHost(element, item.host, span)),
  );
  drawFigures(hosts);
}

/** Return how many seconds the charts show: as many as mainpc stores, at least five minutes. */
function spanOf(hosts) {
  const spans = hosts.map(({ history }) => (history?.t?.length > 1 ? history.t.at(-1) - history.t[0] : 0));
  return Math.max(SHORTEST_SPAN_S, ...spans);
}

const parts = new WeakMap(); // the parts of an element that was created here

function newHost(tone) {
  const title = el("h3", {});
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
  const from = el("span", {});
  const ends = el("p", { class: "chart-ends", "aria-hidden": "true" }, from, el("span", {}, "now"));
  const element = el(
    "section",
    { class: "metric" },
    el("div", { class: "metric-head" }, el("h4", {}, title), value),
    detail,
    chart,
    ends,
  );
  const metric = { element, value, detail, chart, from, ends, pointed: null };
  metric.trend = new Trend(chart, {
    label: axis,
    onPoint: (point) => {
      metric.pointed = point;
      metric.redraw?.();
    },
  });
  return metric;
}

function updateHost(element, host, span) {
  const part = parts.get(element);
  setText(part.title, plain(host.name, 40));
  setText(part.forecast, wordsOfForecasts(host));
  setAttribute(element, "aria-label", `Machine ${plain(host.name, 40)}`);
  const status = wordOfStatus(host.status);
  setAttribute(element, "data-state", host.stale && status.tone === "good" ? "silent" : status.tone);
  draw(part.status, [host.status, host.stale], () => [
    badge(status.tone, status.sign, status.word),
    host.stale && status.tone === "good" ? badge("silent", "unknown", "No metrics") : null,
  ].filter(Boolean));
  draw(part.about, [host.agent, host.endpoint], () => [
    el("bdi", {}, plain(host.agent, 60)),
    el("bdi", { class: "mono" }, plain(host.endpoint, 60)),
  ]);
  setText(part.note, noteOf(host));
  METRICS.forEach((metric, at) => updateMetric(part.metrics[at], metric, host, span));
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

function updateMetric(part, metric, host, span) {
  const total = metric.top(host) ?? part.total; // the scale stays unchanged while the machine is silent
  part.total = total;
  const value = host.now?.[metric.field];
  const history = host.history?.[metric.field] ?? [];
  const most = Math.max(0, ...history.filter(isNumber));
  const top = isNumber(total) && total > 0 ? total : most * 1.25 || 1;
  part.redraw = () => drawValue(part, value, host.stale ? "no recent data" : metric.missing(host), (figure) => metric.word(figure, total));
  part.redraw();
  drawDetail(part.detail, metric, host);
  showTrend(part, metric, host, span, top, (figure) => metric.word(figure, total));
}

function drawValue(part, value, reason, word) {
  const { pointed } = part;
  draw(part.value, [value, reason, pointed], () => {
    if (pointed) return [word(pointed.value), el("span", { class: "at" }, ` at ${clockOf(pointed.time)}`)];
    return isNumber(value) ? word(value) : absent(reason);
  });
}

/** Draw the details below a figure, and what the agent's container uses. */
function drawDetail(place, metric, host) {
  const { machine, container, gpus } = host;
  draw(place, [metric.field, machine, container, gpus], () => {
    if (metric.field === "cpu_percent") return cpuDetail(machine, container).map((text) => el("span", {}, text));
    if (metric.field === "ram_used_mb") return ramDetail(machine, container).map((text) => el("span", {}, text));
    return gpus.map(({ name, used_mb: used, total_mb: total, utilisation_percent: busy, temperature_c: heat }) =>
      el(
        "span",
        {},
        el("bdi", {}, plain(name, 60)),
        gpus.length > 1 && isNumber(used) ? ` ${memoryOf(used, total)}` : "",
        isNumber(busy) ? ` busy ${percent(busy)}` : "",
        isNumber(heat) ? ` ${Math.round(heat)} °C` : "",
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
function showTrend(part, metric, host, span, top, word) {
  const to = now() / 1000;
  const from = to - span;
  const times = host.history?.t ?? [];
  const values = times.map((time, at) => (time >= from ? host.history[metric.field]?.[at] ?? null : null));
  const known = values.filter(isNumber);
  part.chart.hidden = part.ends.hidden = known.length === 0;
  if (known.length === 0) return;
  setText(part.from, `${Math.round(span / 60)} min ago`);
  part.trend.show({ times, values, from, to, top });
  const low = word(Math.min(...known));
  const high = word(Math.max(...known));
  setAttribute(
    part.chart,
    "aria-label",
    `Chart: ${metric.title} of ${plain(host.name, 40)}, last ${Math.round(span / 60)} minutes, between ${low} and ${high}.`,
  );
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

function updateLink(element, state, span) {
  const { seal, word, text, rate, metric } = parts.get(element);
  const link = state.link ?? {};
  const disconnected = state.hosts.slice(0, 2).filter((host) => !["good", "warn"].includes(wordOfStatus(host.status).tone));
  const condition = disconnected.length > 0 ? "broken" : link.encrypted ? "encrypted" : "open";
  setAttribute(element, "data-link", condition);
  setAttribute(element, "data-busy", String(link.messages_per_s > 0));
  draw(seal, condition, () => icon({ broken: "broken", encrypted: "lock", open: "unlocked" }[condition]));
  setText(word, { broken: "Disconnected", encrypted: "Encrypted", open: "Not encrypted" }[condition]);
  setText(
    text,
    {
      broken: `${disconnected.map((host) => plain(host.name, 40)).join(" and ")} can’t be reached.`,
      encrypted: `Only these ${state.hosts.length > 2 ? "" : "two "}machines can read the traffic.`,
      open: "Anybody on the network can read and change the traffic.",
    }[condition],
  );
  draw(rate, link.messages_per_s ?? null, (value) =>
    isNumber(value)
      ? [el("b", {}, value < 10 ? String(Math.round(value * 10) / 10) : count(Math.round(value))), " requests per second at mainpc"]
      : absent("not counted"),
  );
  const measured = state.hosts.filter((host) => (host.history?.latency_ms ?? []).some(isNumber));
  const host = measured.find((one) => isNumber(one.now?.latency_ms)) ?? measured.at(-1) ?? {};
  const most = Math.max(...(host.history?.latency_ms ?? []).filter(isNumber), 0);
  metric.redraw = () => drawValue(metric, link.latency_ms, condition === "broken" ? "no response" : "not measured", milliseconds);
  metric.redraw();
  showTrend(metric, LATENCY, host, span, roundUp(most * 1.2), milliseconds);
}

/** Return the next round number, so that the scale does not jump with every sample. */
function roundUp(value) {
  if (value <= 0) return 1;
  const size = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * size).find((step) => step >= value) ?? value;
}

function drawFigures(hosts) {
  const rows = hosts.flatMap((host) => [...METRICS, LATENCY].map((metric) => figuresOf(host, metric)));
  const figure = (row, at) => (row.figures === null ? [null, row.reason] : [row.figures[at], row.reason]);
  const column = (title, at) => ({
    title,
    value: (row) => figure(row, at),
    draw: ([text, reason]) => text ?? absent(reason),
  });
  const columns = [
    { title: "Metric", value: (row) => row.title, draw: (title) => el("bdi", {}, title) },
    column("Now", 0),
    column("Lowest", 1),
    column("Average", 2),
    column("Highest", 3),
  ];
  const samples = Math.max(0, ...hosts.map((host) => host.history?.t?.length ?? 0));
  const caption = `The metrics of the charts, over the last ${many(samples, "sample", "samples")}`;
  table(byId("figures"), { caption, columns, keyOf: (row) => row.title, empty: "No machine has reported yet." }, rows);
}

function figuresOf(host, metric) {
  const title = `${plain(host.name, 40)}: ${metric.title}`;
  const current = host.now?.[metric.field];
  const known = (host.history?.[metric.field] ?? []).filter(isNumber);
  const reason = metric.missing?.(host) ?? "not measured";
  if (known.length === 0) return { title, figures: null, reason };
  const word = (value) => metric.word(value);
  const mean = known.reduce((sum, value) => sum + value, 0) / known.length;
  const least = Math.min(...known);
  return { title, reason: "no recent data", figures: [isNumber(current) ? word(current) : null, word(least), word(mean), word(Math.max(...known))] };
}

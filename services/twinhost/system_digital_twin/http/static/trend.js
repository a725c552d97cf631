// A line chart of one metric of one machine, drawn by uPlot. The caller sets its text alternative.

import { dayOf, minuteOf } from "./text.js";

const HEIGHT = 112;
const LONGEST_GAP = 2.5; // in median distances between samples: a longer one is shown as a gap
const POINTED_PX = 30; // a sample that is further from the cursor is not what it points at
const LABEL_PX = 40; // of the time axis
const DAY_S = 86400;
const DAYS_S = 3 * DAY_S; // from this span on, the axis has days
const TICKS_S = [60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 14400, 21600, 43200]; // round for a clock
const TICKS_OF_DAYS_S = [1, 2, 5, 7, 14].map((days) => days * DAY_S);
const TONES = { error: "--bad", trouble: "--warn", start: "--muted", lease: "--link" };

const all = new Set();

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => all.forEach((trend) => trend.repaint()));

export class Trend {
  #place;
  #chart = null;
  #data = null;
  #begins = false; // whether it is about to be made
  #options;
  #view = { from: 0, to: 1, top: 1, marks: [] };

  /** `label` formats a value of the axis, `onPoint` receives the point at the pointer; the colours are those of the place. */
  constructor(place, { label, onPoint }) {
    this.#place = place;
    this.#options = { label, onPoint };
    new ResizeObserver(() => this.#fit()).observe(place);
    all.add(this);
  }

  /** Show the samples from `from` to `to` (s since 1970), on a scale of 0 to `top`, with marks of `{ time, kind }`. */
  show({ times, values, from, to, top, marks = [] }) {
    this.#view = { from, to, top, marks };
    this.#data = withGaps(times, values);
    if (this.#chart !== null) this.#chart.setData(this.#data);
    else if (!this.#begins) {
      this.#begins = true;
      setTimeout(() => this.#begin()); // each in a task of its own: all at once would hold up the page
    }
  }

  repaint() {
    if (this.#place.isConnected) this.#chart?.redraw(true, true);
    else all.delete(this); // its page was left
  }

  #begin() {
    this.#begins = false;
    const width = this.#place.clientWidth;
    if (width === 0 || typeof globalThis.uPlot !== "function") return; // not laid out yet, or the library is missing
    const { label, onPoint } = this.#options;
    const colour = (name) => getComputedStyle(this.#place).getPropertyValue(name).trim();
    const { fontFamily } = getComputedStyle(document.body);
    const axis = { font: `11px ${fontFamily}`, stroke: () => colour("--muted"), ticks: { show: false } };
    this.#chart = new globalThis.uPlot(
      {
        width,
        height: HEIGHT,
        padding: [8, 2, 0, 0],
        legend: { show: false },
        cursor: {
          y: false,
          drag: { x: false, y: false },
          points: { size: 8, fill: () => colour("--tone"), stroke: () => colour("--surface") },
          hover: { prox: POINTED_PX },
          sync: { key: "time", setSeries: false }, // one cursor over all charts
        },
        scales: {
          x: { range: () => [this.#view.from, this.#view.to] },
          y: { range: () => [0, this.#view.top] },
        },
        axes: [
          {
            ...axis,
            size: 20,
            gap: 4,
            space: 48,
            incrs: () => (this.#hasDays() ? TICKS_OF_DAYS_S : TICKS_S),
            grid: { show: false },
            values: (chart, moments) => moments.map((moment) => this.#labelOf(moment, chart.valToPos(moment, "x"), chart.over.clientWidth)),
          },
          {
            ...axis,
            side: 1,
            size: 52,
            gap: 8,
            splits: () => [0, this.#view.top / 2, this.#view.top],
            values: (_, splits) => splits.map((value) => (value === 0 ? "0" : label(value))),
            grid: { stroke: () => colour("--line"), width: 1 },
          },
        ],
        series: [{}, { stroke: () => colour("--tone"), fill: () => colour("--tone-fill"), width: 2, points: { show: false } }],
        hooks: {
          draw: [(chart) => this.#drawMarks(chart, colour)],
          setCursor: [
            (chart) => {
              const at = chart.cursor.idxs[1];
              const value = at === null || at === undefined ? null : chart.data[1][at];
              onPoint(value === null || value === undefined ? null : { time: chart.data[0][at], value });
            },
          ],
        },
      },
      this.#data,
      this.#place,
    );
  }

  #hasDays() {
    return this.#view.to - this.#view.from > DAYS_S;
  }

  /** Return nothing for a label that would stick out of the chart. */
  #labelOf(moment, at, width) {
    if (at < LABEL_PX / 2 || at > width - LABEL_PX / 2) return "";
    return this.#hasDays() ? dayOf(moment) : minuteOf(moment);
  }

  /** Draw a line for each mark, with its kind as the colour. */
  #drawMarks({ ctx, bbox, valToPos }, colour) {
    ctx.save();
    ctx.lineWidth = devicePixelRatio;
    ctx.setLineDash([2 * devicePixelRatio, 2 * devicePixelRatio]);
    for (const { time, kind } of this.#view.marks) {
      if (time < this.#view.from || time > this.#view.to) continue;
      const x = Math.round(valToPos(time, "x", true));
      ctx.strokeStyle = colour(TONES[kind]);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
    }
    ctx.restore();
  }

  #fit() {
    const width = this.#place.clientWidth;
    if (this.#chart !== null && width > 0 && width !== this.#chart.width) this.#chart.setSize({ width, height: HEIGHT });
  }
}

/** Return which of the samples to show, by their places: none that a clock dated later than one that came after it. */
export function inOrder(times) {
  const places = [];
  for (let at = times.length - 1, next = Infinity; at >= 0; at--) {
    if (times[at] >= next) continue;
    places.unshift(at);
    next = times[at];
  }
  return places;
}

/** Return the usual distance between samples in seconds. */
export function stepOf(times) {
  const steps = times.slice(1).map((time, at) => time - times[at]).sort((a, b) => a - b);
  return steps[Math.floor(steps.length / 2)] ?? 0;
}

/** Return uPlot's columns, with an empty point wherever samples are missing. */
function withGaps(times, values) {
  const longest = LONGEST_GAP * (stepOf(times) || Infinity);
  const columns = [[], []];
  times.forEach((time, at) => {
    if (at > 0 && time - times[at - 1] > longest) {
      columns[0].push((time + times[at - 1]) / 2);
      columns[1].push(null);
    }
    columns[0].push(time);
    columns[1].push(values[at] ?? null);
  });
  return columns;
}

// A line chart of one metric of one machine, drawn by uPlot. The caller sets its text alternative.

const HEIGHT = 92;
const LONGEST_GAP = 2.5; // in median distances between samples: a longer one is shown as a gap

const all = new Set();

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => all.forEach((trend) => trend.repaint()));

export class Trend {
  #place;
  #chart = null;
  #options;
  #view = { from: 0, to: 1, top: 1 };

  /** `label` formats a value of the axis, `onPoint` receives the point at the pointer; the colours are those of the place. */
  constructor(place, { label, onPoint }) {
    this.#place = place;
    this.#options = { label, onPoint };
    new ResizeObserver(() => this.#fit()).observe(place);
    all.add(this);
  }

  /** Show the samples from `from` to `to` (s since 1970), on a scale of 0 to `top`. */
  show({ times, values, from, to, top }) {
    this.#view = { from, to, top };
    const data = withGaps(times, values);
    if (this.#chart === null) this.#begin(data);
    else this.#chart.setData(data);
  }

  repaint() {
    this.#chart?.redraw(true, true);
  }

  #begin(data) {
    const width = this.#place.clientWidth;
    if (width === 0 || typeof globalThis.uPlot !== "function") return; // not laid out yet, or the library is missing
    const { label, onPoint } = this.#options;
    const colour = (name) => getComputedStyle(this.#place).getPropertyValue(name).trim();
    const { fontFamily } = getComputedStyle(document.body);
    const halves = () => [0, this.#view.top / 2, this.#view.top];
    this.#chart = new globalThis.uPlot(
      {
        width,
        height: HEIGHT,
        padding: [8, 2, 6, 0],
        legend: { show: false },
        cursor: {
          y: false,
          drag: { x: false, y: false },
          points: { size: 8, fill: () => colour("--tone"), stroke: () => colour("--surface") },
        },
        scales: {
          x: { time: false, range: () => [this.#view.from, this.#view.to] },
          y: { range: () => [0, this.#view.top] },
        },
        axes: [
          { show: false },
          {
            side: 1,
            size: 52,
            gap: 8,
            font: `11px ${fontFamily}`,
            stroke: () => colour("--muted"),
            splits: halves,
            values: (_, splits) => splits.map((value) => (value === 0 ? "0" : label(value))),
            grid: { stroke: () => colour("--line"), width: 1 },
            ticks: { show: false },
          },
        ],
        series: [
          {},
          {
            stroke: () => colour("--tone"),
            fill: () => colour("--tone-fill"),
            width: 2,
            points: { show: false },
          },
        ],
        hooks: {
          setCursor: [
            (chart) => {
              const at = chart.cursor.idx;
              const value = at === null || at === undefined ? null : chart.data[1][at];
              onPoint(value === null || value === undefined ? null : { time: chart.data[0][at], value });
            },
          ],
        },
      },
      data,
      this.#place,
    );
  }

  #fit() {
    const width = this.#place.clientWidth;
    if (this.#chart !== null && width > 0 && width !== this.#chart.width) this.#chart.setSize({ width, height: HEIGHT });
  }
}

/** Return uPlot's columns, with an empty point wherever samples are missing. */
function withGaps(times, values) {
  const steps = times.slice(1).map((time, at) => time - times[at]).sort((a, b) => a - b);
  const longest = LONGEST_GAP * (steps[Math.floor(steps.length / 2)] ?? Infinity);
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

// A chart: lines by uPlot, a legend with the values under the cursor, and the same values as a table.

import { clock, drawing, element, fillTable, ticks } from "./format.js";

/* global uPlot */

const TABLE_ROWS = 60;
const charts = new Set();
let serial = 0;

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => charts.forEach((c) => c.plot?.redraw(true, true)));

const stamp = (s) => (s % 60 ? `${clock(1000 * s)}:${String(s % 60 | 0).padStart(2, "0")}` : clock(1000 * s));

export class Chart {
  /*
   * title, hint   what the chart shows, and how to interpret it
   * format        value -> text
   * ideal         a horizontal line that is always visible (1 for PCOC)
   * floor         lowest value of the axis (0 for rates)
   * robust        the axis spans the usual values; outliers may lie outside it
   * log           a logarithmic axis
   * time          "event" or "wall": charts of one kind share the cursor; "none": the x axis holds numbers
   * height        of the plot, CSS pixels
   */
  constructor(parent, options) {
    this.options = { height: 180, time: "event", format: String, none: "Waiting for the first window.", ...options };
    this.id = `chart-${++serial}`;
    this.keys = "";
    this.marks = [];
    const o = this.options;
    this.holder = element("div", { class: "plot", tabindex: "0", role: "group", "aria-roledescription": "chart", "aria-labelledby": `${this.id}-title`, "aria-describedby": `${this.id}-description` });
    this.holder.style.minHeight = `${o.height}px`;
    this.empty = element("p", { class: "empty" }, o.none);
    this.holder.append(this.empty);
    this.legend = element("ul", { class: "legend", "aria-hidden": "true" });
    this.description = element("p", { class: "sr-only", id: `${this.id}-description` });
    this.announcement = element("p", { class: "sr-only", role: "status" });
    this.table = element("table");
    this.details = element("details", {}, element("summary", {}, "As a table"),
      element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${o.title}, as a table` }, this.table));
    this.details.addEventListener("toggle", () => this.fill());
    parent.append(element("figure", { class: "chart", id: o.id ?? null },
      element("h4", { id: `${this.id}-title` }, o.title), element("p", { class: "hint" }, o.hint ?? ""),
      this.holder, this.legend, this.description, this.announcement, this.details));
    this.holder.addEventListener("keydown", (event) => this.key(event));
    this.holder.addEventListener("blur", () => this.plot?.setCursor({ left: -10, top: -10 }));
    new ResizeObserver(() => this.size()).observe(this.holder);
    charts.add(this);
  }

  // series: [{label, look: 0-7, dash, band: [low, high] or null, values}], x: seconds; marks: [{t, kind, label}]
  update(x, series, marks = []) {
    this.x = x;
    this.series = series.filter((s) => s.values.some((v) => v !== null));
    this.marks = marks;
    const keys = JSON.stringify(this.series.map((s) => [s.label, s.look, s.dash, !!s.band]));
    this.empty.hidden = this.series.length > 0;
    if (keys !== this.keys) this.build(keys);
    if (this.plot) {
      const cursor = this.plot.cursor.idx;
      this.plot.setData(this.data());
      if (cursor === null || cursor === undefined) this.show(null);
    }
    this.description.textContent = this.summary();
    this.fill();
  }

  data() {
    return [this.x, ...this.series.flatMap((s) => (s.band ? [s.values, s.band[0], s.band[1]] : [s.values]))];
  }

  build(keys) {
    this.keys = keys;
    this.plot?.destroy();
    this.plot = null;
    this.legend.replaceChildren();
    if (!this.series.length) return;
    const lines = [];
    const bands = [];
    for (const s of this.series) {
      const stroke = () => colour(`c${s.look}`);
      lines.push({ label: s.label, stroke, width: 2, dash: s.dash, points: { show: (u, i) => sparse(u, i), size: 5, fill: stroke }, spanGaps: false });
      if (s.band) {
        const at = lines.length;
        lines.push({ stroke: "transparent", points: { show: false } }, { stroke: "transparent", points: { show: false } });
        bands.push({ series: [at + 2, at + 1], fill: () => colour(`c${s.look}`) + "2e" });
      }
      const value = element("b");
      s.shown = value;
      this.legend.append(element("li", {}, key(s), s.label, value));
    }
    this.shown = this.series.map((s) => s.shown);
    this.plot = new uPlot(this.uplotOptions(lines, bands), this.data(), this.holder);
    this.plot.root.setAttribute("aria-hidden", "true");
    this.show(null);
  }

  uplotOptions(lines, bands) {
    const o = this.options;
    const axis = { stroke: () => colour("muted"), grid: { stroke: () => colour("rule"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
    const isTime = o.time !== "none";
    return {
      width: this.holder.clientWidth || 400,
      height: o.height,
      padding: [10, 22, 0, 0],
      tzDate: (s) => uPlot.tzDate(new Date(1000 * s), "Etc/UTC"),
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 6 }, sync: isTime ? { key: o.time } : undefined },
      scales: { x: { time: isTime, range: isTime ? spanned : undefined }, y: { distr: o.log ? 3 : 1, range: (u, low, high) => this.range(low, high) } },
      series: [{}, ...lines],
      bands,
      axes: [
        { ...axis, size: 40, space: 60, values: (u, splits, a, s, step) => (isTime ? ticks(splits, step) : splits.map((v) => (Number.isInteger(v) ? (o.xFormat ?? String)(v) : null))) },
        { ...axis, size: 58, space: 32, values: (u, splits) => splits.map((v) => (v === null ? null : o.format(v))) },
      ],
      hooks: { drawClear: [(u) => this.drawMarks(u)], setCursor: [(u) => this.show(u.cursor.idx ?? null)] },
    };
  }

  range(low, high) {
    const { ideal, floor, log, least = 0 } = this.options;
    if (low === null || high === null) return log ? [0.1, 10] : [0, 1];
    if (log) return [low / 1.5, high * 1.5];
    if (this.options.robust) [low, high] = this.usual(low, high);
    if (ideal !== undefined) [low, high] = [Math.min(low, ideal), Math.max(high, ideal)];
    if (high - low < least) [low, high] = [low - (least - (high - low)) / 2, high + (least - (high - low)) / 2];
    const margin = 0.08 * (high - low) || 0.1 * Math.abs(high) || 1;
    return [floor !== undefined ? Math.max(floor, floor === 0 ? 0 : low - margin) : low - margin, high + margin];
  }

  // The span of the usual values, so that a cold start does not flatten everything after it (the table shows all values).
  usual(low, high) {
    const values = this.series.flatMap((s) => s.values).filter((v) => v !== null).sort((a, b) => a - b);
    if (values.length < 20) return [low, high];
    const at = (q) => values[Math.round(q * (values.length - 1))];
    const margin = 2 * (at(0.9) - at(0.1));
    return [Math.max(low, at(0.1) - margin), Math.min(high, at(0.9) + margin)];
  }

  drawMarks(u) {
    const { ctx, bbox } = u;
    const ratio = devicePixelRatio;
    ctx.save();
    ctx.strokeStyle = colour("mark");
    ctx.fillStyle = colour("muted");
    ctx.lineWidth = ratio;
    const across = (y) => { ctx.beginPath(); ctx.moveTo(bbox.left, y); ctx.lineTo(bbox.left + bbox.width, y); ctx.stroke(); };
    if (this.options.ideal !== undefined) across(u.valToPos(this.options.ideal, "y", true));
    for (const mark of this.marks) {
      if (mark.kind !== "release" && mark.kind !== "month") continue;
      const x = Math.round(u.valToPos(mark.t, "x", true));
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      ctx.setLineDash(mark.kind === "release" ? [2 * ratio, 3 * ratio] : []);
      ctx.beginPath(); ctx.moveTo(x, bbox.top); ctx.lineTo(x, bbox.top + bbox.height); ctx.stroke();
    }
    ctx.restore();
  }

  // Shows the values at a point, or the latest ones, in the legend.
  show(index) {
    if (!this.shown) return;
    const i = index === null ? null : index;
    this.series.forEach((s, k) => {
      const v = i === null ? last(s.values) : s.values[i];
      this.shown[k].textContent = this.options.format(v ?? NaN);
    });
  }

  key(event) {
    const move = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -1e9, End: 1e9 }[event.key];
    if (move === undefined || !this.plot) return;
    event.preventDefault();
    const end = this.x.length - 1;
    const i = Math.min(end, Math.max(0, (this.plot.cursor.idx ?? end) + move));
    this.plot.setCursor({ left: this.plot.valToPos(this.x[i], "x"), top: 0 });
    this.announcement.textContent = `${this.xText(this.x[i])}: ` + this.series.map((s) => `${s.label} ${this.options.format(s.values[i] ?? NaN)}`).join(", ");
  }

  xText(x) {
    return this.options.time === "none" ? (this.options.xFormat ?? String)(x) : stamp(x);
  }

  summary() {
    if (!this.series.length) return this.options.none;
    const now = this.series.map((s) => `${s.label} ${this.options.format(last(s.values) ?? NaN)}`).join(", ");
    return `Latest: ${now}. Use the arrow keys to read the chart point by point.`;
  }

  fill() {
    if (!this.details.open || !this.series) return;
    const head = [this.options.time === "none" ? (this.options.xName ?? "") : "Time (UTC)"];
    for (const s of this.series) head.push(s.label, ...(s.band ? ["low", "high"] : []));
    const rows = [];
    for (let i = this.x.length - 1; i >= 0 && rows.length < TABLE_ROWS; i--) {
      rows.push([this.xText(this.x[i]), ...this.data().slice(1).map((values) => this.options.format(values[i] ?? NaN))]);
    }
    fillTable(this.table, head, rows);
  }

  size() {
    if (this.plot && this.holder.clientWidth) this.plot.setSize({ width: this.holder.clientWidth, height: this.options.height });
  }
}

const KINDS = { release: "CPM release", month: "TPM month", reference: "Reference" };

export const markRows = (marks) => marks.map((m) => [clock(1000 * m.t), KINDS[m.kind] ?? m.kind, m.label]);

function last(values) {
  for (let i = values.length - 1; i >= 0; i--) if (values[i] !== null) return values[i];
  return null;
}

function spanned(u, low, high) {
  if (low === null) return [0, 1];
  // uPlot widens the range of a single point to years before it calls this.
  return low === high || u.data[0].length === 1 ? [low - 60, low + 60] : [low, high];
}

// Draws points where a line alone would hide that there are few windows or gaps between them.
function sparse(u, i) {
  const values = u.data[i];
  if (values.length <= 40) return true;
  const known = values.reduce((n, v) => n + (v !== null), 0);
  return known <= 40;
}

function key(s) {
  const dash = s.dash ? { "stroke-dasharray": s.dash.join(" ") } : {};
  return drawing("0 0 28 12", ["path", { d: "M0 6h28", class: `stroke-${s.look}`, ...dash }]);
}


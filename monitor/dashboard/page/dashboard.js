// The page: reads the event stream and passes each section to the part that shows it.

import { showAlerts, showDrift, showFacts, showMarks, showTransfer, showWorker } from "./parts.js";
import { Chart } from "./charts.js";
import { count, duration, element, fixed, percent, signed } from "./format.js";

const $ = (id) => document.getElementById(id);
const known = {};            // the latest value of each section
let chosen = new URLSearchParams(location.search).get("window");
let windowIsChosen = chosen !== null;

// -- charts

const ARMS = {
  cpm: { label: "CPM", look: 2 }, actr: { label: "A-CTR", look: 0 }, ads_only: { label: "ads-only", look: 1, dash: [7, 4] },
  linked: { label: "linked", look: 4 }, stack: { label: "stack", look: 3 }, mixed: { label: "mixed", look: 5, dash: [2, 3] }, mixed_tpm: { label: "mixed, TPM", look: 6, dash: [2, 3] },
};
const QUALITY = [
  { metric: "gauc", title: "GAUC", hint: "How well each user's impressions are ranked; 0.5 is chance.", format: fixed(3), least: 0.02, none: "No window of this length has enough rows; see the longer ones." },
  { metric: "ne", title: "NE", hint: "Log loss over that of always predicting the mean CTR; below 1 is better.", format: fixed(3), ideal: 1, robust: true },
  { metric: "pcoc", title: "PCOC", hint: "Predicted over observed clicks; 1 is ideal, above it is too high.", format: fixed(2), ideal: 1, robust: true },
  { metric: "ctr", title: "CTR", hint: "Clicks over impressions, as observed.", format: percent(1), floor: 0 },
];
const quality = {};
for (const domain of ["natural", "ad"]) {
  for (const q of QUALITY) {
    const title = `${q.title}, ${domain === "ad" ? "ads" : "natural"}`;
    quality[`${domain}/${q.metric}`] = new Chart($(`charts-${domain}`), { ...q, title, id: `chart-${q.metric}-${domain}`, height: 165 });
  }
}
const transfer = new Chart($("charts-transfer"), {
  title: "A-CTR minus ads-only, GAUC", id: "chart-transfer", hint: "A-CTR is the arm that serves. Above 0 the transfer helps. Band: 95 % interval over users. The whole band below 0: negative transfer.",
  format: signed(3), ideal: 0, height: 210, none: "Waiting for ad rows that both models have predicted.",
});
let staleDays = [];
function daysText(i) {
  const [low, high] = staleDays[i] ?? [];
  return low === undefined ? "" : high === null || high === undefined ? `\u2265 ${low} d` : `${low}\u2013${high} d`;
}
const forgetting = new Chart($("charts-forgetting"), {
  title: "Change on earlier periods, GAUC", id: "chart-forgetting", hint: "Relative to the GAUC when the slice was first scored. A falling line means forgetting.",
  format: signed(3), ideal: 0, height: 210, none: "Waiting for the second checkpoint that scores a slice.",
});
const staleness = new Chart($("charts-forgetting"), {
  title: "GAUC by staleness of the user", id: "chart-staleness", hint: "By days since the user was last learned. The gap between the lines is the gain from TPM vectors.",
  format: fixed(3), time: "none", xName: "Days", xFormat: daysText, height: 210, none: "Waiting for returning users.",
});
const stream = (id, options) => new Chart($("charts-stream"), { id, time: "wall", height: 170, none: "Waiting for the first seconds.", ...options });
const speed = stream("chart-rows", { title: "Rows learned per second", hint: "0 while there is lag: training has stopped.", format: count, floor: 0 });
const lag = stream("chart-lag", { title: "Lag", hint: "Records in the log that have not been learned yet.", format: count, floor: 0 });
const letters = stream("chart-dead-letters", { title: "Dead letters", hint: "Rejected events since the start, by reason.", format: count, floor: 0, none: "No event was rejected." });
const fresh = stream("chart-freshness", { title: "Freshness: event to model", hint: "Age of events when they are learned. Logarithmic scale.", format: duration, log: true, none: "Waiting for the first step." });

// -- sections

const draw = {
  worker: () => { showWorker(known.worker); showFacts(known); },
  live() {
    const { t = [], ...columns } = known.live;
    const lines = (prefix, labels) => Object.keys(columns).filter((k) => k.startsWith(prefix)).map((k, i) => {
      const name = k.slice(prefix.length);
      return { label: name, look: (i + 3) % 8, ...labels?.[name], values: columns[k] };
    });
    const sides = { natural: { label: "natural", look: 2 }, ad: { label: "ads", look: 0, dash: [7, 4] } };
    speed.update(t, lines("rows/", sides));
    const topics = Object.entries(known.worker?.topics ?? {});
    lag.update(t, lines("lag/", Object.fromEntries(topics.map(([topic, side]) => [topic, { ...sides[side], label: topic }]))));
    letters.update(t, lines("dead/"));
    fresh.update(t, lines("fresh/", {
      "natural p50": { look: 2 }, "natural p99": { look: 2, dash: [2, 3] }, "ad p50": { label: "ads p50", look: 0 }, "ad p99": { label: "ads p99", look: 0, dash: [2, 3] },
    }));
    showFacts(known);
  },
  windows: () => showFacts(known),
  series() {
    chooseWindow(Object.keys(known.series));
    const past = known.series[chosen] ?? {};
    const t = seconds(past.t);
    for (const domain of ["natural", "ad"]) {
      const { arms = {}, ctr = [], rows = [] } = past[domain] ?? {};
      const complete = (values = []) => (hasJustBegun(rows) ? [...values.slice(0, -1), null] : values);
      for (const { metric } of QUALITY) {
        // The observed CTR is the same for all models.
        const lines = metric === "ctr" ? [{ label: "observed", look: 7, values: complete(ctr) }]
          : Object.entries(arms).map(([arm, columns]) => ({ look: 4, label: arm, ...ARMS[arm], values: complete(columns[metric]) }));
        quality[`${domain}/${metric}`].update(t, lines, marks());
      }
    }
  },
  marks() {
    showMarks(marks());
    for (const name of ["series", "transfer", "forgetting"]) if (known[name]) draw[name]();
  },
  transfer() {
    const { t, value = [], low = [], high = [] } = known.transfer.past ?? {};
    transfer.update(seconds(t), [{ label: "A-CTR minus ads-only", look: 0, band: [low, high], values: value }], marks());
    showTransfer(known.transfer);
    showFacts(known);
  },
  drift: () => showDrift(known.drift),
  forgetting() {
    const { periods = [], curves = [], staleness: groups = [] } = known.forgetting;
    const [t, columns] = joined(curves.map((c) => [c.clock, c.transfer]));
    const order = periods.map((p) => String(p.period));
    forgetting.update(seconds(t), curves.map((c, i) => {
      const { label = c.arm, dash } = ARMS[c.arm] ?? {};
      const at = order.indexOf(String(c.period));
      return { label: `${periods[at]?.name ?? c.period}, ${label}`, look: LOOKS[(at < 0 ? i : at) % 8], dash: c.arm === "cpm" ? [2, 3] : dash, values: columns[i] };
    }), marks());
    staleDays = [...new Map(groups.map((g) => [g.days[0], g.days])).values()].sort((a, b) => a[0] - b[0]);
    const lines = new Map();
    for (const g of groups) {
      const { words = g.history, dash } = HISTORY[g.history] ?? {};
      const { label: arm = g.arm, look = 4 } = ARMS[g.arm] ?? {};
      const label = `${arm}, ${words}`;
      if (!lines.has(label)) lines.set(label, { label, look, dash, values: staleDays.map(() => null) });
      lines.get(label).values[staleDays.findIndex((d) => d[0] === g.days[0])] = g.gauc;
    }
    staleness.update(staleDays.map((_, i) => i), [...lines.values()]);
  },
  alerts: () => { showAlerts(known.alerts); showFacts(known); },
};

const LOOKS = [0, 1, 2, 3, 4, 5, 6, 7];
const HISTORY = { all: { words: "all users" }, with: { words: "with TPM", dash: [10, 3] }, without: { words: "without TPM", dash: [2, 3] } };
const seconds = (ms = []) => ms.map((v) => v / 1000);
const marks = () => (known.marks ?? []).map((m) => ({ t: m.ts / 1000, kind: m.kind, label: m.text }));

// Puts columns with different time axes on one: [[times, values], ...] -> [times, columns]
function joined(pairs) {
  const t = [...new Set(pairs.flatMap(([times]) => times))].sort((a, b) => a - b);
  const at = new Map(t.map((v, i) => [v, i]));
  return [t, pairs.map(([times, values]) => {
    const column = t.map(() => null);
    times.forEach((v, i) => { column[at.get(v)] = values[i]; });
    return column;
  })];
}

// Default choice: the shortest window of an hour or more whose figures are not mostly noise.
const FEW_ADS = 1000;

const median = (values) => values.toSorted((a, b) => a - b)[values.length >> 1];

// The newest window has too few rows yet, so its figures are noise.
const hasJustBegun = (rows) => rows.length > 2 && rows.at(-1) < 0.05 * median(rows);

function defaultWindow(names) {
  const long = names.filter((n) => n !== "5m");
  return long.find((n) => {
    const rows = known.series[n]?.ad?.rows ?? [];
    return rows.length > 1 && median(rows) >= FEW_ADS;
  }) ?? long.at(-1) ?? names[0];
}

const WINDOW_NAMES = { "5m": "5 min", "1h": "1 hour", "1d": "1 day" };

function chooseWindow(names) {
  const box = $("window");
  if (!windowIsChosen || !names.includes(chosen)) chosen = defaultWindow(names);
  const marked = box.querySelector(`input[value="${chosen}"]`);
  if (marked) marked.checked = true;
  if (box.dataset.names === names.join()) return;
  box.dataset.names = names.join();
  box.querySelectorAll("label").forEach((l) => l.remove());
  for (const name of names) {
    const input = element("input", { type: "radio", name: "window", value: name });
    input.checked = name === chosen;
    input.addEventListener("change", () => {
      chosen = name;
      windowIsChosen = true;
      const query = new URLSearchParams(location.search);
      query.set("window", name);
      history.replaceState(null, "", `?${query}${location.hash}`);
      draw.series();
    });
    box.append(element("label", {}, input, WINDOW_NAMES[name] ?? name));
  }
}

// -- the stream

let lastEventAt = Date.now();

function listen() {
  const events = new EventSource("api/events");
  for (const name of Object.keys(draw)) {
    events.addEventListener(name, (event) => {
      known[name] = JSON.parse(event.data);
      lastEventAt = Date.now();
      draw[name]();
    });
  }
  events.addEventListener("open", () => { known.lost = false; if (known.worker) showWorker(known.worker); });
  events.addEventListener("error", () => {
    known.lost = true;
    showWorker(known.worker, lastEventAt);
    // The browser reconnects by itself, except after a response that was not an event stream.
    if (events.readyState === EventSource.CLOSED) setTimeout(listen, 5000);
  });
}

listen();

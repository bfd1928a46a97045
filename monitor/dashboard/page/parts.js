// All parts of the page but charts: state of the worker, figures, alerts, the drift table, the table of marks.

import { clock, count, drawing, duration, element, fillTable, fixed, percent, signed } from "./format.js";
import { markRows } from "./charts.js";

const $ = (id) => document.getElementById(id);
const shown = {}; // JSON of what a part shows: it is rebuilt only when that changes

// Screen readers announce a live region whenever its text is set, so it is set only when it changes.
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function showWorker(worker, lostSince) {
  const pill = $("status");
  const lost = lostSince !== undefined;
  const waits = worker && worker.healthy && !worker.ready && worker.phase === "live";
  pill.className = `pill ${lost || waits ? "lost" : !worker.healthy ? "unwell" : worker.ready ? "ok" : ""}`;
  setText(pill.querySelector(".text"), lost ? "connection lost" : worker.status === "ok" ? worker.phase : worker.status.replaceAll("_", " "));
  setText($("reason"), lost ? `No data since ${clock(lostSince)} UTC; reconnecting. The values shown may be old.` : reasons(worker));
  if (worker) setText($("version"), `ecdctr ${worker.version}`);
}

// All that is worth a sentence, the most severe first: not that the worker trains, or that nothing waits.
function reasons({ reasons = [] }) {
  const told = reasons.filter((r) => r.name !== "training" && r.name !== "idle");
  return told.map((r) => `${r.sentence} (since ${clock(1000 * r.since)} UTC)`).join("; ");
}

export function showFacts({ worker, live = {}, transfer = {}, windows = {} }) {
  if (!worker) return;
  const last = (values = []) => values.findLast((v) => v !== null);
  const sum = (prefix) => {
    const found = Object.keys(live).filter((k) => k.startsWith(prefix)).map((k) => last(live[k]) ?? 0);
    return found.length ? found.reduce((a, b) => a + b, 0) : undefined;
  };
  const gain = transfer.gauc ?? {};
  const tone = gain.low > 0 ? "good" : gain.high < 0 ? "bad" : "";
  const ads = windows["1d"]?.ad ?? {};
  const months = worker.tpm_months ?? [];
  const facts = [
    ["Event clock", clock(worker.event_clock_ms), "event time, UTC"],
    ["Rows per second", count(sum("rows/")), `${count(worker.rows.natural + worker.rows.ad)} in total`],
    ["Lag", worker.lag === null ? "unknown" : count(sum("lag/")), "records"],
    ["Freshness of ads", duration(last(live["fresh/ad p50"])), `p99 ${duration(last(live["fresh/ad p99"]))}`],
    ["A-CTR minus ads-only", signed(3)(gain.value), `${signed(3)(gain.low)} to ${signed(3)(gain.high)} GAUC`, tone],
    ["CPM releases", count(worker.releases), months.length ? `TPM ${months.at(-1)}` : "no TPM month yet"],
    ["Ads with TPM vectors", percent(0)(ads.tpm_share), `${percent(1)(ads.unseen_users)} new users, 1 day`],
    ["Dead letters", count(sum("dead/") ?? 0), "since the start"],
  ];
  const key = JSON.stringify(facts);
  if (shown.facts === key) return;
  shown.facts = key;
  $("facts").replaceChildren(...facts.map(([name, value, more, tone]) =>
    element("div", {}, element("dt", {}, name), element("dd", { class: tone || null }, value, more ? element("small", {}, more) : ""))));
}

const arrows = (words) => words.replaceAll("->", "\u2192");

// -- alerts

export function showAlerts({ raised: active = [], resolved: recent = [] }) {
  const list = $("alerts-active");
  const there = new Map([...list.children].map((li) => [li.dataset.key, li]));
  const worst = (a) => ["critical", "warning", "info"].indexOf(a.severity);
  const wanted = [...active].sort((a, b) => worst(a) - worst(b)).map((a) => [`${a.key}@${a.raised_ms}`, a]);
  for (const [key, li] of there) if (!wanted.some(([k]) => k === key)) li.remove();
  wanted.forEach(([key, alert], i) => {
    let li = there.get(key);
    if (!li) {
      li = alertItem(alert);
      li.dataset.key = key;
    }
    setText(li.querySelector(".size"), size(alert));
    if (list.children[i] !== li) list.insertBefore(li, list.children[i] ?? null);
  });
  $("alerts-none").hidden = active.length > 0;
  document.title = (active.length ? `(${active.length}) ` : "") + "ecdctr monitor";
  const past = $("alerts-past");
  past.hidden = !recent.length;
  const key = JSON.stringify(recent);
  if (shown.recent === key) return;
  shown.recent = key;
  past.querySelector("summary").textContent = `Recently resolved: ${recent.length}`;
  past.querySelector("ul").replaceChildren(...recent.map((a) => alertItem(a)));
}

const rounded = (v) => (v === null ? "" : Number(v.toPrecision(3)).toLocaleString("en").replace("-", "\u2212"));

// The value and the limit that it exceeds.
function size({ value, limit }) {
  if (value === null || value === undefined) return "";
  return `Now ${rounded(value)}${limit === null || limit === undefined ? "" : `, limit ${rounded(limit)}`}.`;
}

function alertItem(alert) {
  const resolved = alert.status === "resolved";
  const when = resolved ? `${clock(alert.since_ms)} to ${clock(alert.resolved_ms)} UTC` : `since ${clock(alert.since_ms)} UTC`;
  return element("li", { class: alert.severity },
    element("span", { class: "level" }, resolved ? "resolved" : alert.severity),
    element("span", { class: "what" }, arrows(alert.what)),
    element("span", { class: "when" }, when),
    element("span", { class: "more" }, element("span", { class: "size" }, resolved ? "" : size(alert)), alert.cause ? ` Likely cause: ${alert.cause.replace(/\.$/, "")}.` : ""));
}

// -- tables

const ARM_NAMES = { cpm: "CPM", actr: "A-CTR", ads_only: "ads-only" };
const SIGNALS = { log_loss: "log loss", pcoc: "PCOC", ctr: "CTR" };
const DOMAIN_LABELS = { natural: "natural", ad: "ads", both: "both" };
// Usual interpretation of PSI: below 0.1 stable, above 0.25 changed.
const PSI_FULL = 0.5;

export function showDrift({ reference = {}, evaluated_at: at, table = [], detectors = [] }) {
  $("drift-words").textContent = !reference.ready
    ? "The reference is still being collected; comparisons start when it is complete."
    : `Compared with ${reference.name || "the reference"} (${clock(reference.from)} to ${clock(reference.until)}) at ${clock(at)}, largest effect first. ` +
      "PSI below 0.1 means stable, above 0.25 changed. Red: large enough to count, and significant.";
  fillTable($("drift-table"),
    ["Name", "PSI", { name: "Domain", text: true }, { name: "Change", text: true }, "Since (UTC)", "Jensen-Shannon", { name: "Kind", text: true }],
    table.map((r) => ({ kind: r.moved ? "moved" : null, values: [ARM_NAMES[r.name] ?? r.name, bar(r.psi), text(DOMAIN_LABELS[r.domain] ?? r.domain, "short"), text(arrows(r.description ?? "")), r.since ? clock(r.since) : "\u2013", fixed(4)(r.js), text(r.what, "short")] })),
    "No comparison yet.");
  $("detectors").hidden = !detectors.length;
  fillTable($("detectors").querySelector("table"), ["Signal", { name: "Domain", text: true }, "Detector", "Changes", "Last (UTC)", "Level"],
    detectors.map((d) => [`${SIGNALS[d.signal] ?? d.signal}, ${ARM_NAMES[d.arm] ?? (d.arm || "observed")}`, text(DOMAIN_LABELS[d.domain] ?? d.domain, "short"), d.detector, count(d.changes), d.last ? clock(d.last) : "\u2013", fixed(3)(d.level)]));
}

const VERDICTS = { better: "the transfer helps", worse: "negative transfer", undecided: "no significant difference yet" };

export function showTransfer({ days, rows, users, verdict }) {
  const over = rows ? `Over the last ${days} days: ${count(rows)} impressions of ${count(users)} users; ${VERDICTS[verdict] ?? verdict}.` : "";
  setText($("transfer-words"), `Gain of the ads model from natural clicks, relative to a control that is trained without them. ${over}`);
}

const text = (words, size = "") => element("td", { class: `text ${size}` }, words);

function bar(value) {
  const width = Math.max(0, Math.min(1, (value ?? 0) / PSI_FULL)) * 88;
  return element("td", { class: "value" }, element("span", {}, fixed(3)(value)), drawing("0 0 88 8",
    ["rect", { class: "track", width: 88, height: 8, rx: 2 }], ["rect", { width, height: 8, rx: 2 }]));
}

export function showMarks(marks) {
  fillTable($("marks").querySelector("table"), ["Time (UTC)", "Event", { name: "", text: true }], markRows(marks).reverse(), "No release yet.");
}


// Formats of numbers and times. All times are UTC, as months and releases are.

const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const two = (n) => String(n).padStart(2, "0");
const known = (v) => v !== null && v !== undefined && Number.isFinite(v);

export const fixed = (digits) => (v) => (known(v) ? v.toFixed(digits).replace("-", "\u2212") : "\u2013");
export const signed = (digits) => (v) => (known(v) && v > 0 ? "+" : "") + fixed(digits)(v);
export const percent = (digits = 1) => (v) => (known(v) ? (100 * v).toFixed(digits) + " %" : "\u2013");

export function count(v) {
  if (!known(v)) return "\u2013";
  if (Math.abs(v) >= 1e6) return (v / 1e6).toFixed(Math.abs(v) >= 1e7 ? 1 : 2) + " M";
  if (Math.abs(v) >= 1e5) return (v / 1e3).toFixed(0) + " k";
  return v >= 100 || Number.isInteger(v) ? Math.round(v).toLocaleString("en") : v.toFixed(1);
}

export function duration(s) {
  if (!known(s)) return "\u2013";
  if (s < 1) return Math.round(1000 * s) + " ms";
  if (s < 120) return (s < 10 ? s.toFixed(1) : Math.round(s)) + " s";
  if (s < 7200) return Math.round(s / 60) + " min";
  if (s < 172800) return (s / 3600).toFixed(s < 36000 ? 1 : 0) + " h";
  return (s / 86400).toFixed(s < 864000 ? 1 : 0) + " d";
}

export function clock(ms) {
  if (!known(ms) || ms <= 0) return "\u2013";
  const d = new Date(ms);
  return `${day(ms)} ${two(d.getUTCHours())}:${two(d.getUTCMinutes())}`;
}

export function day(ms) {
  const d = new Date(ms);
  return `${d.getUTCFullYear()}-${two(d.getUTCMonth() + 1)}-${two(d.getUTCDate())}`;
}

// Labels of a time axis: the hour, and the date under the first label and wherever it changes.
export function ticks(splits, step) {
  let before = "";
  return splits.map((s) => {
    const d = new Date(1000 * s);
    const date = `${d.getUTCDate()} ${MONTHS[d.getUTCMonth()]}`;
    if (step >= 86400) return date;
    const time = `${two(d.getUTCHours())}:${two(d.getUTCMinutes())}` + (step < 60 ? `:${two(d.getUTCSeconds())}` : "");
    const label = date === before ? time : `${time}\n${date}`;
    before = date;
    return label;
  });
}

// Elements are created from text only, so that a name in the data is never interpreted as markup.
export function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null) node.setAttribute(name, value);
  node.append(...children.filter((c) => c !== null && c !== ""));
  return node;
}

export function drawing(viewBox, ...shapes) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", viewBox);
  svg.setAttribute("aria-hidden", "true");
  for (const [tag, attributes] of shapes) {
    const shape = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) shape.setAttribute(name, value);
    svg.append(shape);
  }
  return svg;
}

// head: names, or {name, text: true} for a column of text; entries of a row: texts, or td elements.
export function fillTable(table, head, rows, none) {
  const cells = (tag, texts) => texts.map((t) => (t instanceof Node ? t : element(tag, {}, String(t))));
  const header = element("tr", {}, ...head.map((h) => element("th", { scope: "col", class: h.text ? "text" : null }, h.name ?? h)));
  const body = rows.map((row) => {
    const { kind = null, values } = Array.isArray(row) ? { values: row } : row;
    const first = element("th", { scope: "row" }, String(values[0]));
    return element("tr", { class: kind }, first, ...cells("td", values.slice(1)));
  });
  if (!body.length) body.push(element("tr", {}, element("td", { colspan: head.length, class: "none" }, none ?? "Nothing yet.")));
  table.replaceChildren(element("thead", {}, header), element("tbody", {}, ...body));
}

"use strict";
// Draws what status.json tells. Names come from policies and providers: they are set as text, and
// the page's Content-Security-Policy lets nothing else be done with them.

const LONGEST_SECONDS = 300, SHORTEST_SECONDS = 60;
const MAX_SERIES = 8;
const WIDTH = 480, HEIGHT = 150, LEFT = 44, RIGHT = 8, TOP = 8, BOTTOM = 20;
const SVG = "http://www.w3.org/2000/svg";
// Okabe and Ito's colours, which most kinds of colour blindness tell apart.
const COLORS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8c8c00", "#888888"];

const CHARTS = [
  ["Outcomes", "outcomes", rate],
  ["Egret's own time", "overhead_ms", milliseconds],
  ["Why refused or failed", "errors", rate],
  ["Guardrails", "guardrails", rate],
  ["Keys found in", "tiers", rate],
  ["Limits", "limits", rate],
  ["Providers", "providers", rate],
  ["Faults", "faults", rate],
];

function rate(value) { return value.toFixed(1) + "/s"; }
function milliseconds(value) { return value.toFixed(value < 100 ? 2 : 0) + " ms"; }
function known(value, shown) { return value === null || value === undefined ? "-" : shown(value); }

const SUMMARY = [
  ["requests", (now) => rate(now.requests)],
  ["being judged", (now) => String(now.in_flight)],
  ["workers", (now) => now.workers_running + " of " + now.workers_wanted],
  ["own time, p95", (now) => known(now.overhead_ms.p95, milliseconds)],
  ["keys from cache", (now) => known(now.cache_hit_ratio, (share) => Math.round(share * 100) + "%")],
  ["cost", (now) => "$" + now.cost_usd_an_hour.toFixed(2) + " an hour"],
];

function element(name, text) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  return made;
}

function shape(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

class Chart {
  constructor(title, field, show) {
    this.field = field;
    this.show = show;
    this.title = title;
    this.colors = new Map();
    this.picture = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
    this.legend = element("ul");
    this.section = element("section");
    this.section.id = field;
    this.section.append(element("h2", title), this.picture, this.legend);
  }

  color(name) {
    if (!this.colors.has(name)) this.colors.set(name, COLORS[this.colors.size % COLORS.length]);
    return this.colors.get(name);
  }

  draw(points, every) {
    const sums = new Map();
    for (const point of points)
      for (const [name, value] of Object.entries(point[this.field]))
        sums.set(name, (sums.get(name) || 0) + (value || 0));
    const names = [...sums.keys()].sort((a, b) => sums.get(b) - sums.get(a)).slice(0, MAX_SERIES);
    const now = points[points.length - 1];
    const values = points.flatMap((point) => names.map((name) => point[this.field][name] || 0));
    const top = round(Math.max(0, ...values));
    const span = Math.min(LONGEST_SECONDS, Math.max(SHORTEST_SECONDS, now.at - points[0].at));
    const x = (at) => LEFT + (WIDTH - LEFT - RIGHT) * (1 - (now.at - at) / span);
    const y = (value) => HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value / top);
    const parts = [];
    for (const share of [0, 0.5, 1]) {
      parts.push(shape("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(top * share), y2: y(top * share) }));
      parts.push(shape("text", { x: LEFT - 6, y: y(top * share) + 4, "text-anchor": "end" }, short(top * share)));
    }
    const step = span <= 120 ? 15 : 60;
    for (let ago = step; ago < span; ago += step) {
      const told = step < 60 ? `-${ago} s` : `-${ago / 60} min`;
      parts.push(shape("text", { x: x(now.at - ago), y: HEIGHT - 4, "text-anchor": "middle" }, told));
    }
    for (const name of names)
      parts.push(shape("path", { class: "series", stroke: this.color(name), d: line(points, (point) => this.value(point, name), x, y, every) }));
    this.picture.replaceChildren(...parts);
    const told = names.map((name) => `${name} ${known(this.value(now, name), this.show)}`);
    this.picture.setAttribute("aria-label", `${this.title}: ${told.join(", ") || "nothing"}`);
    this.legend.replaceChildren(...names.map((name, at) => this.entry(name, told[at])));
    if (!names.length) this.legend.append(element("li", "-"));
    if (sums.size > names.length) this.legend.append(element("li", `and ${sums.size - names.length} more`));
  }

  // A rate that is not told is none; a time that is not told is not known.
  value(point, name) {
    const value = point[this.field][name];
    return value === undefined ? 0 : value;
  }

  entry(name, text) {
    const mark = shape("svg", { viewBox: "0 0 10 10", "aria-hidden": "true" });
    mark.append(shape("rect", { width: 10, height: 10, rx: 2, fill: this.color(name) }));
    const item = element("li");
    item.append(mark, text);
    return item;
  }
}

function line(points, value, x, y, every) {
  let drawn = "", before = null;
  for (const point of points) {
    const known = value(point);
    if (known === null) { before = null; continue; }
    const joins = before !== null && point.at - before < 4 * every;
    // A point alone is a line of no length, which round ends make a dot.
    const to = `${x(point.at).toFixed(1)} ${y(known).toFixed(1)}`;
    drawn += joins ? `L${to}` : `M${to}L${to}`;
    before = point.at;
  }
  return drawn;
}

function round(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].find((step) => step * power >= value) * power;
}

function short(value) { return value >= 1000 ? value / 1000 + "k" : String(Number(value.toPrecision(2))); }

const charts = CHARTS.map(([title, field, show]) => new Chart(title, field, show));
document.getElementById("charts").append(...charts.map((chart) => chart.section));
const summary = document.getElementById("summary");
const problem = document.getElementById("problem");
let run = "", points = [];

function take(told) {
  if (told.run !== run) points = [];
  run = told.run;
  points.push(...told.points);
  if (!points.length) return;
  const now = points[points.length - 1];
  points = points.filter((point) => now.at - point.at <= LONGEST_SECONDS);
  for (const chart of charts) chart.draw(points, told.every);
  summary.replaceChildren(...SUMMARY.map(([name, show]) => {
    const entry = element("div");
    entry.append(element("dt", name), element("dd", show(now)));
    return entry;
  }));
}

async function look() {
  let every = 2;
  try {
    const seen = points.length ? `?after=${run}-${points[points.length - 1].number}` : "";
    const answer = await fetch("status.json" + seen, { cache: "no-store" });
    if (!answer.ok) throw new Error(String(answer.status));
    const told = await answer.json();
    every = told.every;
    take(told);
    problem.hidden = true;
  } catch {
    problem.textContent = "No answer from Egret; what is shown is old. Trying again.";
    problem.hidden = false;
  }
  setTimeout(look, every * 1000);
}

look();

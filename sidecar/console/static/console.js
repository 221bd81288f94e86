// Charts, theme, menu, keyboard, copying. Pages work without it; it writes text, never markup.
"use strict";

const COLOURS = 6;
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const charts = new Map();

// The numbers of a chart are those of the table inside it: first column the time, one series each.
function drawChart(figure) {
  charts.get(figure)?.destroy();
  const table = figure.querySelector("table");
  const place = figure.querySelector(".chart");
  if (!table || !place) return;
  const names = [...table.querySelectorAll("thead th")].slice(1).map((one) => one.textContent.trim());
  const rows = [...table.querySelectorAll("tbody tr")].map((row) => [...row.children].map((cell) => cell.dataset.value === "" ? null : Number(cell.dataset.value)));
  if (rows.length === 0 || names.length === 0) return;
  const unit = figure.dataset.unit ?? "";
  const shown = (value) => value == null ? "–" : unit === "$" ? "$" + value.toFixed(value < 10 ? 4 : 2) : compact.format(value) + unit;
  const at = (seconds) => new Date(seconds * 1000).toISOString();
  const times = (_, ticks, __, ___, step) => ticks.map((tick) => step >= 86400 || tick % 86400 === 0 ? at(tick).slice(5, 10) : at(tick).slice(11, 16));
  const axis = { stroke: style("--faint"), grid: { stroke: style("--line"), width: 1 }, ticks: { stroke: style("--line"), width: 1 } };
  const chart = new uPlot({
    width: place.clientWidth || 320,
    height: 184,
    scales: { y: { range: (_, low, high) => [Math.min(0, low), high > 0 ? high * 1.05 : 1] } },
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
    axes: [{ ...axis, values: times }, { ...axis, size: 58, values: (_, ticks) => ticks.map((tick) => (unit === "$" ? "$" : "") + compact.format(tick)) }],
    series: [{ label: "UTC", value: (_, seconds) => seconds == null ? "–" : at(seconds).slice(0, 16).replace("T", " ") }, ...names.map((label, index) => ({
      label,
      stroke: style(`--series-${index % COLOURS + 1}`),
      fill: names.length === 1 ? style(`--series-1`) + "22" : undefined,
      width: 2,
      points: { show: rows.length < 40 },
      value: (_, value) => shown(value),
    }))],
    legend: { live: names.length > 1 || rows.length > 1 },
  }, rows[0].map((_, column) => rows.map((row) => row[column])), place);
  place.setAttribute("aria-hidden", "true");
  charts.set(figure, chart);
}

function drawCharts(root) {
  for (const figure of root.querySelectorAll("figure[data-chart]")) drawChart(figure);
}

// Times are in UTC in the page's text; the title has them in the reader's own zone.
function localTimes(root) {
  for (const one of root.querySelectorAll("time[datetime]")) {
    const at = new Date(one.dateTime);
    if (!Number.isNaN(at.valueOf())) one.title = at.toLocaleString();
  }
}

function prepare(root) {
  drawCharts(root);
  localTimes(root);
}

document.addEventListener("DOMContentLoaded", () => prepare(document));
document.addEventListener("htmx:afterSwap", (event) => {
  for (const figure of charts.keys()) if (!figure.isConnected) { charts.get(figure).destroy(); charts.delete(figure); }
  prepare(event.detail.target);
});

// A part that could not be read anew stays as it was, and says so: a login page must not take its
// place, and old numbers must not look like new ones.
function sayStale(target, words) {
  target.parentElement.querySelector(".stale")?.remove();
  if (!words) return;
  const note = document.createElement("p");
  note.className = "note warn stale";
  note.setAttribute("role", "status");
  note.textContent = words;
  target.before(note);
}
document.addEventListener("htmx:beforeSwap", (event) => {
  const { xhr, target } = event.detail;
  const isLogin = new URL(xhr.responseURL, location.href).pathname === "/login";
  if (isLogin) event.detail.shouldSwap = false;
  sayStale(target, isLogin ? "Your session has ended; this is no longer read anew. Reload the page to sign in." : xhr.status >= 400 ? `This could not be read anew (${xhr.status}).` : "");
});
document.addEventListener("htmx:sendError", (event) => sayStale(event.detail.target, "This could not be read anew: no answer."));

// A page that is left alone must not keep its session alive.
const IDLE_MS = 10 * 60 * 1000;
let usedAt = Date.now();
for (const kind of ["pointermove", "keydown", "scroll", "visibilitychange"]) document.addEventListener(kind, () => { usedAt = Date.now(); }, { passive: true });
document.addEventListener("htmx:beforeRequest", (event) => {
  if (event.detail.elt.id !== "live" || (!document.hidden && Date.now() - usedAt < IDLE_MS)) return;
  event.preventDefault();
  sayStale(event.detail.target, "This is read anew once you use the page again.");
});

let width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === width) return; // a phone's address bar changes the height alone
  width = innerWidth;
  for (const [figure, chart] of charts) chart.setSize({ width: figure.querySelector(".chart").clientWidth, height: 184 });
});

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.matches("[data-theme-switch]")) {
    const root = document.documentElement;
    const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = isDark ? "light" : "dark";
    try { localStorage.setItem("theme", root.dataset.theme); } catch { /* as in theme.js */ }
    drawCharts(document);
  } else if (button.matches(".menu")) {
    const isOpen = button.closest(".side").classList.toggle("is-open");
    button.setAttribute("aria-expanded", String(isOpen));
  } else if (button.matches("[data-copy]")) {
    await navigator.clipboard.writeText(document.querySelector(button.dataset.copy).textContent);
    button.textContent = "Copied";
  } else if (button.matches("[data-insert]")) {
    const editor = document.querySelector("textarea.editor");
    const text = document.querySelector(button.dataset.insert).textContent;
    editor.focus();
    editor.setSelectionRange(editor.value.length, editor.value.length);
    editor.setRangeText((editor.value.endsWith("\n") || !editor.value ? "" : "\n") + text, editor.value.length, editor.value.length, "end");
    editor.dispatchEvent(new Event("input", { bubbles: true }));
  }
});

// "/" goes to the page's first filter, "g" and a letter to a page: each link names its letter.
let isGoing = false;
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
  if (isGoing) {
    isGoing = false;
    const link = document.querySelector(`.side a[data-letter="${CSS.escape(event.key)}"]`);
    if (link) { event.preventDefault(); link.click(); }
  } else if (event.key === "g") {
    isGoing = true;
  } else if (event.key === "/") {
    const field = document.querySelector("main form.row input:not([type=hidden]), main form.row select");
    if (field) { event.preventDefault(); field.focus(); }
  }
});

// A form that was changed and not sent asks before it is left.
let isChanged = false;
document.addEventListener("input", (event) => { if (event.target.closest("form[data-keep]")) isChanged = true; });
document.addEventListener("submit", () => { isChanged = false; });
addEventListener("beforeunload", (event) => { if (isChanged) event.preventDefault(); });

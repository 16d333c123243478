"use strict";
// What the page does beyond Plotly: axes from the controls, curves of a chosen row, sorting, and looking for a newer page.
const $ = (id) => document.getElementById(id);
const escaped = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;");
const title = (name) => escaped(name.replaceAll("_", " "));
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "x", "star"];
const COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
let data = JSON.parse($("data").textContent), chosen = {};

const layout = (x, y, logx, logy, values = [], lines = []) => {
  const color = getComputedStyle(document.body).color, grid = "rgba(128,128,128,0.25)";
  const ticks = [...new Set(values)].filter((value, i, all) => logx && all.length < 13), few = ticks.length ? { tickvals: ticks, ticktext: ticks.map(String) } : {};
  const axis = (text, log) => ({ title: { text, standoff: 12 }, type: log ? "log" : "-", gridcolor: grid, zeroline: false });
  return { xaxis: { ...axis(x, logx), ...few }, yaxis: axis(y, logy), font: { color }, uirevision: [x, y, logx, logy].join(),
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest",
    shapes: lines.map(([text, value]) => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: value, y1: value, line: { color, width: 1, dash: "dash" },
      label: { text: escaped(text), textposition: "end", yanchor: "bottom", font: { size: 11 } } })), hoverlabel: { align: "left" }, legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom" }, colorway: COLORS };
};
const draw = (id, traces, form) => {
  $(id).parentElement.hidden = !traces.length;
  const entries = traces.filter((trace) => trace.showlegend !== false).length, room = entries > 1 ? Math.min(12, Math.ceil(entries / (innerWidth < 700 ? 1 : 3))) : 0;
  $(id).style.height = `${340 + 21 * room}px`;
  if (traces.length) Plotly.react(id, traces, { ...form, showlegend: room > 0, margin: { t: 12, r: 12, l: 64, b: 64 + 21 * room } }, { responsive: true, displayModeBar: false });
};

const drawFigure = (name) => {
  const tables = data.sections[name].tables, i = +($(`${name}-table`)?.value ?? -1), table = tables[i];
  for (const axes of $(name).querySelectorAll("[data-of]")) axes.hidden = +axes.dataset.of !== i;
  if (!table?.columns) return draw(`${name}-plot`, [], {});
  const x = $(`${name}-x${i}`).value, y = $(`${name}-y${i}`).value, spread = table.deviations[y], figure = table.plot;
  const declared = y === figure.y, scale = declared && figure.percent ? 100 : 1;
  const others = ["weights", "connectivity", "seeds", "diverged", "censored"].filter((column) => column in table.columns && column !== x);
  const series = new Map();
  table.curves.forEach((curve, row) => series.set(curve, [...(series.get(curve) ?? []), row]));
  const traces = [...series].map(([curve, rows], k) => {
    rows.sort((a, b) => table.columns[x][a] - table.columns[x][b] || 0);
    const of = (column) => rows.map((row) => table.columns[column]?.[row]), scaled = (column) => of(column).map((value) => value && value * scale);
    const hover = rows.map((row) => [`<b>${escaped(curve)}</b>`, `${title(x)} ${table.columns[x][row]}`,
      `${title(y)} ${table.columns[y][row]}${spread ? ` ± ${table.columns[spread][row]}` : ""}`,
      ...others.map((column) => `${title(column)} ${table.columns[column][row]}`)].join("<br>"));
    const marked = rows.map((row) => (table.columns.diverged?.[row] || table.columns.censored?.[row] ? "-open" : ""));
    return { x: of(x), y: scaled(y), name: escaped(curve), customdata: rows, text: hover, hovertemplate: "%{text}<extra></extra>",
      mode: "lines+markers", line: { dash: ["solid", "dash", "dot", "dashdot"][Math.floor(k / 6) % 4], width: 1.5 }, marker: { size: 8, symbol: marked.map((open) => SYMBOLS[(k + Math.floor(k / 6)) % 6] + open) },
      visible: k < 24 || "legendonly", ...(spread && { error_y: { array: scaled(spread), thickness: 1 } }) };
  });
  const labels = [x === figure.x ? escaped(figure.xlabel) : title(x), declared ? escaped(figure.ylabel) : title(y)];
  const lines = declared ? figure.lines.map(([text, value]) => [text, value * scale]) : [];
  draw(`${name}-plot`, traces, layout(...labels, $(`${name}-logx`).checked, $(`${name}-logy`).checked, table.columns[x], lines));
  const plot = $(`${name}-plot`);
  plot.removeAllListeners("plotly_click");
  plot.on("plotly_click", ({ points: [point] }) => choose(name, i, point.customdata));
};

const choose = (name, table, row) => { chosen[name] = [table, row]; drawCurves(name); };
const drawCurves = (name) => {
  const { tables, runs } = data.sections[name], metric = $(`${name}-metric`)?.value;
  const live = tables.findIndex((table) => table.members.some((row) => row.some((run) => runs[run].state === "training")));
  const first = live < 0 ? tables.findIndex((table) => table.members.some((row) => row.length)) : live;
  if (first < 0 || !metric || !$(`${name}-epochs`)) return draw(`${name}-curves`, [], {});
  const usual = tables[first].members.findIndex((row) => row.some((run) => live < 0 || runs[run].state === "training"));
  const [table, row] = chosen[name] ?? [first, usual];
  const members = tables[table].members[row] ?? [], epochs = $(`${name}-epochs`).checked;
  const shown = members.map((run) => runs[run]), at = (run, k) => (epochs && run.epoch ? run.steps[k] / run.epoch : run.steps[k]);
  const traces = shown.flatMap((run, i) => Object.entries(run.curves).filter(([curve]) => curve.endsWith(`_${metric}`)).map(([curve, y]) => {
    const split = curve.slice(0, -metric.length - 1), state = run.state === "finished" ? "" : `, ${run.state}`;
    return { x: run.steps.map((_, k) => at(run, k)), y, name: escaped(`${run.name}${state}`), legendgroup: run.name, showlegend: split !== "train" && shown.length < 13,
      hovertemplate: `${escaped(`${split}: ${run.name}${state}`)}<br>%{x}: %{y}<extra></extra>`, mode: y.length < 40 ? "lines+markers" : "lines",
      marker: { size: 4, symbol: run.state === "diverged" ? "x" : "circle" },
      line: { color: COLORS[i % COLORS.length], width: split === "train" ? 1 : 2, dash: split === "train" ? "dot" : "solid" } };
  }));
  const counts = shown.map((run) => [run.steps.length, run.of]).find(([kept, of]) => kept < of);
  const lost = shown.filter((run) => run.state === "diverged").length;
  $(`${name}-chosen`).textContent = `Curves of ${shown.map((run) => run.name).slice(0, 3).join("; ")}${shown.length > 3 ? ` and ${shown.length - 3} more` : ""}`
    + `${lost ? `; ${lost} diverged: they end where their loss was lost` : ""}${counts ? `; ${counts[0]} of ${counts[1]} evaluations are drawn` : ""}. Dotted: on training data.`;
  draw(`${name}-curves`, traces, layout(epochs ? "epoch" : "step", title(metric), false, $(`${name}-logc`).checked));
};

const current = () => $(location.hash.slice(1))?.closest("section") ?? document.querySelector("section.shown") ?? document.querySelector("section");
const show = (all) => {
  for (const section of all === true ? document.querySelectorAll("section") : [current()]) {
    if (!section) continue;
    section.classList.toggle("shown", true);
    drawFigure(section.id);
    drawCurves(section.id);
  }
  if (all !== true) for (const other of document.querySelectorAll("section")) other.classList.toggle("shown", other === current());
  for (const link of document.querySelectorAll("nav a")) link.toggleAttribute("aria-current", link.hash === `#${current()?.id}`);
};
const sort = (button) => {
  const head = button.parentElement, place = [...head.parentElement.children].indexOf(head), table = head.closest("table");
  const up = head.ariaSort !== "ascending", key = (line) => line.children[place].textContent.replaceAll(",", "");
  for (const other of head.parentElement.children) if (other.ariaSort) other.ariaSort = "none";
  head.ariaSort = up ? "ascending" : "descending";
  table.tBodies[0].append(...[...table.tBodies[0].rows].sort((a, b) => (up ? 1 : -1)
    * (key(a) - key(b) || key(a).localeCompare(key(b), undefined, { numeric: true }))));
};
document.addEventListener("click", ({ target }) => {
  const section = target.closest?.("section");
  if (target.dataset?.row) choose(section.id, +target.closest("table").id.match(/\d+$/)[0], +target.dataset.row);
  else if (target.matches?.("th button")) sort(target);
});
document.addEventListener("change", ({ target }) => { const id = target.closest("section")?.id; if (id) { drawFigure(id); drawCurves(id); } });

// A newer page takes the place of the parts that differ; what was chosen, sorted and opened stays.
const parts = (of) => [...of.querySelectorAll(".live")], made = new Map(parts(document).map((part) => [part.id, part.innerHTML]));
const renew = (fresh) => {
  const newer = parts(new DOMParser().parseFromString(fresh.html, "text/html"));
  if (newer.map(({ id }) => id).join() !== [...made.keys()].join()) return location.reload();
  for (const part of newer) {
    const old = $(part.id), was = new Map([...old.querySelectorAll("[id]")].map((item) => [item.id, item]));
    if (made.get(part.id) === part.innerHTML) continue;
    made.set(part.id, part.innerHTML);
    old.replaceChildren(...part.childNodes);
    for (const item of old.querySelectorAll("[id]")) {
      const before = was.get(item.id);
      if (!before) continue;
      if (item.matches("details")) item.open = before.open;
      if (item.matches("input")) item.checked = before.checked;
      if (item.matches("select") && [...item.options].some(({ value }) => value === before.value)) item.value = before.value;
      const head = before.querySelector("th[aria-sort$=ending]"), place = head && [...head.parentElement.children].indexOf(head);
      const button = head && item.matches("table") && item.tHead.rows[0].children[place]?.querySelector("button");
      if (button) for (let i = head.ariaSort === "ascending" ? 1 : 2; i > 0; i--) sort(button);
    }
  }
  data = JSON.parse(fresh.data);
  document.documentElement.dataset.made = fresh.made;
  show();
};
if (document.body.dataset.watch && parent === window) {
  addEventListener("message", ({ source, data: fresh }) => source === $("fresh")?.contentWindow && renew(fresh));
  setInterval(() => {
    if (document.hidden) return;
    $("fresh")?.remove();
    const src = `${location.href.split(/[?#]/)[0]}?${document.documentElement.dataset.made}&${Date.now()}`;
    document.body.append(Object.assign(document.createElement("iframe"), { id: "fresh", hidden: true, title: "newer page", src }));
  }, 1000 * document.body.dataset.watch);
}
addEventListener("hashchange", () => { show(); current()?.querySelector("h2").scrollIntoView(); });
addEventListener("beforeprint", () => show(true));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
show();

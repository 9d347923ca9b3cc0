"use strict";
// Draws the page from the records alone. Everything a model wrote goes into the page as text, never as markup.

const PALETTE = ["#1f77b4", "#d9730d", "#2a9d5c", "#b5477d", "#7a5bd0", "#8c6d1f", "#0f8b8d", "#c0272d"];
const ROW = 28; // height of a row of the explorer, in pixels
const FATES = {
  fixed: ["+", "fixed"], broken: ["−", "broken"], right: ["·", "right both times"], wrong: ["×", "wrong both times"],
};

const percent = (x, digits = 1) => (x === null || x === undefined ? "–" : (100 * x).toFixed(digits) + "%");
const count = (x) => (x === null || x === undefined ? "–" : x.toLocaleString("en"));

/** An element with attributes and children; strings become text. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const section = (name) => document.getElementById(name);
const table = (head, rows) =>
  make("div", { class: "scroll" }, make("table", {},
    make("thead", {}, make("tr", {}, ...head.map((text) => make("th", { scope: "col" }, text)))),
    make("tbody", {}, ...rows.map((cells) => make("tr", {}, ...cells.map((cell) => make("td", {}, cell)))))));

// -- Verdict ----------------------------------------------------------------------------------------------------

function drawVerdict(runs, comparisons) {
  const parts = [make("h2", {}, "Verdict")];
  if (runs.length > 1) {
    parts.push(table(
      ["run", "before", "after", "95 % interval", "strict", "fixed / broken", "p", "training"],
      runs.map(({ name, summary: s }) => s
        ? [name, percent(s.before.accuracy), percent(s.after.accuracy), interval(s.after), percent(s.after.strict_accuracy),
          `${s.paired.fixed} / ${s.paired.broken}`, s.paired.p_value.toExponential(0), `${s.train_seconds.toFixed(0)} s`]
        : [name, "not finished", "", "", "", "", "", ""])));
    if (comparisons.length) {
      parts.push(make("h3", {}, "The final adapters on the same problems"), table(
        ["first", "second", "only the second is right", "only the first is right", "McNemar p"],
        comparisons.map((c) => [c.first, c.second, String(c.fixed), String(c.broken), c.p_value.toPrecision(2)])));
    }
  } else {
    parts.push(...verdictOf(runs[0]));
  }
  section("verdict").replaceChildren(...parts);
}

const interval = (block) => `${percent(block.ci95[0])}–${percent(block.ci95[1])}`;

function verdictOf({ summary, gain, dev }) {
  if (!summary) {
    const last = dev[dev.length - 1];
    return [make("p", { class: "big" }, last ? `dev ${percent(last.accuracy)}` : "no evaluation yet"),
      make("p", { class: "note" }, "This run has not finished: test is read once more at its end.")];
  }
  const { before, after, paired } = summary;
  const tile = (value, label) => make("div", { class: "tile" }, make("b", {}, value), make("span", {}, label));
  const gained = paired.p_value < 0.05 && paired.fixed > paired.broken;
  return [
    make("p", { class: "big" }, `${percent(before.accuracy)} → ${percent(after.accuracy)}`),
    make("p", { class: "note" },
      `Greedy accuracy on ${count(after.n)} test problems, 95 % interval ${interval(after)} (before ${interval(before)}). ` +
      (gained ? "The gain is not chance: " : "A gain is not shown: ") +
      `McNemar's exact test on the same problems gives p = ${paired.p_value.toExponential(1)}.`),
    make("div", { class: "tiles" },
      tile(count(paired.fixed), "problems fixed"), tile(count(paired.broken), "problems broken"),
      tile(percent(after.strict_accuracy), `strict, after #### (before ${percent(before.strict_accuracy)})`),
      tile(`${summary.train_seconds.toFixed(0)} s`, `training, ${summary.steps} steps`),
      tile(count(summary.completions), `completions, ${count(summary.completion_tokens)} tokens`),
      tile(String(summary.best_step), "step of the kept adapter, best on dev")),
    gain ? make("p", {},
      `The strict gain of ${(100 * gain.strict).toFixed(1)} points is ${(100 * gain.arithmetic).toFixed(1)} points of ` +
      `better answers and ${(100 * gain.format).toFixed(1)} points of right answers that also stand after ####.`) : null,
  ].filter(Boolean);
}

// -- Curves -----------------------------------------------------------------------------------------------------

const metric = (name, label) => (run) => line(run.curves.step, run.curves[name], label);
const line = (x, y, name, extra = {}) =>
  y && y.some((value) => value !== null && value !== undefined) ? [{ x, y, name, mode: "lines", connectgaps: true, ...extra }] : [];
const stacked = (x, y, name) => line(x, y, name, { stackgroup: "one", line: { width: 0.5 } });

const CHARTS = [
  ["Greedy accuracy on dev", "%", (run) => {
    const steps = run.dev.map((point) => point.step), of = (name) => run.dev.map((point) => point[name]);
    const edge = { line: { width: 0 }, showlegend: false, hoverinfo: "skip" };
    return run.dev.length === 0 ? [] : [
      ...line(steps, of("low"), "95 %", edge),
      ...line(steps, of("high"), "95 % interval", { ...edge, fill: "tonexty", fillcolor: "rgba(31,119,180,0.18)" }),
      ...line(steps, of("accuracy"), "lenient", { mode: "lines+markers", line: { color: PALETTE[0] } }),
      ...line(steps, of("strict"), "strict", { mode: "lines+markers", line: { color: PALETTE[1], dash: "dot" } }),
    ];
  }],
  ["Reward", "", (run) => [
    ...Object.keys(run.curves).filter((name) => /^rewards\/.*\/mean$/.test(name))
      .flatMap((name) => metric(name, name.split("/")[1].replace("_reward", ""))(run)),
    ...metric("reward", "together")(run)]],
  ["Tokens a completion", "", (run) => [
    ...metric("completions/mean_length", "mean")(run), ...metric("completions/max_length", "longest")(run)]],
  ["Groups without a gradient", "%", (run) => {
    const steps = run.dead.map((row) => row.step);
    return ["all wrong", "all right"].flatMap((name) => stacked(steps, run.dead.map((row) => row[name]), name));
  }],
  ["Entropy", "", metric("entropy", "nats a token")],
  ["KL to the base", "", metric("kl", "nats a token")],
  ["Clipping", "%", (run) => [
    ...metric("clip_ratio/region_mean", "of the ratio")(run), ...metric("completions/clipped_ratio", "by the length limit")(run)]],
  ["Seconds a step", "", (run) => ["rollout", "reward", "update", "evaluation"]
    .flatMap((name) => stacked(run.curves.step, run.curves[`time/${name}`], name))],
];

function drawCharts(runs) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const holder = section("curves").querySelector(".charts");
  for (const [index, [title, unit, tracesOf]] of CHARTS.entries()) {
    const traces = runs.flatMap((run, number) => tracesOf(run).map((trace, place) => {
      if (runs.length === 1) return { ...trace, ...(trace.showlegend === false ? {} : coloured(trace, place)) };
      const { fill, fillcolor, stackgroup, ...plain } = trace; // areas of several runs would cover each other
      return trace.showlegend === false ? null
        : { ...plain, name: `${run.name}: ${trace.name}`, line: { ...trace.line, width: 2, color: PALETTE[number % PALETTE.length] } };
    })).filter(Boolean);
    let chart = holder.children[index];
    if (!chart) holder.append((chart = make("div", { class: "chart", role: "img", "aria-label": title })));
    chart.hidden = traces.length === 0;
    if (chart.hidden) continue;
    const axis = { gridcolor: colour("--line"), zerolinecolor: colour("--line"), automargin: true };
    Plotly.react(chart, traces, {
      title: { text: title, font: { size: 14 }, x: 0.02 }, margin: { l: 48, r: 14, t: 40, b: 44 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: colour("--text"), size: 12 },
      xaxis: { ...axis, title: { text: "step", standoff: 6 } },
      yaxis: { ...axis, rangemode: "tozero", ...(unit === "%" ? { tickformat: ".0%" } : {}) },
      hovermode: "x unified", hoverlabel: { bgcolor: colour("--card"), font: { color: colour("--text") } },
      legend: { orientation: "h", y: 1.02, x: 1, xanchor: "right", yanchor: "bottom" }, showlegend: traces.length > 1,
    }, { responsive: true, displaylogo: false, displayModeBar: false });
  }
}

const coloured = (trace, place) => ({ line: { color: PALETTE[place % PALETTE.length], ...trace.line } });

// -- Test problems ----------------------------------------------------------------------------------------------

const fate = ({ before, after }) =>
  after.correct ? (before.correct ? "right" : "fixed") : before.correct ? "broken" : "wrong";

function drawProblems(run) {
  const tests = run.test.filter((cell) => cell.after);
  if (!tests.length) return section("problems").replaceChildren();
  const counts = Object.fromEntries(Object.keys(FATES).map((name) => [name, tests.filter((cell) => fate(cell) === name).length]));
  const detail = make("div", { class: "card", "aria-live": "polite" }, "Choose a problem to read both answers.");
  const cells = make("div", { class: "cells" }, ...tests.map((cell, index) => make("button", {
    class: `cell ${fate(cell)}`, type: "button", "aria-pressed": "false", title: cell.question,
    "aria-label": `problem ${index + 1}, ${FATES[fate(cell)][1]}`,
    onclick: ({ currentTarget }) => {
      for (const pressed of cells.querySelectorAll('[aria-pressed="true"]')) pressed.setAttribute("aria-pressed", "false");
      currentTarget.setAttribute("aria-pressed", "true");
      detail.replaceChildren(...sideBySide(cell));
    },
  }, FATES[fate(cell)][0])));
  section("problems").replaceChildren(
    make("h2", {}, "Test problems"),
    make("p", { class: "note" }, `${tests.length} problems, a cell each, answered greedily before and after training.`),
    make("div", { class: "legend" }, ...Object.entries(FATES).map(([name, [sign, meaning]]) =>
      make("span", {}, make("span", { class: `cell ${name}`, "aria-hidden": "true" }, sign), `${meaning}: ${counts[name]}`))),
    cells, detail);
}

function sideBySide({ question, gold, before, after }) {
  let shared = 0;
  while (shared < before.completion.length && before.completion[shared] === after.completion[shared]) shared += 1;
  const side = (name, record) => make("div", {}, make("b", {}, name),
    ` – ${record.correct ? "right" : "wrong"}: ${record.answer ?? "no answer"} (${record.how}, ${record.tokens} tokens)`,
    written(record.completion, shared, record.slip),
    record.failure ? make("p", { class: "note" }, record.failure + (record.slip ? `: ${record.slip}` : "")) : null);
  return [make("p", {}, question), make("p", {}, make("b", {}, `gold answer: ${gold}`)),
    make("div", { class: "sides" }, side("before", before), side("after", after))];
}

/** A completion as text: the word at its first difference marked, an equation that does not hold underlined. */
function written(text, difference, slip) {
  const at = slip ? text.indexOf(slip) : -1;
  const end = difference < text.length ? difference + Math.max(1, text.slice(difference).search(/\s|$/)) : difference;
  const edges = [...new Set([0, difference, end, ...(at < 0 ? [] : [at, at + slip.length]), text.length])].sort((a, b) => a - b);
  return make("pre", {}, ...edges.slice(1).map((stop, i) => {
    const start = edges[i], part = text.slice(start, stop);
    const wrong = at >= 0 && start >= at && stop <= at + slip.length;
    const inner = wrong ? make("span", { class: "slip" }, part) : part;
    return start >= difference && stop <= end ? make("mark", {}, inner) : inner;
  }));
}

// -- Failures and waste -----------------------------------------------------------------------------------------

function drawFailures(run) {
  const total = run.test.length;
  const bar = (value, good) => make("div", { class: good ? "bar good" : "bar" }, make("i", { style: `width:${100 * value}%` }));
  section("failures").replaceChildren(...(total ? [
    make("h2", {}, "What went wrong"),
    make("p", { class: "note" }, "Wrong greedy answers on test, by the first thing that explains them."),
    table(["failure", "before", "", "after", ""], run.failures.map(({ name, meaning, before, after }) =>
      [make("div", {}, name, make("div", { class: "note" }, meaning)),
        String(before), bar(before / total), String(after), bar(after / total)])),
  ] : []));
  const wasted = run.waste.reduce((sum, part) => sum + part.share, 0);
  section("waste").replaceChildren(...(run.rollouts.step.length ? [
    make("h2", {}, "What was wasted"),
    make("p", { class: "note" }, `${percent(wasted, 0)} of all sampled tokens changed nothing; what would have saved them:`),
    table(["part", "share", ""], run.waste.map(({ name, share, advice }) =>
      [make("div", {}, name, make("div", { class: "note" }, advice)), percent(share), bar(share)])),
  ] : []));
}

// -- Rollouts ---------------------------------------------------------------------------------------------------

const COLUMNS = [["step", ""], ["reward", ""], ["advantage", "wide"], ["tokens", ""], ["how", "wide"], ["answer", "wide"],
  ["gold", "wide"], ["completion", ""]];

class Explorer {
  constructor(run) {
    this.sorted = { column: "index", down: false };
    this.read(run);
    this.build();
    this.filter();
  }

  /** Take over the rollouts of a run that has gone on; filters, order and place stay. */
  update(run) {
    const { scrollTop } = this.view, { selected } = this;
    this.read(run);
    const known = new Set([...this.how.options].map((option) => option.value));
    for (const how of this.hows()) if (!known.has(how)) this.how.append(make("option", { value: how }, how));
    this.filter();
    this.view.scrollTop = scrollTop;
    this.selected = selected;
    this.draw();
  }

  hows() {
    return [...new Set(this.rows.map((row) => row.how))].sort();
  }

  read(run) {
    const r = run.rollouts;
    this.rewards = r.rewards;
    const names = Object.keys(r.rewards);
    this.rows = r.step.map((step, i) => {
      const problem = r.problems[r.problem[i]];
      return {
        step, reward: names.reduce((sum, name) => sum + r.rewards[name][i], 0), advantage: r.advantage[i], tokens: r.tokens[i],
        how: r.how[i], answer: r.answer[i], gold: problem.gold, completion: r.completion[i], question: problem.question,
        id: problem.id, finished: r.finished[i], index: i, text: (problem.id + "\n" + problem.question + "\n" + r.completion[i]).toLowerCase(),
      };
    });
    this.most = this.rows.reduce((most, row) => Math.max(most, row.reward), 0);
  }

  build() {
    const changed = () => this.filter();
    const field = (label, control) => make("label", {}, label, control);
    const choice = (id, options) => make("select", { id, onchange: changed }, ...options.map(([value, text]) => make("option", { value }, text)));
    this.how = choice("how", [["", "any"], ...this.hows().map((how) => [how, how])]);
    this.found = make("span", { id: "found", role: "status" });
    this.view = make("div", { class: "window", tabindex: "0", role: "listbox", "aria-label": "rollouts",
      onscroll: () => this.draw(), onkeydown: (event) => this.key(event) });
    this.detail = make("div", { class: "card", "aria-live": "polite" }, "Choose a rollout to read it.");
    this.head = make("div", { class: "row head" }, ...COLUMNS.map(([name, kind]) =>
      make("span", { class: kind }, make("button", { type: "button", "data-column": name, onclick: () => this.sort(name) }, name))));
    section("rollouts").replaceChildren(
      make("h2", {}, "Rollouts"),
      make("p", { class: "note" }, "Every completion of the run. Click a column to sort; arrow keys walk the list."),
      make("div", { class: "filters" },
        field("text, question or problem", make("input", { id: "search", type: "search", oninput: changed })),
        field("step from", make("input", { id: "from", type: "number", min: "0", oninput: changed })),
        field("to", make("input", { id: "to", type: "number", min: "0", oninput: changed })),
        field("reward", choice("paid", [["", "any"], ["full", "full"], ["part", "part"], ["none", "none"]])),
        field("answer found by", this.how),
        field("end", choice("end", [["", "any"], ["true", "finished"], ["false", "cut off"]])),
        field("showing", this.found)),
      make("div", { class: "list" }, this.head, this.view), this.detail);
  }

  filter() {
    const value = (id) => document.getElementById(id).value;
    const words = value("search").toLowerCase(), paid = value("paid"), how = value("how"), end = value("end");
    const from = value("from") === "" ? -Infinity : Number(value("from")), to = value("to") === "" ? Infinity : Number(value("to"));
    const payment = (row) => (row.reward >= this.most && row.reward > 0 ? "full" : row.reward > 0 ? "part" : "none");
    this.shown = this.rows.filter((row) => row.step >= from && row.step <= to && (!how || row.how === how)
      && (!paid || payment(row) === paid) && (!end || String(row.finished) === end) && (!words || row.text.includes(words)));
    this.found.textContent = `${count(this.shown.length)} of ${count(this.rows.length)}`;
    this.order();
  }

  sort(column) {
    this.sorted = { column, down: this.sorted.column === column && !this.sorted.down };
    for (const button of this.head.querySelectorAll("button"))
      button.textContent = button.dataset.column + (button.dataset.column === column ? (this.sorted.down ? " ↓" : " ↑") : "");
    this.order();
  }

  order() {
    const { column, down } = this.sorted;
    const key = (row) => (["answer", "gold"].includes(column) ? numeric(row[column]) : row[column]);
    const keyed = this.shown.map((row) => [key(row), row]);
    keyed.sort(([a, x], [b, y]) => (a < b ? -1 : a > b ? 1 : 0) * (down ? -1 : 1) || x.index - y.index);
    this.shown = keyed.map(([, row]) => row);
    this.selected = null;
    this.view.scrollTop = 0;
    this.draw();
  }

  draw() {
    const first = Math.max(0, Math.floor(this.view.scrollTop / ROW) - 5);
    const last = Math.min(this.shown.length, first + Math.ceil(this.view.clientHeight / ROW) + 10);
    const spacer = make("div", { style: `height:${this.shown.length * ROW}px` });
    this.view.replaceChildren(spacer, ...this.shown.slice(first, last).map((row, i) => make("div", {
      class: "row", role: "option", "aria-selected": String(this.selected === first + i), style: `top:${(first + i) * ROW}px`,
      onclick: () => this.select(first + i),
    }, ...COLUMNS.map(([name, kind]) => make("span", { class: kind }, cellText(name, row))))));
  }

  select(place) {
    this.selected = Math.min(Math.max(place, 0), this.shown.length - 1);
    const top = this.selected * ROW, view = this.view;
    if (top < view.scrollTop) view.scrollTop = top;
    else if (top + ROW > view.scrollTop + view.clientHeight) view.scrollTop = top + ROW - view.clientHeight;
    this.draw();
    const row = this.shown[this.selected];
    if (!row) return;
    const parts = Object.entries(this.rewards).map(([name, values]) => `${name} ${values[row.index]}`);
    this.detail.replaceChildren(
      make("p", {}, row.question),
      make("p", { class: "note" }, `step ${row.step}, ${row.id}; ${parts.join(", ")}; advantage ${row.advantage}; ${row.tokens} tokens, ` +
        `${row.finished ? "finished" : "cut off by the length limit"}; answer ${row.answer ?? "none"} (${row.how}), gold ${row.gold}`),
      make("pre", {}, row.completion));
  }

  key(event) {
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 14, PageUp: -14, Home: -Infinity, End: Infinity }[event.key];
    if (step === undefined || !this.shown.length) return;
    event.preventDefault();
    this.select(Math.min(Math.max((this.selected ?? -1) + step, 0), this.shown.length - 1));
  }
}

const numeric = (text) => (text === null ? -Infinity : Number.isNaN(Number(text)) ? Infinity : Number(text));
const cellText = (name, row) => {
  const value = row[name];
  if (value === null || value === undefined) return "–";
  return name === "advantage" ? value.toFixed(2) : name === "completion" ? value.replaceAll("\n", " ⏎ ") : String(value);
};

// -- Setup ------------------------------------------------------------------------------------------------------

function drawSetup(runs) {
  section("setup").replaceChildren(make("h2", {}, "How it was made"), ...runs.map((run, index) => {
    const environment = run.environment ?? {}, versions = environment.versions ?? {};
    return make("details", index === 0 ? { open: "" } : {}, make("summary", {}, run.name),
      make("pre", {}, (environment.command ?? []).join(" ")),
      table(["what", "value"], [
        ["seed", String(environment.seed ?? "–")], ["Python", environment.python ?? "–"], ["platform", environment.platform ?? "–"],
        ["processors", String(environment.cpu_count ?? "–")], ["GPU", environment.gpu ?? "none"],
        ...Object.entries(versions), ...Object.entries(run.hashes).map(([name, hash]) => [`SHA-256 of ${name}`, hash])]),
      make("h3", {}, "Configuration"), make("pre", {}, run.config));
  }));
}

// -- The page ---------------------------------------------------------------------------------------------------

let data = JSON.parse(document.getElementById("data").textContent);
let explorer = null;

function draw() {
  const { runs, comparisons, state } = data;
  section("state").textContent = state;
  drawVerdict(runs, comparisons);
  drawCharts(runs);
  if (runs.length === 1) {
    const [run] = runs;
    drawProblems(run);
    drawFailures(run);
    if (explorer) explorer.update(run);
    else if (run.rollouts.step.length) explorer = new Explorer(run);
  } else {
    for (const name of ["problems", "failures", "rollouts", "waste"]) {
      section(name).replaceChildren();
      document.querySelector(`nav a[href="#${name}"]`)?.remove();
    }
  }
  drawSetup(runs);
}

/** Of a page that is served while a run goes on: draw anew whenever the records have changed. */
async function follow() {
  try {
    const answer = await fetch("data.json", { cache: "no-cache", headers: { "If-None-Match": data.version } });
    if (answer.status === 200) {
      data = await answer.json();
      draw();
    }
  } catch {
    section("state").textContent = "the server that made this page is gone; what it last said stands here";
    return;
  }
  if (data.live) setTimeout(follow, 2000);
}

draw();
if (data.live) setTimeout(follow, 2000);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawCharts(data.runs));

// Learning curves, drawn with plotly.

/** A text for plotly, which takes some tags for markup. */
const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
const metric = (name, label) => (run) => line(run.curves.step, run.curves[name], label);
const line = (x, y, name, extra = {}) =>
  y && y.some((value) => value !== null && value !== undefined)
    ? [{ x, y, name, mode: "lines", connectgaps: true, ...extra }]
    : [];
const isFlat = (traces) => traces.every(({ y }) => y.every((value) => !value));

/** A fifth of a curve of so many points, but three if it has six. */
const fifth = (points) => Math.max(1, Math.floor(points / 5), Math.min(3, Math.floor(points / 2)));

/** The means of the first and the last fifth of a curve; null where there is none. */
function ends(values) {
  const known = (values ?? []).filter((value) => value !== null && value !== undefined);
  if (known.length < 2) return null;
  const size = fifth(known.length);
  const mean = (part) => part.reduce((sum, value) => sum + value, 0) / part.length;
  return [mean(known.slice(0, size)), mean(known.slice(-size))];
}

/** What became of a curve: `up` or `down` if it moved by a tenth of its height, else `level`; `shown` writes a value. */
function course(values, shown, up, down, level = "hardly any change") {
  const [first, last] = ends(values) ?? [];
  if (first === undefined) return "";
  const change = last - first,
    least = 0.1 * Math.max(Math.abs(first), Math.abs(last));
  const words = change > least ? up : change < -least ? down : level;
  return ` Here: ${shown(first)} → ${shown(last)}, ${words}.`;
}

const fixed = (digits) => (value) => value.toFixed(digits);

/** One sentence on what each chart shows, and one on this run. */
const SAYS = {
  "Greedy accuracy on dev": ({ dev }) => {
    const [first, last] = [dev[0], dev[dev.length - 1]];
    const change =
      last.low > first.high ? "a clear rise" : last.high < first.low ? "a clear fall" : "which may be chance (the intervals overlap)";
    return (
      "Problems that are not trained on: this is what should rise." +
      (dev.length > 1 ? ` Here: ${percent(first.accuracy, 0)} → ${percent(last.accuracy, 0)}, ${change}.` : "")
    );
  },
  Reward: (run) => {
    const right = ends(run.curves[run.paid.right]),
      form = ends(run.curves[run.paid.marked]);
    const isHollow = right && form && right[1] < 0.8 * right[0] && right[1] < right[0] - 0.02 && form[1] > 1.1 * form[0];
    return (
      "What a completion earns. Its parts should rise together." +
      (isHollow
        ? " Here the format is paid more while fewer answers are right: the format alone was learned."
        : course(run.curves.reward, fixed(2), "it rose", "it fell"))
    );
  },
  "Tokens per completion": (run) =>
    "Growing is usual where a model learns to work; a fall to a few tokens means that it stopped working." +
    course(run.curves["completions/mean_length"], fixed(0), "longer", "shorter", "about as long"),
  "Groups without a gradient": (run) => {
    const last = run.dead.slice(-fifth(run.dead.length));
    const sum = (name) => last.reduce((all, row) => all + (row[name] ?? 0), 0) / Math.max(1, last.length);
    const [right, wrong] = [sum("all right"), sum("all wrong")];
    const verdict =
      right + wrong < 0.3
        ? "few of them: most groups teach something"
        : right > wrong
          ? "mostly all right: these problems are learned, harder ones would teach more"
          : "mostly all wrong: easier problems or more samples would teach more";
    return `All samples right, or all wrong: nothing to compare, so nothing is learned. Here in the last ${last.length === 1 ? "step" : `${last.length} steps`} ${percent(right + wrong, 0)}, ${verdict}.`;
  },
  Sampler: () => "Problems that were not asked since they were all right or all wrong lately, and groups that were replaced.",
  Entropy: (run) =>
    "How undecided the next token is. A slow fall is usual; near 0 all samples are alike, a steep rise is babble." +
    course(run.curves.entropy, fixed(2), "less decided", "more decided"),
  "KL to the base": (run) =>
    "How far the policy has moved from the model before training." +
    course(run.curves.kl, fixed(3), "further away", "nearer"),
  Clipping: (run) => {
    const [, cut] = ends(run.curves["completions/clipped_ratio"]) ?? [0, 0];
    return (
      "Completions that the limit of length cuts off earn nothing. Below 5 % is fine." +
      ` Here in the end ${percent(cut, 0)}${cut > 0.05 ? ": raise grpo.max_completion_length" : ": good"}.`
    );
  },
  "Seconds per step": () => "Where the time goes: sampling, grading, the update, and evaluations on dev.",
};

const stacked = (x, y, name) => line(x, y, name, { stackgroup: "one", line: { width: 0.5 } });

const CHARTS = [
  [
    "Greedy accuracy on dev",
    "%",
    (run) => {
      const steps = run.dev.map((point) => point.step),
        of = (name) => run.dev.map((point) => point[name]);
      const edge = { line: { width: 0 }, showlegend: false, hoverinfo: "skip" };
      return run.dev.length === 0
        ? []
        : [
            ...line(steps, of("low"), "95 %", edge),
            ...line(steps, of("high"), "95 % interval", {
              ...edge,
              fill: "tonexty",
              fillcolor: "rgba(31,119,180,0.18)",
            }),
            ...line(steps, of("accuracy"), "lenient", { mode: "lines+markers", line: { color: PALETTE[0] } }),
            ...line(steps, of("strict"), "strict", { mode: "lines+markers", line: { color: PALETTE[1], dash: "dot" } }),
          ];
    },
  ],
  [
    "Reward",
    "",
    (run) => [
      ...Object.keys(run.curves)
        .filter((name) => /^rewards\/.*\/mean$/.test(name))
        .flatMap((name) => metric(name, name.split("/")[1].replace("_reward", ""))(run)),
      ...metric("reward", "total")(run),
    ],
  ],
  [
    "Tokens per completion",
    "",
    (run) => [...metric("completions/mean_length", "mean")(run), ...metric("completions/max_length", "longest")(run)],
  ],
  [
    "Groups without a gradient",
    "%",
    (run) => {
      const steps = run.dead.map((row) => row.step);
      return ["all wrong", "all right", "replaced"].flatMap((name) =>
        stacked(
          steps,
          run.dead.map((row) => row[name]),
          name,
        ),
      );
    },
  ],
  [
    "Sampler",
    "",
    (run) => [
      ...metric("sampler/skipped", "problems passed over")(run),
      ...metric("sampler/replaced", "dead groups replaced")(run),
    ],
  ],
  ["Entropy", "", metric("entropy", "nats per token")],
  ["KL to the base", "", metric("kl", "nats per token")],
  [
    "Clipping",
    "%",
    (run) => [
      ...metric("clip_ratio/region_mean", "policy ratio")(run),
      ...metric("completions/clipped_ratio", "completions at the length limit")(run),
    ],
  ],
  [
    "Seconds per step",
    "",
    (run) =>
      ["rollout", "reward", "update", "evaluation", "waiting"].flatMap((name) =>
        stacked(run.curves.step, run.curves[`time/${name}`], name),
      ),
  ],
];

const DASHES = ["solid", "dot", "dash", "dashdot"]; // of the curves of one of several runs

const NARROW = 480; // pixels, below which the legend has two lines

function drawCharts(runs) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const holder = section("curves").querySelector(".charts");
  const note = section("curves").querySelector(".note");
  const size = Math.max(...runs.map((run) => run.steps_per_point));
  note.textContent =
    "Hover over a curve for its values; drag to zoom, double-click to zoom out; click a name to hide it." +
    (size > 1 ? ` Each point is the mean of ${size} steps.` : "") +
    (runs.some((run) => run.rescues.length) ? " At ↶ a rescue undid the steps before it; hover for what it changed." : "");
  for (const [index, [title, unit, tracesOf]] of CHARTS.entries()) {
    const traces = runs
      .flatMap((run, number) =>
        tracesOf(run).map((trace, place, { length }) => {
          trace = { ...trace, name: escaped(trace.name) };
          if (runs.length === 1) return { ...trace, ...(trace.showlegend === false ? {} : coloured(trace, place)) };
          const { fill, fillcolor, stackgroup, ...plain } = trace; // the areas of several runs would hide each other
          return trace.showlegend === false
            ? null
            : {
                ...plain,
                name: `${escaped(run.name)}: ${trace.name}`,
                line: { ...trace.line, width: 2, color: PALETTE[number % PALETTE.length], dash: length > 1 ? DASHES[place % DASHES.length] : "solid" },
              };
        }),
      )
      .filter(Boolean);
    let figure = holder.children[index];
    if (!figure) {
      const drawn = make("div", { class: "chart", role: "img", "aria-label": title });
      holder.append((figure = make("div", { class: "figure" }, drawn, make("p", { class: "note" }))));
    }
    const [chart, says] = figure.children;
    figure.hidden = traces.length === 0 || isFlat(traces);
    if (figure.hidden) continue;
    says.textContent = runs.length === 1 ? SAYS[title](runs[0]) : "";
    const axis = { gridcolor: colour("--line"), zerolinecolor: colour("--line"), automargin: true };
    Plotly.react(
      chart,
      traces,
      {
        title: { text: title, font: { size: 14 }, x: 0.02, y: 0.98, yref: "container", yanchor: "top" },
        margin: { l: 48, r: 14, t: traces.length > 1 && chart.clientWidth < NARROW ? 66 : 40, b: 44 },
        paper_bgcolor: "rgba(0,0,0,0)",
        plot_bgcolor: "rgba(0,0,0,0)",
        font: { color: colour("--text"), size: 12 },
        xaxis: { ...axis, title: { text: "step", standoff: 6 } },
        yaxis: { ...axis, rangemode: "tozero", ...(unit === "%" ? { tickformat: ".0%" } : {}) },
        hovermode: "x unified",
        hoverlabel: { bgcolor: colour("--card"), font: { color: colour("--text") } },
        legend: { orientation: "h", y: 1.02, x: 1, xanchor: "right", yanchor: "bottom" },
        showlegend: traces.length > 1,
        ...rescueMarks(runs, colour("--back")),
      },
      { responsive: true, displaylogo: false, displayModeBar: false },
    );
  }
}

const coloured = (trace, place) => ({ line: { color: PALETTE[place % PALETTE.length], ...trace.line } });

// Learning curves, drawn with plotly.

/** A text for plotly, which takes some tags for markup. */
const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
const metric = (name, label) => (run) => line(run.curves.step, run.curves[name], label);
const line = (x, y, name, extra = {}) =>
  y && y.some((value) => value !== null && value !== undefined)
    ? [{ x, y, name, mode: "lines", connectgaps: true, ...extra }]
    : [];
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
      ["rollout", "reward", "update", "evaluation"].flatMap((name) =>
        stacked(run.curves.step, run.curves[`time/${name}`], name),
      ),
  ],
];

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
        tracesOf(run).map((trace, place) => {
          trace = { ...trace, name: escaped(trace.name) };
          if (runs.length === 1) return { ...trace, ...(trace.showlegend === false ? {} : coloured(trace, place)) };
          const { fill, fillcolor, stackgroup, ...plain } = trace; // the areas of several runs would hide each other
          return trace.showlegend === false
            ? null
            : {
                ...plain,
                name: `${escaped(run.name)}: ${trace.name}`,
                line: { ...trace.line, width: 2, color: PALETTE[number % PALETTE.length] },
              };
        }),
      )
      .filter(Boolean);
    let chart = holder.children[index];
    if (!chart) holder.append((chart = make("div", { class: "chart", role: "img", "aria-label": title })));
    chart.hidden = traces.length === 0;
    if (chart.hidden) continue;
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

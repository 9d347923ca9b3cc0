// The verdict of a run, or a table of several.

function drawVerdict(runs, comparisons, settings) {
  const parts = [make("h2", {}, "Verdict"), ...overSeeds(data.seeds)];
  if (runs.length > 1) {
    const rescued = runs.some(({ rescues }) => rescues.length);
    parts.push(
      table(
        [
          ...["run", "before", "after", "95 % interval", "strict", "fixed / broken", "p", "training"],
          ...(rescued ? ["rescued"] : []),
        ],
        runs.map((run) => [...resultOf(run), ...(rescued ? [times(run.rescues.length)] : [])]),
      ),
    );
    if (settings.length) {
      parts.push(make("h3", {}, "Settings that differ"), table(["setting", ...runs.map((run) => run.name)], settings));
    }
    if (comparisons.length) {
      parts.push(
        make("h3", {}, "Final adapters on the same problems"),
        table(
          ["first", "second", "only the second is right", "only the first is right", "McNemar p", ""],
          comparisons.map((c) => [
            c.first,
            c.second,
            String(c.fixed),
            String(c.broken),
            pValue(c.p_value),
            c.p_value >= 0.05 ? "no clear difference" : `${c.fixed > c.broken ? c.second : c.first} is better`,
          ]),
        ),
      );
    }
  } else {
    parts.push(...verdictOf(runs[0]), ...rescuesOf(runs[0]), ...eventsOf(runs[0]));
  }
  section("verdict").replaceChildren(...parts);
}

/** The one verdict over runs that differ in their seed alone; nothing of other runs. */
function overSeeds(seeds) {
  if (!seeds) return [];
  const { verdict: v, runs, failed, unfinished } = seeds;
  const without = [
    ...failed.map(({ seed, why }) => `seed ${seed}: no result, ${why}`),
    ...unfinished.map((seed) => `seed ${seed}: not finished`),
  ];
  const missing = without.length
    ? [
        make("p", {}, v ? "Without a result, and in none of these figures:" : "No seed has a result:"),
        make("ul", { class: "causes" }, ...without.map((text) => make("li", {}, text))),
      ]
    : [];
  if (!v) return missing;
  const [low, high] = v.ci95.map(points),
    after = Object.fromEntries(runs.map((run) => [run.seed, run.after]));
  const tile = (value, label) => make("div", { class: "tile" }, make("b", {}, value), make("span", {}, label));
  const several = [
    tile(`${v.gained} of ${runs.length}`, "seeds gained significantly"),
    tile(String(v.unchanged), "did not change significantly"),
    tile(String(v.lost), "lost significantly"),
    tile(`${(100 * v.sd).toFixed(1)} points`, "standard deviation over seeds"),
    tile(`${percent(after[v.worst])}–${percent(after[v.best])}`, `from the worst, seed ${v.worst}, to the best, ${v.best}`),
  ];
  return [
    make("p", { class: "big" }, `${points(v.gain)} points`),
    make(
      "p",
      { class: "note" },
      `Mean gain of ${runs.length === 1 ? "one seed" : `${runs.length} seeds`} on ${count(v.n)} test problems: greedy accuracy ` +
        `${percent(v.before)} → ${percent(v.after)}. 95 % interval ${low} to ${high} points, over ${v.interval_over}` +
        (v.caution ? `: ${v.caution}.` : "."),
    ),
    ...(runs.length > 1 ? [make("div", { class: "tiles" }, ...several)] : []),
    v.same_before
      ? ""
      : make("p", { class: "note" }, "The answers before training differ between seeds; each is compared with its own."),
    ...missing,
    make("h3", {}, "Each seed"),
  ];
}

/** The cells of a run in the table of several. */
const resultOf = ({ name, summary: s }) =>
  s
    ? [
        name,
        percent(s.before.accuracy),
        percent(s.after.accuracy),
        interval(s.after),
        percent(s.after.strict_accuracy),
        `${s.paired.fixed} / ${s.paired.broken}`,
        pValue(s.paired.p_value),
        `${s.train_seconds.toFixed(0)} s`,
      ]
    : [name, "not finished", "", "", "", "", "", ""];

/** Warnings, resumptions and retries. */
function eventsOf({ events, earlier_events }) {
  if (!events.length) return [];
  return [
    make("h3", {}, "Events"),
    earlier_events ? make("p", { class: "note" }, `The last ${events.length}; ${count(earlier_events)} more are in events.jsonl.`) : "",
    table(
      ["step", "", ""],
      events.map(({ step, name, text }) => [String(step), make("b", {}, name), text]),
    ),
  ];
}

const pValue = (p) => (p < 0.001 ? p.toExponential(0) : p.toPrecision(2).replace(/\.?0+$/, ""));

const interval = (block) => `${percent(block.ci95[0])}–${percent(block.ci95[1])}`;

const points = (share) => `${share > 0 ? "+" : ""}${(100 * share).toFixed(1)}`;

/** Where the model could do before training, in one of several samples, what it does at the first try now. */
function elicitedOf({ before, after }, gained) {
  const k = Math.max(0, ...Object.keys(before.pass_at_k ?? {}).map(Number)),
    share = before.pass_at_k?.[k];
  if (k < 2 || !gained || share < 2 * before.accuracy) return [];
  return [
    make(
      "p",
      {},
      `Before training one of ${k} samples was right for ${percent(share, 0)} of the problems, the greedy answer for ` +
        `${percent(before.accuracy, 0)}: what the model could do, it now does at the first try (${percent(after.accuracy, 0)}).`,
    ),
  ];
}

/** What kept the run from gaining, or from gaining more. */
function causesOf({ causes = [] }, gained) {
  if (!causes.length) return [];
  return [
    make("h3", {}, gained ? "What held it back" : "Why, by the records"),
    make("ul", { class: "causes" }, ...causes.map((cause) => make("li", {}, cause))),
  ];
}

/** Accuracy on kinds of problems that were not trained on. */
const unseenOf = ({ unseen }, tile) =>
  unseen?.after
    ? [
        tile(
          `${percent(unseen.before.accuracy)} → ${percent(unseen.after.accuracy)}`,
          `${count(unseen.after.n)} problems of kinds not trained on`,
        ),
      ]
    : [];

/** pass@k and maj@k for the largest k that was sampled. */
function sampledOf({ before, after }, tile) {
  const k = Math.max(0, ...Object.keys(after.pass_at_k ?? {}).map(Number));
  if (k < 2) return [];
  const of = (name) => `${percent(before[name][k])} → ${percent(after[name][k])}`;
  const on = `on ${count(after.sampled_problems)} problems`;
  return [
    tile(of("pass_at_k"), `pass@${k}: one of ${k} samples is right, ${on}`),
    tile(of("maj_at_k"), `maj@${k}: the most frequent of ${k} answers is right, ${on}`),
  ];
}

/** Further test sets, each with its paired test. */
function alsoOf({ also = {} }) {
  const sets = Object.entries(also);
  if (!sets.length) return [];
  return [
    make("h3", {}, "Further test sets"),
    table(
      ["set", "problems", "before", "after", "95 % interval", "fixed / broken", "p"],
      sets.map(([name, { before, after, paired }]) => [
        name,
        count(after.n),
        percent(before.accuracy),
        percent(after.accuracy),
        interval(after),
        `${paired.fixed} / ${paired.broken}`,
        pValue(paired.p_value),
      ]),
    ),
  ];
}

function verdictOf({ summary, gain, dev, test, paid }) {
  if (!summary) {
    const last = dev[dev.length - 1];
    return [
      make("p", { class: "big" }, last ? `dev ${percent(last.accuracy)}` : "no evaluation yet"),
      make("p", { class: "note" }, "This run has not finished. The test problems are evaluated again at its end."),
    ];
  }
  const { before, after, paired } = summary;
  const tile = (value, label) => make("div", { class: "tile" }, make("b", {}, value), make("span", {}, label));
  const isClear = paired.p_value < 0.05,
    gained = isClear && paired.fixed > paired.broken;
  return [
    make("p", { class: "big" }, `${percent(before.accuracy)} → ${percent(after.accuracy)}`),
    make(
      "p",
      { class: "note" },
      `Greedy accuracy on ${count(after.n)} test problems, 95 % interval ${interval(after)} (before ${interval(before)}). ` +
        (gained ? "The gain is significant: " : isClear ? "A significant loss: " : "No significant gain: ") +
        `McNemar's exact test on the same problems gives p = ${pValue(paired.p_value)}.`,
    ),
    ...causesOf(summary, gained),
    make(
      "div",
      { class: "tiles" },
      tile(count(paired.fixed), "problems fixed"),
      tile(count(paired.broken), "problems broken"),
      tile(percent(after.strict_accuracy), `strict, ${paid.place} (before ${percent(before.strict_accuracy)})`),
      tile(`${summary.train_seconds.toFixed(0)} s`, `training, ${summary.steps} steps`),
      tile(count(summary.completions), `completions, ${count(summary.completion_tokens)} tokens`),
      summary.best_step
        ? tile(String(summary.best_step), "step of the saved adapter, the best on dev")
        : tile("none", "of the steps was better on dev than the start: the saved adapter is the untrained one"),
      ...unseenOf(summary, tile),
      ...sampledOf(summary, tile),
    ),
    ...alsoOf(summary),
    ...elicitedOf(summary, gained),
    ...exampleOf({ test }),
    gain && (gain.strict || gain.arithmetic || gain.format)
      ? make(
          "p",
          {},
          `Strict accuracy changed by ${points(gain.strict)} points: ${points(gain.arithmetic)} since the number of right answers ` +
            `changed, ${points(gain.format)} since more or fewer of them stand ${paid.place}.`,
        )
      : null,
  ].filter(Boolean);
}

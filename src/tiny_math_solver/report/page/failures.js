// Why answers are wrong, and which tokens were wasted.

function drawFailures(run) {
  const total = run.test.length,
    isOver = run.test.some((cell) => cell.after);
  const bar = (value, kind = "") =>
    make("div", { class: `bar ${kind}` }, make("i", { style: `width:${100 * value}%` }));
  section("failures").replaceChildren(
    ...(total
      ? [
          make("h2", {}, "Failures"),
          make(
            "p",
            { class: "note" },
            "Wrong greedy answers on the test problems, each under the first failure that applies.",
          ),
          table(
            ["failure", "before", "", "after", ""],
            run.failures.map(({ name, meaning, before, after }) => [
              make("div", {}, name, make("div", { class: "note" }, meaning)),
              String(before),
              bar(before / total),
              isOver ? String(after) : "",
              isOver ? bar(after / total) : "",
            ]),
          ),
        ]
      : []),
  );
  const wasted = run.waste.reduce((sum, part) => sum + part.share, 0);
  section("waste").replaceChildren(
    ...(run.rollouts.step.length
      ? [
          make("h2", {}, "Waste"),
          make(
            "p",
            { class: "note" },
            `${percent(wasted, 0)} of all sampled tokens taught nothing. ` +
              (isSuccess(run)
                ? "That is usual where a run succeeds: what is always right has nothing left to teach. To waste less:"
                : "What to change:"),
          ),
          table(
            ["part", "share", ""],
            run.waste.map(({ name, share, advice }) => [
              make("div", {}, name, make("div", { class: "note" }, advice)),
              percent(share),
              bar(share, "neutral"),
            ]),
          ),
          ...savings(run),
        ]
      : []),
  );
}

const isSuccess = ({ summary }) =>
  summary && summary.paired.p_value < 0.05 && summary.paired.fixed > summary.paired.broken;

/** What the sampler and the choice of rows kept from the update, if they did anything. */
function savings(run) {
  if (!run.savings.length) return [];
  return [
    make("h3", {}, "What was kept from the update"),
    table(
      ["part", "", ""],
      run.savings.map(({ name, count: number, meaning }) => [name, number, make("span", { class: "note" }, meaning)]),
    ),
  ];
}

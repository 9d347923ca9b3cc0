// Rescues: the run went back to an earlier state, changed a setting and went on. The steps in between are undone.

const times = (number) => ["never", "once", "twice"][number] ?? `${number} times`;
const undoneSteps = ({ undone }) => {
  const [first, last] = [undone[0], undone[undone.length - 1]];
  return first === last ? `step ${first}` : `steps ${first}–${last}`;
};
const changesOf = ({ changed }) =>
  Object.entries(changed)
    .map(([name, value]) => `${name} = ${Array.isArray(value) ? value.join(", ") : value}`)
    .join("; ");

/** How often the run rescued itself, and what it changed each time. */
function rescuesOf({ rescues }) {
  if (!rescues.length) return [];
  return [
    make("h3", {}, `Rescued ${times(rescues.length)}`),
    table(
      ["at step", "undone", "changed"],
      rescues.map((rescue) => [
        String(rescue.step),
        make("div", {}, undoneSteps(rescue), make("div", { class: "note" }, `back to step ${rescue.back_to}`)),
        make("div", {}, changesOf(rescue), make("div", { class: "note" }, rescue.text)),
      ]),
    ),
  ];
}

/** Shapes and annotations that fade the undone steps of a chart; of several runs, a line in the run's colour. */
function rescueMarks(runs, background) {
  const marks = { shapes: [], annotations: [] };
  for (const [number, run] of runs.entries())
    for (const rescue of run.rescues) {
      const colour = runs.length === 1 ? "#c0272d" : PALETTE[number % PALETTE.length];
      const last = rescue.undone[rescue.undone.length - 1] + 0.5;
      const place = { xref: "x", yref: "paper", y0: 0, y1: 1 };
      if (runs.length === 1) {
        const area = { ...place, type: "rect", x0: rescue.undone[0] - 0.5, x1: last, line: { width: 0 } };
        marks.shapes.push({ ...area, fillcolor: background, opacity: 0.6, layer: "above" });
        marks.shapes.push({ ...area, fillcolor: colour, opacity: 0.1, layer: "below" });
      }
      marks.shapes.push({ ...place, type: "line", x0: last, x1: last, line: { color: colour, width: 1, dash: "dot" } });
      marks.annotations.push({
        x: last,
        y: 1,
        xref: "x",
        yref: "paper",
        yanchor: "top",
        text: "↶",
        font: { color: colour, size: 16 },
        showarrow: false,
        hovertext: [
          `${runs.length > 1 ? `${run.name}: ` : ""}rescue at step ${rescue.step}`,
          `${undoneSteps(rescue)} undone, back to step ${rescue.back_to}`,
          changesOf(rescue),
        ]
          .map(escaped)
          .join("<br>"),
      });
    }
  return marks;
}

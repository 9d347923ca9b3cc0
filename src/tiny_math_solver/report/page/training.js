// The problems of training: how often each was solved, and how that went.

const BARS = "▁▂▃▄▅▆▇█";
const PROBLEM_COLUMNS = [
  ["samples", "", (row) => count(row.samples)],
  ["right", "", (row) => percent(row.rate, 0), (row) => row.rate],
  ["change", "wide", (row) => (row.change === null ? "–" : signed(row.change)), (row) => row.change ?? -2],
  ["how it went", "course", (row) => row.points.map(bar).join(""), (row) => rateOf(row.points[row.points.length - 1])],
  ["problem", "", (row) => row.question.replaceAll("\n", " "), (row) => row.question],
];
const rateOf = ([, right, all]) => right / all;
const bar = (visit) => BARS[Math.round(7 * rateOf(visit))];
const signed = (x) => (x < 0 ? "−" : "+") + Math.abs(100 * x).toFixed(0);

class TrainingProblems {
  /** `showRollouts` gets the id of a problem. */
  constructor(run, showRollouts) {
    this.showRollouts = showRollouts;
    this.course = null; // the only one that is shown
    this.note = make("p", { class: "note" });
    this.search = make("input", { id: "problem", type: "search", oninput: () => this.filter() });
    this.tiles = make("div", { class: "tiles" });
    this.found = make("span", { role: "status" });
    this.detail = make("div", { class: "card", "aria-live": "polite" }, "Choose a problem to read how it went.");
    this.list = new List("training problems", PROBLEM_COLUMNS, (row) => this.detail.replaceChildren(...this.readOut(row)));
    const field = (label, control) => make("label", {}, label, control);
    section("training").replaceChildren(
      make("h2", {}, "Training problems"),
      this.note,
      this.tiles,
      make("div", { class: "filters" }, field("search question or id", this.search), field("showing", this.found)),
      this.list.element,
      this.detail,
    );
    this.update(run);
    this.list.preselect();
  }

  update(run) {
    const { total, rows, courses } = run.problems;
    this.rows = rows.map((row, index) => ({
      ...row,
      index,
      rate: row.right / row.samples,
      change: row.points.length < 2 ? null : rateOf(row.points[row.points.length - 1]) - rateOf(row.points[0]),
      text: `${row.id}\n${row.question}`.toLowerCase(),
    }));
    this.note.textContent =
      `${count(total)} problems were asked, counted over all completions. A bar is one visit, or a few: its height is ` +
      "the share of right samples. Click a number to see those problems alone." +
      (rows.length < total ? ` The list has the ${count(rows.length)} that were asked most.` : "");
    this.tiles.replaceChildren(...courses.map((course) => this.tile(course)));
    this.filter((found) => this.list.refresh(found));
  }

  tile({ name, meaning, count: number }) {
    return make(
      "button",
      {
        type: "button",
        class: "tile",
        title: meaning,
        "aria-pressed": String(this.course === name),
        onclick: ({ currentTarget }) => {
          this.course = this.course === name ? null : name;
          for (const tile of this.tiles.children)
            tile.setAttribute("aria-pressed", String(tile === currentTarget && this.course === name));
          this.filter();
        },
      },
      make("b", {}, count(number)),
      make("span", {}, name),
    );
  }

  filter(show = (rows) => this.list.show(rows)) {
    const words = this.search.value.toLowerCase();
    const found = this.rows.filter((row) => (!this.course || row.course === this.course) && row.text.includes(words));
    this.found.textContent = `${count(found.length)} of ${count(this.rows.length)}`;
    show(found);
  }

  readOut(row) {
    const visits = row.points.map(([step, right, all]) => `step ${step}: ${right} of ${all}`).join(", ");
    return [
      make("p", {}, row.question),
      make("p", { class: "note" }, `${row.id}; ${row.course}; right samples ${visits}`),
      make(
        "button",
        { type: "button", class: "plain", onclick: () => this.showRollouts(row.id) },
        "show its rollouts",
      ),
    ];
  }
}

// The explorer of completions: filter, sort and read them.

const COLUMNS = [
  ["step", "", (row) => String(row.step)],
  ["reward", "", (row) => String(row.reward)],
  ["advantage", "wide", (row) => shown(row.advantage?.toFixed(2))],
  ["tokens", "", (row) => String(row.tokens)],
  ["found", "wide", (row) => shown(found(row.how)), (row) => row.how],
  ["answer", "", (row) => shown(row.answer), (row) => numeric(row.answer)],
  ["gold", "", (row) => row.gold, (row) => numeric(row.gold)],
  ["completion", "", (row) => beginning(row.completion)],
];
const UNUSED = "sampled, but not used",
  UNDONE = "undone by a rescue";

const shown = (value) => (value === null || value === undefined ? "–" : String(value));
const numeric = (text) => (text === null ? -Infinity : Number.isNaN(Number(text)) ? Infinity : Number(text));
const beginning = (text) => (text.head ?? text).slice(0, 400).replaceAll("\n", " ⏎ ");

class Explorer {
  constructor(run) {
    this.read(run);
    this.build();
    this.filter();
    this.list.preselect();
  }

  /** Show the rollouts of a run that has new records; filters, order and position stay. */
  update(run) {
    this.read(run);
    for (const [select, values] of [
      [this.how, this.hows()],
      [this.kind, this.kinds()],
    ]) {
      const known = new Set([...select.options].map((option) => option.value));
      for (const value of values) if (!known.has(value)) select.append(make("option", { value }, found(value)));
    }
    this.say();
    this.filter((rows) => this.list.refresh(rows));
  }

  hows() {
    return [...new Set(this.rows.map((row) => row.how))].sort();
  }

  /** What rows are shown for, and what became of them; nothing in a run that is shown whole and was used whole. */
  kinds() {
    const found = new Set(this.rows.map((row) => row.kind));
    if (this.rows.some((row) => !row.used)) found.add(UNUSED);
    if (this.rows.some((row) => row.rescue)) found.add(UNDONE);
    found.delete(undefined);
    return [...found];
  }

  read(run) {
    const r = (this.block = run.rollouts);
    this.sampled = run.summary?.completions ?? 0;
    const names = Object.keys(r.rewards);
    this.rows = r.step.map((step, i) => {
      const problem = r.problems[r.problem[i]];
      return {
        step,
        reward: names.reduce((sum, name) => sum + r.rewards[name][i], 0),
        advantage: r.advantage[i],
        tokens: r.tokens[i],
        how: r.how[i],
        answer: r.answer[i],
        gold: problem.gold,
        completion: r.completion[i],
        question: problem.question,
        id: problem.id,
        finished: r.finished[i],
        used: r.used?.[i] ?? true,
        kind: r.kind?.[i],
        rescue: run.rescues.find(({ undone }) => undone[0] <= step && step <= undone[undone.length - 1]),
        index: i,
        text: `${problem.id}\n${asText(problem.question)}\n${asText(r.completion[i])}`.toLowerCase(),
      };
    });
    this.most = this.rows.reduce((most, row) => Math.max(most, row.reward), 0);
  }

  build() {
    const changed = () => this.filter();
    const field = (label, control) => make("label", {}, label, control);
    const choice = (id, options) =>
      make("select", { id, onchange: changed }, ...options.map(([value, text]) => make("option", { value }, text)));
    const any = (values) => [["", "any"], ...values.map((value) => [value, value])];
    this.how = choice("how", [["", "any"], ...this.hows().map((how) => [how, found(how)])]);
    this.kind = choice("kind", any(this.kinds()));
    this.found = make("span", { id: "found", role: "status" });
    this.note = make("p", { class: "note" });
    this.detail = make("div", { class: "card", "aria-live": "polite" }, "Choose a rollout to read it.");
    this.list = new List("rollouts", COLUMNS, (row) => this.detail.replaceChildren(...this.readOut(row)));
    this.kindField = field("what it tells", this.kind);
    section("rollouts").replaceChildren(
      make("h2", {}, "Rollouts"),
      this.note,
      make(
        "div",
        { class: "filters" },
        field("search completion, question or id", make("input", { id: "search", type: "search", oninput: changed })),
        field("step from", make("input", { id: "from", type: "number", min: "0", oninput: changed })),
        field("to", make("input", { id: "to", type: "number", min: "0", oninput: changed })),
        field(
          "reward",
          choice("paid", [
            ["", "any"],
            ["full", "full"],
            ["part", "part"],
            ["none", "none"],
          ]),
        ),
        field("answer found", this.how),
        field(
          "ending",
          choice("end", [
            ["", "any"],
            ["true", "finished"],
            ["false", "cut off"],
          ]),
        ),
        this.kindField,
        field("showing", this.found),
      ),
      this.list.element,
      this.detail,
    );
    this.say();
  }

  /** Say which of the completions are here. */
  say() {
    const { total, whole_from, step } = this.block;
    const use = "Click a column to sort by it; move through the list with the arrow keys.";
    const last = step[step.length - 1];
    const whole =
      whole_from === null || whole_from === undefined
        ? "of each step"
        : `all of ${whole_from === last ? `step ${last}` : `steps ${whole_from} to ${last}`}, and of each earlier step`;
    const kept =
      this.sampled > total
        ? `rollouts.jsonl has the first ${count(total)} of ${count(this.sampled)} completions (records.rollouts_mb). `
        : "";
    this.note.textContent =
      step.length === total
        ? (kept ? `Every completion that was kept: ${kept}` : "Every completion of the run. ") + use
        : `Shown: ${count(step.length)} of ${count(total)}, which is what a page of 8 MB has room for: ${whole} those ` +
          "that tell most, namely first right answers to a problem, right ones that are not in their place, ones that were cut off, " +
          "the best and the worst of a group, and one of each group that was all right or all wrong. " +
          (kept || "All are in rollouts.jsonl, and every figure on this page counts all. ") +
          use;
    this.kindField.hidden = this.kind.options.length === 1;
  }

  /** Look for a text in all rollouts. */
  search(text) {
    for (const control of section("rollouts").querySelectorAll("input, select")) control.value = "";
    document.getElementById("search").value = text;
    this.filter();
    section("rollouts").scrollIntoView();
  }

  filter(show = (rows) => this.list.show(rows)) {
    const value = (id) => document.getElementById(id).value;
    const words = value("search").toLowerCase(),
      paid = value("paid"),
      how = value("how"),
      end = value("end"),
      kind = value("kind");
    const from = value("from") === "" ? -Infinity : Number(value("from")),
      to = value("to") === "" ? Infinity : Number(value("to"));
    const payment = (row) => (row.reward >= this.most && row.reward > 0 ? "full" : row.reward > 0 ? "part" : "none");
    const isOf = (row) => (kind === UNUSED ? !row.used : kind === UNDONE ? row.rescue : row.kind === kind);
    const found = this.rows.filter(
      (row) =>
        row.step >= from &&
        row.step <= to &&
        (!how || row.how === how) &&
        (!paid || payment(row) === paid) &&
        (!end || String(row.finished) === end) &&
        (!kind || isOf(row)) &&
        (!words || row.text.includes(words)),
    );
    this.found.textContent = `${count(found.length)} of ${count(this.rows.length)}`;
    show(found);
  }

  readOut(row) {
    const parts = Object.entries(this.block.rewards).map(([name, values]) => `${name} ${values[row.index] ?? "does not apply"}`);
    const fate = [
      row.used ? "" : "; sampled, but not used for the update",
      row.rescue ? `; undone by the rescue at step ${row.rescue.step}` : "",
    ].join("");
    return [
      make("p", {}, ...pieces(row.question)),
      make(
        "p",
        { class: "note" },
        `step ${row.step}, ${row.id}; ${parts.join(", ")}; advantage ${row.advantage}; ${row.tokens} tokens, ` +
          `${row.finished ? "finished" : "cut off by the length limit"}; answer ${row.answer ?? "none"} (${found(row.how)}), ` +
          `gold ${row.gold}${fate}`,
      ),
      make("pre", {}, ...pieces(row.completion)),
    ];
  }
}

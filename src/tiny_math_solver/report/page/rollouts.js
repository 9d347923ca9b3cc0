// The explorer of completions: filter, sort and read them.

const COLUMNS = [
  ["step", ""],
  ["reward", ""],
  ["advantage", "wide"],
  ["tokens", ""],
  ["how", "wide"],
  ["answer", "wide"],
  ["gold", "wide"],
  ["completion", ""],
];

class Explorer {
  constructor(run) {
    this.sorted = { column: "index", down: false };
    this.read(run);
    this.build();
    this.filter();
  }

  /** Show the rollouts of a run that has new records; filters, order and position stay. */
  update(run) {
    const { scrollTop } = this.view,
      { selected } = this;
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
        index: i,
        text: (problem.id + "\n" + problem.question + "\n" + r.completion[i]).toLowerCase(),
      };
    });
    this.most = this.rows.reduce((most, row) => Math.max(most, row.reward), 0);
  }

  build() {
    const changed = () => this.filter();
    const field = (label, control) => make("label", {}, label, control);
    const choice = (id, options) =>
      make("select", { id, onchange: changed }, ...options.map(([value, text]) => make("option", { value }, text)));
    this.how = choice("how", [["", "any"], ...this.hows().map((how) => [how, how])]);
    this.found = make("span", { id: "found", role: "status" });
    this.view = make("div", {
      class: "window",
      tabindex: "0",
      role: "listbox",
      "aria-label": "rollouts",
      onscroll: () => this.draw(),
      onkeydown: (event) => this.key(event),
    });
    this.detail = make("div", { class: "card", "aria-live": "polite" }, "Choose a rollout to read it.");
    this.head = make(
      "div",
      { class: "row head" },
      ...COLUMNS.map(([name, kind]) =>
        make(
          "span",
          { class: kind },
          make("button", { type: "button", "data-column": name, onclick: () => this.sort(name) }, name),
        ),
      ),
    );
    section("rollouts").replaceChildren(
      make("h2", {}, "Rollouts"),
      make("p", { class: "note" }, "Every completion of the run. Click a column to sort by it; move through the list with the arrow keys."),
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
        field("showing", this.found),
      ),
      make("div", { class: "list" }, this.head, this.view),
      this.detail,
    );
  }

  filter() {
    const value = (id) => document.getElementById(id).value;
    const words = value("search").toLowerCase(),
      paid = value("paid"),
      how = value("how"),
      end = value("end");
    const from = value("from") === "" ? -Infinity : Number(value("from")),
      to = value("to") === "" ? Infinity : Number(value("to"));
    const payment = (row) => (row.reward >= this.most && row.reward > 0 ? "full" : row.reward > 0 ? "part" : "none");
    this.shown = this.rows.filter(
      (row) =>
        row.step >= from &&
        row.step <= to &&
        (!how || row.how === how) &&
        (!paid || payment(row) === paid) &&
        (!end || String(row.finished) === end) &&
        (!words || row.text.includes(words)),
    );
    this.found.textContent = `${count(this.shown.length)} of ${count(this.rows.length)}`;
    this.order();
  }

  sort(column) {
    this.sorted = { column, down: this.sorted.column === column && !this.sorted.down };
    for (const button of this.head.querySelectorAll("button"))
      button.textContent =
        button.dataset.column + (button.dataset.column === column ? (this.sorted.down ? " ↓" : " ↑") : "");
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
    this.view.replaceChildren(
      spacer,
      ...this.shown.slice(first, last).map((row, i) =>
        make(
          "div",
          {
            class: "row",
            role: "option",
            "aria-selected": String(this.selected === first + i),
            style: `top:${(first + i) * ROW}px`,
            onclick: () => this.select(first + i),
          },
          ...COLUMNS.map(([name, kind]) => make("span", { class: kind }, cellText(name, row))),
        ),
      ),
    );
  }

  select(place) {
    this.selected = Math.min(Math.max(place, 0), this.shown.length - 1);
    const top = this.selected * ROW,
      view = this.view;
    if (top < view.scrollTop) view.scrollTop = top;
    else if (top + ROW > view.scrollTop + view.clientHeight) view.scrollTop = top + ROW - view.clientHeight;
    this.draw();
    const row = this.shown[this.selected];
    if (!row) return;
    const parts = Object.entries(this.rewards).map(([name, values]) => `${name} ${values[row.index]}`);
    this.detail.replaceChildren(
      make("p", {}, row.question),
      make(
        "p",
        { class: "note" },
        `step ${row.step}, ${row.id}; ${parts.join(", ")}; advantage ${row.advantage}; ${row.tokens} tokens, ` +
          `${row.finished ? "finished" : "cut off by the length limit"}; answer ${row.answer ?? "none"} (${row.how}), gold ${row.gold}`,
      ),
      make("pre", {}, row.completion),
    );
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
  return name === "advantage"
    ? value.toFixed(2)
    : name === "completion"
      ? value.replaceAll("\n", " ⏎ ")
      : String(value);
};

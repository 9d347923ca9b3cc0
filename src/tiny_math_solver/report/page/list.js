// A long list of which only the rows in view are elements: sorted by a click on a column, walked with the arrow keys.

class List {
  /**
   * `columns` are [name, class, text of the cell, key to sort by (default: the value of that name)];
   * `choose(row)` is called for the row that is selected.
   */
  constructor(label, columns, choose) {
    this.columns = columns;
    this.choose = choose;
    this.rows = [];
    this.selected = null;
    this.sorted = { column: "index", down: false };
    this.view = make("div", {
      class: "window",
      tabindex: "0",
      role: "listbox",
      "aria-label": label,
      onscroll: () => this.draw(),
      onkeydown: (event) => this.key(event),
    });
    this.head = make(
      "div",
      { class: "row head" },
      ...columns.map(([name, kind]) =>
        make(
          "span",
          { class: kind },
          make("button", { type: "button", "data-column": name, onclick: () => this.sort(name) }, name),
        ),
      ),
    );
    this.element = make("div", { class: "list" }, this.head, this.view);
  }

  /** Show other rows, each with a number `index`, in the present order. */
  show(rows) {
    this.rows = rows;
    this.order();
  }

  /** Show rows of a run that has gone on; position and selection stay. */
  refresh(rows) {
    const { scrollTop } = this.view,
      { selected } = this;
    this.show(rows);
    this.view.scrollTop = scrollTop;
    this.selected = selected;
    this.draw();
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
    const key = this.columns.find(([name]) => name === column)?.[3] ?? ((row) => row[column]);
    const keyed = this.rows.map((row) => [key(row), row]);
    keyed.sort(([a, x], [b, y]) => (a < b ? -1 : a > b ? 1 : 0) * (down ? -1 : 1) || x.index - y.index);
    this.rows = keyed.map(([, row]) => row);
    this.selected = null;
    this.view.scrollTop = 0;
    this.draw();
  }

  draw() {
    const first = Math.max(0, Math.floor(this.view.scrollTop / ROW) - 5);
    const last = Math.min(this.rows.length, first + Math.ceil(this.view.clientHeight / ROW) + 10);
    const spacer = make("div", { style: `height:${this.rows.length * ROW}px` });
    this.view.replaceChildren(
      spacer,
      ...this.rows.slice(first, last).map((row, i) =>
        make(
          "div",
          {
            class: "row",
            role: "option",
            "aria-selected": String(this.selected === first + i),
            style: `top:${(first + i) * ROW}px`,
            onclick: () => this.select(first + i),
          },
          ...this.columns.map(([, kind, text]) => make("span", { class: kind }, text(row))),
        ),
      ),
    );
  }

  select(place) {
    this.selected = Math.min(Math.max(place, 0), this.rows.length - 1);
    const top = this.selected * ROW,
      view = this.view;
    if (top < view.scrollTop) view.scrollTop = top;
    else if (top + ROW > view.scrollTop + view.clientHeight) view.scrollTop = top + ROW - view.clientHeight;
    this.draw();
    const row = this.rows[this.selected];
    if (row) this.choose(row);
  }

  /** Select the first row, so that there is something to read. */
  preselect() {
    if (this.rows.length) this.select(0);
  }

  key(event) {
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 14, PageUp: -14, Home: -Infinity, End: Infinity }[event.key];
    if (step === undefined || !this.rows.length) return;
    event.preventDefault();
    this.select(Math.min(Math.max((this.selected ?? -1) + step, 0), this.rows.length - 1));
  }
}

// One cell per test problem, and its two answers side by side.

const fate = ({ before, after }) =>
  after.correct ? (before.correct ? "right" : "fixed") : before.correct ? "broken" : "wrong";

function drawProblems(run) {
  const tests = run.test.filter((cell) => cell.after);
  if (!tests.length) return section("problems").replaceChildren();
  const counts = Object.fromEntries(
    Object.keys(FATES).map((name) => [name, tests.filter((cell) => fate(cell) === name).length]),
  );
  const detail = make("div", { class: "card", "aria-live": "polite" });
  const cells = make(
    "div",
    { class: "cells" },
    ...tests.map((cell, index) =>
      make(
        "button",
        {
          class: `cell ${fate(cell)}`,
          type: "button",
          "aria-pressed": "false",
          title: cell.question ?? cell.id,
          "aria-label": `problem ${index + 1}, ${FATES[fate(cell)][1]}`,
          onclick: ({ currentTarget }) => {
            for (const pressed of cells.querySelectorAll('[aria-pressed="true"]'))
              pressed.setAttribute("aria-pressed", "false");
            currentTarget.setAttribute("aria-pressed", "true");
            detail.replaceChildren(...sideBySide(cell));
          },
        },
        FATES[fate(cell)][0],
      ),
    ),
  );
  section("problems").replaceChildren(
    make("h2", {}, "Test problems"),
    make("p", { class: "note" }, `${tests.length} problems, one cell each, answered greedily before and after training.`),
    make(
      "div",
      { class: "legend" },
      ...Object.entries(FATES).map(([name, [sign, meaning]]) =>
        make(
          "span",
          {},
          make("span", { class: `cell ${name}`, "aria-hidden": "true" }, sign),
          `${meaning}: ${counts[name]}`,
        ),
      ),
    ),
    cells,
    detail,
  );
  (cells.querySelector(".fixed") ?? cells.firstElementChild).click();
}

/** One test problem before and after, the first that was fixed; the others by the arrow keys or the buttons. */
function exampleOf({ test }) {
  const tests = test.filter((cell) => cell.after && typeof cell.question === "string");
  const chosen = ["fixed", "broken", "wrong", "right"].flatMap((name) => tests.filter((cell) => fate(cell) === name));
  if (!chosen.length) return [];
  let place = 0;
  const body = make("div", { "aria-live": "polite" }),
    label = make("span", { class: "note" });
  const show = (step) => {
    place = (place + step + chosen.length) % chosen.length;
    label.textContent = `${FATES[fate(chosen[place])][1]}, ${place + 1} of ${chosen.length}`;
    body.replaceChildren(...sideBySide(chosen[place]));
  };
  const button = (step, sign, name) =>
    make("button", { type: "button", class: "plain", "aria-label": name, onclick: () => show(step) }, sign);
  show(0);
  const keys = { ArrowLeft: -1, ArrowRight: 1 };
  return [
    make(
      "div",
      {
        class: "card example",
        tabindex: "0",
        role: "group",
        "aria-label": "a test problem before and after training; left and right arrow keys show others",
        onkeydown: (event) => keys[event.key] && (event.preventDefault(), show(keys[event.key])),
      },
      make("div", { class: "turn" }, button(-1, "←", "the problem before"), button(1, "→", "the next problem"), label),
      body,
    ),
  ];
}

function sideBySide({ question, gold, before, after }) {
  const [first, second] = [before.completion, after.completion].map(asText);
  let shared = 0;
  while (shared < first.length && first[shared] === second[shared]) shared += 1;
  const side = (name, record) =>
    make(
      "div",
      {},
      make("b", {}, name),
      ` – ${record.correct ? "right" : "wrong"}: ${record.answer ?? "no answer"} (${found(record.how)}, ${record.tokens} tokens)`,
      written(record.completion, shared, record.slip),
      record.failure ? make("p", { class: "note" }, record.failure + (record.slip ? `: ${record.slip}` : "")) : null,
    );
  return [
    make("p", {}, ...pieces(question)),
    make("p", {}, make("b", {}, `gold answer: ${gold}`)),
    make("div", { class: "sides" }, side("before", before), side("after", after)),
  ];
}

/** A completion as text, with the word at the first difference marked and an equation that does not hold underlined. */
function written(text, difference, slip) {
  if (typeof text !== "string") return make("pre", {}, ...pieces(text));
  const at = slip ? text.indexOf(slip) : -1;
  const end = difference < text.length ? difference + Math.max(1, text.slice(difference).search(/\s|$/)) : difference;
  const edges = [...new Set([0, difference, end, ...(at < 0 ? [] : [at, at + slip.length]), text.length])].sort(
    (a, b) => a - b,
  );
  return make(
    "pre",
    {},
    ...edges.slice(1).map((stop, i) => {
      const start = edges[i],
        part = text.slice(start, stop);
      const wrong = at >= 0 && start >= at && stop <= at + slip.length;
      const inner = wrong ? make("span", { class: "slip" }, part) : part;
      return start >= difference && stop <= end ? make("mark", {}, inner) : inner;
    }),
  );
}

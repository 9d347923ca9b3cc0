"use strict";
// Elements that every section uses. What a model wrote goes into the page as text, never as markup.

const PALETTE = ["#1f77b4", "#d9730d", "#2a9d5c", "#b5477d", "#7a5bd0", "#8c6d1f", "#0f8b8d", "#c0272d"];
const ROW = 28; // height of a row of the explorer, in pixels
const FATES = {
  fixed: ["+", "fixed"],
  broken: ["−", "broken"],
  right: ["·", "right before and after"],
  wrong: ["×", "wrong before and after"],
};

/** Where an answer was found, by the grader's names. */
const FOUND = {
  hashes: "after ####",
  boxed: "in \\boxed{}",
  tag: "in <answer>",
  phrase: "“the answer is”",
  closing: "last sentence",
  none: "no answer",
};
const found = (how) => FOUND[how] ?? how;

const percent = (x, digits = 1) => (x === null || x === undefined ? "–" : (100 * x).toFixed(digits) + "%");
const count = (x) => (x === null || x === undefined ? "–" : x.toLocaleString("en"));

/** An element with attributes and children; strings become text. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** A text as the children of an element: whole, or the two ends of a very long one, or a word about its absence. */
function pieces(text) {
  if (text === null || text === undefined) return [make("i", {}, "not on this page, which was full; it is in the records")];
  if (typeof text === "string") return [text];
  return [text.head, make("i", {}, `\n[… ${count(text.left_out)} characters, which are in the records …]\n`), text.tail];
}

/** A text as one string, for searching. */
const asText = (text) => (typeof text === "string" ? text : text ? `${text.head}\n${text.tail}` : "");

const section = (name) => document.getElementById(name);
const table = (head, rows) =>
  make(
    "div",
    { class: "scroll", tabindex: "0", role: "group", "aria-label": `table: ${head.filter(Boolean).join(", ")}` },
    make(
      "table",
      {},
      make("thead", {}, make("tr", {}, ...head.map((text) => (text ? make("th", { scope: "col" }, text) : make("td"))))),
      make("tbody", {}, ...rows.map((cells) => make("tr", {}, ...cells.map((cell) => make("td", {}, cell))))),
    ),
  );

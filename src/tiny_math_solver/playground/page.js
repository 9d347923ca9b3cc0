"use strict";
// Asks the server and shows what it streams, as text.

const data = JSON.parse(document.getElementById("data").textContent);
const element = (id) => document.getElementById(id);

element("temperature").value = data.temperature;
for (const example of data.examples) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "plain";
  button.textContent = example;
  button.addEventListener("click", () => {
    element("question").value = example;
    element("form").requestSubmit();
  });
  document.querySelector(".examples").append(button);
}

const sides = data.sides.map((name) => {
  const side = document.createElement("div"),
    title = document.createElement("h2");
  const text = document.createElement("pre"),
    answer = document.createElement("p"),
    vote = document.createElement("p");
  side.id = name;
  title.textContent = data.sides.length > 1 ? name : "answer";
  answer.className = "answer";
  vote.className = "vote note";
  side.append(title, text, answer, vote);
  element("sides").append(side);
  return { name, text, answer, vote };
});

/** Show the answer of one side as it is generated; the promise settles when it is complete. */
function ask(side, question, samples, temperature) {
  side.text.textContent = side.answer.textContent = side.vote.textContent = "";
  side.answer.className = "answer";
  return new Promise((resolve, reject) => {
    const source = new EventSource("ask?" + new URLSearchParams({ question, samples, temperature, side: side.name }));
    const on = (name, use) => source.addEventListener(name, (event) => use(JSON.parse(event.data)));
    on("piece", (piece) => (side.text.textContent += piece));
    on("answer", ({ value, how, is_finished, gold, is_right, doubt }) => {
      if (!is_finished) side.text.textContent += "\n… cut off: the limit of its length";
      const found = value === null ? "no answer found" : `answer: ${value}, ${how}`;
      side.answer.textContent = gold ? `${found}: ${is_right ? "✓ right" : `✗ wrong, it is ${gold}`}` : found;
      if (doubt) side.answer.textContent += ` (${doubt})`;
      side.answer.className = "answer" + (gold ? (is_right ? " is-right" : " is-wrong") : "");
    });
    on("vote", (text) => (side.vote.textContent = `vote: ${text}`));
    on("end", () => (source.close(), resolve()));
    source.onerror = () => (source.close(), reject(new Error("the server did not answer")));
  });
}

element("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = document.querySelector(".go"),
    question = element("question").value.trim();
  if (!question) return;
  button.disabled = true;
  element("state").textContent = "generating …";
  try {
    for (const side of sides)
      await ask(side, question, element("samples").value || 0, element("temperature").value || 0);
    element("state").textContent = "";
  } catch (error) {
    element("state").textContent = error.message;
  }
  button.disabled = false;
});

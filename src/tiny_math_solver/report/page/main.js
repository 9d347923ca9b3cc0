// Draws the page, and draws it again whenever a run that is being served has new records.

let data = null;
let explorer = null;
let training = null;

function draw() {
  const { runs, comparisons, settings } = data;
  section("subject").textContent = [...new Set(runs.map(({ subject }) => subject))].join(" · ");
  drawState();
  drawVerdict(runs, comparisons, settings);
  if (runs.length === 1) {
    const [run] = runs;
    drawProblems(run);
    drawFailures(run);
    if (explorer) explorer.update(run);
    else if (run.rollouts.step.length) explorer = new Explorer(run);
    if (training) training.update(run);
    else if (run.problems.total) training = new TrainingProblems(run, (id) => explorer?.search(id));
  } else {
    for (const name of ["problems", "failures", "training", "rollouts", "waste"]) {
      section(name).replaceChildren();
    }
  }
  drawSetup(runs);
  for (const link of document.querySelectorAll("nav a"))
    link.hidden = !section(link.getAttribute("href").slice(1)).childElementCount;
}

function drawState() {
  const { live, state, runs, last_record } = data;
  const quiet = (Date.now() - last_record) / 60_000;
  const going = quiet < 5 ? "running" : `no new records for ${quiet.toFixed(0)} minutes; is it still running?`;
  section("state").textContent = live && !runs[0].summary && last_record ? going : state;
}

/** Poll the server of a page that is watched, and draw again when the records have changed. */
async function follow() {
  try {
    const answer = await fetch("data.json", { cache: "no-cache", headers: { "If-None-Match": data.version } });
    if (answer.status === 200) {
      data = await answer.json();
      draw();
      drawCharts(data.runs);
    } else drawState();
  } catch {
    section("state").textContent = "the server has stopped; this page shows the last records it sent";
  }
  setTimeout(follow, 2000);
}

async function open() {
  if (!("DecompressionStream" in globalThis)) {
    section("state").textContent = OLD_BROWSER;
    return;
  }
  try {
    data = JSON.parse(await unpacked("data"));
  } catch {
    section("state").textContent = "The data in this page are damaged. Write it again: tiny-math report RUN";
    return;
  }
  draw();
  await loadPlotly();
  drawCharts(data.runs);
  if (data.live) setTimeout(follow, 2000);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawCharts(data.runs));
  performance.mark("drawn");
}

open();

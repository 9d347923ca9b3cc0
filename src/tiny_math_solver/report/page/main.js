// Draws the page, and draws it again whenever a run that is being served has new records.

let data = JSON.parse(document.getElementById("data").textContent);
let explorer = null;

function draw() {
  const { runs, comparisons, state } = data;
  section("state").textContent = state;
  drawVerdict(runs, comparisons);
  drawCharts(runs);
  if (runs.length === 1) {
    const [run] = runs;
    drawProblems(run);
    drawFailures(run);
    if (explorer) explorer.update(run);
    else if (run.rollouts.step.length) explorer = new Explorer(run);
  } else {
    for (const name of ["problems", "failures", "rollouts", "waste"]) {
      section(name).replaceChildren();
      document.querySelector(`nav a[href="#${name}"]`)?.remove();
    }
  }
  drawSetup(runs);
}

/** Poll the server of a page that is watched, and draw again when the records have changed. */
async function follow() {
  try {
    const answer = await fetch("data.json", { cache: "no-cache", headers: { "If-None-Match": data.version } });
    if (answer.status === 200) {
      data = await answer.json();
      draw();
    }
  } catch {
    section("state").textContent = "the server has stopped; this page shows the last records it sent";
    return;
  }
  if (data.live) setTimeout(follow, 2000);
}

draw();
if (data.live) setTimeout(follow, 2000);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawCharts(data.runs));

// The command, versions, hashes and configuration of a run.

// How many processes shared the work, and how evenly; nothing of a single one.
function processes(run, count) {
  const busy = (run.curves["processes/busy"] ?? []).filter((share) => share !== null);
  if (count === 1) return [];
  const mean = busy.reduce((sum, share) => sum + share, 0) / busy.length;
  const evenly = busy.length ? `, on average busy ${percent(mean)} of the time of the busiest` : "";
  return [["processes", `${count}${evenly}`]];
}

function drawSetup(runs) {
  section("setup").replaceChildren(
    make("h2", {}, "Setup"),
    ...runs.map((run, index) => {
      const environment = run.environment ?? {},
        versions = environment.versions ?? {};
      return make(
        "details",
        index === 0 ? { open: "" } : {},
        make("summary", {}, run.name),
        make("pre", {}, (environment.command ?? []).join(" ")),
        table(
          ["item", "value"],
          [
            ["seed", String(environment.seed ?? "–")],
            ["Python", environment.python ?? "–"],
            ["platform", environment.platform ?? "–"],
            ["CPU cores", String(environment.cpu_count ?? "–")],
            ["GPU", environment.gpu ?? "none"],
            ...processes(run, environment.processes ?? 1),
            ...Object.entries(versions),
            ...Object.entries(run.hashes).map(([name, hash]) => [`SHA-256 of ${name}`, hash]),
          ],
        ),
        make("h3", {}, "Configuration"),
        make("pre", {}, run.config),
      );
    }),
  );
}

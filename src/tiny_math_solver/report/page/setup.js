// The command, versions, hashes and configuration of a run.

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

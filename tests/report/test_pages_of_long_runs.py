"""The pages of runs that were rescued, whose sampler chose, or that are longer than a page, in a real browser."""

import json
import random
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers.long_run import rows, write_rollouts
from helpers.made_up_run import HOSTILE, write_run
from tiny_math_solver.report import PAGE_BYTES, page, page_data, write_report
from tiny_math_solver.report.watch import Watch

pytestmark = pytest.mark.browser
RESCUES: list[dict[str, Any]] = [
    {
        "step": 3, "name": "rescue", "text": f"the format rose {HOSTILE}", "undone": [2, 3], "back_to": 1,
        "changed": {"grpo.reward_weights": [1.0, 0.2]},
    },
    {"step": 5, "name": "rescue", "text": "again", "undone": [5, 5], "back_to": 4, "changed": {"<b>x</b>": 5e-5}},
]  # fmt: skip


def write_jsonl(path: Path, made: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in made))


@pytest.fixture
def opened(watched: Any, tmp_path: Path) -> Callable[[Path], Any]:
    """Opens the page of a run folder from its file, drawn."""

    def open_page(*folders: Path, room: int | None = None) -> Any:
        data = page_data(list(folders), room)
        (tmp_path / "report.html").write_text(page(data), encoding="utf-8")
        watched.goto((tmp_path / "report.html").as_uri())
        drawn(watched)
        return watched

    return open_page


def drawn(page: Any) -> float:
    """Milliseconds until the page is drawn, charts included."""
    page.wait_for_function("performance.getEntriesByName('drawn').length")
    return page.evaluate("performance.getEntriesByName('drawn')[0].startTime")


def rescued_run(folder: Path) -> Path:
    write_run(folder)
    write_jsonl(folder / "events.jsonl", [RESCUES[0], {"step": 4, "name": "retry", "text": "once"}, RESCUES[1]])
    return folder


def test_a_rescue_is_in_the_verdict_and_marked_on_every_curve(opened: Any, tmp_path: Path):
    page = opened(rescued_run(tmp_path / "run"))
    assert page.locator("#verdict h3").all_inner_texts() == ["Why, by the records", "Rescued twice", "Events"]
    cells = [cell.evaluate("e => e.textContent") for cell in page.locator("#verdict table").first.locator("td").all()]
    assert cells == [
        "3", "steps 2–3back to step 1", f"grpo.reward_weights = 1, 0.2the format rose {HOSTILE}",
        "5", "step 5back to step 4", "<b>x</b> = 0.00005again",
    ]  # fmt: skip
    assert page.locator("#verdict table").nth(1).locator("tbody td").all_inner_texts() == ["4", "retry", "once"]
    charts = [chart for chart in page.locator(".chart").all() if chart.is_visible()]
    for chart in charts:
        areas = chart.evaluate(
            "e => e.layout.shapes.filter((s) => s.type === 'rect').map((s) => [s.x0, s.x1, s.layer])"
        )
        assert areas == [[1.5, 3.5, "above"], [1.5, 3.5, "below"], [4.5, 5.5, "above"], [4.5, 5.5, "below"]]
        assert chart.locator(".annotation").count() == 2
    charts[1].locator(".annotation").first.hover()
    hover = charts[1].locator(".hoverlayer").evaluate("e => [...e.querySelectorAll('tspan')].map((t) => t.textContent)")
    assert hover == ["rescue at step 3", "steps 2–3 undone, back to step 1", "grpo.reward_weights = 1, 0.2"]
    charts[1].locator(".annotation").nth(1).hover()
    page.wait_for_timeout(100)
    assert "<b>x</b> = 0.00005" in charts[1].locator(".hoverlayer").evaluate("e => e.textContent")
    page.select_option("#kind", "undone by a rescue")
    assert page.locator("#found").inner_text() == "24 of 40"
    page.locator("#rollouts .window .row").first.click()
    assert "undone by the rescue at step 3" in page.locator("#rollouts .card").inner_text()


def test_rescues_of_several_runs_are_counted_and_marked(opened: Any, tmp_path: Path):
    page = opened(rescued_run(tmp_path / "first"), write_run(tmp_path / "second"))
    table = page.locator("#verdict table").first
    assert table.locator("th").all_inner_texts()[-1] == "rescued"
    assert table.locator("tbody tr").first.locator("td").all_inner_texts()[-1] == "twice"
    assert table.locator("tbody tr").nth(1).locator("td").all_inner_texts()[-1] == "never"
    shapes = page.locator(".chart").nth(1).evaluate("e => e.layout.shapes.map((s) => [s.type, s.x0])")
    assert shapes == [["line", 3.5], ["line", 5.5]]


def test_training_problems_are_filtered_by_how_they_went(opened: Any, tmp_path: Path):
    folder = write_run(tmp_path / "run", rollouts=0)
    row = next(rows(1, 5))
    went = {"never": [0, 0], "always": [4, 4], "better": [1, 3], "worse": [4, 0], HOSTILE: [2, 2]}
    made = [
        {**row, "step": step, "id": name, "question": f"Q of {name}", "correct": i < right, "strict": False}
        for name, rights in went.items() for step, right in enumerate(rights, 1) for i in range(4)
    ]  # fmt: skip
    write_jsonl(folder / "rollouts.jsonl", sorted(made, key=lambda row: row["step"]))
    page = opened(folder)
    tiles = page.locator("#training .tile")
    assert [tile.replace("\n", " ") for tile in tiles.all_inner_texts()] == [
        "1 never solved", "1 improving", "1 slipping", "1 in between", "1 always solved",
    ]  # fmt: skip

    def listed() -> list[list[str]]:
        return [row.locator("span").all_inner_texts() for row in page.locator("#training .window .row").all()]

    assert [row[:4] for row in listed()] == [
        ["8", "0%", "+0", "▁▁"], ["8", "100%", "+0", "██"], ["8", "50%", "+50", "▃▆"], ["8", "50%", "−100", "█▁"],
        ["8", "50%", "+0", "▅▅"],
    ]  # fmt: skip
    page.click('#training button[data-column="change"]')
    assert [row[2] for row in listed()] == ["−100", "+0", "+0", "+0", "+50"]
    page.click('#training button[data-column="how it went"]')  # by how it went last
    assert [row[3] for row in listed()] == ["▁▁", "█▁", "▅▅", "▃▆", "██"]
    tiles.nth(1).click()
    assert [row[4] for row in listed()] == ["Q of better"]
    tiles.nth(1).click()
    page.fill("#problem", "WORSE")
    page.locator("#training .window .row").click()
    assert "right samples step 1: 4 of 4, step 2: 0 of 4" in page.locator("#training .card").inner_text()
    page.fill("#search", "nothing")
    page.click("text=show its rollouts")
    assert page.locator("#found").inner_text() == "8 of 40"


def test_the_sampler_is_shown_where_there_was_one(opened: Any, tmp_path: Path):
    folder = write_run(tmp_path / "run")
    write_jsonl(
        folder / "metrics.jsonl",
        [{"step": s, "reward": 1.0, "sampler/skipped": 2 * s, "sampler/replaced": 1} for s in range(1, 6)],
    )
    made = [json.loads(line) for line in (folder / "rollouts.jsonl").read_text().splitlines()]
    write_jsonl(folder / "rollouts.jsonl", [{**row, "used": i % 4 > 0} for i, row in enumerate(made)])
    page = opened(folder)
    assert page.locator('.chart[aria-label="Sampler"]').is_visible()
    waste = page.locator("#waste").inner_text()
    assert "What was kept from the update" in waste
    assert re.search(r"problems passed over\s+30\s", waste)
    page.select_option("#kind", "sampled, but not used")
    assert page.locator("#found").inner_text() == "10 of 40"
    page.locator("#rollouts .window .row").first.click()
    assert "not used for the update" in page.locator("#rollouts .card").inner_text()


def test_nothing_of_it_is_shown_where_there_was_none(opened: Any, tmp_path: Path):
    page = opened(write_run(tmp_path / "run"))
    assert not page.locator('.chart[aria-label="Sampler"]').is_visible()
    assert not page.locator("#kind").is_visible()
    assert page.locator(".chart .shape-group").count() == 0
    text = page.locator("body").inner_text()
    assert not re.search("rescue|passed over|replaced|kept from", text, re.IGNORECASE)
    assert "Every completion of the run." in text


def test_a_page_that_is_full_says_what_it_shows(opened: Any, tmp_path: Path):
    page = opened(write_rollouts(write_run(tmp_path / "run"), 640, 100, per_step=64), room=60_000)
    found = re.search(r"Shown: (\d+) of 640.*all of steps? (\d+)", page.locator("#rollouts .note").first.inner_text())
    assert found
    assert page.locator("#found").inner_text() == f"{found[1]} of {found[1]}"
    page.fill("#from", found[2])
    assert page.locator("#found").inner_text() == f"{64 * (11 - int(found[2]))} of {found[1]}"
    page.fill("#from", "")
    page.select_option("#kind", "first right answer to a problem")
    page.locator("#rollouts .window .row").first.click()
    assert "correctness_reward 1" in page.locator("#rollouts .card").inner_text()


def test_completions_that_the_records_lack_are_counted(opened: Any, tmp_path: Path):
    folder = write_run(tmp_path / "run")
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**summary, "completions": 1_500}))
    note = opened(folder).locator("#rollouts .note").first.inner_text()
    assert "rollouts.jsonl has the first 40 of 1,500 completions (records.rollouts_mb)" in note
    assert "Every completion of the run" not in note


def test_a_very_long_completion_says_where_it_was_cut(opened: Any, tmp_path: Path):
    folder = write_run(tmp_path / "run", rollouts=4)
    made = [json.loads(line) for line in (folder / "rollouts.jsonl").read_text().splitlines()]
    write_jsonl(folder / "rollouts.jsonl", [{**made[0], "completion": "a" * 12_000 + "b" * 500 + "c" * 4_000}])
    page = opened(folder)
    page.locator("#rollouts .window .row").first.click()
    text = page.locator("#rollouts pre").inner_text()
    assert re.fullmatch(r"a{12000}\n\[… 500 characters, which are in the records …\]\nc{4000}", text)


def test_a_browser_that_cannot_unpack_the_page_says_so(watched: Any, tmp_path: Path):
    write_report([write_run(tmp_path / "run")], tmp_path / "report.html")
    watched.add_init_script("delete globalThis.DecompressionStream")
    watched.goto((tmp_path / "report.html").as_uri())
    assert "cannot unpack the data in this page" in watched.locator("#state").inner_text()
    assert "Firefox 113" in watched.locator("#state").inner_text()


def test_a_page_that_was_damaged_says_so(watched: Any, tmp_path: Path):
    write_report([write_run(tmp_path / "run")], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    start = text.index('type="application/gzip">') + 200
    (tmp_path / "report.html").write_text(text[:start] + text[start + 400 :])
    watched.goto((tmp_path / "report.html").as_uri())
    watched.locator("#state", has_text="damaged").wait_for(timeout=5000)


def test_a_live_page_takes_up_a_rescue_and_longer_rollouts(watched: Any, tmp_path: Path):
    folder = write_run(tmp_path / "run", finished=False)
    server = Watch(folder).serve()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with server:
        watched.goto(server.url)
        drawn(watched)
        assert watched.locator("#verdict h3").all_inner_texts() == ["Events"]
        write_jsonl(folder / "events.jsonl", RESCUES[:1])
        watched.locator("#verdict h3", has_text="Rescued once").wait_for(timeout=8000)
        watched.select_option("#kind", "undone by a rescue")
        assert watched.locator("#found").inner_text() == "16 of 40"
        server.shutdown()


def test_the_page_of_a_live_run_leaves_it_the_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """New records within four times the time that the last data took do not have them made again."""
    clock = SimpleNamespace(now=100.0, made=0)
    folder = write_run(tmp_path / "run", finished=False)
    watch = Watch(folder)
    monkeypatch.setattr("tiny_math_solver.report.watch.time.monotonic", lambda: clock.now)

    def slow(*given: Any) -> Any:
        clock.now, clock.made = clock.now + 2, clock.made + 1
        return {"runs": [{"summary": None}], "state": ""}

    monkeypatch.setattr("tiny_math_solver.report.watch.data_of", slow)
    versions = []
    for waited in (0, 0, 7.9, 0.2):
        clock.now += waited
        write_jsonl(folder / "metrics.jsonl", [{"step": clock.now}])
        time.sleep(0.01)  # for the time of the file
        versions.append(watch.read()["version"])
    assert clock.made == 2
    assert versions[0] == versions[1] == versions[2] != versions[3]


@pytest.mark.slow
@pytest.mark.parametrize(("completions", "tokens"), [(30_720, 250), (100_000, 60), (2_500, 4_000)])
def test_a_long_run_opens_and_filters_at_once(watched: Any, tmp_path: Path, completions: int, tokens: int):
    folder = write_rollouts(write_run(tmp_path / "run"), completions, tokens)
    write_report([folder], tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size < PAGE_BYTES
    times = []  # the fastest of three openings: what the page takes, not what runs beside it
    for seed in range(3):
        watched.goto((tmp_path / "report.html").as_uri())
        times.append((drawn(watched), times_to_filter(watched, random.Random(seed))))
    assert f"of {completions:,}" in watched.locator("#rollouts .note").first.inner_text()
    to_open, to_filter = map(min, zip(*times, strict=True))
    assert to_open < 3000
    assert to_filter < 200


def times_to_filter(page: Any, rng: random.Random) -> float:
    """The longest of some changes of filter and order, in milliseconds, with what is then in view laid out."""
    took = page.evaluate(
        """(words) => {
            const times = [], view = document.querySelector("#rollouts .window");
            const timed = (change) => {
                const started = performance.now();
                change();
                view.getBoundingClientRect();
                times.push(performance.now() - started);
            };
            const box = document.getElementById("search");
            for (const word of words) timed(() => { box.value = word; box.dispatchEvent(new Event("input")); });
            for (const button of document.querySelectorAll("#rollouts [data-column]")) timed(() => button.click());
            return times;
        }""",
        ["problem-7", str(rng.randint(100, 999)), "the answer is 4", "nowhere", ""],
    )
    return max(took)

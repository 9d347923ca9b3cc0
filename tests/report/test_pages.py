"""The pages in a real browser: what they show, what clicks and filters do, and that nothing leaves them."""

import http.client
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe

from helpers.made_up_run import HOSTILE, write_run
from helpers.paths import QUICKSTART
from tiny_math_solver.grading import Graded, How
from tiny_math_solver.playground.play import Playground
from tiny_math_solver.playground.solver import Stream, Vote
from tiny_math_solver.report import write_report
from tiny_math_solver.report.watch import Watch

pytestmark = pytest.mark.browser


@pytest.fixture
def report(watched: Any, tmp_path: Path) -> SimpleNamespace:
    write_report([write_run(tmp_path / "run")], tmp_path / "report.html")
    watched.goto((tmp_path / "report.html").as_uri())
    watched.wait_for_function("performance.getEntriesByName('drawn').length > 0")
    return SimpleNamespace(page=watched, folder=tmp_path)


def rows(page: Any) -> list[list[str]]:
    return [row.locator("span").all_inner_texts() for row in page.locator("#rollouts .window .row").all()]


def test_the_verdict_and_every_curve_with_data_are_shown(report: SimpleNamespace):
    page = report.page
    assert page.locator(".big").inner_text() == "25.0% → 75.0%"
    assert "No significant gain" in page.locator("#verdict").inner_text()  # 2 of 4 fixed: p = 0.5
    drawn = [c.get_attribute("aria-label") for c in page.locator(".chart").all() if c.is_visible()]
    assert drawn == ["Greedy accuracy on dev", "Reward", "Groups without a gradient", "Seconds per step"]
    assert page.locator(".chart .scatterlayer .trace").count() >= 6


def test_what_was_not_trained_on_and_sampled_answers_stand_beside_the_verdict(report: SimpleNamespace):
    """The most sobering numbers belong where the best one is: people share the top of the page."""
    tiles = report.page.locator("#verdict .tile").all_inner_texts()
    assert [tile.split("\n")[0] for tile in tiles if "not trained on" in tile or "@" in tile] == [
        "0.0% → 2.0%", "40.0% → 80.0%", "25.0% → 75.0%"
    ]  # fmt: skip


def test_further_test_sets_have_a_table_with_a_row_for_each(watched: Any, tmp_path: Path):
    run = write_run(tmp_path / "run")
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    paired = {"fixed": 7, "broken": 2, "p_value": 0.18}
    sets = [(f"svamp {HOSTILE}", 300), ("apple-GSM-Symbolic-p1", 5000)]
    summary["also"] = {
        name: {"before": {**summary["before"], "n": n}, "after": {**summary["after"], "n": n}, "paired": paired}
        for name, n in sets
    }
    (run / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    write_report([run], tmp_path / "report.html")
    watched.goto((tmp_path / "report.html").as_uri())
    watched.wait_for_function("performance.getEntriesByName('drawn').length > 0")
    table = watched.locator("#verdict h3", has_text="Further test sets").locator("xpath=following::table[1]")
    cells = [
        row.locator("th, td").evaluate_all("all => all.map((e) => e.textContent)") for row in table.locator("tr").all()
    ]
    assert cells[0] == ["set", "problems", "before", "after", "95 % interval", "fixed / broken", "p"]
    assert [(row[0], row[1], row[2], row[3], row[5]) for row in cells[1:]] == [
        (name, f"{n:,}", "25.0%", "75.0%", "7 / 2") for name, n in sets
    ]


def test_the_first_fixed_problem_is_open_and_others_come_by_the_arrow_keys(report: SimpleNamespace):
    page = report.page
    example = page.locator("#verdict .example")
    assert example.locator("pre").all_inner_texts() == ["1+2=4\n#### 4", "1+2=3\n#### 3"]
    assert example.locator(".turn .note").inner_text() == "fixed, 1 of 4"
    example.focus()
    page.keyboard.press("ArrowRight")
    assert example.locator(".turn .note").inner_text() == "fixed, 2 of 4"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert example.locator(".turn .note").inner_text() == "right before and after, 4 of 4"


def test_there_is_something_to_read_before_the_first_click(report: SimpleNamespace):
    page = report.page
    assert page.locator('#problems .cell[aria-pressed="true"]').get_attribute("class") == "cell fixed"
    assert page.locator("#rollouts .card pre").count() == 1
    assert page.locator('#rollouts .row[aria-selected="true"]').count() == 1


def test_every_curve_says_what_it_shows_and_how_this_run_did(report: SimpleNamespace):
    says = {
        figure.locator(".chart").get_attribute("aria-label"): figure.locator(".note").inner_text()
        for figure in report.page.locator(".figure").all()
        if figure.is_visible()
    }
    assert says["Greedy accuracy on dev"].startswith("Problems that are not trained on: this is what should rise.")
    assert "Here in the last 2 steps " in says["Groups without a gradient"]
    assert all(text.endswith(".") for text in says.values())


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_bars_people_who_read_otherwise(report: SimpleNamespace, width: int, scheme: Any):
    page = report.page
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    found = Axe().run(page).response["violations"]
    assert [(each["id"], each["nodes"][0]["html"]) for each in found if each["impact"] in ("serious", "critical")] == []


def test_warnings_of_the_run_stand_under_the_verdict_as_text(report: SimpleNamespace):
    cells = report.page.locator("#verdict tbody td").all()
    assert [cell.evaluate("e => e.textContent") for cell in cells] == ["3", "truncation", f"40% are cut off {HOSTILE}"]


def test_causes_stand_under_the_verdict_as_text(report: SimpleNamespace):
    causes = report.page.locator("#verdict .causes li")
    assert causes.evaluate_all("all => all.map((e) => e.textContent)") == [
        f"up to 12% of the completions were cut off {HOSTILE}"
    ]


def test_a_problem_opens_with_both_answers_and_the_first_difference(report: SimpleNamespace):
    page = report.page
    cells = page.locator("#problems .cells button")
    assert [c.get_attribute("aria-label").split(", ")[1] for c in cells.all()] == [
        "right before and after", "fixed", "fixed", "wrong before and after",
    ]  # fmt: skip
    cells.nth(1).click()
    assert page.locator("#problems pre").all_inner_texts() == ["1+2=4\n#### 4", "1+2=3\n#### 3"]
    assert page.locator("#problems mark").all_inner_texts() == ["4", "3"]
    assert page.locator("#problems .slip").all_inner_texts() == ["1+2=", "4"]
    assert "arithmetic slip: 1+2=4" in page.locator("#problems").inner_text()


def test_filters_and_sorting_do_what_they_say(report: SimpleNamespace):
    page = report.page
    assert page.locator("#found").inner_text() == "40 of 40"
    page.fill("#search", "QUESTION 3")
    assert page.locator("#found").inner_text() == "6 of 40"
    page.select_option("#paid", "full")
    assert {row[1] for row in rows(page)} == {"1.5"}
    page.fill("#search", "")
    page.select_option("#paid", "")
    page.fill("#from", "2")
    page.fill("#to", "3")
    assert {row[0] for row in rows(page)} == {"2", "3"}
    page.fill("#from", "")
    page.fill("#to", "")
    page.select_option("#end", "false")
    assert page.locator("#found").inner_text() == "4 of 40"
    page.select_option("#end", "")
    page.click('button[data-column="tokens"]')
    assert [int(row[3]) for row in rows(page)][:3] == [5, 6, 7]
    page.click('button[data-column="tokens"]')
    assert [int(row[3]) for row in rows(page)][:3] == [44, 43, 42]
    page.click('button[data-column="answer"]')  # as numbers, not as text
    assert [row[5] for row in rows(page)][:10] == [str(n) for n in range(2, 12)]


def test_the_list_is_walked_by_keyboard(report: SimpleNamespace):
    page = report.page
    page.locator("#rollouts .window").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert (
        page.locator('#rollouts .window [aria-selected="true"] span').all_inner_texts()[3] == "7"
    )  # the first one was selected
    page.keyboard.press("End")
    assert page.locator("#rollouts pre").inner_text() == "2+39=41\n#### 41"


def test_a_hostile_completion_stays_text(report: SimpleNamespace):
    page = report.page
    page.fill("#search", "onerror")
    page.locator("#rollouts .window .row").first.click()
    assert page.locator("#rollouts pre").evaluate("e => e.textContent") == HOSTILE
    assert page.title() == "run"
    assert page.locator("img").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_a_phone(report: SimpleNamespace, scheme: str):
    page = report.page
    page.set_viewport_size({"width": 390, "height": 800})
    page.emulate_media(color_scheme=scheme)
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert back == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 28)"}[scheme]


def test_several_runs_stand_side_by_side(watched: Any, tmp_path: Path):
    folders = [write_run(tmp_path / name, after_right=right) for name, right in (("first", 2), ("second", 4))]
    write_report(folders, tmp_path / "both.html")
    watched.goto((tmp_path / "both.html").as_uri())
    verdict = watched.locator("#verdict").inner_text()
    assert "first" in verdict
    assert "100.0%" in verdict
    assert watched.locator("#verdict table").nth(1).locator("tbody td").all_inner_texts() == [
        "first",
        "second",
        "2",
        "0",
        "0.5",
        "no clear difference",
    ]


def test_the_page_of_seeds_has_their_one_verdict_at_its_top(watched: Any, tmp_path: Path):
    """Catches pairs of seeds in place of the verdict, and a seed without a result that the page leaves out."""
    folders = [write_run(tmp_path / f"seed-{seed}", after_right=right) for seed, right in ((1, 2), (2, 4))]
    folders.append(write_run(tmp_path / "seed-3", finished=False))
    rows = [
        {"seed": 1, "before": 0.25, "after": 0.5, "gain": 0.25},
        {"seed": 2, "before": 0.25, "after": 1.0, "gain": 0.75},
    ]
    verdict = {
        "n": 4, "before": 0.25, "after": 0.75, "gain": 0.5, "ci95": [-0.2, 1.0], "interval_over": "seeds and problems",
        "caution": "rough", "sd": 0.354, "gained": 0, "unchanged": 2, "lost": 0, "best": 2, "worst": 1,
        "same_before": True,
    }  # fmt: skip
    failed = [{"seed": 3, "exit_code": 3, "why": HOSTILE}]
    seeds: dict[str, Any] = {
        "title": "mine-seeds",
        "verdict": verdict,
        "runs": rows,
        "failed": failed,
        "unfinished": [4],
    }
    write_report(folders, tmp_path / "seeds.html", seeds)
    watched.goto((tmp_path / "seeds.html").as_uri())
    assert watched.locator("h1").inner_text() == "mine-seeds"
    section = watched.locator("#verdict")
    assert section.locator(".big").inner_text() == "+50.0 points"
    assert (
        "95 % interval -20.0 to +100.0 points, over seeds and problems: rough."
        in section.locator(".note").first.inner_text()
    )
    tiles = section.locator(".tile").all_inner_texts()
    assert [" ".join(tile.split()) for tile in tiles] == [
        "0 of 2 seeds gained significantly",
        "2 did not change significantly",
        "0 lost significantly",
        "35.4 points standard deviation over seeds",
        "50.0%–100.0% from the worst, seed 1, to the best, 2",
    ]
    assert section.locator("li").all_inner_texts() == [f"seed 3: no result, {HOSTILE}", "seed 4: not finished"]
    assert section.locator("table").count() == 1  # no pairs, no settings
    assert section.locator("tbody tr").count() == 3

    none = seeds | {"verdict": None, "runs": []}
    write_report(folders[2:], tmp_path / "none.html", none)
    watched.goto((tmp_path / "none.html").as_uri())
    assert "No seed has a result:" in section.inner_text()


def test_settings_that_differ_are_listed(watched: Any, tmp_path: Path):
    folders = [write_run(tmp_path / name) for name in ("first", "second")]
    for folder, rate in zip(folders, ("0.001", "0.002"), strict=True):
        with (folder / "config.yaml").open("a") as file:
            file.write(f"grpo:\n  output_dir: {folder}\n  learning_rate: {rate}\n")
    write_report(folders, tmp_path / "both.html")
    watched.goto((tmp_path / "both.html").as_uri())
    table = watched.locator("#verdict table").nth(1)
    assert table.locator("th").all_inner_texts() == ["setting", "first", "second"]
    assert table.locator("tbody td").all_inner_texts() == ["grpo.learning_rate", "0.001", "0.002"]


def test_an_unfinished_run_shows_no_answers_of_its_end(watched: Any, tmp_path: Path):
    write_report([write_run(tmp_path / "run", finished=False)], tmp_path / "page.html")
    watched.goto((tmp_path / "page.html").as_uri())
    assert not watched.locator("nav a", has_text="Test problems").is_visible()
    cells = watched.locator("#failures tbody tr").first.locator("td").all_inner_texts()
    assert [cells[1] != "", cells[3], cells[4]] == [True, "", ""]


def test_a_watched_run_is_followed_and_filters_stay(watched: Any, tmp_path: Path):
    folder = write_run(tmp_path / "run", finished=False)
    server = Watch(folder).serve()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with server:
        watched.goto(server.url)
        assert watched.locator("#state").inner_text() == "running"
        assert watched.locator(".big").inner_text() == "dev 75.0%"
        watched.fill("#search", "question 3")
        assert watched.locator("#found").inner_text() == "6 of 40"
        lines = (folder / "rollouts.jsonl").read_text()
        (folder / "rollouts.jsonl").write_text(lines + lines)
        watched.locator("#found", has_text="12 of 80").wait_for(timeout=8000)
        assert watched.input_value("#search") == "question 3"
        write_run(folder)  # the run ends
        watched.locator(".big", has_text="25.0% → 75.0%").wait_for(timeout=8000)
        server.shutdown()


def test_a_run_whose_terminal_is_closed_goes_on_and_is_followed(watched: Any, tmp_path: Path):
    """Closing the terminal sends SIGHUP, which `nohup` ignores; the watcher is a process elsewhere."""
    folder = tmp_path / "run"
    command = [
        "nohup", sys.executable, "-m", "tiny_math_solver.cli", "train", str(QUICKSTART),
        "--grpo.output_dir", str(folder), "--grpo.max_steps", "12", "--evaluation.samples", "0",
        "--problems.test", "20", "--problems.dev", "20",
    ]  # fmt: skip
    with (tmp_path / "log").open("w") as log:
        run = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 120
            while not (folder / "metrics.jsonl").is_file() and time.monotonic() < deadline:
                time.sleep(0.1)
            run.send_signal(signal.SIGHUP)
            server = Watch(folder).serve()
            threading.Thread(target=server.serve_forever, daemon=True).start()
            with server:
                watched.goto(server.url)
                watched.locator("#verdict .tile", has_text="problems fixed").wait_for(timeout=60_000)
                server.shutdown()
            assert run.wait(timeout=60) == 0
        finally:
            run.kill()
    lines = (tmp_path / "log").read_text(encoding="utf-8").splitlines()
    assert [line.split()[1] for line in lines if line.startswith("step ")] == [f"{i}/12" for i in range(1, 13)]
    assert not any(ord(c) < 32 for line in lines for c in line)


def test_a_server_answers_to_its_own_name_alone(tmp_path: Path):
    """Another site whose name resolves to this machine must not read the page."""
    server = Watch(write_run(tmp_path / "run")).serve()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with server:
        assert server.server_address[0] == "127.0.0.1"

        def status(host: str, path: str = "/data.json") -> int:
            connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
            connection.request("GET", path, headers={"Host": host})
            return connection.getresponse().status

        port = server.server_port
        assert [status(f"127.0.0.1:{port}"), status(f"localhost:{port}")] == [200, 200]
        assert [status("evil.example"), status(f"evil.example:{port}"), status("")] == [403, 403, 403]
        assert status("localhost", "/../config.yaml") == 404
        server.shutdown()


class Scripted:
    """Answers like a Solver: the base something hostile, the trained side 4."""

    has_adapter = True

    about = "knows <i>nothing</i>"

    def stream(self, question: str, base: bool = False) -> Stream:
        def pieces() -> Generator[str, None, bool]:
            text = HOSTILE if base else f"{question}: 2+2=4\n#### 4"
            yield from (text[i : i + 7] for i in range(0, len(text), 7))
            return not base

        return Stream(pieces())

    def read(self, question: str, text: str, gold: str | None = None) -> Graded:
        return Graded("4", How.HASHES, gold == "4" and text != HOSTILE)

    def doubt(self, question: str) -> str:
        return ""

    def vote(self, question: str, samples: int, temperature: float, base: bool = False) -> Vote:
        return Vote([("4", samples - 1), ("5", 1)], samples)


def test_the_playground_shows_both_sides_as_text(watched: Any):
    server = Playground(Scripted(), "a <b>model</b>", {"What is 2+2?": "4", "</script>": "1"}).serve()  # type: ignore[arg-type]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with server:
        watched.goto(server.url)
        assert "a <b>model</b>: knows <i>nothing</i>." in watched.locator("main > p").inner_text()
        watched.locator(".examples button").first.click()
        watched.locator("#trained .vote", has_text="vote: 4 wins with 7 votes of 8; 5 has 1").wait_for(timeout=8000)
        assert watched.locator("#trained pre").inner_text() == "What is 2+2?: 2+2=4\n#### 4"
        assert watched.locator("#trained .answer.is-right").inner_text() == "answer: 4, after ####: ✓ right"
        assert watched.locator("#base .answer.is-wrong").inner_text() == "answer: 4, after ####: ✗ wrong, it is 4"
        assert watched.locator("#base pre").evaluate("e => e.textContent") == (
            HOSTILE + "\n… cut off: the limit of its length"
        )
        assert watched.locator("img").count() == 0
        watched.set_viewport_size({"width": 390, "height": 800})
        assert watched.evaluate("document.documentElement.scrollWidth") <= 390
        server.shutdown()


@pytest.mark.slow
def test_twenty_thousand_rollouts_open_and_filter_at_once(watched: Any, tmp_path: Path):
    write_report([write_run(tmp_path / "run", rollouts=20_000)], tmp_path / "report.html")
    watched.goto((tmp_path / "report.html").as_uri())
    watched.wait_for_function("performance.getEntriesByName('drawn').length")
    opened = watched.evaluate("performance.getEntriesByName('drawn')[0].startTime")  # since the navigation began
    assert watched.locator("#found").inner_text() == "20,000 of 20,000"
    assert opened < 3000
    took = watched.evaluate(
        """() => {
            const times = [];
            for (const text of ["question 3", "19", "2+1", "nowhere", ""]) {
                const box = document.getElementById("search"), started = performance.now();
                box.value = text;
                box.dispatchEvent(new Event("input"));
                document.querySelector(".window").getBoundingClientRect();
                times.push(performance.now() - started);
            }
            return times;
        }"""
    )
    assert max(took) < 200, took

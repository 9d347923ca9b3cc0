"""Asking a model: in the terminal, and over the server of the page."""

import http.client
import json
import threading
from typing import Any
from urllib.parse import urlencode

import pytest

from helpers.models import adapted
from tiny_math_solver.cli import main
from tiny_math_solver.evaluation.prompt_settings import prompt_settings
from tiny_math_solver.models.load import LoadedModel, load_model
from tiny_math_solver.playground.play import LONGEST_QUESTION, Playground
from tiny_math_solver.playground.solver import Solver, Vote
from tiny_math_solver.prompts import Prompt
from tiny_math_solver.rewards.grader import Grader
from tiny_math_solver.rollouts import EngineRollouts, ReferenceRollouts, Sampling
from tiny_math_solver.support.console import printable

QUESTION = "Tom has 3 boxes of 12 pens. He gives away 6. How many pens are left?"


@pytest.fixture(scope="module")
def solver() -> Solver:
    """The embedded model with an adapter that changes what it says."""
    loaded = load_model("embedded", dtype="float32")
    model = adapted(loaded.model, r=8)
    return Solver(
        LoadedModel("made up", model, loaded.tokenizer),
        EngineRollouts(model, loaded.tokenizer),
        prompt_settings("embedded", max_new_tokens=40),
        Grader(),
    )


def greedy(solver: Solver) -> str:
    rollouts = ReferenceRollouts(solver.loaded.model, solver.loaded.tokenizer)
    (made,) = rollouts.generate([Prompt(solver._prompt_ids(QUESTION), 0)], 1, Sampling(40, temperature=0))
    return solver.loaded.tokenizer.decode(made.completion_ids, skip_special_tokens=True)


def test_a_completion_streams_in_pieces_with_and_without_the_adapter(solver: Solver):
    trained, base = list(solver.stream(QUESTION)), list(solver.stream(QUESTION, base=True))
    assert len(trained) > 3
    assert "".join(trained) == greedy(solver)
    with solver.loaded.model.disable_adapter():
        assert "".join(base) == greedy(solver) != "".join(trained)


def test_a_stream_that_is_left_early_leaves_the_adapter_on(solver: Solver):
    """A browser that goes away must not turn the trained side into the base for good."""
    stream: Any = solver.stream(QUESTION, base=True)
    next(stream)
    stream.close()
    assert "".join(solver.stream(QUESTION)) == greedy(solver)


def test_the_vote_counts_answers_and_is_reproducible(solver: Solver):
    vote = solver.vote(QUESTION, 8, 0.0)
    assert sum(count for _, count in vote.counts) <= vote.samples == 8
    assert [count for _, count in vote.counts] == sorted((count for _, count in vote.counts), reverse=True)
    assert solver.vote(QUESTION, 8, 0.0) == vote


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ([("24", 5), ("22", 1)], "24 wins with 5 votes of 8; 22 has 1; 2 of 8 without an answer"),
        ([("2", 2), ("24", 2), ("22", 1)], "2 and 24 tie with 2 votes each; 22 has 1; 3 of 8 without an answer"),
        ([("2", 1), ("9", 1), ("4", 1)], "2, 9 and 4 tie with 1 vote each; 5 of 8 without an answer"),
        ([("7", 1)], "7 wins with 1 vote of 8; 7 of 8 without an answer"),
        ([("7", 8)], "7 wins with 8 votes of 8"),
        ([], "none of 8 samples has an answer"),
    ],
)
def test_a_vote_names_the_winner_or_the_tie_and_adds_up(counts: list[tuple[str, int]], text: str):
    assert str(Vote(counts, 8)) == text


def test_solve_answers_votes_and_goes_on_without_a_question(capsys, monkeypatch):
    assert main(["solve", "embedded", QUESTION, "--samples", "3"]) == 0
    once = capsys.readouterr().out
    assert "\nanswer: " in once
    assert "vote: " in once
    lines = iter([f"{QUESTION}\n", "And 2 + 2?\n", ""])
    monkeypatch.setattr("sys.stdin.readline", lambda: next(lines))
    assert main(["solve", "embedded"]) == 0
    assert capsys.readouterr().out.count("\nanswer: ") == 2


def test_nothing_a_model_writes_reaches_the_terminal_as_a_command():
    assert printable("\x1b[2J\x07ok\r\u202e\n") == "\ufffd[2J\ufffdok\ufffd\ufffd\n"


# -- The server -------------------------------------------------------------------------------------------------


@pytest.fixture
def server(solver: Solver):
    made = Playground(solver, "made up", {QUESTION: "17"}).serve()
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def get(server: Any, path: str, **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    connection.request("GET", path, headers=headers)
    return connection.getresponse()


def test_an_answer_comes_as_events(server, solver: Solver):
    response = get(server, "/ask?" + urlencode({"question": QUESTION, "side": "trained", "samples": "2"}))
    assert response.headers["Content-Type"] == "text/event-stream"
    events = [event.split("\n") for event in response.read().decode().strip().split("\n\n")]
    named = [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in events]
    assert [name for name, _ in named][-3:] == ["answer", "vote", "end"]
    assert "".join(data for name, data in named if name == "piece") == greedy(solver)
    read = solver.read(QUESTION, greedy(solver), "17")
    assert named[-3][1] | {"how": ""} == {
        "value": read.answer, "how": "", "is_finished": True, "gold": "17", "is_right": read.correct, "doubt": ""
    }  # fmt: skip
    vote = solver.vote(QUESTION, 2, 0.0)
    assert named[-2][1] == str(vote)
    assert isinstance(vote, Vote)


@pytest.mark.parametrize(
    "query",
    [
        {}, {"question": "  "}, {"question": "x" * (LONGEST_QUESTION + 1)}, {"question": "2+2", "samples": "-1"},
        {"question": "2+2", "samples": "65"}, {"question": "2+2", "samples": "many"},
        {"question": "2+2", "temperature": "nan"}, {"question": "2+2", "temperature": "-1"},
    ],
)  # fmt: skip
def test_a_bad_question_is_refused(query: dict[str, str], server):
    assert get(server, "/ask?" + urlencode(query)).status == 400


def test_another_site_cannot_make_it_work(server):
    ask = "/ask?" + urlencode({"question": QUESTION})
    assert get(server, ask, **{"Sec-Fetch-Site": "cross-site"}).status == 403
    assert get(server, ask, **{"Host": "evil.example"}).status == 403

"""`tiny-math play`: a page where you can query a model, with the answers of base and trained model side by side."""

import json
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from importlib import resources
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tiny_math_solver.grading import How
from tiny_math_solver.grading.graded import PLACES
from tiny_math_solver.playground.solver import VOTE_TEMPERATURE, Solver
from tiny_math_solver.report import script_data
from tiny_math_solver.support.local_server import LocalServer, Response

FOUND = {
    **PLACES,
    How.PHRASE: "after words such as “the answer is”",
    How.CLOSING: "in the last sentence",
    How.NONE: "",
}
LONGEST_QUESTION = 4000  # characters
MOST_SAMPLES = 64


class Playground:
    """Serves the page, and on `/ask` an answer as events: `piece` (many), `answer`, `vote` (optional), `end`.

    `examples` are questions with their golds; an answer to one of them is right or wrong, any other just an answer.
    """

    def __init__(self, solver: Solver, name: str, examples: dict[str, str]):
        self.solver, self.name, self.examples = solver, name, examples

    def serve(self, port: int = 0) -> LocalServer:
        return LocalServer({"/": self._page, "/ask": self._ask}, port)

    def _page(self, request: BaseHTTPRequestHandler) -> Response:
        return Response(self.page().encode(), "text/html; charset=utf-8")

    def page(self) -> str:
        from jinja2 import Environment
        from markupsafe import Markup

        def file(package: str, name: str) -> Any:
            return Markup((resources.files(f"tiny_math_solver.{package}") / name).read_text(encoding="utf-8"))

        sides = ["base", "trained"] if self.solver.has_adapter else ["trained"]
        data = {"sides": sides, "examples": list(self.examples), "temperature": VOTE_TEMPERATURE}
        template = Environment(autoescape=True).from_string(str(file("playground", "page.html.jinja")))
        return template.render(
            name=self.name,
            about=self.solver.about,
            two_sides=self.solver.has_adapter,
            css=file("report", "page/page.css"),
            js=file("playground", "page.js"),
            data=script_data(data),
            most=MOST_SAMPLES,
            longest=LONGEST_QUESTION,
        )

    def _ask(self, request: BaseHTTPRequestHandler) -> Response:
        if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
            return Response(b"", "text/plain", HTTPStatus.FORBIDDEN)  # no page of another site may use the model
        asked = {name: values[0] for name, values in parse_qs(urlsplit(request.path).query).items()}
        try:
            question = asked["question"].strip()
            samples, temperature = int(asked.get("samples", "0")), float(asked.get("temperature", "0"))
            if not (question and len(question) <= LONGEST_QUESTION):
                raise ValueError
            if not (0 <= samples <= MOST_SAMPLES and 0 <= temperature <= 2):
                raise ValueError
        except (KeyError, ValueError):
            return Response(b"", "text/plain", HTTPStatus.BAD_REQUEST)
        base = asked.get("side") == "base"
        return Response(b"", "text/event-stream", stream=self._events(question, samples, temperature, base))

    def _events(self, question: str, samples: int, temperature: float, base: bool) -> Iterator[bytes]:
        stream, gold = self.solver.stream(question, base=base), self.examples.get(question)
        for piece in stream:
            yield _event("piece", piece)
        graded = self.solver.read(question, stream.text, gold)
        answer = {"value": graded.answer, "how": FOUND[graded.how], "is_finished": stream.is_finished}
        right = {"gold": gold, "is_right": gold and graded.correct}
        yield _event("answer", answer | right | {"doubt": self.solver.doubt(question)})
        if samples:
            vote = self.solver.vote(question, samples, temperature, base=base)
            yield _event("vote", str(vote))
        yield _event("end", None)


def _event(name: str, data: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()

"""The retry policy inside another program, which has set up huggingface_hub's client for itself."""

from importlib import import_module
from typing import Any

import huggingface_hub
import pytest

from tiny_math_solver.hub.retries import CutError, UnreachableError, retrying

ADDRESS = "http://hub.example/api"


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A program's own client is set; the statuses that it answers are taken from the front of this list."""
    module = import_module("huggingface_hub.utils._http")
    monkeypatch.setattr(module, "_GLOBAL_CLIENT_FACTORY", module._GLOBAL_CLIENT_FACTORY)
    monkeypatch.setattr(module, "_GLOBAL_CLIENT", None)
    http: Any = import_module(type(huggingface_hub.get_session()).__module__.partition(".")[0])
    statuses: list[int] = []

    Client = type("Client", (http.Client,), {"__module__": "program"})  # noqa: N806  of the program's own

    def factory() -> Any:
        transport = http.MockTransport(lambda request: http.Response(statuses.pop(0), text="answered"))
        return Client(transport=transport, headers={"X-Program": "own"})

    huggingface_hub.set_client_factory(factory)
    return statuses


def test_requests_are_retried_with_the_programs_own_client_which_stays(requests: list[int], capsys):
    """Catches: huggingface_hub's own default put in its place, without the program's proxies and certificates."""
    before = huggingface_hub.get_session()
    requests += [503, 200, 503]
    with retrying((0.0,)):
        answer = huggingface_hub.get_session().get(ADDRESS)
    assert (answer.status_code, answer.request.headers["X-Program"]) == (200, "own")
    assert capsys.readouterr().err == "tiny-math: hub.example: 503 Service Unavailable; trying again in 0 s\n"
    assert huggingface_hub.get_session() is before
    assert huggingface_hub.get_session().get(ADDRESS).status_code == 503  # the program's own requests are its own
    huggingface_hub.close_session()
    requests += [200]
    assert huggingface_hub.get_session().get(ADDRESS).request.headers["X-Program"] == "own"


def test_the_client_stays_after_trouble_too(requests: list[int]):
    before: Any = huggingface_hub.get_session()
    own = before.send = before.send  # wrapped by the program, as for tracing
    requests += [503, 503]
    with pytest.raises(UnreachableError, match="503 Service Unavailable; tries: 2"), retrying((0.0,)):
        huggingface_hub.get_session().get(ADDRESS)
    assert huggingface_hub.get_session() is before
    assert before.send is own
    assert requests == []


def test_a_commit_is_left_to_the_caller_and_counted_whatever_succeeds_in_between(requests: list[int], capsys):
    """Catches: a commit that is made twice, since only its answer was lost, and tries without end."""
    requests += [503, 200, 503, 200, 503]
    with retrying((0.0, 0.01)):
        client = huggingface_hub.get_session()
        for _ in range(2):
            with pytest.raises(CutError, match="503 Service Unavailable"):
                client.post(f"{ADDRESS}/commit/main", content=b"{}")
            assert client.get(ADDRESS).status_code == 200
        with pytest.raises(UnreachableError, match="503 Service Unavailable; tries: 3"):
            client.post(f"{ADDRESS}/commit/main", content=b"{}")
    assert [line.rpartition(" in ")[2] for line in capsys.readouterr().err.splitlines()] == ["0 s", "0.01 s"]

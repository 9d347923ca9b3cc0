"""A GGUF file answered by llama.cpp itself: by `llama-server` on the PATH, or by npm's node-llama-cpp.

Either runs in a process of its own on this machine's loopback or pipes, and ends with it.
"""

import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.client import HTTPConnection
from importlib import resources
from pathlib import Path
from typing import Any

from tiny_math_solver.prompts import Message, Prompt
from tiny_math_solver.rollouts.endings import Endings
from tiny_math_solver.rollouts.rollout import OnDone, Rollout
from tiny_math_solver.rollouts.sampling import Sampling
from tiny_math_solver.rollouts.scheduler import requests_of
from tiny_math_solver.support.batch_size import BatchSize
from tiny_math_solver.support.errors import UserError
from tiny_math_solver.support.local_server import ADDRESS

AT_ONCE = 8  # completions
STARTING_SECONDS = 300.0  # to load a file
ANSWERING_SECONDS = 3600.0  # for one completion, on a machine that is busy with others

Ask = Callable[[dict[str, Any]], list[int]]


@dataclass(frozen=True)
class LlamaCpp:
    """A running llama.cpp. `ask` takes `{"messages"}` or `{"prompt", "limit"}` and returns tokens; safe on threads."""

    name: str
    ask: Ask

    def prompt_ids(self, messages: list[Message]) -> list[int]:
        """The prompt of a chat, by the template and the vocabulary in the file."""
        return self.ask({"messages": messages})


class LlamaCppRollouts:
    """Greedy completions by llama.cpp. Implements `Rollouts`, without log-probabilities."""

    model = None

    def __init__(self, llama: LlamaCpp, endings: Endings):
        self.llama, self.endings, self.tokenizer = llama, endings, endings.tokenizer
        self.batch_size = BatchSize(AT_ONCE)

    def generate(
        self,
        prompts: Sequence[Prompt],
        samples: int,
        sampling: Sampling,
        *,
        logprobs: bool = False,
        on_done: OnDone | None = None,
    ) -> list[Rollout]:
        if logprobs or sampling.temperature:
            raise ValueError("llama.cpp is asked for greedy completions alone")
        with ThreadPoolExecutor(AT_ONCE) as pool:
            made = {
                pool.submit(self.llama.ask, {"prompt": each.prompt.ids, "limit": sampling.max_new_tokens}): each
                for each in requests_of(prompts, samples)
            }
            for answer in as_completed(made):
                request, ids = made[answer], answer.result()
                end = self.endings.at_text(ids)
                ids = ids if end is None else ids[:end]
                request.rollout = Rollout(request.prompt.ids, ids, self.endings.finished(ids))
                if on_done:
                    on_done(request.index, request.rollout)
        return [request.rollout for request in made.values()]  # type: ignore[misc]

    def stream(self, prompt_ids: list[int], sampling: Sampling) -> Iterator[list[int]]:
        """One completion's token ids, all at once."""
        (rollout,) = self.generate([Prompt(prompt_ids, 0)], 1, sampling)
        yield rollout.completion_ids


def find_llama_cpp() -> Callable[..., Any] | None:
    """`run(file, length)`, a context manager that gives a `LlamaCpp`; None if there is no llama.cpp on this machine.

    It answers AT_ONCE completions together, of at most `length` tokens with their prompt.
    """
    if server := shutil.which("llama-server"):
        return partial(_served, server)
    node, package = shutil.which("node"), _node_package()
    return partial(_piped, node, package) if node and package else None


# -- llama-server -----------------------------------------------------------------------------------------------


@contextmanager
def _served(server: str, file: Path, length: int) -> Iterator[LlamaCpp]:
    with socket.create_server((ADDRESS, 0)) as free:
        port = free.getsockname()[1]
    settings = {"-m": file, "--host": ADDRESS, "--port": port, "-np": AT_ONCE, "-c": AT_ONCE * length}
    threads = ["-t", value] if (value := os.environ.get("OMP_NUM_THREADS")) else []
    command = [server, *(str(word) for pair in settings.items() for word in pair), "--jinja", *threads]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        call = partial(_call, port)
        _await_server(process, call)
        version = call("/props").get("build_info", "")
        yield LlamaCpp(f"llama-server {version}".strip(), partial(_asked, call))
    finally:
        process.kill()
        process.wait()


def _asked(call: Callable[..., Any], request: dict[str, Any]) -> list[int]:
    try:
        if "messages" in request:
            text = call("/apply-template", {"messages": request["messages"]})["prompt"]
            return call("/tokenize", {"content": text, "add_special": True, "parse_special": True})["tokens"]
        settings = {"n_predict": request["limit"], "temperature": 0, "return_tokens": True, "cache_prompt": False}
        return call("/completion", {"prompt": request["prompt"], **settings})["tokens"]  # the one that ends them too
    except OSError as error:
        raise UserError(f"llama-server has ended, or refuses a request ({error})") from None


def _await_server(process: "subprocess.Popen[bytes]", call: Callable[..., Any]) -> None:
    deadline = time.monotonic() + STARTING_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError):
            call("/health")
            return
        time.sleep(0.2)
    raise UserError("llama-server does not start with this file; try it by hand: llama-server -m FILE")


def _call(port: int, path: str, body: dict[str, Any] | None = None) -> Any:
    """The JSON of a reply: POST with a body, else GET. Raises OSError without one; no proxy of the user's is asked."""
    connection = HTTPConnection(ADDRESS, port, timeout=ANSWERING_SECONDS)
    try:
        content = None if body is None else json.dumps(body)
        connection.request("GET" if body is None else "POST", path, content, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        if reply.status != HTTPStatus.OK:
            raise OSError(f"{path}: {reply.status} {reply.reason}")
        return json.load(reply)
    finally:
        connection.close()


# -- node-llama-cpp ---------------------------------------------------------------------------------------------


def _node_package() -> Path | None:
    """The folder of node-llama-cpp: of this folder or one above it, or installed globally."""
    roots = [folder / "node_modules" for folder in (Path.cwd(), *Path.cwd().parents)]
    roots += [Path(root) for root in os.environ.get("NODE_PATH", "").split(os.pathsep) if root]
    if npm := shutil.which("npm"):
        found = subprocess.run([npm, "root", "-g"], capture_output=True, text=True, check=False)
        roots += [Path(found.stdout.strip())] if found.stdout.strip() else []
    packages = (root / "node-llama-cpp" for root in roots)
    return next((package for package in packages if (package / "package.json").is_file()), None)


@contextmanager
def _piped(node: str, package: Path, file: Path, length: int) -> Iterator[LlamaCpp]:
    with resources.as_file(resources.files("tiny_math_solver") / "export" / "llama_cpp.mjs") as script:
        command = [node, str(script), str(package), str(file.absolute()), str(AT_ONCE), str(length)]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8"
        )
        pipe = _Pipe(process)
        try:
            version = pipe.replies_to(None, STARTING_SECONDS)["version"]
            yield LlamaCpp(f"node-llama-cpp {version}", pipe.ask)
        finally:
            process.kill()
            process.wait()


class _Pipe:
    """Requests to the script, and its replies, which come in any order."""

    def __init__(self, process: "subprocess.Popen[str]"):
        self._process, self._changed = process, threading.Condition()
        self._replies: dict[int | None, dict[str, Any]] = {}
        self._asked, self._has_ended = 0, False
        threading.Thread(target=self._read, daemon=True).start()

    def ask(self, request: dict[str, Any]) -> list[int]:
        assert self._process.stdin
        with self._changed:
            self._asked += 1
            number = self._asked
            with suppress(OSError):  # it has ended: there is no reply, which says so
                self._process.stdin.write(json.dumps({"id": number, **request}) + "\n")
                self._process.stdin.flush()
        reply = self.replies_to(number, ANSWERING_SECONDS)
        if "error" in reply:
            raise UserError(f"llama.cpp: {reply['error']}")
        return reply["tokens"]

    def replies_to(self, number: int | None, seconds: float) -> dict[str, Any]:
        with self._changed:
            self._changed.wait_for(lambda: number in self._replies or self._has_ended, seconds)
            if number not in self._replies:
                raise UserError("llama.cpp (node-llama-cpp) has ended, or does not answer, with this file")
            return self._replies.pop(number)

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            reply = json.loads(line)
            with self._changed:
                self._replies[reply.get("id")] = reply
                self._changed.notify_all()
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()

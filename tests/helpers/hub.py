"""A stand-in for the Hugging Face Hub on the loopback interface, served to the real client libraries.

With `HF_ENDPOINT` pointing here, `datasets`, `transformers` and `huggingface_hub` do what they do against the
Hub, only with a made-up gsm8k and a tiny random Qwen2. `HF_ENDPOINT` is read when `huggingface_hub` is
imported, so the code under test runs in a subprocess:

    publish_defaults(root)
    with HubStandin(root) as hub:
        subprocess.run([...], env=os.environ | hub.env(home))
        assert hub.revisions("openai/gsm8k") == {GSM8K_REVISION}
        assert not hub.foreign

Uploads are in hub_uploads.py. Left out: Xet, redirects to a CDN, pagination. One known difference: to a caller
without a token the Hub answers 401 for a repository that does not exist, this server answers 404; the
libraries raise the same exception for both.

Everything is read from `root/{models,datasets}/OWNER/NAME/REVISION/...`; the file `main` beside the revisions
says which of them the branch `main` is.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from helpers.hub_uploads import Account, Asked, Headers, RefusedError, Uploads, is_private

DATASET = "openai/gsm8k"
MODEL = "Qwen/Qwen2.5-0.5B-Instruct"
# Made up. `main` points at other commits with other contents, so that whoever forgets the pin is caught.
GSM8K_REVISION = "9e1d0c5a" * 5
GSM8K_MAIN = "0ddba11a" * 5
MODEL_REVISION = "5ca1ab1e" * 5
MODEL_MAIN = "0ff1ce00" * 5

LFS_SUFFIXES = (".safetensors", ".parquet")  # files that the Hub stores by SHA-256 instead of by git blob id

REPO_URL = re.compile(r"/(?:(?P<kind>datasets)/)?(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<rest>.+)")
API_URL = re.compile(
    r"/api/(?P<kind>models|datasets)/(?P<repo>[^/]+/[^/]+)"
    r"(?:/(?P<verb>revision|tree|paths-info)/(?P<revision>[^/]+)(?:/(?P<rest>.+))?)?/?"
)


@dataclass(frozen=True)
class Request:
    """One request as it arrived; `repo` and `revision` are empty where the address names none."""

    method: str
    path: str
    repo: str = ""
    revision: str = ""


@dataclass
class Fault:
    """A failure of the next `times` requests (-1: of all) whose path starts with `prefix`.

    `delay` seconds pass first; then `status` answers (with `code`, by which the Hub tells its refusals apart, and
    `headers`), or the connection is cut after `cut_after` bytes of the file (0: before any answer; `reset`: with an
    error, as by a router that forgot it), or after `cut_body` bytes of what the client sends, or the file's middle byte
    is another one (`flip`). With `unanswered` the request is carried out, and cut before its answer; `late` seconds
    after it was cut, if that is given. A fault with only a delay answers as usual.
    """

    prefix: str
    status: int | None = None
    cut_after: int | None = None
    delay: float = 0.0
    times: int = 1
    method: str | None = None
    code: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    flip: bool = False
    reset: bool = False
    cut_body: int | None = None
    unanswered: bool = False
    late: float = 0.0


class HubStandin:
    """The server: `start()`, `stop()`, `url`; also a context manager. A second `start()` keeps the port.

    With `accounts`, by their tokens, it takes uploads, and shows a private repository to its owner alone.
    """

    def __init__(self, root_dir: str | Path, accounts: Mapping[str, Account] | None = None) -> None:
        self.root = Path(root_dir)
        self.uploads = Uploads(self.root, dict(accounts or {}))
        self.port = 0
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self._server: _Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def foreign(self) -> list[Request]:
        """Requests meant for another host, which `env` sends here as to a proxy; each was refused."""
        return [r for r in self.requests if not r.path.startswith("/")]

    def revisions(self, repo: str) -> set[str]:
        """Every revision of `repo` that was asked for."""
        return {r.revision for r in self.requests if r.repo == repo and r.revision}

    def env(self, home: str | Path, *, offline: bool = False) -> dict[str, str]:
        """Variables to lay over a subprocess's `os.environ`: this Hub, and a cache of its own in `home`."""
        home, switch = Path(home), "1" if offline else "0"
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            # Each of these would win over HF_HOME if the developer's shell has it.
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_DATASETS_CACHE": str(home / "datasets"),
            "HF_HUB_OFFLINE": switch,
            "HF_DATASETS_OFFLINE": switch,
            "TRANSFORMERS_OFFLINE": switch,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            # Whatever wants to leave this machine knocks here instead and is refused: see `foreign`.
            **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), self.url),
            **dict.fromkeys(("ALL_PROXY", "all_proxy"), ""),
            **dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost"),
        }

    def start(self) -> HubStandin:
        self._server = _Server(self)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self) -> None:
        if self._server is None:
            return
        self._server.shutdown()
        self._server.server_close()
        self._server.drop_connections()
        self._server = None

    def __enter__(self) -> HubStandin:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64  # the clients download with several threads

    def __init__(self, hub: HubStandin) -> None:
        self.hub = hub
        self.lock = threading.Lock()
        self.connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", hub.port), _Handler)

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer also looks up its own name: seconds where DNS is slow

    def take_fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.hub.faults:
                if fault.times and path.startswith(fault.prefix) and fault.method in (None, method):
                    fault.times -= fault.times > 0
                    return fault
        return None

    def drop_connections(self) -> None:
        """A kept-alive connection would go on being served after `stop()`."""
        with self.lock:
            for connection in self.connections:
                _cut(connection)

    def shutdown_request(self, request: Any) -> None:
        self.close_request(request)  # without the polite goodbye that would come before a reset

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Silent: the client that hangs up first is part of what is tested."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    cut_after: int | None
    flip: bool
    reset: bool
    unanswered: bool

    def setup(self) -> None:
        super().setup()
        with self.server.lock:
            self.server.connections.add(self.connection)

    def finish(self) -> None:
        with self.server.lock:
            self.server.connections.discard(self.connection)
        super().finish()

    def log_message(self, *args: Any) -> None:
        """Silent: `HubStandin.requests` is the log."""

    def handle_request(self) -> None:
        url = urlsplit(self.path)
        is_foreign = self.command == "CONNECT" or bool(url.scheme)
        path = self.path if is_foreign else unquote(url.path)
        found = None if is_foreign else REPO_URL.fullmatch(url.path) or API_URL.fullmatch(url.path)
        parts = {key: unquote(value or "") for key, value in found.groupdict().items()} if found else {}
        self.server.hub.requests.append(Request(self.command, path, parts.get("repo", ""), parts.get("revision", "")))

        fault = self.server.take_fault(self.command, path)
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length if fault is None or fault.cut_body is None else fault.cut_body)
        self.cut_after = fault.cut_after if fault else None
        self.unanswered = fault.unanswered if fault else False
        self.flip, self.reset = (fault.flip, fault.reset) if fault else (False, False)
        if fault:
            time.sleep(fault.delay)
        if fault and fault.late:
            _cut(self.connection)
            time.sleep(fault.late)
        if self.cut_after == 0 or (fault and fault.cut_body is not None):
            self.close_connection = True
            _cut(self.connection)
        elif fault and fault.status:
            self.send_problem(HTTPStatus(fault.status), fault.code, "injected fault", more=fault.headers)
        elif is_foreign:
            self.send_problem(HTTPStatus.FORBIDDEN, "", "the stand-in lets nothing out")
        else:
            kind, _, token = self.headers.get("Authorization", "").partition(" ")
            asked = Asked(self.command, url.path, body, token if kind == "Bearer" else None, self.server.hub.url)
            try:
                self.answer(asked, parts, parse_qs(url.query))
            except RefusedError as error:
                self.send_problem(error.status, error.code, error.message, body=error.more)

    do_GET = do_HEAD = do_POST = do_PUT = do_CONNECT = handle_request  # noqa: N815 (names of http.server)

    def answer(self, asked: Asked, parts: dict[str, str], query: dict[str, list[str]]) -> None:
        uploads = self.server.hub.uploads
        taken = uploads.answer(asked)
        if isinstance(taken, Headers):
            self.send_body(HTTPStatus.OK, b"", taken)
        elif taken is not None:
            self.send_json(taken)
        elif parts:
            folder = self.server.hub.root / (parts["kind"] or "models") / parts["repo"]
            uploads.check_reader(asked, folder)
            self.answer_for_repo(parts, query, parse_qs(asked.body.decode()))
        else:
            raise RefusedError(HTTPStatus.NOT_FOUND, "", f"no such address: {asked.path}")

    def answer_for_repo(self, parts: dict[str, str], query: dict[str, list[str]], form: dict[str, list[str]]) -> None:
        kind, repo, verb = parts["kind"] or "models", parts["repo"], parts.get("verb", "resolve")
        folder = self.server.hub.root / kind / repo
        if not folder.is_dir():
            return self.send_problem(HTTPStatus.NOT_FOUND, "RepoNotFound", "Repository not found")
        revision = parts["revision"] or "main"
        branch = folder / revision
        commit = branch.read_text().strip() if branch.is_file() else revision
        snapshot = folder / commit
        target = snapshot / parts["rest"]
        if not snapshot.is_dir():
            return self.send_problem(HTTPStatus.NOT_FOUND, "RevisionNotFound", f"Invalid rev id: {revision}")
        if not target.resolve().is_relative_to(snapshot.resolve()):
            return self.send_problem(HTTPStatus.BAD_REQUEST, "", "path leaves the repository")
        if (verb == "resolve" and not target.is_file()) or (verb == "tree" and not target.is_dir()):
            # The commit must be named here: the clients remember the absence of a file per commit.
            return self.send_problem(HTTPStatus.NOT_FOUND, "EntryNotFound", "Entry not found", commit=commit)

        expand = _is_true(query.get("expand") or form.get("expand"))
        if verb == "resolve":
            self.send_file(target, commit)
        elif verb == "tree":
            inside = target.glob("**/*" if _is_true(query.get("recursive")) else "*")
            self.send_json([_entry(path, snapshot, expand) for path in sorted(inside)])
        elif verb == "paths-info":
            named = [snapshot / path for path in form.get("paths", [])]
            self.send_json([_entry(path, snapshot, expand) for path in named if path.exists()])
        else:
            self.send_json(_repo_info(repo, commit, snapshot) | {"private": is_private(folder)})

    def send_file(self, path: Path, commit: str) -> None:
        data, etag = path.read_bytes(), _etag(path)
        if self.flip:
            data = flipped(data)
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes", "ETag": f'"{etag}"'}
        if path.suffix in LFS_SUFFIXES:
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(data))}
        status, (first, last) = HTTPStatus.OK, (0, len(data) - 1)
        if wanted := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")):
            start, end = wanted.groups()
            first = int(start) if start else max(0, len(data) - int(end))
            last = min(int(end), last) if start and end else last
            if first > last:
                return self.send_problem(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, "", "range past the end")
            status = HTTPStatus.PARTIAL_CONTENT
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        self.send_body(status, data[first : last + 1], headers)

    def send_json(self, value: Any) -> None:
        self.send_body(HTTPStatus.OK, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def send_problem(
        self,
        status: HTTPStatus,
        code: str,
        message: str,
        commit: str | None = None,
        more: dict[str, str] | None = None,
        body: dict[str, Any] | None = None,
    ) -> None:
        headers = (more or {}) | {"Content-Type": "application/json", "X-Error-Message": message}
        headers |= {"X-Error-Code": code} if code else {}
        headers |= {"X-Repo-Commit": commit} if commit else {}
        self.send_body(status, json.dumps({"error": message} | (body or {})).encode(), headers)

    def send_body(self, status: HTTPStatus, body: bytes, headers: Mapping[str, str]) -> None:
        if self.unanswered:
            self.close_connection = True
            return _cut(self.connection)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body[: self.cut_after])
        if self.cut_after is not None:
            self.close_connection = True
            if self.reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                _cut(self.connection)


def _cut(connection: socket.socket) -> None:
    """Cut a connection that the other side may have cut already."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def flipped(data: bytes) -> bytes:
    """The same bytes but for one bit in the middle."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def _is_true(values: list[str] | None) -> bool:
    return values is not None and values[0].lower() in ("true", "1")


def _etag(path: Path) -> str:
    data = path.read_bytes()
    if path.suffix in LFS_SUFFIXES:
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()  # git's id of a file


def _entry(path: Path, snapshot: Path, expand: bool) -> dict[str, Any]:
    name = path.relative_to(snapshot).as_posix()
    commit = {"id": snapshot.name, "title": "made up", "date": "2024-01-01T00:00:00.000Z"}
    extra: dict[str, Any] = {"lastCommit": commit} if expand else {}
    if path.is_dir():
        tree_id = hashlib.sha1(name.encode()).hexdigest()
        return {"type": "directory", "oid": tree_id, "size": 0, "path": name} | extra
    size = path.stat().st_size
    if path.suffix in LFS_SUFFIXES:
        extra["lfs"] = {"oid": _etag(path), "size": size, "pointerSize": 134}
    return {"type": "file", "oid": _etag(path)[:40], "size": size, "path": name} | extra


def _repo_info(repo: str, commit: str, snapshot: Path) -> dict[str, Any]:
    files = sorted(p.relative_to(snapshot).as_posix() for p in snapshot.rglob("*") if p.is_file())
    return {
        "_id": commit[:24],
        "id": repo,
        "modelId": repo,
        "sha": commit,
        "private": False,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "lastModified": "2024-01-01T00:00:00.000Z",
        "createdAt": "2024-01-01T00:00:00.000Z",
        "siblings": [{"rfilename": name} for name in files],
    }


# ---- what the Hub holds ----


def publish(
    root: str | Path,
    kind: str,
    repo: str,
    revision: str,
    build: Callable[[Path], Any],
    *,
    main: bool = False,
) -> Path:
    """Let `build` fill one revision's folder; `kind` is "models" or "datasets", `main` moves the branch."""
    folder = Path(root) / kind / repo / revision
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    build(folder)
    if main:
        (folder.parent / "main").write_text(revision)
    return folder


def link_files(source: Path, folder: Path) -> None:
    """Fill `folder` with the files of `source`, by links where the file system has them: a model may be large."""
    for file in source.iterdir():
        try:
            os.link(file.resolve(), folder / file.name)
        except OSError:
            shutil.copyfile(file, folder / file.name)


def publish_defaults(root: str | Path) -> Path:
    """The two repositories of the GSM8K configuration, each with a pinned revision and a different `main`."""
    publish(root, "datasets", DATASET, GSM8K_REVISION, build_gsm8k)
    publish(root, "datasets", DATASET, GSM8K_MAIN, lambda folder: build_gsm8k(folder, offset=1000), main=True)
    publish(root, "models", MODEL, MODEL_REVISION, build_qwen2)
    publish(root, "models", MODEL, MODEL_MAIN, lambda folder: build_qwen2(folder, seed=1), main=True)
    return Path(root)


def gsm8k_rows(config: str, split: str, offset: int = 0) -> list[dict[str, str]]:
    """Invented rows in the layout of openai/gsm8k: 40 for train, 16 for test.

    Golds with thousands commas and negative golds are among them, as in the original.
    """
    start, count = {"train": (0, 40), "test": (500, 16)}[split]
    return [_gsm8k_row(config, start + offset + i) for i in range(count)]


def _gsm8k_row(config: str, i: int) -> dict[str, str]:
    name, thing = ("Ada", "Ben", "Cleo", "Dov")[i % 4], ("pens", "kites", "stones")[i % 3]
    boxes, each, lost = 3 + i % 7, 5 + i % 11, i % 4
    if i % 8 == 5:
        each *= 250  # past a thousand: the gold is written with commas
    if i % 8 == 6:
        lost += boxes * each  # below zero
    total = boxes * each
    gold = total - lost
    steps = (
        f"{name} has {boxes} x {each} = <<{boxes}*{each}={total}>>{total} {thing} in the boxes.",
        f"After that {total} - {lost} = <<{total}-{lost}={gold}>>{gold} are on the list.",
    )
    if config == "socratic":
        asks = (f"How many {thing} are in the boxes?", f"How many {thing} are on the list?")
        steps = (f"{asks[0]} ** {steps[0]}", f"{asks[1]} ** {steps[1]}")
    question = (
        f"{name} (case {i}) fills {boxes} boxes with {each} {thing} each "
        f"and strikes {lost} {thing} off the list. "
        f"How many {thing} are on the list?"
    )
    return {"question": question, "answer": "\n".join(steps) + f"\n#### {gold:,}"}


def build_gsm8k(folder: Path, offset: int = 0, rows_of: Mapping[str, list[dict[str, str]]] | None = None) -> None:
    """Both configurations as parquet, and the card whose YAML block tells `datasets` where they are.

    `rows_of` has the rows of train and test, in place of the invented ones.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    import yaml

    infos, configs = [], []
    for config in ("main", "socratic"):
        splits: list[dict[str, Any]] = []
        files = []
        (folder / config).mkdir()
        for split in ("train", "test"):
            rows = rows_of[split] if rows_of else gsm8k_rows(config, split, offset)
            path = folder / config / f"{split}-00000-of-00001.parquet"
            schema = pa.schema([("question", pa.string()), ("answer", pa.string())])
            pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
            size = sum(len(text.encode()) for row in rows for text in row.values())
            splits.append({"name": split, "num_bytes": size, "num_examples": len(rows)})
            files.append({"split": split, "path": f"{config}/{split}-*"})
        features = [{"name": name, "dtype": "string"} for name in ("question", "answer")]
        size = sum(split["num_bytes"] for split in splits)
        infos.append({"config_name": config, "features": features, "splits": splits, "dataset_size": size})
        configs.append({"config_name": config, "data_files": files})
    card = yaml.safe_dump({"license": "mit", "dataset_info": infos, "configs": configs}, sort_keys=False)
    (folder / "README.md").write_text(f"---\n{card}---\n\n# Made-up rows in gsm8k's layout\n")


# The card of Qwen2.5-0.5B-Instruct asks `generate` for these; they must not leak into an evaluation.
GENERATION_TRAPS: dict[str, Any] = {
    "do_sample": True,
    "repetition_penalty": 1.1,
    "temperature": 0.7,
    "top_k": 20,
    "top_p": 0.8,
}
# ChatML with Qwen's default system prompt, which a caller who passes no system message gets unasked.
CHAT_TEMPLATE = (
    "{%- if messages[0]['role'] != 'system' %}"
    "{{- '<|im_start|>system\\n' }}"
    "{{- 'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\\n' }}"
    "{%- endif %}"
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# Qwen2's own: every digit is a token of its own.
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def build_qwen2(folder: Path, seed: int = 0) -> None:
    """A random Qwen2 of about 100 k parameters in bfloat16, with the files of the model it stands for."""
    vocab_size = _build_tokenizer(folder)
    import torch
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    endoftext, im_end = vocab_size - 3, vocab_size - 1
    config = Qwen2Config(
        vocab_size=vocab_size,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=endoftext,
        eos_token_id=im_end,
    )
    with torch.random.fork_rng(devices=[]):  # the caller's random state is not ours to move
        torch.manual_seed(seed)
        model: Any = Qwen2ForCausalLM(config)
    model.to(torch.bfloat16)
    model.generation_config = GenerationConfig(
        bos_token_id=endoftext, eos_token_id=[im_end, endoftext], pad_token_id=endoftext, **GENERATION_TRAPS
    )
    model.save_pretrained(folder)
    (folder / "pytorch_model.bin").write_bytes(b"the same weights again, as many repositories have them")


def _build_tokenizer(folder: Path) -> int:
    """Train a byte-level BPE on a few sentences, write it in Qwen2's files, return the vocabulary's size."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    sentences = [text for row in gsm8k_rows("main", "train") for text in row.values()]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(sentences, trainer)
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer.model.save(str(folder))  # vocab.json and merges.txt
    added = {
        str(tokenizer.token_to_id(token)): {
            "content": token,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": True,
        }
        for token in SPECIAL_TOKENS
    }
    settings = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "additional_special_tokens": list(SPECIAL_TOKENS[1:]),
        "bos_token": None,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 2048,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
    return int(tokenizer.get_vocab_size())

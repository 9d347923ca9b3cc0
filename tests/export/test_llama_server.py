"""The requests to llama-server, and what is made of its replies: with a stand-in for it on the PATH."""

import sys
from pathlib import Path

import pytest

from tiny_math_solver.export.llama_cpp import LlamaCppRollouts, find_llama_cpp
from tiny_math_solver.models.load import load_tokenizer
from tiny_math_solver.prompts import Prompt, chat_messages, encode_prompt
from tiny_math_solver.rollouts import Sampling
from tiny_math_solver.rollouts.endings import Endings
from tiny_math_solver.support.errors import UserError

END = 2  # of the embedded tokenizer
STANDIN = '''#!{python}
import json, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from tiny_math_solver.models.load import load_tokenizer
from tiny_math_solver.prompts import PromptFormat, render

words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
assert words["-m"] == "tiny.gguf" and words["--host"] == "127.0.0.1" and words["-c"] == "800", words
if {fails}:
    sys.exit(1)
tokenizer = load_tokenizer("embedded")

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.reply({{"build_info": "b1-standin"}})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.reply(getattr(self, self.path[1:].replace("-", "_"))(**asked))

    def apply_template(self, messages):
        return {{"prompt": render(tokenizer, messages, PromptFormat())}}

    def tokenize(self, content, parse_special, add_special):
        return {{"tokens": tokenizer(content, add_special_tokens=False)["input_ids"]}}

    def completion(self, prompt, n_predict, temperature, return_tokens, cache_prompt):
        """As many tokens as the prompt's last one says, and the end, unless the limit comes first."""
        assert temperature == 0 and return_tokens
        return {{"tokens": [*range(10, 10 + prompt[-1]), 2][:n_predict]}}

    def reply(self, answer):
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        pass

HTTPServer(("127.0.0.1", int(words["--port"])), Handler).serve_forever()
'''


@pytest.fixture
def bin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("NODE_PATH", "")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    (tmp_path / "bin").mkdir()
    return tmp_path / "bin"


def install(folder: Path, fails: bool = False) -> None:
    (folder / "llama-server").write_text(STANDIN.format(python=sys.executable, fails=fails))
    (folder / "llama-server").chmod(0o755)


def test_prompts_and_completions_come_from_the_server(bin_folder: Path):
    install(bin_folder)
    tokenizer, run = load_tokenizer("embedded"), find_llama_cpp()
    assert run
    with run(Path("tiny.gguf"), 100) as llama:
        assert llama.name == "llama-server b1-standin"
        messages = chat_messages("How many?")
        assert llama.prompt_ids(messages) == encode_prompt(tokenizer, messages)
        prompts = [Prompt([5, count], count) for count in (0, 3, 4, 5, 9)]
        done: list[int] = []
        rollouts = LlamaCppRollouts(llama, Endings(tokenizer, [END]))
        made = rollouts.generate(prompts, 1, Sampling(4, temperature=0), on_done=lambda index, _: done.append(index))
        assert list(rollouts.stream([5, 1], Sampling(4, temperature=0))) == [[10, END]]
    assert [rollout.completion_ids for rollout in made] == [
        [END], [10, 11, 12, END], [10, 11, 12, 13], [10, 11, 12, 13], [10, 11, 12, 13]
    ]  # fmt: skip
    assert [rollout.finished for rollout in made] == [True, True, False, False, False]
    assert sorted(done) == [0, 1, 2, 3, 4]


def test_a_stop_string_ends_a_completion(bin_folder: Path):
    install(bin_folder)
    tokenizer, run = load_tokenizer("embedded"), find_llama_cpp()
    assert run
    with run(Path("tiny.gguf"), 100) as llama:
        endings = Endings(tokenizer, [END], [tokenizer.decode([12])])
        (made,) = LlamaCppRollouts(llama, endings).generate([Prompt([5, 9], 0)], 1, Sampling(8, temperature=0))
    assert (made.completion_ids, made.finished) == ([10, 11, 12], True)


def test_a_server_that_does_not_start_is_said(bin_folder: Path):
    install(bin_folder, fails=True)
    run = find_llama_cpp()
    assert run
    with pytest.raises(UserError, match="llama-server does not start"), run(Path("tiny.gguf"), 100):
        pass


def test_a_server_that_refuses_or_breaks_off_is_said(bin_folder: Path):
    install(bin_folder)
    run = find_llama_cpp()
    assert run
    with run(Path("tiny.gguf"), 100) as llama, pytest.raises(UserError, match="has ended, or refuses a request"):
        llama.ask({"prompt": ["no number"], "limit": 4})


def test_there_may_be_none(bin_folder: Path):
    assert find_llama_cpp() is None

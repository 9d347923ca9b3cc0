"""`tiny-math export`: what is written, how it is proved, and what is refused."""

import re
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader

from helpers.runs import SHORT, run
from tiny_math_solver.cli import main
from tiny_math_solver.export import export as exporting
from tiny_math_solver.export import gguf_file
from tiny_math_solver.export.llama_cpp import find_llama_cpp
from tiny_math_solver.export.modelfile import Frame, frame_of, modelfile
from tiny_math_solver.export.quantize import packed
from tiny_math_solver.models.load import load_tokenizer
from tiny_math_solver.prompts import PromptFormat, chat_messages, read_template, render, self_contained_template
from tiny_math_solver.support.errors import EXIT_BAD_INPUT, EXIT_PROOF_FAILED, UserError

with_llama_cpp = pytest.mark.skipif(find_llama_cpp() is None, reason="no llama.cpp on this machine")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few steps, which has learned to write out what it calculates, with a system prompt."""
    folder = tmp_path_factory.mktemp("runs") / "trained"
    return run(
        folder, *SHORT, "--grpo.max_steps", "4", "--problems.test", "20", "--prompt.system", "Be brief.", force=True
    ).folder


@pytest.fixture
def without_llama_cpp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "find_llama_cpp", lambda: None)


def export(model: Path | str, out: Path, *options: str) -> int:
    return main(["export", str(model), str(out), "--limit", "20", *options])


@with_llama_cpp
@pytest.mark.parametrize("kind", ["f16", "q8_0", "q4_k_m"])
def test_llama_cpp_proves_an_adapter(kind: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert export(trained, tmp_path / "out", "--gguf", kind) == 0
    printed = capsys.readouterr().out
    same = re.search(r"proof by (node-llama-cpp|llama-server) \S+: same greedy answer on (\d+) of 20 problems", printed)
    assert same
    assert int(same[2]) >= {"f16": 19, "q8_0": 15, "q4_k_m": 8}[kind]
    assert re.search(r"compared with .*: fixed \d+, broken \d+, McNemar p = ", printed)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"trained-{kind}.gguf", "Modelfile"}


def test_transformers_proves_an_adapter_where_llama_cpp_is_not_there(
    trained: Path, tmp_path: Path, without_llama_cpp: None, capsys: pytest.CaptureFixture[str]
):
    assert export(trained, tmp_path / "out", "--gguf", "f32") == 0
    printed = capsys.readouterr()
    assert "proof by transformers: same greedy answer on 20 of 20 problems" in printed.out
    assert not printed.err
    reader = GGUFReader(tmp_path / "out" / "trained-f32.gguf")
    assert text_of(reader, "general.name") == "trained"
    assert text_of(reader, "tokenizer.chat_template") == load_tokenizer("embedded").chat_template


def text_of(reader: GGUFReader, key: str) -> Any:
    field = reader.get_field(key)
    assert field
    return field.contents()


@with_llama_cpp
@pytest.mark.parametrize(
    ("right", "wrong"), [("<|im_end|>\n", "<|im_end|>"), ("message['role']", "'user'"), ("<|im_start|>assistant", "")]
)
def test_a_wrong_template_is_caught(
    right: str,
    wrong: str,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(
        exporting, "self_contained_template", lambda *given: self_contained_template(*given).replace(right, wrong)
    )
    assert export(trained, tmp_path / "out") == EXIT_PROOF_FAILED
    assert "asks in another way than training did" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_weight_that_is_written_wrongly_is_caught(
    trained: Path,
    tmp_path: Path,
    without_llama_cpp: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(gguf_file, "packed", lambda weight, kind: packed(weight * 1.01, kind))
    assert export(trained, tmp_path / "out", "--gguf", "f16") == EXIT_PROOF_FAILED
    assert "was written with an error of 1.0%, which rounding does not explain" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_said_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def full(path: Path, *given: Any) -> None:
        path.write_bytes(b"GGUF")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "write_gguf", full)
    assert export("embedded", tmp_path / "out") == EXIT_BAD_INPUT
    assert f"{tmp_path / 'out'}: cannot be written (No space left on device)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@with_llama_cpp
def test_a_file_that_answers_worse_is_refused(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(gguf_file, "packed", lambda weight, kind: packed(weight * 0, kind))
    assert export(trained, tmp_path / "out", "--most-lost", "0.01") == EXIT_PROOF_FAILED
    assert re.search(r"the file answers \d+\.\d% of the problems less than the model", capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["./nowhere", "out"], "no such model folder"),
        (["embedded", "taken"], "taken: exists already"),
        (["embedded", "out", "--gguf", "q2_k"], "invalid choice: 'q2_k'"),
        (["embedded", "out", "--limit", "0"], "--limit"),
        (["embedded", "out", "--name", "a/b"], "--name a/b: a name of a file, without folders"),
        (["embedded", "/proc/out"], "/proc/out: cannot be written"),
    ],
)
def test_bad_arguments(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("x")
    assert main(["export", *arguments]) == EXIT_BAD_INPUT
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# -- Ollama's Modelfile -----------------------------------------------------------------------------------------


def filled(template: str, system: str, question: str) -> str:
    """What Ollama makes of a TEMPLATE of one question, up to the answer."""
    match = re.fullmatch(r"(?s)\{\{ if \.System }}(.*?)\{\{ else }}(.*?)\{\{ end }}(.*)", template)
    assert match
    text = (match[1] if system else match[2]) + match[3].partition("{{ .Response }}")[0]
    text = text.replace("{{ .System }}", system).replace("{{ .Prompt }}", question)
    return text.replace('{{ "{{" }}', "{{")


@pytest.mark.parametrize("system", ["", "Be brief."])
@pytest.mark.parametrize(
    "template",
    [
        None,
        "think",
        "plain",
        "{% if messages[0]['role'] != 'system' %}<s>You are a {{ '{{x}}' }}.</s>{% endif %}"
        "{% for m in messages %}[{{ m.role }}] {{ m.content | trim }}\n{% endfor %}[assistant]",
    ],
)
def test_ollama_asks_as_training_did(system: str, template: str | None):
    tokenizer = load_tokenizer("embedded")
    if template:
        tokenizer.chat_template = template if "{%" in template else read_template(template)
    frame = frame_of(tokenizer, PromptFormat())
    assert frame
    asked = render(tokenizer, chat_messages("How many?", system), PromptFormat(system))
    assert filled(frame.go_template(), system, "How many?") == asked


def test_a_template_that_changes_what_is_said_has_no_frame():
    tokenizer = load_tokenizer("embedded")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content | upper }}{% endfor %}"
    assert frame_of(tokenizer, PromptFormat()) is None


def test_the_modelfile():
    frame = Frame("<s>", "</s>", "", "!", "</a>")
    assert modelfile("a.gguf", frame, "Be\nbrief.", ["<|im_end|>"], (300, 32768)) == (
        "FROM ./a.gguf\n"
        'TEMPLATE """{{ if .System }}<s>{{ .System }}</s>{{ else }}{{ end }}{{ .Prompt }}!{{ .Response }}</a>"""\n'
        'SYSTEM """Be\nbrief."""\nPARAMETER stop """<|im_end|>"""\n'
        "PARAMETER temperature 0\nPARAMETER num_predict 300\nPARAMETER num_ctx 4096\n"
    )
    assert "TEMPLATE" not in modelfile("a.gguf", None, "", [], (300, 1024))
    with pytest.raises(UserError, match='""" in it'):
        modelfile("a.gguf", None, 'say """', [], (300, 1024))


def test_a_template_without_a_caller_has_its_variables_inside():
    tokenizer = load_tokenizer("embedded")
    tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }}{% if think %}{{ words[0] }}{% endif %}" + (
        tokenizer.chat_template
    )
    prompt = PromptFormat("", {"think": True, "words": ['it\'s "so"\n']}, "2026-01-31")
    expected = render(tokenizer, chat_messages("1 + 1?"), prompt)
    assert expected.startswith('31 Jan 2026it\'s "so"\n<|im_start|>')
    tokenizer.chat_template = self_contained_template(tokenizer, prompt)
    assert render(tokenizer, chat_messages("1 + 1?"), PromptFormat()) == expected

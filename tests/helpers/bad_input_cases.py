"""Bad input to the command line: the arguments, the files in the folder, and a part of the one-line error.

To add a case, append it to the table of its kind; a new table joins TABLES in test_bad_input.py.
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from helpers.paths import GSM8K, QUICKSTART

ROW = '{"question": "Ann has 3 pens and buys 2. How many?", "answer": "3+2=5\\n#### 5"}\n'
SECRET = "hf_AbCdEfGhIjKl"

TINY: dict[str, Path] = {}  # folders of a small model and an adapter of it, which builders copy

Content = str | bytes | Callable[[Path], Any]


@dataclass(frozen=True)
class Case:
    """`arguments` of `tiny-math`, a part of the `message`, and the folder's files: text, bytes or a builder."""

    why: str
    arguments: str
    message: str
    files: dict[str, Content] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)


# -- Configuration files ----------------------------------------------------------------------------------------


def config(why: str, content: Content, message: str) -> Case:
    return Case(why, "train c.yaml", message, {"c.yaml": content})


def setting(option: str, message: str) -> Case:
    return Case(option[:40], f"train {QUICKSTART} --{option}", message)


BOMB = "- &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"    - &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
)
NO_SECTIONS = """
model embedded
problems [embedded]
prompt 7
evaluation 0
rollouts true
update ''
guards 1.5
records []
lora 16
grpo false
"""
OTHER_TYPES = """
model.name 5
model.name ''
model.revision 123
problems.dev many
problems.dev true
problems.seed 1.5
prompt.system [a]
prompt.max_tokens 1.5e3x
evaluation.every null
rollouts.engine maybe
update.tokens_per_pass {}
guards.stop perhaps
records.rollouts_mb lots
lora.r 1.5
lora.target_modules 7
grpo.max_steps many
grpo.learning_rate true
grpo.reward_weights 1
grpo.output_dir 5
"""
CONFIGS = [
    Case("no such config", "train nowhere.yaml", "no such config file: nowhere.yaml"),
    config("a folder", Path.mkdir, "c.yaml is a folder; expected a YAML file"),
    config("a pipe", os.mkfifo, "c.yaml is a pipe, but a config file is read more than once: save it as a file"),
    Case("a device", "train /dev/null", "/dev/null is a device"),
    config("empty but for a key without a value", "grpo:\n  learning_rate:\n", "c.yaml:2: grpo.learning_rate = None"),
    config("list at the top", "- model\n- grpo\n", "c.yaml: expected sections"),
    config("words", "just words\n", "c.yaml: expected sections"),
    config("UTF-16", "grpo: {}\n".encode("utf-16"), "c.yaml: not UTF-8 text"),
    config("Latin-1", "prompt:\n  system: Zoé\n".encode("latin-1"), "save it as UTF-8"),
    config("NUL bytes", "grpo:\n  max_steps: \0\n", "unacceptable character"),
    config("a binary file", bytes(range(256)), "c.yaml: not UTF-8 text"),
    config("a large file", "#" * 300_000, "over 200,000 bytes: too large for a configuration"),
    config("key twice", "grpo:\n  seed: 1\n  beta: 0\n  seed: 2\n", "c.yaml:4: not valid YAML: the key seed is"),
    config("key twice in a line", "grpo: {seed: 1, seed: 2}\n", "the key seed is repeated"),
    config("section twice", "grpo:\n  seed: 1\ngrpo:\n  beta: 0\n", "c.yaml:3: not valid YAML: the key grpo is"),
    config("tab", "grpo:\n\tseed: 1\n", "c.yaml:2: not valid YAML: found character '\\t'"),
    config("aliases that grow", f"lora:\n  target_modules:\n    {BOMB}", "c.yaml:4: not valid YAML: aliases"),
    config("alias of itself", "grpo: &a\n  model_init_kwargs: *a\n", "c.yaml:2: not valid YAML: aliases"),
    config("deep lists", "grpo: " + "[" * 50_000, "nested more than 20 deep"),
    config("deep sections", "{a: " * 5000 + "1" + "}" * 5000, "nested more than 20 deep"),
    config("tag", "prompt:\n  system: !!python/object:os.system x\n", "c.yaml:2: not valid YAML: tags"),
    config("two documents", "grpo: {}\n---\ngrpo: {}\n", "c.yaml:2: not valid YAML: but found another document"),
    config("unclosed", "grpo: [1\n", "c.yaml:2: not valid YAML"),
    config("long number", f"grpo:\n  seed: {'9' * 5000}\n", "c.yaml: not valid YAML: Exceeds the limit"),
    config("no column", "problems:\n  question: ''\n", "c.yaml:2: problems.question = '': must be set; null"),
    config("half a character", 'prompt:\n  system: "\\ud800"\n', "a character that cannot be written to a file"),
    config("NUL in a path", 'grpo:\n  output_dir: "a\\0b"\n', "a character that cannot be written to a file"),
    config("unknown section", "modl:\n  name: x\n", "c.yaml:1: unknown key modl; did you mean model?"),
    config("number as a section", "1: {}\n", "c.yaml:1: unknown key 1"),
    config("unknown key", "grpo:\n  beta: 0\n  learnin_rate: 1\n", "c.yaml:3: unknown key grpo.learnin_rate; did you"),
    config("number as a key", "grpo:\n  1: 2\n", "c.yaml:2: unknown key grpo.1"),
    config("list as a key", "grpo:\n  ? [a]\n  : 2\n", "not valid YAML: found unhashable key"),
    *(
        config(f"{section} = {value}", f"{section}: {value}\n", f"c.yaml:1: {section} must be a section of keys")
        for section, value in map(str.split, NO_SECTIONS.strip().splitlines())
    ),
    *(
        config(f"{key} = {value}", f"{key.replace('.', ': {')}: {value}}}\n", f"c.yaml:1: {key}")
        for key, value in map(str.split, OTHER_TYPES.strip().splitlines())
    ),
]

SETTINGS = [
    setting("grpo.learning_rate .nan", "grpo.learning_rate = nan: expected a finite number"),
    setting("grpo.learning_rate nan", "grpo.learning_rate = 'nan'"),
    setting("grpo.learning_rate .inf", "grpo.learning_rate = inf: expected a finite number"),
    setting("grpo.learning_rate -1e-3", "grpo.learning_rate = -0.001: Input should be greater than or equal to 0"),
    setting("grpo.learning_rate 0", "grpo.learning_rate = 0: nothing would be learned; for LoRA rates from 1e-5 to"),
    setting("grpo.learning_rate 0.0", "grpo.learning_rate = 0.0: nothing would be learned"),
    setting("grpo.reward_weights [0,0]", "grpo.reward_weights: nothing would be learned: no reward counts"),
    setting("grpo.reward_weights []", "grpo.reward_weights: nothing would be learned: no reward counts"),
    setting("grpo.top_k 1", "grpo.top_k = 1: nothing would be learned: all samples of a problem would be the same"),
    setting("grpo.min_p 1", "grpo.min_p = 1: nothing would be learned: all samples of a problem would be the same"),
    setting("lora.alpha_pattern '{q_proj: 0}'", "lora.alpha_pattern: q_proj: expected a number above 0"),
    setting("lora.rank_pattern '{q_proj: 0}'", "lora.rank_pattern: q_proj: expected a number above 0"),
    setting("lora.rank_pattern '{q_proj: many}'", "lora.rank_pattern: "),
    setting("grpo.temperature .nan", "expected a finite number"),
    setting("grpo.temperature .inf", "expected a finite number"),
    setting("grpo.temperature 0", "grpo.temperature must be above 0"),
    setting("grpo.temperature -1", "grpo.temperature must be above 0"),
    setting("grpo.reward_weights [.nan,1]", "grpo.reward_weights: expected a finite number"),
    setting("grpo.beta -0.1", "grpo.beta = -0.1: Input should be greater than or equal to 0"),
    setting("grpo.beta .nan", "expected a finite number"),
    setting("grpo.epsilon -1", "grpo.epsilon = -1"),
    setting("grpo.top_p 0", "grpo.top_p = 0: Input should be greater than 0"),
    setting("grpo.top_p 1.5", "grpo.top_p = 1.5: Input should be less than or equal to 1"),
    setting("grpo.top_k -1", "grpo.top_k = -1"),
    setting("grpo.repetition_penalty 0", "grpo.repetition_penalty = 0"),
    setting("grpo.weight_decay -1", "grpo.weight_decay = -1"),
    setting("grpo.max_grad_norm .nan", "expected a finite number"),
    setting("grpo.adam_beta1 2", "grpo.adam_beta1 = 2: Input should be less than 1"),
    setting("grpo.max_steps 0", "grpo.max_steps = 0: nothing would be trained"),
    setting("grpo.max_steps -5", "grpo.max_steps = -5"),
    setting("grpo.max_steps 99999999999999999999", "grpo.max_steps = 99999999999999999999"),
    setting("grpo.num_train_epochs 0", "grpo.num_train_epochs = 0"),
    setting("grpo.num_train_epochs .inf", "expected a finite number"),
    setting("grpo.seed -1", "grpo.seed = -1"),
    setting("grpo.seed 99999999999999", "grpo.seed = 99999999999999"),
    setting("grpo.num_generations 1", "set 2 or more"),
    setting("grpo.num_generations -2", "set 2 or more"),
    setting("grpo.num_generations true", "grpo.num_generations = True: expected a number"),
    setting("grpo.num_generations 7", "= 128 completions, not a multiple of num_generations 7; choose a batch of 126"),
    setting("grpo.gradient_accumulation_steps 0", "grpo.gradient_accumulation_steps = 0"),
    setting("grpo.per_device_train_batch_size -8", "grpo.per_device_train_batch_size = -8"),
    setting("grpo.per_device_train_batch_size 80000000", "over 1,000,000 at once"),
    setting("grpo.generation_batch_size 12", "generation_batch_size = 12 completions, not a multiple"),
    setting("grpo.steps_per_generation 0", "grpo.steps_per_generation = 0"),
    setting("grpo.num_iterations 0", "grpo.num_iterations = 0"),
    setting("grpo.max_completion_length null", "must be set"),
    setting("grpo.max_completion_length 0", "grpo.max_completion_length = 0"),
    setting("grpo.max_completion_length 10000000", "grpo.max_completion_length = 10000000"),
    setting("grpo.logging_steps -1", "grpo.logging_steps = -1"),
    setting("grpo.lr_scheduler_type cosin", "did you mean cosine?"),
    setting("grpo.lr_scheduler_type cosine_with_min_lr", "see lr_scheduler_kwargs"),
    setting("grpo.lr_scheduler_kwargs nope", "grpo.lr_scheduler_kwargs = 'nope': expected a section of keys"),
    setting("grpo.optim adam", "grpo.optim = 'adam': did you mean"),
    setting("grpo.optim galore_adamw", "galore_torch"),
    setting("grpo.optim_args nonsense", "optim_args nonsense"),
    setting("grpo.loss_type ppo", "grpo.loss_type = 'ppo': choose grpo or dr_grpo"),
    setting("grpo.importance_sampling_level word", "choose token or sequence"),
    setting("grpo.scale_rewards sometimes", "choose group or batch or none"),
    setting("grpo.save_strategy often", "grpo.save_strategy = 'often': choose no or steps"),
    setting("grpo.report_to nowhere", "grpo.report_to: no tracker 'nowhere'"),
    setting("grpo.accelerator_config nowhere.json", "grpo.accelerator_config = 'nowhere.json': no such file"),
    setting("grpo.deepspeed zero3.json", "each process has the whole model"),
    setting("grpo.fsdp full_shard", "each process has the whole model"),
    setting("grpo.accelerator_config '\"{oops\"'", "not valid JSON"),
    setting("grpo.use_vllm true", "grpo.use_vllm: vLLM is not installed"),
    setting("grpo.remove_unused_columns true", "the rewards need the columns"),
    setting("grpo.vllm_importance_sampling_clip_min 9", "grpo: "),
    setting("grpo.eval_strategy steps", "eval_dataset"),
    setting("grpo.resume_from_checkpoint x", "use --resume to continue a run"),
    setting("lora.r 0", "lora.r = 0"),
    setting("lora.r -1", "lora.r = -1"),
    setting("lora.r 1000000", "lora.r = 1000000"),
    setting("lora.lora_alpha 0", "lora.lora_alpha = 0"),
    setting("lora.lora_dropout 1", "lora.lora_dropout = 1"),
    setting("lora.bias some", "lora.bias = 'some'"),
    setting("lora.task_type SEQ_CLS", "lora.task_type = 'SEQ_CLS': choose CAUSAL_LM"),
    setting("lora.target_modules [nope]", "Target modules"),
    setting("lora.target_modules []", "nothing would be trained"),
    setting("lora.target_modules '('", "not a regular expression"),
    setting("lora.inference_mode true", "nothing would be trained"),
    setting("lora.layers_to_transform [0]", "lora: `layers_to_transform` cannot be used"),
    setting("problems.dev 0", "problems.dev = 0"),
    setting("problems.train -1", "problems.train = -1"),
    setting("problems.test 99999999", "at most 50,000 embedded problems"),
    setting("problems.test_source p.jsonl", "no such problem file: p.jsonl"),
    setting("problems.max_unreadable 2", "problems.max_unreadable = 2.0: Input should be less than or equal to 1"),
    setting("problems.max_unreadable -1", "problems.max_unreadable = -1"),
    setting("evaluation.every 0", "evaluation.every = 0"),
    setting("evaluation.samples -1", "evaluation.samples = -1"),
    setting("prompt.max_tokens 0", "prompt.max_tokens = 0"),
    setting("prompt.max_tokens 1", "every prompt has over 1 tokens"),
    setting("rollouts.batch_size 0", "rollouts.batch_size = 0"),
    setting("update.tokens_per_pass 0", "update.tokens_per_pass = 0"),
    setting("model.dtype int3", "model.dtype = 'int3': choose auto or float32"),
    setting("model.name ./nowhere", "no such model folder: ./nowhere"),
    setting(f"model.name {'x' * 5000}", "the path is too long"),
    setting(f"grpo.output_dir {'x' * 300}", "the path is too long"),
    setting("grpo.output_dir /proc/1/run", "/proc/1/run: cannot be written"),
    setting("grpo.learnin_rate 1", "did you mean grpo.learning_rate?"),
    setting("grpo.learning_rate", "--grpo.learning_rate has no value"),
    setting("grpo.learning_rate '[1'", "--grpo.learning_rate: cannot read the value"),
    setting("grpo..x 1", "unknown key grpo..x"),
    setting("quieter", "unknown argument '--quieter'"),
    # A name of a run is a name of files elsewhere; what goes to the Hub and with which token is not for a config.
    *(
        setting(f"grpo.run_name {name}", "a plain name is expected")
        for name in ("../up", "a/b", "..", ".", "/etc", "a\\\\b")
    ),
    setting("grpo.push_to_hub true", "train first, then upload the adapter with `tiny-math push"),
    setting(
        f"grpo.hub_token {SECRET}", "grpo.hub_token: tokens belong in the environment, not in a file: set HF_TOKEN"
    ),
    setting(f"grpo.hub_token={SECRET}", "set HF_TOKEN"),
    setting(f"grpo.hub_token '[{SECRET}'", "--grpo.hub_token: grpo.hub_token: tokens belong in the environment"),
    setting(f"grpo.hub_tokn {SECRET}", "did you mean grpo.hub_token?"),
    setting(f"hub_token={SECRET}", "unknown argument '--hub_token'"),
    setting(f"grpo.model_init_kwargs '{{token: {SECRET}}}'", "section model says how the model is loaded"),
    config("token in a file", f"grpo:\n  hub_token: {SECRET}\n", "c.yaml:2: grpo.hub_token: tokens belong"),
    config("token as a list", f"grpo:\n  hub_token: [{SECRET}]\n", "c.yaml:2: grpo.hub_token: tokens belong"),
    Case("token of eval", f"eval embedded --hub_token={SECRET}", "unknown argument '--hub_token'; see tiny-math eval"),
]


# -- Problem files ----------------------------------------------------------------------------------------------


def problems(why: str, name: str, content: Content, message: str) -> Case:
    return Case(why, f"eval embedded --problems ./{name}", message, {name: content})


def parquet(**columns: Any) -> Callable[[Path], None]:
    return lambda path: pyarrow.parquet.write_table(pyarrow.table(columns), path)


def truncated_parquet(path: Path) -> None:
    parquet(question=["Ann has 3. How many?"], answer=["#### 3"])(path)
    path.write_bytes(path.read_bytes()[:-40])


def split(why: str, train: str, test: str, message: str) -> Case:
    local = f"train {GSM8K} --model.name embedded --problems.dev 1 --problems.source ./a.jsonl"
    return Case(why, f"{local} --problems.test_source ./b.jsonl", message, {"a.jsonl": train, "b.jsonl": test})


def rows(*names: str) -> str:
    return "".join(ROW.replace("Ann", name) for name in names)


PROBLEMS = [
    Case("no such file", "eval embedded --problems ./nowhere.jsonl", "no such problem file: nowhere.jsonl"),
    Case("no such split", "eval embedded --problems embedded:tset", "use embedded, embedded:dev or embedded:unseen"),
    Case("no source", "eval embedded --problems ''", "--problems is empty"),
    Case("dataset off line", "eval embedded --problems someone/problems", "cannot reach"),
    problems("a folder", "p.jsonl", Path.mkdir, "p.jsonl is a folder"),
    problems("a pipe", "p.jsonl", os.mkfifo, "p.jsonl is a pipe, but a problem file is read"),
    problems("empty file", "p.jsonl", "", "no problems in this file"),
    problems("blank lines", "p.jsonl", "\n\n \n", "no problems in this file"),
    problems("UTF-16", "p.jsonl", ROW.encode("utf-16"), "p.jsonl:1: not UTF-8 text but UTF-16 or UTF-32"),
    problems("UTF-16 without a mark", "p.jsonl", ROW.encode("utf-16-le"), "p.jsonl:1: holds NUL bytes"),
    problems("UTF-32", "p.jsonl", ROW.encode("utf-32"), "save it as UTF-8"),
    problems("Latin-1", "p.jsonl", (ROW + ROW.replace("Ann", "Zoé")).encode("latin-1"), "p.jsonl:2: not UTF-8 text"),
    problems("NUL bytes", "p.jsonl", ROW.replace("Ann", "\0"), "p.jsonl:1: holds NUL bytes"),
    problems(
        "half a character", "p.jsonl", ROW.replace("Ann", "\\ud800"), "p.jsonl:1: the question holds a lone surrogate"
    ),
    problems("100 MB in a line", "p.jsonl", lambda path: path.write_bytes(b"x" * 10**8), "a line of over 1,000,000"),
    problems("100 MB of lists", "p.jsonl", lambda path: path.write_bytes(b"[" * 10**8), "nested too deeply"),
    problems("100 MB of blank lines", "p.jsonl", lambda path: path.write_bytes(b"\n" * 10**8), "over 1,000,000 lines"),
    problems(
        "a long question", "p.jsonl", ROW.replace("Ann", "A" * 30_000), "question has 30,033 characters, over 20,"
    ),
    problems("malformed line", "p.jsonl", ROW + "{oops\n", "p.jsonl:2: not a JSON object"),
    problems("cut line", "p.jsonl", ROW[:30], "p.jsonl:1: not a JSON object"),
    problems(
        "deep JSON", "p.jsonl", '{"question": ' + "[" * 400_000, "p.jsonl:1: not a JSON object: nested too deeply"
    ),
    problems(
        "long number", "p.jsonl", '{"answer": ' + "9" * 5000 + "}", "p.jsonl:1: not a JSON object: a number is too"
    ),
    problems("array of lists", "p.json", f"[[{ROW.strip()}]]", "p.json row 1: expected an object with question and"),
    problems("array cut short", "p.json", f"[\n{ROW.strip()}\n", "p.json:3: not a JSON object or array: Expecting ','"),
    problems("array of nothing", "p.json", "[]", "no problems in this file"),
    problems("object cut short", "p.json", json.dumps(json.loads(ROW), indent=1)[:-1], "p.json:1: not a JSON object"),
    problems("a number", "p.jsonl", "NaN\n", "p.jsonl:1: expected an object with question and answer, found float"),
    problems("missing column", "p.jsonl", '{"question": "q"}\n', "looks like the answer (found: question)"),
    problems("bool for an answer", "p.jsonl", '{"question": "q", "answer": true}\n', "a number or text, found bool"),
    problems("null for a question", "p.jsonl", '{"question": null, "answer": "#### 5"}\n', "question must be text"),
    problems(
        "empty question", "p.jsonl", '{"question": " ", "answer": "#### 5"}\n', "p.jsonl:1: the question is empty"
    ),
    *(
        problems(
            f"gold {gold[:12]}", "p.jsonl", ROW.replace("#### 5", f"#### {gold}"), "cannot read a gold number from"
        )
        for gold in ("?", "", "inf", "NaN", "1/0", "3 or 5", "1,5", "9" * 5000)
    ),
    problems("column names with line ends", "p.jsonl", '{"a\\nb\\u001b[31m": 1}\n', "the question (found: a?b?[31m)"),
    problems("gzip cut short", "p.jsonl.gz", b"\x1f\x8b\x08\x00", "p.jsonl.gz: not a readable gzip file"),
    problems("text named .gz", "p.csv.gz", "question,answer\nq,1\n", "p.csv.gz: not a readable gzip file"),
    problems("spreadsheet", "p.xlsx", b"PK\x03\x04", "p.xlsx is a spreadsheet: export it as CSV"),
    problems("spreadsheet called CSV", "p.csv", b"PK\x03\x04\x14", "p.csv is a spreadsheet: export it as CSV"),
    problems("old spreadsheet", "p.csv", b"\xd0\xcf\x11\xe0", "p.csv is a spreadsheet: export it as CSV"),
    problems("CSV of one column", "p.csv", "question\nHow many?\n", "looks like the answer (found: question)"),
    problems("CSV of a header", "p.csv", "question,answer\n", "no problems in this file"),
    problems("CSV of two answers", "p.csv", "question,target,gold\nq,1,1\n", "could be the answer (gold, target)"),
    problems("column twice", "p.csv", "question,answer,answer\nq,1,1\n", "the column 'answer' is there twice"),
    problems("CSV without quotes", "p.csv", "question,answer\nAnn, 3?,3\n", "p.csv:2: 3 cells where the header has 2"),
    problems("CSV with an open quote", "p.csv", 'question,answer\n"Ann 3?,3\n', "p.csv:2: not a row of CSV: une"),
    Case("web address", "eval embedded --problems https://x.org/p.jsonl", "download the file and name it here"),
    Case("column without problems", "eval embedded --question q", "--question, --answer and --max-unreadable go with"),
    Case(
        "unknown column",
        "eval embedded --problems ./p.jsonl --answer anwser",
        "p.jsonl: no column 'anwser', which --answer names (found: question, answer); did you mean answer?",
        {"p.jsonl": ROW},
    ),
    Case(
        "unreadable place",
        "eval embedded --problems ./p.jsonl --answer answer[x]",
        "--answer: cannot read 'answer[x]'; write it as column, column.key or column[0].key",
        {"p.jsonl": ROW},
    ),
    Case(
        "nothing at that place",
        "eval embedded --problems ./p.jsonl --answer answer.text",
        "p.jsonl:1: answer has no .text",
        {"p.jsonl": ROW},
    ),
    Case(
        "empty folder",
        "eval embedded --problems ./d",
        "d is a folder; expected a .jsonl, .json",
        {"d": Path.mkdir},
    ),
    problems("empty Parquet", "p.parquet", b"", "p.parquet: not a readable Parquet file"),
    problems("Parquet cut short", "p.parquet", truncated_parquet, "p.parquet: not a readable Parquet file"),
    problems("text named .parquet", "p.parquet", ROW, "p.parquet: not a readable Parquet file"),
    problems(
        "Parquet named .jsonl", "p.jsonl", parquet(question=["q"], answer=["#### 1"]), "p.jsonl:1: not a JSON object"
    ),
    problems("Parquet folder", "p.parquet", Path.mkdir, "p.parquet is a folder"),
    problems(
        "Parquet without rows",
        "p.parquet",
        parquet(question=pyarrow.array([], "string"), answer=pyarrow.array([], "string")),
        "no problems in this file",
    ),
    problems(
        "Parquet, other columns", "p.parquet", parquet(q=["q"], a=["#### 1"]), "looks like the question (found: q, a)"
    ),
    problems("Parquet, bool", "p.parquet", parquet(question=["q"], answer=[True]), "a number or text, found bool"),
    problems(
        "Parquet, bytes", "p.parquet", parquet(question=[b"q"], answer=["#### 1"]), "question must be text, found b"
    ),
    problems(
        "Parquet, null",
        "p.parquet",
        parquet(question=["q"], answer=pyarrow.array([None], "string")),
        "p.parquet row 1: answer must be a number or text, found null",
    ),
    problems(
        "Parquet, long text",
        "p.parquet",
        parquet(question=["q" * 10**6] * 999, answer=["#### 1"] * 999),
        "a text of 1,000,000 bytes",
    ),
    problems(
        "Parquet, many rows",
        "p.parquet",
        parquet(question=["q"] * 1_000_001, answer=["#### 1"] * 1_000_001),
        "1,000,001 rows, over 1,000,000",
    ),
    split(
        "same problems in both", rows("Ann", "Bo", "Cy"), rows("Ann", "Bo", "Cy"), "3 train problems dropped because t"
    ),
    split("one question many times", rows(*["Ann"] * 9), rows("Bo"), "(8 repeated train problems dropped)"),
    split(
        "too few",
        rows("Ann"),
        rows("Bo"),
        "1 train problem, and problems.dev takes 1 of them for dev; at least 2 are needed",
    ),
    split("bad line in test", rows("Ann", "Bo", "Cy"), rows("Di") + "{oops\n", "b.jsonl:2: not a JSON object"),
    Case(
        "no test file",
        f"train {GSM8K} --model.name embedded --problems.source ./a.jsonl",
        "name the test file in",
        {"a.jsonl": rows("Ann", "Bo")},
    ),
]


# -- Command line and environment -------------------------------------------------------------------------------


def merging(folder: Path) -> None:
    shutil.copytree(TINY["adapter"], folder)


def edited_run(folder: Path) -> None:
    """A merged model with the settings of a run whose chat template had another variable."""
    shutil.copytree(TINY["model"], folder)
    (folder / "config.yaml").write_text("grpo:\n  chat_template_kwargs: {thinking: true}\n")


COMMANDS = [
    Case("no command", "", "name a command: quickstart, init, train, check"),
    Case("unknown command", "trian x", "invalid choice: 'trian'"),
    Case("command nearly right", "trian x", "; did you mean train?; see tiny-math --help"),
    Case("option nearly right", f"train {QUICKSTART} --dryrun", "unknown argument '--dryrun'; did you mean --dry-run?"),
    Case(
        "option without its section",
        f"train {QUICKSTART} --learning-rate 1",
        "unknown argument '--learning-rate'; grpo.learning_rate does the same; overrides look like",
    ),
    Case(
        "config without its folder",
        "train quick",
        "no such config file: quick; did you mean configs/quick.yaml?",
        {"configs/quick.yaml": "grpo: {}"},
    ),
    Case(
        "config without its ending", "check c", "no such config file: c; did you mean c.yaml?", {"c.yaml": "grpo: {}"}
    ),
    Case(
        "config misspelt",
        "train quikc.yaml",
        "no such config file: quikc.yaml; did you mean configs/quick.yaml?",
        {"configs/quick.yaml": "grpo: {}"},
    ),
    Case("problems in place of the config", "train p.csv", "tiny-math init p.csv writes one", {"p.csv": "question\n"}),
    Case(
        "run misspelt",
        "solve runs/frist q",
        "no such run: runs/frist; did you mean runs/first?",
        {"runs/first/adapter_config.json": "{}"},
    ),
    Case(
        "beginning of a run's name",
        "play runs/quick",
        "no such run: runs/quick; did you mean runs/quickstart?",
        {"runs/quickstart/adapter_config.json": "{}"},
    ),
    Case("report of a file", "report c.yaml", "c.yaml is a file, not a run folder", {"c.yaml": "grpo: {}"}),
    Case(
        "card of another kind",
        "report r --card r.jpg",
        "a card is a .png file",
        {"r/config.yaml": "grpo: {}"},
    ),
    Case("question in place of the model", "solve 'What is 2 + 2?'", "'What is 2 + 2?' is no model: name one first"),
    Case("embedded misspelt", "eval embeded", "no such model: embeded; did you mean embedded?"),
    Case("no config", "train", "required: config; see tiny-math train --help"),
    Case("two configs", f"train {QUICKSTART} {GSM8K}", "unknown argument"),
    Case("no model", "eval", "required: model; see tiny-math eval --help"),
    Case("unknown option", "eval embedded --nope", "unknown argument '--nope'; see tiny-math eval --help"),
    Case(
        "option without its value", "eval embedded --limit", "--limit: expected one argument; see tiny-math eval --help"
    ),
    Case("surplus argument", "merge a b c", "unknown argument 'c'; see tiny-math merge --help"),
    Case(
        "temperature is a word", "eval embedded --temperature abc", "--temperature: 'abc' is not a number of 0 or more"
    ),
    Case("temperature below 0", "eval embedded --temperature=-1", "'-1' is not a number of 0 or more"),
    Case("temperature is NaN", "solve embedded q --temperature nan", "'nan' is not a number of 0 or more"),
    Case("limit 0", "eval embedded --limit 0", "--limit: '0' is not a whole number of 1 or more"),
    Case("samples below 0", "eval embedded --samples=-1", "--samples: '-1' is not a whole number of 0 or more"),
    Case("top-p 2", "eval embedded --top-p 2", "--top-p: '2' is not a number above 0 and at most 1"),
    Case("top-k is a fraction", "eval embedded --top-k 1.5", "--top-k: '1.5' is not a whole number of 0 or more"),
    Case("seed below 0", "eval embedded --seed=-1", "--seed: '-1' is not a whole number from 0"),
    Case("batch size 0", "eval embedded --batch-size 0", "--batch-size: '0' is not a whole number of 1 or more"),
    Case("endless completions", "eval embedded --max-new-tokens 9999999", "'9999999' is not a whole number from 1 to"),
    Case("port past the last", "play embedded --port 99999999", "--port: '99999999' is not a port, 0 to 65535"),
    Case("port of watch", "watch r --port x", "--port: 'x' is not a port"),
    Case("price below 0", f"check {QUICKSTART} --price=-1", "--price: '-1' is not a number of 0 or more"),
    Case("empty question", "solve embedded ' '", "the question is empty"),
    Case("solve without a model", "solve ./nowhere q", "no such model folder: ./nowhere"),
    Case(
        "out is a folder", "eval embedded --out o", "o is a folder; --out takes the name of a file", {"o": Path.mkdir}
    ),
    Case("out below a file", "eval embedded --out o/x.jsonl", "o: cannot be written", {"o": "x"}),
    Case(
        "out is something else",
        "eval embedded --out notes.txt",
        "exists and is not a .jsonl file",
        {"notes.txt": "mine"},
    ),
    Case(
        "out is the problems",
        "eval embedded --problems p.jsonl --out ./p.jsonl",
        "holds the problems",
        {"p.jsonl": ROW},
    ),
    Case("against nothing", "eval embedded --against ./nowhere", "no such model folder: ./nowhere"),
    Case("adapter is no folder", "eval embedded --adapter ./nowhere", "no adapter_config.json"),
    Case("merge: no adapter", "merge a out", "a: no adapter_config.json", {"a": Path.mkdir}),
    Case("merge onto a model", "merge a m", "m: exists already", {"a": merging, "m": merging}),
    Case("merge onto a file", "merge a m", "m: exists already", {"a": merging, "m": "mine"}),
    Case("merge onto itself", "merge a a", "a: exists already", {"a": merging}),
    Case("merge below a file", "merge a m/x", "m/x: cannot be written", {"a": merging, "m": "mine"}),
    Case("merge: dtype", "merge a out --dtype int3", "dtype 'int3': use auto", {"a": merging}),
    Case("merge: problems", "merge a out --problems ./nowhere.jsonl", "no such problem file", {"a": merging}),
    Case("merge: no problems", "merge a out --problems ''", "--problems is empty; name a source", {"a": merging}),
    Case("merge: column without problems", "merge a out --answer q", "--question, --answer and --max-unreadable go wi"),
    Case(
        "merge: unknown column",
        "merge a out --problems ./p.jsonl --question quest",
        "p.jsonl: no column 'quest', which --question names (found: question, answer); did you mean question?",
        {"a": merging, "p.jsonl": ROW},
    ),
    Case(
        "variable of no template",
        "solve embedded q --chat-template-kwargs '{thinking: true}'",
        "--chat-template-kwargs: the chat template of",
    ),
    Case(
        "variable of no template in eval",
        "eval embedded --problems embedded --limit 1 --chat-template-kwargs '{thinking: true}'",
        "--chat-template-kwargs: the chat template of",
    ),
    Case(
        "variable of no template in a run's file",
        "solve r q",
        "r/config.yaml: grpo.chat_template_kwargs: the chat template of",
        {"r": edited_run},
    ),
    Case(
        "date as a variable",
        "solve embedded q --chat-template-kwargs '{strftime_now: 2026-01-31}'",
        "--chat-template-kwargs: strftime_now is a function of the template; prompt.date (or --date) sets the date",
    ),
    Case("allow without resume", f"train {QUICKSTART} --allow lora", "--allow needs --resume"),
    Case(
        "output is a file", f"train {QUICKSTART} --grpo.output_dir o", "o: exists and is not a run folder", {"o": "x"}
    ),
    Case("output below a file", f"train {QUICKSTART} --grpo.output_dir o/x", "cannot be written", {"o": "x"}),
    Case(
        "output is somebody's",
        f"train {QUICKSTART} --grpo.output_dir o",
        "exists and is not a run folder",
        {"o/photo.jpg": b"mine"},
    ),
    Case("seeds: none", f"seeds {QUICKSTART} --seeds 0", "--seeds: '0' is not a whole number of 1 or more"),
    Case("seeds: one by its name", f"seeds {QUICKSTART} --seed 3", "argument '--seed'; did you mean --seeds?"),
    Case("seeds: a word", f"seeds {QUICKSTART} --seeds few", "--seeds: 'few' is not a whole number of 1 or more"),
    Case("seeds: one twice", f"seeds {QUICKSTART} --seeds 1,2,1", "--seeds: '1,2,1': name each seed once"),
    Case("seeds: below 0", f"seeds {QUICKSTART} --seeds=-1,2", "--seeds: '-1' is not a whole number from 0"),
    Case("seeds: only a comma", f"seeds {QUICKSTART} --seeds ,", "--seeds: ',': name each seed once"),
    Case("seeds: one meant", f"seeds {QUICKSTART} --seeds 20240131", "at most 1000 seeds; seed 20240131 alone is 2024"),
    Case("seeds: beyond the last", f"seeds {QUICKSTART} --grpo.seed 4294967295 --seeds 2", "from grpo.seed 4294967295"),
    Case("seeds: unknown key", f"seeds {QUICKSTART} --grpo.nope 1", "unknown key grpo.nope"),
    Case(
        "seeds: output is somebody's",
        f"seeds {QUICKSTART} --grpo.output_dir o",
        "o-seeds: exists and is not a folder of tiny-math seeds",
        {"o-seeds/photo.jpg": b"mine"},
    ),
    Case("seeds: output below a file", f"seeds {QUICKSTART} --grpo.output_dir o/x", "x-seeds: cannot be", {"o": "x"}),
    Case(
        "seeds: a run that cannot start",
        f"seeds {QUICKSTART} --problems.source nowhere.jsonl",
        "no seed could be started: no such problem file: nowhere.jsonl",
    ),
    Case(
        "fields: section",
        "fields nope",
        "no section is called 'nope'; choose from model, problems, prompt, rew",
    ),
    Case("fields: nearly a section", "fields gpro", "no section is called 'gpro'; did you mean grpo?"),
    Case("fields: field", "fields grpo.bta", "no field in section grpo is called 'bta'; did you mean beta?"),
    Case("fetch: no config", "fetch nowhere.yaml", "no such config file: nowhere.yaml"),
    Case("bench: part", "bench rollout", "no part 'rollout' to measure"),
    Case("bench: Python", "bench --vllm-python /no/such/python", "no such Python: /no/such/python"),
]

TRAIN = f"train {QUICKSTART} --dry-run"
ENVIRONMENT = [
    Case(
        "WORLD_SIZE is a word", TRAIN, "WORLD_SIZE='abc' is not a whole number of 1 or more", {}, {"WORLD_SIZE": "abc"}
    ),
    Case("WORLD_SIZE 0", TRAIN, "WORLD_SIZE='0' is not a whole number of 1 or more", {}, {"WORLD_SIZE": "0"}),
    Case("RANK is a word", TRAIN, "RANK='x' is not a whole number of 0 or more", {}, {"RANK": "x"}),
    Case("RANK past the last", TRAIN, "RANK=3 of 2 processes", {}, {"RANK": "3", "WORLD_SIZE": "2"}),
    Case("LOCAL_RANK is a word", TRAIN, "LOCAL_RANK='x' is not a whole number", {}, {"LOCAL_RANK": "x"}),
    Case(
        "RANK of an evaluation's model", "train c.yaml", "RANK='' is not a whole number", {"c.yaml": ""}, {"RANK": ""}
    ),
    Case(
        "seeds under a launcher",
        f"seeds {QUICKSTART}",
        "seeds starts each run itself: start it without torchrun",
        {},
        {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"},
    ),
    Case("OMP_NUM_THREADS", "eval embedded", "OMP_NUM_THREADS='abc' is not a whole", {}, {"OMP_NUM_THREADS": "abc"}),
    Case("OMP_NUM_THREADS 0", "eval embedded", "OMP_NUM_THREADS='0' is not a whole", {}, {"OMP_NUM_THREADS": "0"}),
    Case(
        "HF_HUB_DOWNLOAD_TIMEOUT", "eval x/y", "is not a whole number of seconds", {}, {"HF_HUB_DOWNLOAD_TIMEOUT": "x"}
    ),
    Case(
        "WANDB_MODE",
        f"{TRAIN} --grpo.report_to wandb",
        "WANDB_MODE='sometimes': choose",
        {},
        {"WANDB_MODE": "sometimes"},
    ),
]

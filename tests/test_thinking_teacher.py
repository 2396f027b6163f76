"""Teachers that think, from the recipe's side: what is kept, what is trained on, and students that think."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .lm.reasoning import WIRES, Said, Server, thinking_server

Limbeck = Callable[..., Any]

RECIPE = """
name: even
task: {{name: even, kind: yes-no, train: train.jsonl, test: test.jsonl, dev: 0}}
teacher:
  kind: api
  base_url: {url}
  model: thinker
  exam: false
  prices: {{usd_per_million_input: 1, usd_per_million_output: 10}}
rationales: {{max_tokens: 100}}
student:
  method: finetune-cot
  model: tiny-causal-xs
  train: {{learning_rate: 2.0e-3, batch_size: 8, epochs: 10}}
students: {{quiet: {{train: {{epochs: 1}}}}, thinker: {{thinks: true}}}}
exam: {{max_tokens: 60}}
"""


def answer_of(number: int) -> str:
    return "no" if number % 2 else "yes"


def thoughts_on(number: int) -> str:
    digit, other = number % 10, "no" if answer_of(number) == "yes" else "yes"
    return f"Is the answer {other}? Look at {number}.\n\nThe last digit is {digit}, so {answer_of(number)}."


def right(question: str) -> Said:
    """Thinks, and answers with the bare statement, as such models do."""
    number = int(question.split()[1])
    return Said(thoughts_on(number), f"The answer is {answer_of(number)}.")


def cut_below_50(question: str) -> Said:
    said = right(question)
    return Said(said.thinking, "", whole=False) if int(question.split()[1]) < 50 else said


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().split("\n") if line]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Forty training questions and ten others."""
    for name, numbers in (("train", range(30, 70)), ("test", range(80, 90))):
        rows = [{"question": f"Is {number} even?", "answer": answer_of(number)} for number in numbers]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def served(folder: Path) -> Iterator[Callable[..., Server]]:
    """Starts a server and writes the recipe that asks it."""
    pytest.importorskip("openai", reason="the extra `api` is not installed")
    running = []

    def serve(wire: str, say: Callable[[str], Said] = right) -> Server:
        context = thinking_server(wire, say)
        server = context.__enter__()
        running.append(context)
        (folder / "even.yaml").write_text(RECIPE.format(url=server.url))
        return server

    yield serve
    for context in running:
        context.__exit__(None, None, None)


def test_a_rationale_written_again_is_learned_with_its_thinking(
    limbeck: Limbeck, folder: Path, served: Callable[..., Server]
) -> None:
    """As plain ones are: the teacher's answer alone is a bare statement, and nothing would be left."""
    served("deepseek")
    kinds = "[wrong, no-answer, cut-off]"
    own = (
        f"{{rounds: 1, begin: rationales, train_exam: {{samples: 1, least_readable: 0}}, "
        f"feedback: {{kind: again, of: {kinds}}}}}"
    )
    student = f"{{method: tailored, model: tiny-causal-xs, train: {{epochs: 1}}, settings: {own}}}"
    changes = ("--set", "students=null", "--set", f"student={student}", "--set", "exam.max_tokens=8")
    answer = limbeck("run", "even.yaml", "--yes", "--out", "run", *changes)
    assert answer.status == 0, answer.err
    graded = records(folder / "run/students/tailored/seed0/round0/feedback/graded.jsonl")
    assert graded and all(one["dropped"] is None for one in graded)
    assert all(one["reasoning"] == one["thinking"].strip() for one in graded)


def test_forty_answers_of_a_thinking_teacher(
    limbeck: Limbeck, folder: Path, served: Callable[..., Server]
) -> None:
    """Forty billed, forty correct, forty kept; a student learns to think from them and is examined."""
    server = served("deepseek")
    answer = limbeck("run", "even.yaml", "--yes", "--out", "run")
    assert answer.status == 0, answer.err
    assert len(server.asked) == 40
    run = folder / "run"
    audit = json.loads((run / "rationales" / "audit.json").read_text())
    assert audit["rationales"] == audit["correct"] == audit["kept"] == audit["with thinking"] == 40
    for one, raw in zip(
        records(run / "rationales" / "graded.jsonl"),
        records(run / "collected" / "completions.jsonl"),
        strict=True,
    ):
        assert one["thinking"] == raw["thinking"] and one["completion"] == raw["text"]
        assert one["reasoning"] == one["thinking"].strip() and one["answer"] in ("yes", "no")

    examples = {
        name: records(run / "students" / name / "seed0" / "examples.jsonl") for name in ("quiet", "thinker")
    }
    first, gold = thoughts_on(30), answer_of(30)
    assert examples["quiet"][0]["completion"] == f"{first}\nThe answer is {gold}."
    thought = examples["thinker"][0]
    assert thought["completion"] == f"<think>\n{first}\n</think>\nThe answer is {gold}."
    start, end = thought["answer_span"]
    assert thought["completion"][start:end] == gold

    student = run / "students" / "thinker" / "seed0"
    said = records(student / "exam" / "predictions.jsonl")
    metrics = json.loads((student / "exam" / "metrics.json").read_text())
    assert len(said) == 10 and metrics["extraction_failed"] == 0 and "unfinished_thinking" not in metrics
    for one in said:
        assert one["completion"] == f"The answer is {one['answer']}." and "last digit" in one["thinking"]

    asked = limbeck("ask", student, "Is 84 even?")
    assert asked.status == 0, asked.err
    exam = next(one for one in said if one["question"] == "Is 84 even?")
    assert asked.out == f"<think>\n{exam['thinking']}\n</think>\n{exam['completion']}\n"
    stopped = limbeck("ask", student, "Is 84 even?", "--stop", " answer", "--stop", "digit")
    assert stopped.out == f"<think>\n{exam['thinking']}\n</think>\nThe\n", "a stop string ends no thinking"

    evaluated = limbeck("evaluate", student, "--task", "even.yaml", "--out", "again")
    assert evaluated.status == 0, evaluated.err
    assert records(folder / "again" / "predictions.jsonl") == said
    cut = limbeck("evaluate", student, "--task", "even.yaml", "--out", "cut", "--set", "exam.max_tokens=5")
    assert cut.status == 0, cut.err
    metrics = json.loads((folder / "cut" / "metrics.json").read_text())
    assert (metrics["correct"], metrics["extraction_failed"], metrics["unfinished_thinking"]) == (0, 10, 10)

    other = limbeck("run", "even.yaml", "--out", "run", "--set", "exam.stop= answer")
    assert other.status == 0, other.err
    assert "training" not in other.err, "a stop string of exams trains nobody again"
    metrics = json.loads((student / "exam" / "metrics.json").read_text())
    assert metrics["stopped"] == metrics["extraction_failed"] == 10


@pytest.mark.parametrize("stream", ["false", "true"])
@pytest.mark.parametrize("wire", WIRES)
def test_forty_are_kept_whatever_the_wire(
    limbeck: Limbeck, folder: Path, served: Callable[..., Server], wire: str, stream: str
) -> None:
    server = served(wire)
    command = ("collect", "even.yaml", "--yes", "--out", "run", "--set", f"teacher.stream={stream}")
    assert limbeck(*command).status == 0
    graded = records(folder / "run" / "rationales" / "graded.jsonl")
    assert len(server.asked) == 40 and sum(one["dropped"] is None for one in graded) == 40
    assert {one["completion"] for one in graded} == {"The answer is yes.", "The answer is no."}
    assert {one["thinking"] for one in graded} == {thoughts_on(number) for number in range(30, 70)}


def test_what_is_trained_on_is_a_setting_and_asks_nothing_again(
    limbeck: Limbeck, folder: Path, served: Callable[..., Server]
) -> None:
    def argues(question: str) -> Said:
        said = right(question)
        return Said(said.thinking, f"It ends well. {said.answer}")

    server = served("vllm", argues)
    thinking = thoughts_on(30)
    for which, reasoning in (
        ("both", f"{thinking}\n\nIt ends well."),
        ("thinking", thinking),
        ("answer", "It ends well."),
    ):
        answer = limbeck(
            "collect", "even.yaml", "--yes", "--out", "run", "--set", f"teacher.reasoning={which}"
        )
        assert answer.status == 0, answer.err
        assert which == "both" or "collected: started" not in answer.err
        one = records(folder / "run" / "rationales" / "graded.jsonl")[0]
        assert (one["reasoning"], one["thinking"], one["dropped"]) == (reasoning, thinking, None)
        assert one["completion"] == "It ends well. The answer is yes."
    assert len(server.asked) == 40
    back = limbeck("collect", "even.yaml", "--yes", "--out", "run", "--set", "teacher.reasoning=both")
    assert back.status == 0 and len(server.asked) == 40


def test_a_student_that_thinks_keeps_the_answers_own_reasoning_behind_the_tags(
    limbeck: Limbeck, folder: Path, served: Callable[..., Server]
) -> None:
    served("openrouter", lambda question: Said("Look.", f"It ends well. {right(question).answer}"))
    settings = ("--set", "students={thinker: {thinks: true, train: {epochs: 1}}}")
    assert limbeck("run", "even.yaml", "--yes", "--out", "run", *settings).status == 0
    [one, *_] = records(folder / "run" / "students" / "thinker" / "seed0" / "examples.jsonl")
    assert one["completion"] == "<think>\nLook.\n</think>\nIt ends well.\nThe answer is yes."


@pytest.mark.parametrize("keep", ["correct", "unless-wrong", "all"])
def test_thinking_that_was_cut_off_is_counted_and_never_kept(
    limbeck: Limbeck, folder: Path, served: Callable[..., Server], keep: str
) -> None:
    served("deepseek", cut_below_50)
    answer = limbeck("collect", "even.yaml", "--yes", "--out", "run", "--set", f"rationales.keep={keep}")
    assert answer.status == 0, answer.err
    assert "20 of 40 completions end inside their thinking" in answer.err
    assert "raise rationales.max_tokens" in answer.err
    audit = json.loads((folder / "run" / "rationales" / "audit.json").read_text())
    assert (audit["kept"], audit["end inside their thinking"]) == (20, 20)
    assert audit["dropped"] == {"no answer behind the thinking": 20}


def test_thinking_in_a_file_is_read_too(limbeck: Limbeck, folder: Path) -> None:
    """Published traces hold the tags; our own files name the thinking apart."""
    rows = [
        {
            "question": f"Is {number} even?",
            "answer": answer_of(number),
            "rationale": f"<think>\n{thoughts_on(number)}\n</think>\n\nThe answer is {answer_of(number)}.",
        }
        for number in range(30, 70)
    ]
    rows[0]["rationale"] = f"<think>\n{thoughts_on(30)} The answer is yes."
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "even.yaml").write_text(
        "name: even\n"
        "task: {name: even, kind: yes-no, train: train.jsonl, test: test.jsonl, dev: 0,\n"
        "  columns: {rationale: rationale}}\n"
        "teacher: {kind: given, reasoning: thinking}\n"
        "student: {method: finetune-cot, model: tiny-causal-xs}\n"
    )
    assert limbeck("collect", "even.yaml", "--out", "run").status == 0
    found = folder / "run" / "rationales" / "graded.jsonl"
    graded = records(found)
    assert Counter(one["dropped"] for one in graded) == {None: 39, "no answer behind the thinking": 1}
    assert graded[1]["reasoning"] == graded[1]["thinking"] == thoughts_on(31)
    answer = limbeck("grade", found, "--task", "even.yaml", "--out", "regraded.jsonl")
    assert answer.status == 0, answer.err
    assert records(folder / "regraded.jsonl") == graded


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("teacher.reasoning=all", "teacher.reasoning"),
        ("exam.stop=['']", "exam.stop"),
        ("teacher.extra_body={stream_options: {}}", "stream_options is set by Limbeck"),
    ],
)
def test_what_cannot_be_is_refused(
    limbeck: Limbeck, folder: Path, served: Callable[..., Server], setting: str, says: str
) -> None:
    server = served("vllm")
    answer = limbeck("run", "even.yaml", "--yes", "--out", "run", "--set", setting)
    assert answer.status == 2 and says in answer.err and len(answer.err.strip().splitlines()) == 1
    assert not server.asked and not (folder / "run").exists()


def test_a_student_and_its_mentor_both_think_or_neither(
    limbeck: Limbeck, folder: Path, served: Callable[..., Server]
) -> None:
    server = served("vllm")
    answer = limbeck(
        *("run", "even.yaml", "--yes", "--out", "run", "--set", "mentors={m: {}}"),
        *("--set", "students={s: {method: mentor-kd, thinks: true, settings: {mentor: m}}}"),
    )
    assert answer.status == 2 and "thinks: True, but its mentor's is False" in answer.err
    assert not server.asked


LOCAL = """
name: local
task: {name: even, kind: yes-no, train: train.jsonl, test: test.jsonl, dev: 0}
teacher:
  kind: local
  model: run/students/thinker/seed0/model
  dtype: float32
  device: cpu
  prompt: {template: "{question}", instruction: ""}
  exam: false
rationales: {max_tokens: 60, temperature: 0}
student: {method: finetune-cot, model: tiny-causal-xs, train: {epochs: 1}}
"""


def test_a_local_model_whose_template_opens_the_tag(limbeck: Limbeck, folder: Path) -> None:
    """As a student that learns to close it, as one that was never to think, and as a teacher."""
    from limbeck.lm.load import load
    from limbeck.lm.saving import save

    rows = records(folder / "train.jsonl")
    traces = [f"{thoughts_on(n)}\n</think>\n\nThe answer is {answer_of(n)}." for n in range(30, 70)]
    for row, trace in zip(rows, traces, strict=True):
        row["rationale"] = trace  # as it comes behind such a template: the text begins inside
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = load(
        "tiny-causal-xs", seed=1, tokenizer_texts=[row["question"] for row in rows] + traces, device="cpu"
    )
    template = base.tokenizer.chat_template
    assert "<|assistant|>" in template
    base.tokenizer.chat_template = template + "{%- if add_generation_prompt -%}{{ '<think>\n' }}{%- endif -%}"
    save(base, folder / "base")
    (folder / "even.yaml").write_text(
        "name: even\n"
        "task: {name: even, kind: yes-no, train: train.jsonl, test: test.jsonl, dev: 0,\n"
        "  columns: {rationale: rationale}}\n"
        "teacher: {kind: given}\n"
        "student: {method: finetune-cot, model: base, format: chat,\n"
        "  train: {learning_rate: 2.0e-3, batch_size: 8, epochs: 10}}\n"
        "students: {thinker: {thinks: true}, quiet: {}}\n"
        "exam: {max_tokens: 60}\n"
    )
    answer = limbeck("run", "even.yaml", "--out", "run")
    assert answer.status == 0, answer.err
    assert "quiet (seed 0): the chat template of base opens <think>" in answer.err
    assert answer.err.count("opens <think>") == 1
    assert "makes another prompt" not in answer.err, "chat servers ask it as it was trained"

    student = folder / "run" / "students" / "thinker" / "seed0"
    [one, *_] = records(student / "examples.jsonl")
    assert one["prompt"].endswith("<think>\n")
    assert one["completion"] == f"{thoughts_on(30)}\n</think>\nThe answer is yes."
    start, end = one["answer_span"]
    assert one["completion"][start:end] == "yes"
    for one in records(student / "exam" / "predictions.jsonl"):
        assert one["completion"] == f"The answer is {one['answer']}." and "last digit" in one["thinking"]
    for one in records(folder / "run" / "students" / "quiet" / "seed0" / "exam" / "predictions.jsonl"):
        assert not one["thinking"] and "last digit" in one["completion"] and one["answer"]

    (folder / "local.yaml").write_text(LOCAL)
    taught = limbeck("collect", "local.yaml", "--out", "taught")
    assert taught.status == 0, taught.err
    graded = records(folder / "taught" / "rationales" / "graded.jsonl")
    assert len(graded) == 40
    for one in graded:
        assert one["completion"] == f"The answer is {one['answer']}." and "last digit" in one["thinking"]
        assert one["dropped"] in (None, "wrong answer") and one["reasoning"] == one["thinking"]
    cut = limbeck("collect", "local.yaml", "--out", "taught", "--set", "rationales.max_tokens=8")
    assert cut.status == 1 and "40 of 40 completions end inside their thinking" in cut.err
    assert {one["dropped"] for one in records(folder / "taught" / "rationales" / "graded.jsonl")} == {
        "no answer behind the thinking"
    }
    stopped = limbeck("collect", "local.yaml", "--out", "taught", "--set", "teacher.stop='.'")
    assert stopped.status == 0, stopped.err
    for one in records(folder / "taught" / "rationales" / "graded.jsonl"):
        assert one["completion"] == f"The answer is {one['answer']}"
        assert one["stopped"] == "." and not one["truncated"] and "last digit is" in one["thinking"]


def test_demonstrations_of_students_that_think_show_their_thinking(limbeck: Limbeck, folder: Path) -> None:
    """As they are trained: inside the tags. A chat template that drops it from earlier turns is named."""
    from limbeck.lm.load import load
    from limbeck.lm.saving import save

    rows = records(folder / "train.jsonl")
    for row, number in zip(rows, range(30, 70), strict=True):
        row["rationale"] = f"<think>\n{thoughts_on(number)}\n</think>\n\nThe answer is {answer_of(number)}."
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = load("tiny-causal-xs", seed=1, tokenizer_texts=[row["rationale"] for row in rows], device="cpu")
    kept, base.tokenizer.chat_template = base.tokenizer.chat_template, None
    whole = "message['content']"
    assert kept.count(whole) == 1
    base.tokenizer.chat_template = kept.replace(whole, f"{whole}.split('</think>')[-1]")
    save(base, folder / "base")
    (folder / "shots.jsonl").write_text(
        '{"question": "Is 8 even?", "text": "It ends in 8.", "answer": "yes"}\n'
        '{"question": "Is 9 even?", "text": "<think>\\nIt ends in 9.\\n</think>\\nThe answer is no."}\n'
    )
    (folder / "even.yaml").write_text(
        "name: even\n"
        "task: {name: even, kind: yes-no, train: train.jsonl, test: test.jsonl, dev: 0,\n"
        "  columns: {rationale: rationale}}\n"
        "teacher: {kind: given}\n"
        "student: {method: finetune-cot, model: base, thinks: true, train: {epochs: 1}}\n"
        "students: {own: {prompt: {examples: 2}}, file: {prompt: {examples: {file: shots.jsonl}}},\n"
        "  chat: {format: chat, prompt: {examples: 1}}}\n"
        "exam: {max_tokens: 8}\n"
    )
    answer = limbeck("run", "even.yaml", "--out", "run")
    assert answer.status == 0, answer.err
    shown = {
        name: records(folder / "run" / "students" / name / "seed0" / "examples.jsonl")[0]["prompt"]
        for name in ("own", "file", "chat")
    }
    assert (
        shown["own"].count("\n<think>\nIs the answer ")
        == 2
        == shown["own"].count("\n</think>\nThe answer is ")
    )
    assert shown["file"] == (
        "Is 8 even?\n<think>\nIt ends in 8.\n</think>\nThe answer is yes.\n\n"
        "Is 9 even?\n<think>\nIt ends in 9.\n</think>\nThe answer is no.\n\nIs 30 even?\n"
    )
    assert "chat (seed 0): the chat template of base leaves out what demonstrations think" in answer.err
    assert answer.err.count("leaves out what demonstrations think") == 1 and "<think>" not in shown["chat"]


def test_a_mentor_thinks_writes_and_stops(limbeck: Limbeck, folder: Path) -> None:
    """Its thinking is kept apart like the teacher's; a blank line in it is no end of its completion."""
    rows = records(folder / "train.jsonl")
    for row, number in zip(rows, range(30, 70), strict=True):
        row["rationale"] = f"<think>\n{thoughts_on(number)}\n</think>\n\nThe answer is {answer_of(number)}."
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "even.yaml").write_text(
        "name: even\n"
        "task: {name: even, kind: yes-no, train: train.jsonl, test: test.jsonl, dev: 0,\n"
        "  columns: {rationale: rationale}}\n"
        "teacher: {kind: given}\n"
        "mentors: {m: {model: tiny-causal-xs, thinks: true, exam: false,\n"
        '  writes: {per_problem: 1, temperature: 0.1, max_tokens: 60, stop: ["\\n\\n", "."]},\n'
        "  train: {learning_rate: 2.0e-3, batch_size: 8, epochs: 10}}}\n"
        "students: {s: {method: mentor-kd, model: tiny-causal-xs, thinks: true,\n"
        "  settings: {mentor: m, mentor_rationales: 1},\n"
        "  train: {epochs: 1}}}\n"
        "exam: {max_tokens: 60}\n"
    )
    answer = limbeck("run", "even.yaml", "--out", "run")
    assert answer.status == 0, answer.err
    written = records(folder / "run" / "mentors" / "m" / "rationales" / "graded.jsonl")
    assert len(written) == 40
    for one in written:
        assert one["completion"] == f"The answer is {one['answer']}" and one["stopped"] == "."
        assert "last digit" in one["thinking"] and one["reasoning"] == one["thinking"]
    assert sum("\n\n" in one["thinking"] for one in written) > 20
    examples = records(folder / "run" / "students" / "s" / "seed0" / "examples.jsonl")
    assert len(examples) > 40 and all(one["completion"].startswith("<think>\n") for one in examples)

"""How a problem is asked: the same text in training, exam and afterwards, cut where it may be cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from limbeck.errors import InputError, ModelError, RecipeError
from limbeck.records import Demonstration, Example, Problem
from limbeck.tasks.answers import AnswerKind
from limbeck.tasks.asking import (
    Asking,
    about_model,
    learner_asking,
    rendered,
    teacher_asking,
)
from limbeck.tasks.cutting import first_words
from limbeck.tasks.prompts import FORMATS, chat, question_with_options, teacher_instruction
from limbeck.tasks.settings import PromptSettings

PROBLEMS = [
    Problem(id="1", question="What is 3 + 4?", answer="7"),
    Problem(id="2", question="Who has it?", answer="B", options=("Ann", "Ben")),
    Problem(id="3", question="Who? Answer choices: (A) Ann, (B) Ben.", answer="B", options=("Ann", "Ben")),
    Problem(id="4", question=" {odd} \n\n question\u2028with {{braces}} \n", answer="x"),
]
SHOTS = tuple(
    Demonstration(question=f"What is {n} + {n}?", completion=f"It is {2 * n}. The answer is {2 * n}.")
    for n in range(1, 5)
)
KINDS: tuple[AnswerKind, ...] = ("number", "choice", "yes-no", "text")
ROLES = (
    "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
REFUSES = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + ROLES
IGNORES = ROLES.replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}")


def tokenizer_with(template: str) -> Any:
    from limbeck.lm.tiny import build_tokenizer

    tokenizer = build_tokenizer(["What is the answer to this question about apples and knowledge?"] * 3)
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda one: one.id)
def test_by_default_prompts_are_those_of_0_1_0(form: str, problem: Problem) -> None:
    """Letter for letter: the prompts of students in all formats, and of the teacher."""
    tokenizer, asking = tokenizer_with(ROLES), learner_asking(PromptSettings(), form)
    written = FORMATS[form].prompt(problem)
    old = chat(tokenizer, [written]) if form == "chat" else written
    assert asking.text(tokenizer, asking.pieces(problem)) == old
    assert asking.text(tokenizer, asking.pieces(problem), room=1) == old, "nothing in it may be cut"
    (prompt,) = asking.prompts([problem], tokenizer)
    assert (prompt.id, prompt.problem_id, prompt.text, prompt.system) == (problem.id, problem.id, old, "")
    for kind in KINDS:
        teacher = teacher_asking(PromptSettings(), kind)
        asked = f"{question_with_options(problem)}\n\n{teacher_instruction(kind)}"
        assert teacher.plain(teacher.pieces(problem)) == teacher.prompts([problem])[0].text == asked
        local = teacher_asking(PromptSettings(), kind, form="chat")
        assert local.prompts([problem], tokenizer)[0].text == chat(tokenizer, [asked])


def test_what_the_prompts_of_0_1_0_were() -> None:
    """The test above compares two functions of ours; these texts were written by hand."""
    plain, arrow = Asking("plain"), Asking("arrow")
    assert [one.text for one in plain.prompts(PROBLEMS[:2])] == [
        "What is 3 + 4?\n",
        "Who has it?\nAnswer choices: (A) Ann, (B) Ben.\n",
    ]
    assert arrow.prompts(PROBLEMS[:1])[0].text == "What is 3 + 4?\n###\n"
    teacher = teacher_asking(PromptSettings(), "number")
    assert teacher.prompts(PROBLEMS[:1])[0].text == (
        "What is 3 + 4?\n\nThink step by step and write every step down. Close with the sentence "
        '"The answer is X.", where X is a number in digits, without its unit.'
    )


def test_a_prompt_with_everything() -> None:
    settings = PromptSettings.model_validate(
        {"system": "Be exact.", "instruction": "Add.", "examples": {"k": 1, "file": "f"}}
    )
    for form in ("plain", "chat"):
        asking = learner_asking(settings, form, demonstrations=SHOTS[:2])
        text = asking.text(tokenizer_with(ROLES), asking.pieces(PROBLEMS[0], ["Numbers add up."]))
        assert (
            text
            == {
                "plain": "Be exact.\n\nAdd.\n\nWhat is 1 + 1?\nIt is 2. The answer is 2.\n\n"
                "Numbers add up.\n\nWhat is 3 + 4?\n",
                "chat": "<system>Be exact.<user>Add.\n\nWhat is 1 + 1?<assistant>It is 2. The answer is 2."
                "<user>Numbers add up.\n\nWhat is 3 + 4?<assistant>",
            }[form]
        )
    teacher = teacher_asking(settings, "number", demonstrations=SHOTS[:1])
    assert teacher.system == "Be exact."
    assert (
        teacher.plain(teacher.pieces(PROBLEMS[0]))
        == "What is 1 + 1?\nIt is 2. The answer is 2.\n\nWhat is 3 + 4?\n\nAdd."
    )


@pytest.mark.parametrize(
    ("template", "text"),
    [(ROLES, "<system>S<user>Q<assistant>"), *[(t, "<user>S\n\nQ<assistant>") for t in (REFUSES, IGNORES)]],
)
def test_a_system_prompt_is_never_lost(template: str, text: str) -> None:
    assert chat(tokenizer_with(template), ["Q"], "S") == text


def test_options_follow_the_question_where_the_template_has_no_place_for_them() -> None:
    apart = Asking(template="{options}\n{question}\n")
    joined = Asking(template="Q: {question}\nA:\n")
    assert apart.prompts(PROBLEMS[1:2])[0].text == "Answer choices: (A) Ann, (B) Ben.\nWho has it?\n"
    assert joined.prompts(PROBLEMS[1:2])[0].text == (
        "Q: Who has it?\nAnswer choices: (A) Ann, (B) Ben.\nA:\n"
    )


def test_a_problem_is_never_shown_its_own_demonstration() -> None:
    mine = SHOTS[1].model_copy(update={"question": "what is 3+4"})
    pool = (SHOTS[0], mine, SHOTS[2])
    asking = Asking(demonstrations=pool, shots=2)
    shown = {one.id: asking.pieces(one).examples for one in PROBLEMS[:2]}
    assert shown == {"1": (SHOTS[0], SHOTS[2]), "2": (SHOTS[0], mine)}, "the spare one takes its place"
    assert Asking(demonstrations=pool).pieces(PROBLEMS[0]).examples == (SHOTS[0], SHOTS[2])
    listed = SHOTS[0].model_copy(update={"question": "Who has it? Answer choices: (A) Ann, (B) Ben."})
    assert Asking(demonstrations=(listed, mine)).pieces(PROBLEMS[1]).examples == (mine,)


@pytest.mark.parametrize("form", FORMATS)
def test_passages_are_cut_first_then_demonstrations_and_never_the_question(form: str) -> None:
    tokenizer = tokenizer_with(ROLES)
    asking = Asking(form, instruction="Add up.", system="Be exact.", demonstrations=SHOTS)
    passages = ["one two three four", "five  six\nseven eight nine"]
    pieces = asking.pieces(PROBLEMS[0], passages)

    def size(text: str) -> int:
        return len(tokenizer(text)["input_ids"])

    whole, bare = asking.text(tokenizer, pieces), asking.text(tokenizer, pieces, 0)
    assert "What is 3 + 4?" in bare and "Add up." in bare and "Be exact." in bare
    assert "one" not in bare and SHOTS[3].question not in bare, "as short as it gets"
    seen = []
    for room in range(size(bare), size(whole) + 1):
        text = asking.text(tokenizer, pieces, room)
        assert size(text) <= room and "What is 3 + 4?" in text and "Add up." in text
        words = next((n for n in range(9, 0, -1) if "\n".join(first_words(passages, n)) in text), 0)
        shots = [number for number, shot in enumerate(SHOTS) if shot.question in text]
        assert shots == list(range(4))[4 - len(shots) :], "demonstrations go from the first"
        assert not words or len(shots) == 4, "and only when no passage is left"
        seen.append((len(shots), words))
    assert seen == sorted(seen), "more room never shows less"
    assert seen[0] == (0, 0) and seen[-1] == (4, 9) and {words for _, words in seen} == set(range(10))
    assert asking.text(tokenizer, pieces, size(whole)) == whole


def test_a_model_with_room_of_its_own_is_asked_within_it_whoever_asks() -> None:
    tokenizer, asking = tokenizer_with(ROLES), Asking()
    pieces, own = asking.pieces(PROBLEMS[0], ["knowledge " * 50]), Asking(room=40)
    for room, least in ((None, 40), (60, 40), (30, 30)):
        assert own.text(tokenizer, pieces, room) == asking.text(tokenizer, pieces, least)


def test_first_words() -> None:
    assert first_words(["a  b", "c d"], 9) == ("a  b", "c d")
    assert first_words(["a  b", "c d"], 2) == ("a  b",)
    assert first_words(["ab  a b", "c"], 2) == ("ab  a",)
    assert first_words(["a"], 0) == ()


def test_a_training_row_leaves_room_for_its_completion() -> None:
    tokenizer, asking = tokenizer_with(ROLES), Asking()
    pieces = asking.pieces(PROBLEMS[0], ["knowledge " * 50])
    example = Example(problem_id="1", prompt=pieces, completion="apples " * 10, role="positive")
    ready = Example(problem_id="2", prompt="as it is", completion="c")
    for encoder_decoder, taken in ((False, 11), (True, 0)):
        short, same = rendered(
            asking, tokenizer, [example, ready], max_length=40, encoder_decoder=encoder_decoder
        )
        assert same is ready and short.role == "positive"
        assert short.prompt == asking.text(tokenizer, pieces, 40 - len_of(tokenizer, example) * (taken > 0))
        assert str(short.prompt).endswith("What is 3 + 4?\n") and "knowledge" in str(short.prompt)
    (long,) = rendered(asking, tokenizer, [example])
    assert str(long.prompt).count("knowledge") == 50


def len_of(tokenizer: Any, example: Example) -> int:
    """Tokens of a completion and its end."""
    return len(tokenizer(example.completion, add_special_tokens=False)["input_ids"]) + 1


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("reasoning", ["3 + 4 = 7.", ""])
def test_an_example_marks_its_final_answer(form: str, reasoning: str) -> None:
    example = Asking(form).example(PROBLEMS[0], reasoning, role="anchor")
    assert example.completion == FORMATS[form].completion(reasoning, "7")
    first, end = example.answer_span or (0, 0)
    assert example.completion[first:end] == "7" and first > len(reasoning)
    assert example.prompt == Asking(form).pieces(PROBLEMS[0]) and example.role == "anchor"


def test_what_cannot_be_asked_is_refused() -> None:
    with pytest.raises(RecipeError, match="there is no format 'prose'; choose one of plain, arrow, chat"):
        Asking("prose")
    with pytest.raises(RecipeError, match=r"template: has no place \{question\}"):
        Asking(template="Hello")
    with pytest.raises(RecipeError, match=r"no place \{examples\} for what is given"):
        Asking(template="{question}", demonstrations=SHOTS)
    with pytest.raises(RecipeError, match=r"no place \{passages\}"):
        asking = Asking(template="{question}")
        asking.text(None, asking.pieces(PROBLEMS[0], ["known"]))
    with pytest.raises(ModelError, match="no chat template"):
        Asking("chat").prompts(PROBLEMS, tokenizer_with("").__class__(tokenizer_object=raw_tokenizer()))
    knowing = Asking(needs=("knowledge",))
    with pytest.raises(InputError, match="problem 1: this model needs knowledge"):
        knowing.prompts(PROBLEMS)
    with pytest.raises(InputError, match="problem 2: this model needs knowledge"):
        knowing.prompts(PROBLEMS[:2], passages={"1": ["p"]})
    assert knowing.prompts(PROBLEMS[:1], passages={"1": []})[0].text == "What is 3 + 4?\n"


def raw_tokenizer() -> Any:
    from tokenizers import Tokenizer, models

    return Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))


FULL = Asking("arrow", "{instruction}\n{examples}\n\n{question}\n", "Add.", "S", SHOTS, 3, ("knowledge",))


def write_about(folder: Path, about: object) -> Path:
    (folder / "limbeck.json").write_text(json.dumps(about))
    return folder


@pytest.mark.parametrize(
    "asking", [FULL, Asking(), Asking("chat", system="S", room=9)], ids=lambda one: one.format
)
def test_a_model_folder_keeps_everything(tmp_path: Path, asking: Asking) -> None:
    about = {"task": "own", "kind": "number", **asking.about()}
    assert Asking.of_folder(write_about(tmp_path, about)) == asking
    assert about_model(tmp_path)["task"] == "own"


def test_folders_of_before_name_the_format_alone(tmp_path: Path) -> None:
    assert Asking.of_folder(tmp_path) == Asking()
    assert Asking.of_folder(write_about(tmp_path, {"format": "arrow", "kind": "text"})) == Asking("arrow")


def test_a_missing_or_unknown_part_is_refused(tmp_path: Path) -> None:
    def said(change: dict[str, object], **prompt: object) -> str:
        about = FULL.about()
        about["prompt"] = {**about["prompt"], **prompt}  # type: ignore[dict-item]
        about |= change  # type: ignore[arg-type]
        about["prompt"] = {k: v for k, v in (about["prompt"] or {}).items() if v != "gone"}  # type: ignore[union-attr]
        with pytest.raises(ModelError) as caught:
            Asking.of_folder(write_about(tmp_path, {k: v for k, v in about.items() if v != "gone"}))
        return str(caught.value)

    for part in ("template", "instruction", "system", "demonstrations", "shots"):
        assert f"prompt.{part} is missing" in said({}, **{part: "gone"})
    assert "prompt.retriever is unknown here" in said({}, retriever="bm25")
    assert "needs 'tools', unknown here; load it with a newer Limbeck" in said({"needs": ["tools"]})
    assert "prompt or needs is missing" in said({"needs": "gone"})
    assert "prompt or needs is missing" in said({"prompt": {}, "needs": "gone"})
    for wrong in ({"template": ""}, {"shots": -1}, {"shots": True}, {"system": None}, {"instruction": 3}):
        assert "no text or number" in said({}, **wrong)
    assert "no text or number" in said({}, room=0) and "no text or number" in said({}, room=True)
    assert "there is no place {mistake}" in said({}, template="{question} {mistake}")
    assert "prompt.demonstrations: completion" in said({}, demonstrations=[{"question": "Why?"}])
    assert "prompt" in said({}, demonstrations=7)
    assert "format 'prose'" in said({"format": "prose"})


def test_another_format_is_taken_only_where_nothing_was_made_for_this_one() -> None:
    assert Asking("chat", system="S").with_format("plain") == Asking("plain", system="S")
    assert FULL.with_format("arrow") is FULL
    for own in (FULL, Asking(template="Q: {question}\n"), Asking(demonstrations=SHOTS)):
        with pytest.raises(RecipeError, match="prompts are made for"):
            own.with_format("chat")


def test_a_plan_holds_only_what_is_not_usual() -> None:
    assert Asking("arrow").plan() == {}
    assert teacher_asking(PromptSettings(), "number").plan(teacher_asking(PromptSettings(), "number")) == {}
    plan = FULL.plan()
    assert plan["needs"] == ["knowledge"] and set(plan["prompt"]) == {  # type: ignore[arg-type]
        *("template", "instruction", "system", "demonstrations", "shots")
    }
    assert Asking("chat", system="S").plan() == {"prompt": {"system": "S"}}

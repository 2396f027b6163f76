from __future__ import annotations

import pytest

from limbeck.errors import ModelError, RecipeError
from limbeck.records import Problem
from limbeck.tasks.answers import AnswerKind, extract, split_answer
from limbeck.tasks.options import options_in
from limbeck.tasks.prompts import FORMATS, chat, known_format, question_with_options, teacher_instruction

SUM = Problem(id="1", question="What is 3 + 4?", answer="7")
CHOICE = Problem(id="2", question="Who has it?", answer="B", options=("Ann", "Ben"))
WRITTEN = Problem(
    id="3", question="Who? Answer choices: (A) Ann, (B) Ben.", answer="B", options=("Ann", "Ben")
)
ANSWERS: list[tuple[AnswerKind, str]] = [
    *[("number", answer) for answer in ("7", "-3", "0.5", "1/3", "1234567")],
    *[("choice", answer) for answer in "ABI"],
    *[("yes-no", answer) for answer in ("yes", "no")],
    *[("text", answer) for answer in ("nk", "St. Louis", "not guilty", "x-ray is fine", "Ann and Ben")],
]


class FakeTokenizer:
    """Only the chat side of a tokenizer."""

    def __init__(self, template: str | None) -> None:
        self.chat_template = template
        self.bos_token = None
        self.bos_token_id = None

    def __call__(self, text: str, *, verbose: bool) -> dict[str, list[int]]:
        return {"input_ids": [0] * len(text.split())}

    def apply_chat_template(
        self,
        conversation: list[dict[str, str]],
        *,
        tokenize: bool,
        add_generation_prompt: bool,
        date_string: str,
    ) -> str:
        assert not tokenize and add_generation_prompt and date_string == "26 Jul 2024"
        return "".join(f"<{turn['role']}>{turn['content']}" for turn in conversation) + "<assistant>"


def test_the_formats_word_for_word() -> None:
    plain, arrow = FORMATS["plain"], FORMATS["arrow"]
    assert plain.prompt(SUM) == "What is 3 + 4?\n"
    assert plain.completion("3 + 4 = 7.", "7") == "3 + 4 = 7.\nThe answer is 7."
    assert plain.answer_only("7") == "The answer is 7."
    assert arrow.prompt(SUM) == "What is 3 + 4?\n###\n"
    assert arrow.completion("3 + 4 = 7.", "7") == "3 + 4 = 7. --> 7"
    assert arrow.answer_only("7") == "--> 7"
    assert FORMATS["chat"].completion("r", "7") == plain.completion("r", "7")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(("kind", "answer"), ANSWERS)
def test_what_a_format_writes_is_extracted_again(form: str, kind: AnswerKind, answer: str) -> None:
    reasoning = "First 2 of A, no yes. Then 9 more."
    for text in (FORMATS[form].completion(reasoning, answer), FORMATS[form].answer_only(answer)):
        found = extract(kind, text)
        assert (found.answer, found.how) == (answer, "marker")
    assert split_answer(kind, FORMATS[form].completion(reasoning, answer)) == (reasoning, answer)
    assert FORMATS[form].completion("", answer) == FORMATS[form].answer_only(answer)


def test_options_are_added_once() -> None:
    assert question_with_options(CHOICE) == "Who has it?\nAnswer choices: (A) Ann, (B) Ben."
    assert question_with_options(WRITTEN) == WRITTEN.question
    assert options_in(FORMATS["plain"].prompt(CHOICE)) == CHOICE.options


def test_the_teacher_is_told_how_to_close() -> None:
    for kind, wanted in (("number", "digits"), ("choice", "letter"), ("yes-no", "yes or no")):
        text = teacher_instruction(kind)  # type: ignore[arg-type]
        assert "step by step" in text and "The answer is X." in text and wanted in text
        assert extract("number", text).answer is None, "the instruction is no answer"


def test_a_chat_needs_a_template_and_a_format_must_be_known() -> None:
    assert chat(FakeTokenizer("{{ messages }}"), ["Hello?\n"]) == "<user>Hello?<assistant>"
    with pytest.raises(ModelError, match="no chat template"):
        chat(FakeTokenizer(None), ["Hello?"])
    with pytest.raises(RecipeError, match="choose one of plain, arrow, chat"):
        known_format("prose")


@pytest.mark.parametrize("adds_start", [True, False])
def test_the_start_token_is_never_doubled(adds_start: bool) -> None:
    """Llama's template writes <bos> and its tokenizer adds one: prompts must begin with a single one."""
    from tokenizers.processors import TemplateProcessing

    from limbeck.lm.tiny import build_tokenizer

    tokenizer = build_tokenizer(["a text"], bos=True)
    if not adds_start:
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A")
    tokenizer.chat_template = "<bos>" + tokenizer.chat_template
    ids = tokenizer(chat(tokenizer, ["Why?"]))["input_ids"]
    assert ids.count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id

"""What stands in a prompt and in a completion: the formats a student is trained and
examined in, and the instruction a teacher gets.

Whatever a format writes, `answers.extract` reads again: a completion of any format
ends in an explicit answer marker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from limbeck.errors import ModelError, RecipeError
from limbeck.records import Problem
from limbeck.tasks.answers import AnswerKind
from limbeck.tasks.options import list_options, options_in

DATE = "26 Jul 2024"
"""The day that templates with a date (Llama 3) are given: today's would change prompts overnight."""


@dataclass(frozen=True, slots=True)
class Format:
    """How a question becomes a prompt, and reasoning with an answer a completion."""

    name: str
    summary: str
    after_question: str = "\n"
    before_answer: str = "The answer is "
    after_answer: str = "."
    between: str = "\n"

    def prompt(self, problem: Problem) -> str:
        """The question, with its options if they are not written in it."""
        return question_with_options(problem) + self.after_question

    def completion(self, reasoning: str, answer: str) -> str:
        """The reasoning and the answer statement."""
        statement = self.answer_only(answer)
        return f"{reasoning}{self.between}{statement}" if reasoning else statement

    def answer_only(self, answer: str) -> str:
        """The answer statement alone, for students that learn no reasoning."""
        return f"{self.before_answer}{answer}{self.after_answer}"


FORMATS: dict[str, Format] = {
    form.name: form
    for form in (
        Format("plain", 'question, reasoning, "The answer is X."'),
        Format(
            "arrow",
            'question, "###", reasoning, "--> X": as published by Fine-tune-CoT and Mentor-KD',
            after_question="\n###\n",
            before_answer="--> ",
            after_answer="",
            between=" ",
        ),
        Format("chat", "as plain, in the turns of the tokenizer's chat template"),
    )
}

_WANTED: dict[AnswerKind, str] = {
    "number": "a number in digits, without its unit",
    "choice": "the letter of the right choice",
    "yes-no": "yes or no",
    "text": "the answer and nothing else",
}


class ChatTokenizer(Protocol):
    """The part of a Hugging Face tokenizer that `render` needs."""

    @property
    def chat_template(self) -> str | dict[str, str] | None: ...

    @property
    def bos_token(self) -> str | None: ...

    @property
    def bos_token_id(self) -> int | None: ...

    def __call__(self, text: str) -> Mapping[str, list[int]]: ...

    def apply_chat_template(
        self,
        conversation: Sequence[dict[str, str]],
        *,
        tokenize: bool,
        add_generation_prompt: bool,
        date_string: str,
    ) -> str: ...


def question_with_options(problem: Problem) -> str:
    """The question; "Answer choices: (A) ..., (B) ..." is added unless it lists its options itself."""
    if not problem.options or options_in(problem.question):
        return problem.question
    return f"{problem.question}\n{list_options(problem.options)}"


def teacher_prompt(problem: Problem, kind: AnswerKind) -> str:
    """Zero-shot instruction to reason step by step and to close with "The answer is X."."""
    return (
        f"{question_with_options(problem)}\n\n"
        "Think step by step and write every step down. "
        f'Close with the sentence "The answer is X.", where X is {_WANTED[kind]}.'
    )


def render(tokenizer: ChatTokenizer, format_name: str, prompt: str) -> str:
    """The text that is tokenised for a prompt: itself, or one user turn of the chat template.

    Where the tokenizer will add its start token itself, one that the template wrote
    is taken off, so that training and exam never see it twice.

    Raises:
        RecipeError: no such format.
        ModelError: format `chat` and the tokenizer has no chat template.
    """
    if format_name not in FORMATS:
        raise RecipeError(f"format: there is no format {format_name!r}; choose one of {', '.join(FORMATS)}")
    if format_name != "chat":
        return prompt
    if tokenizer.chat_template is None:
        raise ModelError("format: this model's tokenizer has no chat template; use format plain")
    turns = [{"role": "user", "content": prompt.strip()}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, date_string=DATE)
    start = tokenizer.bos_token
    if start and tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]:
        return text.removeprefix(start)
    return text

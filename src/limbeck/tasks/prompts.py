"""What is in a prompt and in a completion: the formats of students, the teacher's
instruction, and how text or chat turns become what a model reads.

Whatever a format writes, `answers.extract` reads again: a completion of any format
ends in an explicit answer marker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

from jinja2 import Environment, TemplateError

from limbeck.errors import ModelError, RecipeError, first_line, is_explainable
from limbeck.lm.written import whole
from limbeck.records import Problem
from limbeck.tasks.answers import AnswerKind
from limbeck.tasks.options import list_options, lists_letters
from limbeck.time_limit import TookTooLong, at_most

DATE = "26 Jul 2024"
"""The day that templates with a date (Llama 3) are given: today's would change prompts overnight."""

TEMPLATE_S = 5.0
"""Seconds that a chat template may take for one prompt; it is a program, and can have loops in loops."""

LAYOUT = "{instruction}\n\n{examples}\n\n{passages}\n\n{question}\n{options}"
"""What students' own templates begin with; nothing but the question is there by default."""

TEACHER_TEMPLATE = "{examples}\n\n{passages}\n\n{question}\n{options}\n\n{instruction}"
"""How a teacher is asked for a rationale."""


@dataclass(frozen=True, slots=True)
class Format:
    """How a question becomes a prompt, and reasoning with an answer a completion."""

    name: str
    summary: str
    after_question: str = "\n"
    before_answer: str = "The answer is "
    after_answer: str = "."
    between: str = "\n"

    @property
    def template(self) -> str:
        """The prompt, where the recipe gives no template."""
        return LAYOUT + self.after_question

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


def completion_of(
    form: Format, reasoning: str, answer: str, *, thinks: bool = False, thinking: str = ""
) -> str:
    """What a student writes: reasoning and the answer statement. One that thinks reasons inside the tags.

    Args:
        thinking: how the reasoning begins, of a teacher that answers with more reasoning behind its
            thinking: that stays behind the tags.
    """
    if not thinks:
        return form.completion(reasoning, answer)
    inside = thinking.strip() if reasoning.startswith(thinking.strip()) else ""
    inside = inside or reasoning
    return whole(inside, form.completion(reasoning.removeprefix(inside).strip(), answer))


FORMATS: dict[str, Format] = {
    form.name: form
    for form in (
        Format("plain", 'question, reasoning, "The answer is X."'),
        Format(
            "arrow",
            'question, "###", reasoning, "--> X": Fine-tune-CoT\'s for GPT-2, nearly (its T5 had no "###")',
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
    "label": "one of these labels, word for word: {labels}",
    "math": "the final expression in LaTeX, as $\\boxed{...}$",
}


class ChatTokenizer(Protocol):
    """The part of a Hugging Face tokenizer that prompts need."""

    @property
    def chat_template(self) -> str | dict[str, str] | None: ...

    @property
    def bos_token(self) -> str | None: ...

    @property
    def bos_token_id(self) -> int | None: ...

    def __call__(self, text: str, *, verbose: bool) -> Mapping[str, list[int]]: ...

    def apply_chat_template(
        self,
        conversation: Sequence[dict[str, str]],
        *,
        tokenize: bool,
        add_generation_prompt: bool,
        date_string: str,
    ) -> str: ...


def known_format(name: str) -> Format:
    """The format of that name.

    Raises:
        RecipeError: there is none.
    """
    if name not in FORMATS:
        raise RecipeError(f"format: there is no format {name!r}; choose one of {', '.join(FORMATS)}")
    return FORMATS[name]


def listed_options(problem: Problem) -> str:
    """ "Answer choices: (A) ..., (B) ..."; "" where the question lists its options itself, or has none."""
    return "" if not problem.options or lists_letters(problem.question) else list_options(problem.options)


def question_with_options(problem: Problem) -> str:
    """The question; its options are added unless it lists them itself."""
    options = listed_options(problem)
    return f"{problem.question}\n{options}" if options else problem.question


def gold_of(problem: Problem) -> str:
    """The gold answer as a teacher is shown it: of a choice its letter and its text."""
    place = ord(problem.gold) - ord("A") if len(problem.gold) == 1 else -1
    if problem.options and 0 <= place < len(problem.options):
        return f"({problem.gold}) {problem.options[place]}"
    return problem.gold


def teacher_instruction(kind: AnswerKind, labels: Sequence[str] = ()) -> str:
    """To reason step by step and to close with "The answer is X."; `labels` are those of kind label."""
    return (
        "Think step by step and write every step down. "
        f'Close with the sentence "The answer is X.", where X is {wanted_of(kind, labels)}.'
    )


def wanted_of(kind: AnswerKind, labels: Sequence[str] = ()) -> str:
    """What an answer of a kind is, in words for a teacher; `labels` are those of kind label."""
    return _WANTED[kind].replace("{labels}", ", ".join(labels))


def chat(tokenizer: ChatTokenizer, turns: Sequence[str], system: str = "") -> str:
    """Turns of user, assistant, user, … in the tokenizer's chat template, ready for the assistant.

    A system prompt is a turn of its own; where the template refuses or ignores such a
    turn, it opens the first one. Where the tokenizer will add its start token itself,
    one that the template wrote is taken off, so that training and exam never see it twice.

    Raises:
        ModelError: the tokenizer has no chat template, or a broken one.
    """
    if tokenizer.chat_template is None:
        raise ModelError("format: this model's tokenizer has no chat template; use format plain")
    found = tokenizer.chat_template
    if any(map(_computes_powers, [found] if isinstance(found, str) else found.values())):
        raise ModelError("format: this model's chat template computes powers (**); use format plain")
    try:
        with at_most(TEMPLATE_S):
            text = _with_system(tokenizer, [turn.strip() for turn in turns], system.strip())
    except TookTooLong:
        raise ModelError(
            f"format: this model's chat template takes more than {TEMPLATE_S:g} s; use format plain"
        ) from None
    except Exception as error:  # a template is a program, and raises what programs raise
        if not is_explainable(error):
            raise
        reason = first_line(error)
        raise ModelError(f"format: this model's chat template fails ({reason}); use format plain") from None
    start = tokenizer.bos_token
    if start and tokenizer("", verbose=False)["input_ids"][:1] == [tokenizer.bos_token_id]:
        return text.removeprefix(start)
    return text


@cache
def _computes_powers(template: str) -> bool:
    """`9**9**9` is one step, which no clock stops; Jinja takes it when it compiles the template."""
    try:
        return any(token == "**" for _, kind, token in Environment().lex(template) if kind == "operator")
    except TemplateError:
        return False  # broken; rendering it says how


def _with_system(tokenizer: ChatTokenizer, turns: Sequence[str], system: str) -> str:
    if not system:
        return _applied(tokenizer, turns)
    opened = [f"{system}\n\n{turns[0]}", *turns[1:]]
    try:
        text = _applied(tokenizer, turns, system)
    except TemplateError:  # "System role not supported"
        return _applied(tokenizer, opened)
    return text if text != _applied(tokenizer, turns) else _applied(tokenizer, opened)


def _applied(tokenizer: ChatTokenizer, turns: Sequence[str], system: str = "") -> str:
    roles = ("user", "assistant")
    spoken = [{"role": "system", "content": system}] if system else []
    spoken += [{"role": roles[number % 2], "content": turn} for number, turn in enumerate(turns)]
    return tokenizer.apply_chat_template(spoken, tokenize=False, add_generation_prompt=True, date_string=DATE)

"""The chat template of a student: token for token what it was trained on."""

from __future__ import annotations

from typing import Any

import pytest

from limbeck.lm.tiny import build_tokenizer
from limbeck.records import Demonstration, Problem
from limbeck.tasks.asking import Asking
from limbeck.tasks.chat_template import differing, message, student_template

ODD = 'A "quote", a \\ and \\n, {{ braces }} {% raw %}, a tab\t, 数学 🙂 é\r\nand lines\n'
TRIMMED = "{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}{% endfor %}[assistant]"
KEPT = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
READS = "{% for m in messages %}{{ 'long ' if m.content | length > 60 else '' }}{{ m.content }}{% endfor %}"

PROBLEMS = [
    Problem(id="1", question="How many?", answer="1"),
    Problem(id="2", question='"{{ question }}"\\n\n  Line two.', answer="1"),
    Problem(id="3", question="Which one?", options=("red", "green"), answer="A"),
]

DOUBLED = ODD.replace("{", "{{").replace("}", "}}")


def prompts(asking: Asking, tokenizer: Any) -> list[tuple[Any, str]]:
    pieces = [asking.pieces(problem) for problem in PROBLEMS]
    return [(one, asking.text(tokenizer, one)) for one in pieces]


@pytest.mark.parametrize("base", [TRIMMED, KEPT])
@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize(
    "asking",
    [
        Asking(),
        Asking("arrow", system=ODD),
        Asking("chat"),
        Asking("chat", system=ODD, instruction=ODD),
        Asking("chat", f"{DOUBLED}{{question}}{DOUBLED}"),
        Asking("chat", f"{{question}}{DOUBLED}"),
        Asking("chat", f"{DOUBLED}{{question}}"),
        Asking(demonstrations=(Demonstration(question="Else?", completion=ODD),), shots=1),
        Asking("chat", demonstrations=(Demonstration(question="Else?", completion=ODD),) * 2),
    ],
    ids=lambda asking: asking.format,
)
def test_the_template_makes_the_prompt_of_the_training(asking: Asking, bos: bool, base: str) -> None:
    tokenizer = build_tokenizer(["How many?", "Which one?"], bos=bos)
    tokenizer.chat_template = base
    template = student_template(asking, tokenizer, encoder_decoder=False)
    for pieces, text in prompts(asking, tokenizer):
        made = tokenizer.apply_chat_template(
            [{"role": "user", "content": message(pieces)}], chat_template=template, tokenize=False
        )
        assert made == ("<bos>" if bos else "") + text
    made_of = prompts(asking, tokenizer)
    assert differing(template, tokenizer, made_of, encoder_decoder=False) == 0
    other = [(pieces, f"{text}!") for pieces, text in made_of]
    assert differing(template, tokenizer, other, encoder_decoder=False) == len(PROBLEMS)


def test_a_template_that_reads_the_question_is_found_out() -> None:
    """What stands around the question depends on it, so it cannot be written out."""
    tokenizer = build_tokenizer(["How many?"])
    tokenizer.chat_template = READS
    asking = Asking("chat")
    long = Problem(id="4", question="Why " * 30, answer="1")
    pieces = [asking.pieces(problem) for problem in (*PROBLEMS, long)]
    pairs = [(one, asking.text(tokenizer, one)) for one in pieces]
    template = student_template(asking, tokenizer, encoder_decoder=False)
    assert differing(template, tokenizer, pairs, encoder_decoder=False) == 1


def test_an_encoder_decoders_prompt_ends() -> None:
    from tokenizers import processors

    tokenizer = build_tokenizer(["How many?"])
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", tokenizer.eos_token_id)]
    )
    for both, end in ((True, "<eos>"), (False, "")):
        template = student_template(Asking(), tokenizer, encoder_decoder=both)
        turn = [{"role": "user", "content": "How many?"}]
        assert tokenizer.apply_chat_template(turn, chat_template=template, tokenize=False) == (
            f"How many?\n{end}"
        )
        assert differing(template, tokenizer, prompts(Asking(), tokenizer), encoder_decoder=both) == 0

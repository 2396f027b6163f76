"""The chat template of a saved student: what a chat server sends it is the prompt it was trained on.

A student learned one shape of prompt: its recipe's system prompt, instruction and demonstrations, in
its format, around a question. Its base model's chat template writes another shape, or the same one
without these parts. So the saved tokenizer gets a template of the student's own: the text in front of
the question and the text behind it, written out. Limbeck itself goes on with the base model's, which
`limbeck.json` keeps, because it puts other prompts together with it.

What no template can do: leave a demonstration out when it is the very question that is asked, or cut
a prompt that is too long. Where the base model's template reads the content of a message, or another
end of a text than its start decides its tokens, the written-out prompt differs too: `differing` finds
all of that, on the prompts of the training.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from limbeck.records import Pieces
from limbeck.tasks.asking import BASE_TEMPLATE, RATIONALE, Asking

QUESTION = "\ue000question\ue000"
"""Put in a question's place to find what is around it; from Unicode's private area, so in no prompt."""

ONE_QUESTION = "this student was trained on one question at a time: send one message, with role user"


def student_template(asking: Asking, tokenizer: Any, *, encoder_decoder: bool) -> str:
    """A chat template that makes of one question the prompt of the training, special tokens included.

    With an answer behind the question it makes the whole row of the training; it refuses all else.

    Args:
        asking: how the student is asked.
        tokenizer: with its base model's chat template, if the format is chat.

    Raises:
        ModelError: format chat and the tokenizer has no chat template, or a broken one.
    """
    before, after = _around(asking, tokenizer, QUESTION)
    wide_before, wide_after = _around(asking, tokenizer, f" {QUESTION} ")
    strip = {
        (True, True): ".strip()",
        (True, False): ".lstrip()",
        (False, True): ".rstrip()",
        (False, False): "",
    }[wide_before == before, wide_after == after]
    first, last = _special_tokens(tokenizer, encoder_decoder=encoder_decoder)
    question = f"messages[0]['content']{strip}"
    return (
        "{%- if messages | length not in [1, 2] or messages[0]['role'] != 'user' -%}"
        f"{{{{ raise_exception({_literal(ONE_QUESTION)}) }}}}"
        "{%- endif -%}"
        f"{{{{ {_literal(first + before)} + {question} + {_literal(after + last)} }}}}"
        "{%- if messages | length == 2 -%}"
        "{{ messages[1]['content'] + eos_token }}"
        "{%- endif -%}"
    )


def message(pieces: Pieces) -> str:
    """What a user sends for a prompt: the question, with its options, passages and rationale below it."""
    asked = f"{pieces.question}\n{pieces.options}" if pieces.options else pieces.question
    below = ["\n".join(pieces.passages), pieces.more.get(RATIONALE, "")]
    return "\n\n".join([asked, *filter(None, below)])


def differing(
    template: str, tokenizer: Any, examples: Iterable[tuple[Pieces, str]], *, encoder_decoder: bool
) -> int:
    """How many training prompts a template does not make, token for token.

    Args:
        examples: the pieces of a prompt, and its text as it was trained on.
    """
    count = 0
    for pieces, text in examples:
        turn = [{"role": "user", "content": message(pieces)}]
        made = tokenizer.apply_chat_template(turn, chat_template=template, tokenize=False)
        ids = tokenizer(made, add_special_tokens=False, verbose=False)["input_ids"]
        trained = list(tokenizer(text, verbose=False)["input_ids"])
        if not encoder_decoder and trained[-1:] == [tokenizer.eos_token_id]:
            trained.pop()
        count += list(ids) != trained
    return count


def own_template(about: Mapping[str, Any], found: Any) -> Any:
    """The chat template that the base model's tokenizer had.

    Args:
        about: the `limbeck.json` of the tokenizer's folder.
        found: the template of the tokenizer in that folder.
    """
    return about.get(BASE_TEMPLATE, found)


def _around(asking: Asking, tokenizer: Any, question: str) -> tuple[str, str]:
    """A prompt's text in front of a question and behind it."""
    pieces = Pieces(
        question=question,
        instruction=asking.instruction,
        examples=asking.demonstrations[: asking.shots],
        more={RATIONALE: ""} if RATIONALE in asking.needs else {},
    )
    before, _, after = asking.text(tokenizer, pieces).partition(QUESTION)
    return before, after


def _special_tokens(tokenizer: Any, *, encoder_decoder: bool) -> tuple[str, str]:
    """The tokens that the tokenizer puts around a prompt, as text (a server adds none to a template's)."""
    whole = list(tokenizer("a", verbose=False)["input_ids"])
    bare = list(tokenizer("a", add_special_tokens=False, verbose=False)["input_ids"])
    start = next(n for n in range(len(whole) + 1) if whole[n : n + len(bare)] == bare or n == len(whole))
    before, after = whole[:start], whole[start + len(bare) :]
    if not encoder_decoder and after[-1:] == [tokenizer.eos_token_id]:
        after.pop()  # a decoder-only prompt never ends
    first, last = ("".join(tokenizer.convert_ids_to_tokens(ids)) for ids in (before, after))
    return first, last


def _literal(text: str) -> str:
    """A text as a template writes it down."""
    return json.dumps(text, ensure_ascii=False)

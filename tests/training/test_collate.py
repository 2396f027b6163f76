"""From examples to ids, and from ids to batches."""

import tracemalloc

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from limbeck.errors import ModelError, RecipeError
from limbeck.records import Example
from limbeck.training.collate import (
    Pairs,
    collate,
    overlapping,
    padding,
    pairs_in,
    said_of_pairs,
    tokenise,
)
from limbeck.training.groups import Group, singles
from limbeck.training.rows import NO_SPAN, Row

EOS = 1


def ids(*numbers):
    return [number + 3 for number in numbers]  # after <pad>, </s>, <unk>


def rows_of(tokenizer, examples, encoder_decoder=False, max_length=99, **more):
    return tokenise(
        tokenizer, singles(examples), encoder_decoder=encoder_decoder, max_length=max_length, **more
    )


PAIR = [
    Example(problem_id="a", prompt="w5 w6", completion="w7 w8 w9"),
    Example(problem_id="b", prompt="w1", completion="w2"),
]


def test_causal_rows(tokenizer):
    rows = rows_of(tokenizer, PAIR).rows
    assert rows[0] == Row("a", [*ids(5, 6, 7, 8, 9), EOS], [-100, -100, *ids(7, 8, 9), EOS])
    assert rows[1] == Row("b", [*ids(1, 2), EOS], [-100, *ids(2), EOS])


def test_encoder_decoder_rows(tokenizer):
    assert rows_of(tokenizer, PAIR, encoder_decoder=True).rows[0] == Row("a", ids(5, 6), [*ids(7, 8, 9), EOS])


class EndingTokenizer:
    """Ends what it encodes with special tokens, as T5's and some causal models' tokenizers do."""

    eos_token_id = EOS
    pad_token_id = None
    is_fast = False
    name_or_path = "ending"

    def __call__(self, texts, *, add_special_tokens, return_attention_mask, verbose):
        end = [EOS] if add_special_tokens else []
        return {"input_ids": [[9] * add_special_tokens + [ord(c) for c in text] + end for text in texts]}


def test_the_tokenizers_own_special_tokens():
    """A causal prompt keeps its beginning and loses its end; an encoder's keeps both."""
    example = [Example(problem_id="a", prompt="p", completion="c")]
    assert [*rows_of(EndingTokenizer(), example).rows[0].input_ids] == [9, ord("p"), ord("c"), EOS]
    both = rows_of(EndingTokenizer(), example, encoder_decoder=True).rows[0]
    assert ([*both.input_ids], [*both.labels]) == ([9, ord("p"), EOS], [ord("c"), EOS])


def test_prompt_weight(tokenizer):
    row = rows_of(tokenizer, PAIR, prompt_weight=0.1).rows[0]
    assert row.labels == row.input_ids
    assert [*row.weights] == [0.1, 0.1, 1.0, 1.0, 1.0, 1.0]
    plain = rows_of(tokenizer, PAIR).rows[0]
    other = rows_of(tokenizer, PAIR, encoder_decoder=True).rows[0]
    assert (row.begin, plain.begin, other.begin) == (2, 2, 0), "where the completion begins"
    assert collate([row, plain], pad=0)["begins"].tolist() == [2, 2]


def test_prompt_weight_needs_a_decoder_only_model(tokenizer):
    with pytest.raises(RecipeError, match=r"prompt_weight: 0\.1 needs a decoder-only model.*set it to 0"):
        rows_of(tokenizer, PAIR, encoder_decoder=True, prompt_weight=0.1)


LIMITED = [("long", "w1", "w1 w2 w3"), ("short", "w1 w2 w3 w4 w5 w1", "w1 w2")]
"""Problem, prompt and completion, which is 3 and 2 tokens and an end of sequence."""


@pytest.mark.parametrize("encoder_decoder", [False, True])
def test_too_long_examples_are_given_back_whole(tokenizer, encoder_decoder):
    found = rows_of(tokenizer, PAIR, max_length=3, encoder_decoder=encoder_decoder)
    assert [row.problem_id for row in found.rows] == ["b"]
    assert found.too_long == [PAIR[0]]
    longest = 4 if encoder_decoder else 6
    assert not rows_of(tokenizer, PAIR, max_length=longest, encoder_decoder=encoder_decoder).too_long


@pytest.mark.parametrize("encoder_decoder", [False, True])
def test_a_completion_has_a_limit_of_its_own(tokenizer, encoder_decoder):
    """The end of sequence counts, the prompt never does."""
    asked = {"encoder_decoder": encoder_decoder} | ({} if encoder_decoder else {"prompt_weight": 0.1})
    long, short = (Example(problem_id=p, prompt=q, completion=a) for p, q, a in LIMITED)
    for given in (asked, {"encoder_decoder": encoder_decoder}):
        found = rows_of(tokenizer, [long, short], max_completion=3, **given)
        assert found.too_long == [long]
        assert [row.problem_id for row in found.rows] == ["short"]
        assert not rows_of(tokenizer, [long, short], max_completion=4, **given).too_long
    with pytest.raises(RecipeError, match=r"max_completion: of 1 examples none fits .* of at most 3; raise"):
        rows_of(tokenizer, [long], max_completion=3, **asked)


def test_a_long_prompt_is_too_long_for_an_encoder(tokenizer):
    long = [Example(problem_id="c", prompt="w1 w1 w1 w1", completion="w2"), PAIR[1]]
    assert rows_of(tokenizer, long, max_length=3, encoder_decoder=True).too_long == [long[0]]


def test_everything_too_long_is_an_error(tokenizer):
    with pytest.raises(
        RecipeError, match="all 2 examples are longer than 2 tokens, the shortest has 3; raise max"
    ):
        rows_of(tokenizer, PAIR, max_length=2)


def test_a_tokenizer_without_an_end_is_refused():
    tokenizer = EndingTokenizer()
    tokenizer.eos_token_id = None
    with pytest.raises(ModelError, match=r"ending: it has no end-of-sequence token.*set eos_token"):
        rows_of(tokenizer, PAIR)


def test_padding_is_the_end_where_there_is_none():
    assert padding(EndingTokenizer()) == EOS


def test_batches_are_padded_on_the_right_to_their_own_longest():
    batch = collate([Row("a", [5, 6, 7], [-100, 6, 7]), Row("b", [8], [8])], pad=2)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 2, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 6, 7], [8, -100, -100]]
    assert batch["groups"].tolist() == [0, 1]
    assert batch["roles"] == ["", ""]
    assert batch["spans"].tolist() == [[-1, -1], [-1, -1]]
    assert not {"scored", "label_weights", "expected"} & set(batch)


def test_weights_are_padded_with_nothing():
    batch = collate([Row("a", [5, 6], [5, 6], [0.5, 1.0]), Row("b", [8], [8], [1.0])], pad=0)
    assert batch["label_weights"].tolist() == [[0.5, 1.0], [1.0, 0.0]]
    assert batch["label_weights"].dtype == torch.float32


def test_rows_without_weights_weigh_one_beside_others():
    batch = collate([Row("a", [5, 6], [5, 6], [0.5, 2.0]), Row("b", [8], [8])], pad=0)
    assert batch["label_weights"].tolist() == [[0.5, 2.0], [1.0, 0.0]]


def test_corrected_rows():
    rows = [
        Row("a", [5, 6], [-100, 6]),
        Row("b", [8, 9], [-100, 9], [0.5, 0.5]),
        Row("c", [8], [8], scored=False),
    ]
    batch = collate(rows, pad=0, groups=[0, 1, 1], factors=[2.0, 3.0, 1.0], expected=7.5)
    assert batch["label_weights"].tolist() == [[2.0, 2.0], [1.5, 1.5], [1.0, 0.0]]
    assert batch["expected"].tolist() == [7.5, 7.5, 0.0]
    assert batch["scored"].tolist() == [True, True, False]
    assert batch["groups"].tolist() == [0, 1, 1]


def test_no_rows_make_a_batch_that_counts_nothing():
    batch = collate([], pad=4, groups=[], factors=[], expected=3.0)
    assert batch["input_ids"].tolist() == [[4]] and batch["labels"].tolist() == [[-100]]
    assert batch["keys"].tolist() == [[0, 0]]
    assert batch["scored"].tolist() == [False]
    assert not {"label_weights", "expected"} & set(batch)


def test_the_weight_of_an_example(tokenizer):
    heavy = [PAIR[0].model_copy(update={"weight": 2.0})]
    assert [*rows_of(tokenizer, heavy).rows[0].weights] == [0.0, 0.0, 2.0, 2.0, 2.0, 2.0]
    assert [*rows_of(tokenizer, heavy, prompt_weight=0.1).rows[0].weights] == [0.2, 0.2, 2.0, 2.0, 2.0, 2.0]
    assert [*rows_of(tokenizer, heavy, encoder_decoder=True).rows[0].weights] == [2.0] * 4


def test_what_a_row_is_for_does_not_change_its_key(tokenizer):
    """Soft labels are found by it."""
    changes = {"role": "negative", "scored": False, "weight": 3.0, "answer_span": (0, 2)}
    for name, value in changes.items():
        plain, other = rows_of(tokenizer, [PAIR[0], PAIR[0].model_copy(update={name: value})]).rows
        assert other != plain
        assert other.key == plain.key


@pytest.mark.parametrize("encoder_decoder", [False, True])
def test_an_answer_span_becomes_positions_of_labels(tokenizer, encoder_decoder):
    """The answer is "w8 w9" of "w7 w8 w9"; a decoder-only row begins with two tokens of prompt."""
    marked = [PAIR[0].model_copy(update={"answer_span": (3, 8)}), PAIR[1]]
    found = rows_of(tokenizer, marked, encoder_decoder=encoder_decoder)
    first, end = found.rows[0].span
    assert [*found.rows[0].labels[first:end]] == ids(8, 9)
    assert found.rows[1].span == NO_SPAN
    assert found.without_span == 0
    batch = collate(found.rows, 0)
    assert batch["spans"].tolist() == [[first, end], [-1, -1]]


@pytest.fixture(scope="module")
def byte_tokenizer():
    """Pieces of text with the space before them."""
    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["Ġ42.", "Ġ4", "2.", "Ġis", "So"]
    whole = Tokenizer(
        models.WordLevel({w: n for n, w in enumerate(["</s>", "?", *bytes_, *words])}, unk_token="?")
    )
    whole.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" 42\.| 4|2\.| is|So|."), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    whole.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=whole, eos_token="</s>", unk_token="?")


@pytest.mark.parametrize(
    ("completion", "answer", "tokens"),
    [
        ("So x is 42.", "42", " 42."),  # merged with the space before and the mark after
        ("So x is 42.", "2", " 42."),
        ("So 4", "So 4", "So 4"),
        ("So x is 42.", " is 42", " is 42."),
    ],
)
def test_tokens_that_share_characters_with_the_answer_count(byte_tokenizer, completion, answer, tokens):
    start = completion.rindex(answer)
    example = Example(
        problem_id="a", prompt="So", completion=completion, answer_span=(start, start + len(answer))
    )
    (row,) = rows_of(byte_tokenizer, [example]).rows
    first, end = row.span
    assert 1 <= first < end <= len(row.labels) - 1  # after the prompt, before the end of sequence
    assert byte_tokenizer.decode([*row.labels[first:end]]) == tokens


@pytest.mark.parametrize("span", [(2, 2), (50, 60), (5, 3), (1, 2)])
def test_a_span_without_tokens_is_counted(tokenizer, span):
    """Empty, beyond the text, backwards, or a piece of it that no token was made from (the space)."""
    found = rows_of(
        tokenizer, [PAIR[1], Example(problem_id="c", prompt="w1", completion="w  w3", answer_span=span)]
    )
    assert found.rows[1].span == NO_SPAN
    assert found.without_span == 1


def test_a_slow_tokenizer_shows_no_spans():
    example = Example(problem_id="a", prompt="p", completion="c", answer_span=(0, 1))
    found = rows_of(EndingTokenizer(), [example])
    assert (found.rows[0].span, found.without_span) == (NO_SPAN, 1)


def test_overlapping():
    assert overlapping([(0, 3), (3, 6), (6, 10)], 3, 6) == (1, 2)
    assert overlapping([(0, 3), (3, 6), (6, 10)], 0, 10) == (0, 3)
    assert overlapping([(0, 1), (0, 1), (1, 2)], 0, 1) == (0, 2)  # one character, two tokens
    assert overlapping([(0, 0), (0, 3)], 0, 1) == (1, 2)  # a token without characters
    assert overlapping([], 0, 1) == NO_SPAN


def test_pairs_are_counted_and_said(tokenizer):
    """Whatever is drawn: each two rationales of a question whose answers were found."""

    def question(key, *answers):
        """None: the answer is not marked; "": it is marked where the text has no token."""
        spans = {None: None, "": (50, 60)}
        return Group(
            key,
            tuple(
                Example(
                    problem_id=key,
                    prompt="w1",
                    completion=f"w2 {answer or 'w3'}",
                    answer_span=spans.get(answer, (3, 3 + len(answer or ""))),
                )
                for answer in answers
            ),
        )

    given = [
        question("one is unlike", "w7", "w7", "w8"),
        question("alike", "w7", "w7"),
        question("longer", "w7", "w7 w8"),
        question("unmarked", "w7", None),
        question("not found", "", "w7"),
        question("alone", "w7"),
    ]
    found = tokenise(tokenizer, given, encoder_decoder=False, max_length=20)
    pairs = pairs_in(found.groups)
    assert pairs == Pairs(possible=5, unlike=3, alone=3)
    assert list(said_of_pairs(found, pairs)) == [
        "the answer of 1 examples was not found among their tokens, so they are in no pair",
        "in 3 of 5 pairs the two answers are cut into different tokens, so they are not compared",
        "3 of 6 questions have fewer than two rationales whose answer was found, so their answers are not "
        "compared",
    ]
    found = tokenise(tokenizer, given[1:2], encoder_decoder=False, max_length=20)
    assert list(said_of_pairs(found, pairs_in(found.groups))) == []


def three(number, **more):
    return [Example(problem_id=str(number), prompt="w1", completion=f"w{n}", **more) for n in (2, 3, 4)]


def test_a_group_keeps_what_fits_and_goes_when_nothing_does(tokenizer):
    long = Example(problem_id="l", prompt="w1", completion="w2 w3 w4 w5")
    given = [
        Group("a", (long, *three(0))),
        Group("b", (long,)),
        Group("c", (long, *three(1)[:1])),
        Group("d", tuple(three(2)[:2])),
    ]
    options = {"encoder_decoder": False, "max_length": 4}
    found = tokenise(tokenizer, given, **options)
    assert [(group.key, len(group.rows)) for group in found.groups] == [("a", 3), ("c", 1), ("d", 2)]
    assert found.too_long == [long] * 3
    assert found.dropped == [given[1]]


class Watched:
    """A tokenizer that notes the texts of every call."""

    def __init__(self, tokenizer, asked):
        self.tokenizer, self.asked = tokenizer, asked
        self.eos_token_id, self.is_fast = tokenizer.eos_token_id, tokenizer.is_fast

    def __call__(self, texts, **more):
        self.asked.append(list(texts))
        return self.tokenizer(texts, **more)


@pytest.mark.parametrize("encoder_decoder", [False, True])
def test_a_text_is_tokenised_once(tokenizer, encoder_decoder):
    """Self-reflection puts a question's rationales next to each other, each into many groups."""
    asked = []

    given = [Group(f"a{n}", tuple(three(0, answer_span=(0, 2)))) for n in range(4)] + [
        Group("b", (Example(problem_id="b", prompt="w9", completion="w3"),))
    ]
    options = {"encoder_decoder": encoder_decoder, "max_length": 9}
    found = tokenise(Watched(tokenizer, asked), given, **options)
    assert asked == [["w1", "w9"], ["w2", "w3", "w4"], ["w2", "w3", "w4"]], "the last time for their places"
    alone = [
        tokenise(tokenizer, [group], **options).rows[n] for group in given for n in range(len(group.examples))
    ]
    assert list(found.rows) == alone


@pytest.mark.parametrize("encoder_decoder", [False, True])
def test_rows_take_few_bytes_a_token_and_are_made_in_slices(tokenizer, monkeypatch, encoder_decoder):
    """A million rows of 200 tokens must fit into memory: a list of numbers takes 40 bytes for each."""
    monkeypatch.setattr("limbeck.training.collate.SLICE", 30)
    words = " ".join(f"w{n % 38}" for n in range(400))
    texts = [f"w{n // 10} w{n % 10} {words}" for n in range(100)]
    examples = [Example(problem_id=str(n), prompt=text, completion=text) for n, text in enumerate(texts)]
    asked = []
    tracemalloc.start()
    try:
        found = tokenise(
            Watched(tokenizer, asked), singles(examples), encoder_decoder=encoder_decoder, max_length=9999
        )
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    tokens = sum(len(row.input_ids) + (len(row.labels) if encoder_decoder else 0) for row in found.rows)
    assert [row.problem_id for row in found.rows] == [str(n) for n in range(100)]
    assert tokens >= 80_000 and taken / tokens < 12
    assert [len(texts) for texts in asked] == [30, 30, 30, 30, 30, 30, 10, 10]
    short = collate(found.rows[:1], 0)
    assert short["input_ids"].dtype == short["labels"].dtype == torch.int64

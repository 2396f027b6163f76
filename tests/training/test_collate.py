"""From examples to ids, and from ids to batches."""

import pytest
import torch

from limbeck.errors import ModelError, RecipeError
from limbeck.records import Example
from limbeck.training.collate import Row, collate, padding, tokenise

EOS = 1


def ids(*numbers):
    return [number + 3 for number in numbers]  # after <pad>, </s>, <unk>


def rows_of(tokenizer, examples, encoder_decoder=False, max_length=99, **more):
    return tokenise(tokenizer, examples, encoder_decoder=encoder_decoder, max_length=max_length, **more)


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
    name_or_path = "ending"

    def __call__(self, texts, *, add_special_tokens, return_attention_mask, verbose):
        end = [EOS] if add_special_tokens else []
        return {"input_ids": [[9] * add_special_tokens + [ord(c) for c in text] + end for text in texts]}


def test_the_tokenizers_own_special_tokens():
    """A causal prompt keeps its beginning and loses its end; an encoder's keeps both."""
    example = [Example(problem_id="a", prompt="p", completion="c")]
    assert rows_of(EndingTokenizer(), example).rows[0].input_ids == [9, ord("p"), ord("c"), EOS]
    both = rows_of(EndingTokenizer(), example, encoder_decoder=True).rows[0]
    assert (both.input_ids, both.labels) == ([9, ord("p"), EOS], [ord("c"), EOS])


def test_prompt_weight(tokenizer):
    row = rows_of(tokenizer, PAIR, prompt_weight=0.1).rows[0]
    assert row.labels == row.input_ids
    assert row.weights == [0.1, 0.1, 1.0, 1.0, 1.0, 1.0]


def test_prompt_weight_needs_a_decoder_only_model(tokenizer):
    with pytest.raises(RecipeError, match=r"prompt_weight: 0\.1 needs a decoder-only model.*set it to 0"):
        rows_of(tokenizer, PAIR, encoder_decoder=True, prompt_weight=0.1)


@pytest.mark.parametrize("encoder_decoder", [False, True])
def test_too_long_examples_are_given_back_whole(tokenizer, encoder_decoder):
    found = rows_of(tokenizer, PAIR, max_length=3, encoder_decoder=encoder_decoder)
    assert [row.problem_id for row in found.rows] == ["b"]
    assert found.too_long == [PAIR[0]]
    longest = 4 if encoder_decoder else 6
    assert not rows_of(tokenizer, PAIR, max_length=longest, encoder_decoder=encoder_decoder).too_long


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
    assert set(batch) == {"input_ids", "attention_mask", "labels", "keys"}


def test_weights_are_padded_with_nothing():
    batch = collate([Row("a", [5, 6], [5, 6], [0.5, 1.0]), Row("b", [8], [8], [1.0])], pad=0)
    assert batch["label_weights"].tolist() == [[0.5, 1.0], [1.0, 0.0]]
    assert batch["label_weights"].dtype == torch.float32


def test_no_rows_make_a_batch_that_counts_nothing():
    batch = collate([], pad=4)
    assert batch["input_ids"].tolist() == [[4]] and batch["labels"].tolist() == [[-100]]

"""The word-level tokenizer, ragged examples and tiny models of the tests of training."""

from ..training.conftest import make_examples, make_model, tokenizer

__all__ = ["make_examples", "make_model", "tokenizer"]

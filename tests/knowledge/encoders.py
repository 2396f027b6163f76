"""A tiny late-interaction encoder for tests."""

from limbeck.knowledge.encoders import Encoder, load_encoder
from limbeck.knowledge.settings import EncoderSettings
from tests.knowledge.corpora import NOUNS, VERBS

TEXTS = [f"The {noun} {verb} a {other} no 12." for noun in NOUNS for verb in VERBS for other in NOUNS[:3]]
SMALL = EncoderSettings(dimensions=16, question_tokens=24, passage_tokens=40)


def tiny(seed: int = 0, settings: EncoderSettings = SMALL) -> Encoder:
    return load_encoder("tiny-encoder-xs", settings, seed=seed, texts=TEXTS, device="cpu")

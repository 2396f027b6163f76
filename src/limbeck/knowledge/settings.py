"""Settings of an index: what its corpus looks like, how it is cut, and how words are weighed."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from limbeck.settings import Settings

Variant = Literal["lucene", "robertson", "atire", "bm25l", "bm25+"]

StopWords = Literal[
    "none", "en", "en_plus", "de", "nl", "fr", "es", "pt", "it", "ru", "sv", "no", "zh", "tr", "ko", "da"
]
"""Lists of bm25s; `en` are the 33 of Lucene, `en_plus` those of NLTK."""


BUILT_IN = "built-in"
"""The corpus that belongs to a built-in task."""


class CorpusSettings(Settings):
    """Which columns of the corpus are what."""

    id: str = Field("id", min_length=1, description="column of a document's id; no two may have the same")
    title: str = Field("title", description="column of its title; a corpus may lack it. Empty: none")
    text: str = Field("text", min_length=1, description="column of its text")
    bad_rows: Literal["refuse", "skip"] = Field(
        "refuse", description="what to do with rows that cannot be used"
    )


class IndexSettings(Settings):
    """What decides what a search finds.

    `k1`, `b` and `delta` are those of BM25 (`weights.py`); KARD searched with .9 and .4, Anserini's.
    """

    words: int = Field(0, ge=0, description="words of a passage; 0: a document is a passage")
    overlap: int = Field(0, ge=0, description="words that a passage shares with the one before")
    stop_words: StopWords | tuple[str, ...] = Field("en", description="words that are not searched")
    stemmer: str = Field("english", description="a stemmer of Snowball, or none")
    variant: Variant = Field("lucene", description="the formula")
    k1: float = Field(0.9, gt=0, description="how much a second occurrence is worth")
    b: float = Field(0.4, ge=0, le=1, description="how much long passages are discounted")
    delta: float = Field(0.5, ge=0, description="of bm25l and bm25+")

    @model_validator(mode="after")
    def _goes_on(self) -> Self:
        if self.overlap and self.overlap >= self.words:
            raise ValueError("overlap is not smaller than words; passages would never come to an end")
        return self


def _address(said: str) -> str:
    """An address that may be written into a recipe, a plan and an index."""
    if "@" in said.partition("://")[2]:
        raise ValueError("names a user; put USER:PASSWORD into the environment variable MILVUS_TOKEN")
    if said and not said.startswith(("http://", "https://")) and not said.endswith(".db"):
        raise ValueError(f"{said!r} is neither http://HOST:PORT nor a file that ends in .db")
    return said


class EngineSettings(Settings):
    """What answers searches."""

    milvus: Annotated[str, AfterValidator(_address)] = Field(
        "",
        description="put the passages into Milvus, which answers: http://HOST:PORT of a server or a cluster, "
        "or a file that ends in .db (Milvus Lite). Empty: they are searched here, from the disk",
    )


Temperature = (
    Annotated[float, Field(gt=0)] | tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]
)
"""Fixed, or the first and the last one of a training."""


class EncoderSettings(Settings):
    """A late-interaction encoder made of an ordinary one; a ColBERT checkpoint has its own of these."""

    dimensions: int = Field(
        128, ge=0, description="numbers of a token's state, by a projection; 0: as many as the encoder gives"
    )
    question_tokens: int = Field(256, ge=2, description="a longer question is cut at its end")
    passage_tokens: int = Field(512, ge=2, description="a longer passage is cut at its end")


class RankingSettings(Settings):
    """What a reranker learns from; candidates are KARD's (arXiv 2305.18395).

    Each epoch a rationale gives `from_rationale` random passages of the `top` that it finds itself, and
    `from_question` of those that its question finds, all with their scores for the rationale.
    """

    top: int = Field(32, ge=1, description="passages that are searched for, by rationale and by question")
    from_rationale: int = Field(4, ge=0, description="of those found by the rationale, each epoch")
    from_question: int = Field(4, ge=0, description="of those found by the question, each epoch")
    loss: Literal["kl", "best"] = Field(
        "kl",
        description="kl: the divergence from BM25's softmax, as in the paper; best: cross-entropy on the "
        "best candidate, as in the published code without --loss_type kl",
    )
    tau_targets: Temperature = Field(
        (5.0, 1.0), description="temperature of BM25's scores; a pair is annealed from first to last"
    )
    tau_scores: Temperature = Field(
        0.5, description="temperature of the reranker's own scores, in both losses; or a pair"
    )

    @model_validator(mode="after")
    def _has_two(self) -> Self:
        if self.from_rationale + self.from_question < 2:
            raise ValueError("from_rationale and from_question are below 2 together; one cannot be ranked")
        if max(self.from_rationale, self.from_question) > self.top:
            raise ValueError("top is below from_rationale or from_question; raise it")
        return self

"""Settings of an index: what its corpus looks like, how it is cut, and how words are weighed."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from limbeck.settings import Settings

Variant = Literal["lucene", "robertson", "atire", "bm25l", "bm25+"]

StopWords = Literal[
    "none", "en", "en_plus", "de", "nl", "fr", "es", "pt", "it", "ru", "sv", "no", "zh", "tr", "ko", "da"
]
"""Lists of bm25s; `en` are the 33 of Lucene, `en_plus` those of NLTK."""


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


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


class KnowledgeSettings(Settings):
    """What a recipe's students may read. An index of a corpus, made in the run or before it."""

    corpus: Annotated[tuple[str, ...], BeforeValidator(_as_list)] = Field(
        (), description="files of the corpus (docs/knowledge.md), or built-in: that of the built-in task"
    )
    index: str | None = Field(
        None, min_length=1, description="a folder of `limbeck index`, in place of corpus"
    )
    columns: CorpusSettings = CorpusSettings()
    search: IndexSettings = IndexSettings()

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if bool(self.corpus) == (self.index is not None):
            raise ValueError("names both corpus and index, or none of them; name one")
        usual = KnowledgeSettings.model_construct(columns=CorpusSettings(), search=IndexSettings())
        if self.index is not None and (self.columns, self.search) != (usual.columns, usual.search):
            raise ValueError("index: was made with settings of its own; leave out columns and search")
        return self

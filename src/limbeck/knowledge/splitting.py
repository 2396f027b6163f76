"""Documents into passages of so many words."""

from __future__ import annotations

import re
from collections.abc import Iterator

from limbeck.knowledge.corpus import Document
from limbeck.records import Passage

_WORD = re.compile(r"\S+")


def split(document: Document, words: int, overlap: int = 0) -> Iterator[Passage]:
    """The passages of a document, in order; white space inside them stays as it is.

    Args:
        words: how many a passage has at most; 0: as many as there are.
        overlap: how many of them were the last ones of the passage before.

    A document that is one passage gives it its id; otherwise the n-th one, from 0, is called "id#n".
    """
    places = [(found.start(), found.end()) for found in _WORD.finditer(document.text)] if words else []
    if len(places) <= words:
        yield Passage(id=document.id, title=document.title, text=document.text, document=document.id)
        return
    last = len(places) - overlap  # where one more passage would say nothing new
    for number, first in enumerate(range(0, max(last, 1), words - overlap)):
        end = min(first + words, len(places)) - 1
        text = document.text[places[first][0] : places[end][1]]
        yield Passage(id=f"{document.id}#{number}", title=document.title, text=text, document=document.id)

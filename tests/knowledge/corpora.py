"""Small corpora for tests, and BM25 computed without any trick."""

import json
import math
import random
import re
from collections.abc import Sequence
from pathlib import Path

from limbeck.knowledge.settings import IndexSettings

NOUNS = [
    "owl",
    "river",
    "stone",
    "lamp",
    "copper",
    "bridge",
    "harbour",
    "willow",
    "engine",
    "spider",
    "tower",
]
VERBS = ["holds", "crosses", "warms", "carries", "hides", "paints", "follows", "repairs"]


def documents(number: int, seed: int = 0) -> list[dict[str, str]]:
    """Documents of one to twenty short sentences; some have the same text, some the same words in all."""
    draw = random.Random(seed)

    def text() -> str:
        said = []
        for _ in range(draw.randint(1, 20)):
            one, verb, other = draw.choice(NOUNS), draw.choice(VERBS), draw.choice(NOUNS)
            said.append(f"The {one} {verb} a {other} no {draw.randint(10, 60)}.")
        return " ".join(said)

    made = [{"id": f"d{place}", "title": draw.choice(NOUNS), "text": text()} for place in range(number)]
    for place in range(0, number, 7):
        made[place] |= {name: made[place // 2][name] for name in ("title", "text")}  # equal scores
    return made


def write(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def words(text: str) -> list[str]:
    """As an index without stemmer and stop words reads a text."""
    return re.findall(r"\w\w+", text.lower())


def reference(texts: Sequence[str], query: str, settings: IndexSettings) -> list[float]:
    """The score of each text: every formula in Python's floats, one text and one word at a time."""
    read = [words(text) for text in texts]
    mean = sum(map(len, read)) / len(read)
    n, k1, b, delta = len(texts), settings.k1, settings.b, settings.delta
    scores = []
    for text in read:
        length = 1 - b + b * len(text) / mean
        score = 0.0
        for word in words(query):
            f, c = sum(word in other for other in read), text.count(word)
            if not f:
                continue
            # bm25s, whose names these are, gives a text without a word what a text of mean length gets.
            part = 1.0 if not c else length
            if settings.variant == "lucene":
                score += math.log(1 + (n - f + 0.5) / (f + 0.5)) * c / (c + k1 * part)
            elif settings.variant == "robertson":
                score += max(0.0, math.log((n - f + 0.5) / (f + 0.5))) * c / (c + k1 * part)
            elif settings.variant == "atire":
                score += math.log(n / f) * (k1 + 1) * c / (c + k1 * part)
            elif settings.variant == "bm25l":
                ratio = c / part + delta
                score += math.log((n + 1) / (f + 0.5)) * (k1 + 1) * ratio / (k1 + ratio)
            else:
                score += math.log((n + 1) / f) * ((k1 + 1) * c / (c + k1 * part) + delta)
        scores.append(score)
    return scores

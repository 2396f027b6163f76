"""How often BM25 finds the passages that support a question: by the question, and by a rationale.

    LIMBECK_DATA=FOLDER python benchmarks/retrieval.py      the published data in that folder, 15 minutes
    python benchmarks/retrieval.py --small                  a generated corpus: does it run?

`strategyqa_wiki`: 12,414 sentences of Wikipedia; relevant are the gold sentences of a question, 2.2 on
average. `rationale` is the first of the three that Mentor-KD published for it (GPT-3.5); `all three` are
searched together, `facts` are the gold facts of StrategyQA. `openbook`: 1,326 facts; relevant is the core
fact of a question. `+ option` is the gold answer's text, `+ second fact` the other fact that it needs.

A word is two or more letters, digits or underscores (bm25s), and counts as often as the query has it; `once`:
once. recall@k, MRR: see `knowledge/quality.py`; ± is half of the 95% interval over questions.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from limbeck.knowledge.bm25 import Index
from limbeck.knowledge.building import build
from limbeck.knowledge.quality import AT, Mean, quality
from limbeck.knowledge.settings import CorpusSettings, IndexSettings
from limbeck.knowledge.words import Words

DEFAULT = IndexSettings()
SETTINGS = [
    DEFAULT,
    DEFAULT.model_copy(update={"stop_words": "en_plus"}),
    DEFAULT.model_copy(update={"stop_words": "none"}),
    DEFAULT.model_copy(update={"stemmer": "none"}),
    DEFAULT.model_copy(update={"stop_words": "none", "stemmer": "none"}),
    DEFAULT.model_copy(update={"k1": 1.5, "b": 0.75}),
    DEFAULT.model_copy(update={"stop_words": "none", "stemmer": "none", "k1": 1.5, "b": 0.75}),
    DEFAULT.model_copy(update={"variant": "bm25+"}),
]

Relevant = Mapping[str, set[str]]


class Sets(NamedTuple):
    """A corpus, and sets of queries over it: a name, and the text of each query by its id."""

    corpus: Path
    relevant: Relevant
    queries: Mapping[str, Mapping[str, str]]


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


def judged(path: Path) -> Relevant:
    found: defaultdict[str, set[str]] = defaultdict(set)
    with path.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream, delimiter="\t"):
            found[row["query-id"]].add(row["corpus-id"])
    return found


def strategyqa(data: Path) -> Sets:
    folder = data / "kb/strategyqa_wiki"
    relevant = judged(folder / "qrels.tsv")
    rows = [row for part in ("train", "dev") for row in lines(data / f"datasets/strategyqa/{part}.jsonl")]
    asked = {str(row["qid"]): row for row in rows if row["qid"] in relevant}
    chains: defaultdict[str, list[str]] = defaultdict(list)
    published = data / "published/2hojae+mentor-kd/data/main/strategy_qa_3_train.json"
    for row in json.loads(published.read_text(encoding="utf-8")):
        chains[" ".join(row["input"].split())].append(row["chain"])
    questions = {name: str(row["question"]) for name, row in asked.items()}
    of = {name: chains.get(" ".join(text.split()), []) for name, text in questions.items()}
    some = {name: text for name, text in questions.items() if of[name]}
    return Sets(
        folder / "corpus.jsonl",
        relevant,
        {
            "question": questions,
            "question + facts": {name: " ".join([questions[name], *asked[name]["facts"]]) for name in asked},  # type: ignore[misc]
            "question, of those": some,
            "rationale": {name: of[name][0] for name in some},
            "question + rationale": {name: f"{text} {of[name][0]}" for name, text in some.items()},
            "question + all three": {name: " ".join([text, *of[name]]) for name, text in some.items()},
        },
    )


def openbook(data: Path) -> Sets:
    folder = data / "kb/openbook"
    rows = [row for part in ("train", "test") for row in lines(data / f"datasets/obqa/{part}.jsonl")]
    asked = {str(row["id"]): row for row in rows}
    questions = {name: str(row["question"]) for name, row in asked.items()}
    gold = {name: _option(row) for name, row in asked.items()}
    return Sets(
        folder / "facts.jsonl",
        judged(folder / "qrels.tsv"),
        {
            "question": questions,
            "question + option": {name: f"{text} {gold[name]}" for name, text in questions.items()},
            "question + second fact": {
                name: f"{text} {asked[name]['fact2']}" for name, text in questions.items()
            },
        },
    )


def _option(row: Mapping[str, object]) -> str:
    """The text of the gold option."""
    return str(row["choices"]["ABCD".index(str(row["answer"]))])  # type: ignore[index]


def generated(folder: Path) -> Sets:
    """Facts about places, questions that name two of their four words, rationales that name all."""
    draw = random.Random(0)
    words = [f"{first}{last}" for first in "bdfgklmnprst" for last in ("aro", "elin", "ost", "umba", "ikar")]
    facts = {f"f{number}": draw.sample(words, 4) for number in range(300)}
    corpus = folder / "facts.jsonl"
    rows = [{"id": name, "text": " of the ".join(fact)} for name, fact in facts.items()]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    asked = {f"q{number}": f"f{number}" for number in range(0, 300, 3)}
    return Sets(
        corpus,
        {name: {fact} for name, fact in asked.items()},
        {
            "question": {name: " ".join(facts[fact][:2]) for name, fact in asked.items()},
            "rationale": {name: " ".join(facts[fact]) for name, fact in asked.items()},
        },
    )


def show(name: str, sets: Sets, choices: Sequence[IndexSettings], folder: Path) -> None:
    print(f"\n{name}: stop words, stemmer, variant, k1, b")
    print(f"{'query':26} {'n':>5}" + "".join(f"{f'recall@{k}':>12}" for k in AT) + f"{'MRR':>12}")
    for number, settings in enumerate(choices):
        place = folder / f"{name}-{number}"
        build([str(sets.corpus)], place, settings, CorpusSettings())
        index = Index(place, threads=1)
        said = (settings.stop_words, settings.stemmer, settings.variant, settings.k1, settings.b)
        print(f"  {', '.join(map(str, said))}")
        for kind, queries in sets.queries.items():
            row(kind, index, queries, sets.relevant)
            if number == 0 and "rationale" in kind:
                row(f"{kind}, once", index, once(queries, settings), sets.relevant)


def once(queries: Mapping[str, str], settings: IndexSettings) -> dict[str, str]:
    """Queries in which each word is there once: each is the first that has its stem."""
    kept = {}
    plain = Words.of(settings.model_copy(update={"stemmer": "none"}))
    stems = Words.of(settings)
    for name, text in queries.items():
        words = plain.read([text])[0]
        kept[name] = " ".join(
            dict(zip(reversed(stems.read([text])[0]), reversed(words), strict=True)).values()
        )
    return kept


def row(kind: str, index: Index, queries: Mapping[str, str], relevant: Relevant) -> None:
    found = index.search(list(queries.values()), max(AT))
    names = [[hit.passage for hit in hits] for hits in found]
    said = quality(names, [relevant[name] for name in queries], AT)
    cells = "".join(f"{_shown(one):>12}" for one in (*said.recall.values(), said.mrr))
    print(f"{kind:26} {said.queries:5}{cells}", flush=True)


def _shown(one: Mean) -> str:
    if one.low is None or one.high is None:
        return f"{one.value:.3f}"
    return f"{one.value:.3f} ±.{round((one.high - one.low) / 2 * 1000):03d}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--settings", type=int, default=len(SETTINGS), help="only the first so many")
    parser.add_argument("--only", choices=["strategyqa_wiki", "openbook"])
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if asked.small:
            show("generated", generated(folder), SETTINGS[:2], folder)
            return
        if "LIMBECK_DATA" not in os.environ:
            sys.exit("LIMBECK_DATA: names no folder of published data; set it, or try --small")
        data = Path(os.environ["LIMBECK_DATA"])
        for name, read in (("strategyqa_wiki", strategyqa), ("openbook", openbook)):
            if asked.only in (None, name):
                show(name, read(data), SETTINGS[: asked.settings], folder)


if __name__ == "__main__":
    main()

"""Leaks: what is found, and in how many seconds, of 100,000 questions trained on and 10,000 examined.

    python benchmarks/leaks.py

`stories` are word problems with numbers, `facts` questions of six to twelve words without any, `flips` one
template in which only names differ: the worst case for near-duplicates, because every pair shares most of
its words. One of 100 examined questions is put among those trained on in each layout of `LAYOUTS`. `before`
compares text without case and white space, as Limbeck did until 0.2. Seconds are those of one processor core.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable

from limbeck.records import Problem
from limbeck.tasks.forms import form
from limbeck.tasks.leaks import find_leaks, near_duplicates
from limbeck.tasks.words import COLOURS, NAMES, OBJECTS, THINGS

LAYOUTS: dict[str, Callable[[str], str]] = {
    "as it is": lambda text: text,
    "' ?' for '?'": lambda text: text.replace("?", " ?").replace(".", " ."),
    "curly quotes": lambda text: f"\u201c{text}\u201d".replace("'", "\u2019"),
    "capitals": str.upper,
    "'Q: '": lambda text: f"Q: {text}",
    "options in the text": lambda text: f"{text}\nAnswer choices: (A) yes, (B) no.",
    "thousands": lambda text: text.replace("1000", "1,000"),
}


def stories(draw: random.Random) -> str:
    one, two = draw.sample(NAMES, 2)
    thing, colour, place = draw.choice(THINGS), draw.choice(COLOURS), draw.choice(OBJECTS)
    first, second, third = draw.randint(2, 99), draw.randint(2, 9), draw.randint(1000, 1009)
    return (
        f"{one}'s {place} holds {first} {colour} {thing}. {two} gives {one} {second} more {thing} on every "
        f"day of a week, and then {one} sells {third} of all {thing} at a market, where {two} buys some. "
        f"How many {thing} does {one} have in the {place} when the week has ended?"
    )


def facts(draw: random.Random) -> str:
    one, thing, colour, place = (
        draw.choice(NAMES),
        draw.choice(THINGS),
        draw.choice(COLOURS),
        draw.choice(OBJECTS),
    )
    verb, other = draw.choice(("keep", "find", "lose", "paint", "weigh")), draw.choice(THINGS)
    return f"Would {one} {verb} {colour} {thing} under a {place} of {other}?"


def flips(draw: random.Random) -> str:
    deeds = "".join(
        f"{name} {draw.choice(('flips', 'does not flip'))} the coin. " for name in draw.sample(NAMES, 4)
    )
    return f"A coin is heads up. {deeds}Is the coin still heads up? Note that flip here means reverse."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--learned", type=int, default=100_000)
    parser.add_argument("--examined", type=int, default=10_000)
    asked = parser.parse_args()
    print("set      leaks made  before: found  seconds   now: found  seconds   near  seconds  all seconds")
    for make in (stories, facts, flips):
        draw = random.Random(0)
        seen: dict[str, None] = {}
        while len(seen) < asked.learned + asked.examined:
            seen[make(draw)] = None
        questions = list(seen)
        examined, learned = questions[: asked.examined], questions[asked.examined :]
        some = examined[:: max(1, 100)]
        made = [(layout(text)) for text in some for layout in LAYOUTS.values()]
        learned = made + learned[: asked.learned - len(made)]
        ours = [Problem(id="0", question=text, answer="1") for text in learned]
        theirs = [Problem(id="0", question=text, answer="1") for text in examined]
        began = time.process_time()
        old = {" ".join(one.question.casefold().split()) for one in theirs}
        before = sum(" ".join(one.question.casefold().split()) in old for one in ours)
        between = time.process_time()
        forms, others = [form(one) for one in ours], [form(one) for one in theirs]
        leaks = find_leaks(forms, others)
        found = time.process_time()
        near = near_duplicates(forms, others, leaks)
        end = time.process_time()
        wrong = [leak for leak in leaks if leak.learned >= len(made)]
        print(
            f"{make.__name__:8s} {len(made):10d} {before:14d} {between - began:8.1f} {len(leaks):12d} "
            f"{found - between:8.1f} {len(near):6d} {end - found:8.1f} {end - between:12.1f}"
            + (f"   {len(wrong)} that were not made" if wrong else "")
        )


if __name__ == "__main__":
    main()

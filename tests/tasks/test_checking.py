"""The first wrong step of a text: found where it is, named rightly, never claimed where nothing is wrong."""

from __future__ import annotations

import re
from itertools import takewhile
from random import Random

import pytest

from limbeck.tasks.checking import Checked, check
from limbeck.tasks.generated import GENERATED
from limbeck.tasks.puzzle import PHRASINGS, Puzzle, Slip

NAMES_OF_TASKS = list(GENERATED)
EACH_PHRASING = [(name, phrasing) for name in NAMES_OF_TASKS for phrasing in range(PHRASINGS)]


def drawn(name: str, rng: Random) -> Puzzle:
    """A puzzle of any size."""
    task = GENERATED[name]
    sizes = {key: rng.randint(*ends) for key, ends in task.ranges.items() if key != "largest"}
    return task.draw(rng, {**task.parameters, **sizes})


def told(puzzle: Puzzle, phrasing: int, slip: Slip = "none", seed: int = 0) -> str:
    reasoning, answer = puzzle.rationale(phrasing, slip, Random(seed))
    return f"{reasoning}\nThe answer is {answer}."


def checked(name: str, question: str, text: str) -> Checked:
    puzzle = GENERATED[name].read(question)
    assert puzzle is not None
    return check(puzzle, GENERATED[name].kind, text)


@pytest.mark.parametrize(("name", "phrasing"), EACH_PHRASING)
def test_a_right_text_has_no_wrong_step(name: str, phrasing: int) -> None:
    rng = Random(f"{name} {phrasing}")
    for _ in range(200):
        puzzle = drawn(name, rng)
        text = told(puzzle, phrasing)
        for written in (
            text,
            text.replace("\n", " "),
            text.replace(". ", ".\n"),
            text.lower(),
            f"{text}</s>",
        ):
            found = check(puzzle, GENERATED[name].kind, written)
            assert found.sound and found.phrasing == phrasing, (written, found)


def parting(one: str, other: str) -> int:
    """How many characters two texts have in common at their beginning."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def spans(text: str, step: str, place: int) -> bool:
    """Whether a step is there with this place in it, or right behind it."""
    return any(one.start() <= place <= one.end() for one in re.finditer(re.escape(step), text))


@pytest.mark.parametrize("slip", ["answer", "step"])
@pytest.mark.parametrize(("name", "phrasing"), EACH_PHRASING)
def test_a_slip_is_found_at_the_very_step(name: str, phrasing: int, slip: Slip) -> None:
    """The texts with and without the slip part at the step that is named, and its right value is said."""
    rng = Random(f"{name} {phrasing} {slip}")
    for seed in range(200):
        puzzle = drawn(name, rng)
        right, wrong = told(puzzle, phrasing, "none"), told(puzzle, phrasing, slip, seed)
        found = check(puzzle, GENERATED[name].kind, wrong)
        assert found.phrasing == phrasing and not found.sound
        place = parting(bare(right), bare(wrong))
        assert spans(bare(wrong), bare(found.step), place), (right, wrong, found)
        assert spans(bare(right), bare(found.right), place), (right, wrong, found)
        assert f"'{found.step[:100]}" in found.said
        assert right_value(name, phrasing, right, wrong) in found.said, (right, wrong, found)


def bare(text: str) -> str:
    """Without the "ends" that phrasing 0 of last-letters says with the first word only."""
    return text.replace(" ends in ", " in ")


def right_value(name: str, phrasing: int, right: str, wrong: str) -> str:
    """What the slip spoiled: the word of the right text at which both part."""
    place = parting(right, wrong)
    if name == "coin-flip" and phrasing == 2:  # a name too many, or one too few
        names, stated = (re.findall(r"[A-Z]\w+", text.split(".")[0])[1:] for text in (right, wrong))
        return next(one for one in [*names, *stated] if (one in names) != (one in stated))
    if name == "coin-flip" and phrasing == 3:  # "turns" for "leaves": the side is what is said
        return re.split(r",| and |\.", right[place:])[0].split()[-1]
    start = re.search(r"\w*$", right[:place])
    assert start is not None
    word = re.match(r"\w+", right[start.start() :])
    assert word is not None
    return word[0]


ANN = "Ann has 12 pens, finds 5 more, doubles the number and loses 4. How many pens are there now?"
COIN = "A coin is heads up. Ann flips it. Ben does not. Cal flips it. Is the coin still heads up?"
WORDS = 'Take the last letters of the words in "Elena Kofi Thor" and concatenate them.'
SWAPS = (
    "Ann has the red hat, Ben has the blue hat and Cal has the green hat. First Ann and Ben swap. "
    "Then Ben and Cal swap. Which hat does Cal have now? "
    "Answer choices: (A) red hat, (B) blue hat, (C) green hat."
)
GARBLED = [
    # false, from another number, another operand, another sign
    (
        ANN,
        "First 12 + 5 = 18, then 18 * 2 = 36, then 36 - 4 = 32. The answer is 32.",
        "12 + 5 = 18",
        "12 + 5 is 17",
    ),
    (
        ANN,
        "First 12 + 5 = 17, then 16 * 2 = 32, then 32 - 4 = 28. The answer is 28.",
        "16 * 2 = 32",
        "there are 17",
    ),
    (
        ANN,
        "12 + 6 = 18, 18 * 2 = 36, 36 - 4 = 32. The answer is 32.",
        "12 + 6 = 18",
        "Ann finds 5 more, so it is",
    ),
    (ANN, "First 12 - 5 = 7, then 7 * 2 = 14. The answer is 14.", "12 - 5 = 7", "12 + 5, and that is 17"),
    # missing, repeated, in another order, one too many
    (ANN, "First 12 + 5 = 17, then 34 - 4 = 30. The answer is 30.", "34 - 4 = 30", "comes too early"),
    (ANN, "First 12 + 5 = 17, then 17 * 2 = 34. The answer is 34.", "", "a step is missing: '34 - 4 = 30'"),
    (
        ANN,
        "First 12 + 5 = 17, then 12 + 5 = 17, then 17 * 2 = 34. The answer is 34.",
        "12 + 5 = 17",
        "comes twice",
    ),
    (
        ANN,
        "First 17 * 2 = 34, then 12 + 5 = 17. The answer is 34.",
        "17 * 2 = 34",
        "before it comes '12 + 5 = 17'",
    ),
    (
        ANN,
        "12 + 5 = 17, 17 * 2 = 34, 34 - 4 = 30, 30 + 1 = 31. The answer is 31.",
        "30 + 1 = 31",
        "one too many",
    ),
    # words around the sums
    (ANN, "After losing 5: 12 + 5 = 17. The answer is 17.", "After losing 5", "Ann finds 5 more here"),
    (
        ANN,
        "We add 5 and subtract 4: 12 + 5 = 17. The answer is 17.",
        "",
        "a step is missing: '17 * 2 = 34'",
    ),
    (
        ANN,
        "There are 15 pens at first. Then there are 15 + 5 = 20. The answer is 20.",
        "There are 15 pens",
        "12 pens",
    ),
    # not to be read, cut off, none at all, another answer than the steps'
    (ANN, "First 12 + = 17, then 17 * 2 = 34. The answer is 34.", "12 + = 17", "No step can be read in"),
    (
        ANN,
        "First 12 + 5 = 17.5, then 17 * 2 = 34. The answer is 34.",
        "12 + 5 = 17",
        "what comes here is '12 + 5 = 17'",
    ),
    (ANN, "First 12 + 5 = 17, then 17 *", "17 *", "at 'then 17 *'; what comes here is '17 * 2 = 34'"),
    (ANN, "First 12 + 5 = 17, then", "", "ends after '12 + 5 = 17'; the next step is '17 * 2 = 34'"),
    (ANN, "The answer is 31.", "", "the first one is '12 + 5 = 17'"),
    (ANN, "", "", "the first one is '12 + 5 = 17'"),
    (ANN, "12 + 5 = 17, 17 * 2 = 34, 34 - 4 = 30. The answer is 34.", "", "'34' does not follow: it is 30"),
    (ANN, "12 + 5 = 17, 17 * 2 = 34, 34 - 4 = 30.", "", "it states no answer: it is 30"),
    (
        COIN,
        "Start: heads. Ann: tails. Ben: heads. Cal: tails. The answer is no.",
        "Ben: heads",
        "stays tails",
    ),
    (COIN, "Start: tails. Ann: heads. The answer is no.", "Start: tails", "starts heads up"),
    (COIN, "Ann: tails. Bea: tails. Cal: heads. The answer is no.", "Bea: tails", "that is 'Ben: tails'"),
    (COIN, "Ann: tails. Cal: heads. The answer is no.", "Cal: heads", "before it comes 'Ben: tails'"),
    (COIN, "Ann: tails. Ben: tails. Ben: tails. The answer is no.", "Ben: tails", "comes twice"),
    (
        COIN,
        "Ann: tails. Ben tals. Cal: heads. The answer is no.",
        "Ben tals",
        "what comes here is 'Ben: tails'",
    ),
    (
        COIN,
        "Count the flips: 1 after Ann, 2 after Ben and 3 after Cal. The answer is no.",
        "2 after Ben",
        "stays 1",
    ),
    (COIN, "Count the flips: 1 after Ann, 1 after", "1 after", "breaks off"),
    (
        COIN,
        "The coin is flipped by Ann. That makes 1 flip. The answer is no.",
        "The coin is flipped by Ann",
        "Cal",
    ),
    (
        COIN,
        "The coin is flipped by Ann, Bo and Cal. The answer is no.",
        "by Ann, Bo and Cal",
        "there is no Bo",
    ),
    (COIN, "Nobody flips the coin. The answer is no.", "Nobody flips the coin", "are Ann and Cal"),
    (
        COIN,
        "The coin is flipped by Ann and Cal. That makes 3 flips. The answer is no.",
        "makes 3 flips",
        "2 times",
    ),
    (
        COIN,
        "Ann leaves it at heads, Ben leaves it at heads. The answer is no.",
        "Ann leaves it",
        "turns to tails",
    ),
    (
        COIN,
        "Ann turns it to tails, Ben leaves it at tails and Cal turns it to heads. So tails is up now. "
        "The answer is no.",
        "So tails is up now",
        "it ends heads up",
    ),
    (
        WORDS,
        "Elena ends in e, Kofi in i and Thor in r. The answer is eir.",
        "Elena ends in e",
        "of Elena is a",
    ),
    (
        WORDS,
        "Elena ends in a and Thor in r. The answer is ar.",
        "Thor in r",
        "before it comes 'Kofi ends in i'",
    ),
    (WORDS, "Elena ends in a, Kofi in i and Tor in r. The answer is air.", "Tor in r", "'Thor ends in r'"),
    (
        WORDS,
        "The last letter of Elena is a. The last of Kofi. The answer is ar.",
        "The last of Kofi",
        "of Kofi is i",
    ),
    (WORDS, "Elena adds a: a. Kofi adds i: ia. The answer is ia.", "Kofi adds i: ia", "up to there are ai"),
    (
        WORDS,
        "In order, we take a from Elena, i from Kofi. The answer is ai.",
        "",
        "is missing: 'r from Thor'",
    ),
    (
        WORDS,
        "Elena ends in a, Kofi in i and Thor in r. Together that is ari. The answer is ari.",
        "Together that is ari",
        "a, i and r put together are air",
    ),
    (
        SWAPS,
        "Ann and Ben swap: Ann red, Ben blue, Cal green. The answer is C.",
        "Ann and Ben swap",
        "Ann has blue",
    ),
    (
        SWAPS,
        "Ben and Cal swap: Ann blue, Ben green, Cal red. The answer is A.",
        "Ben and Cal",
        "comes too early",
    ),
    (
        SWAPS,
        "Start: Ann red, Ben green, Cal blue. The answer is B.",
        "Start: Ann red",
        "Ben has blue at first",
    ),
    (
        SWAPS,
        "When Ann and Bob swap, Ann gets blue. The answer is C.",
        "When Ann and Bob",
        "that is 'When Ann and Ben",
    ),
    (
        SWAPS,
        "When Ann and Ben swap, Ann gets blue and Bob gets red. The answer is C.",
        "gets red",
        "there is no Bob",
    ),
    (
        SWAPS,
        "The red one is held by Ann, then Ben, then Ben. The answer is C.",
        "The red one",
        "Cal holds the red one",
    ),
    (SWAPS, "The red one is held by Ann, then Ben. The answer is C.", "held by Ann, then Ben", "Ben and Cal"),
    (
        SWAPS,
        "The pink one is held by Ann, then Ben. The answer is C.",
        "The pink one",
        "'The red one is held by Ann",
    ),
    (
        SWAPS,
        "Go back from what Cal has now. After Ben and Cal swapped, Ben had it.",
        "After Ben and Cal",
        "with Cal",
    ),
    (
        SWAPS,
        "After Ben and Cal swapped, Cal had it. After Ann and Ben swapped, Ben had it. "
        "At first Ann had it, and that was red, choice B. The answer is B.",
        "that was red, choice B",
        "red is choice A",
    ),
]


@pytest.mark.parametrize(("question", "text", "step", "says"), GARBLED, ids=[one[1][:60] for one in GARBLED])
def test_what_is_said_about_a_garbled_text(question: str, text: str, step: str, says: str) -> None:
    name = next(name for name, task in GENERATED.items() if task.read(question))
    found = checked(name, question, text)
    assert step in found.step and bool(step) == bool(found.step), found
    assert says in found.said, found
    assert "\n" not in found.said


@pytest.mark.parametrize(
    ("question", "text"),
    [
        (
            ANN,
            "Let us see. Ann has 12 pens. So 12+5=17; now 17 × 2 = 34, and 34 − 4 = 30. The answer is 30.",
        ),
        (
            ANN,
            "There are 12 nuts at first. After getting 5 more: 12 + 5 = 17, 17*2=34, 34-4=30. --> 30",
        ),
        (ANN, "<think>12 + 5 = 17, 17 * 2 = 34, 34 - 4 = 30.</think>\n\nThe answer is 30."),
        (ANN, "First 12 + 5 = 17, then 17 * 2 = 34, then 34 - 4 = 30. --> 30"),
        (
            ANN,
            "12 + 5 = 17, 17 * 2 = 34, 34 - 4 = 30. The answer is 30.\n\nQuestion: Bob has 3 + 3 = 7 pens.",
        ),
        (COIN, "Ann: tails. 1 after Ben and Cal turns it to heads. The answer is yes."),
        (COIN, "Ann turns it at tails, Ben leaves it to tails and Cal turns it to heads. The answer is yes."),
        (WORDS, "Elena ends in A. i from Kofi. Thor adds r: air. The answer is AIR."),
        (SWAPS, "Ben and Ann swap: Ben red. When Ben and Cal swap, Cal gets red. The answer is A."),
    ],
)
def test_what_is_right_in_other_words_is_right(question: str, text: str) -> None:
    name = next(name for name, task in GENERATED.items() if task.read(question))
    assert checked(name, question, text).sound


@pytest.mark.parametrize("phrasing", range(PHRASINGS))
@pytest.mark.parametrize("name", NAMES_OF_TASKS)
def test_a_text_that_breaks_off_early_is_told_on_in_its_phrasing(name: str, phrasing: int) -> None:
    """Where no claim can be read, its first words say the phrasing."""
    puzzle = drawn(name, Random(5))
    begun = " ".join(told(puzzle, phrasing).split(" ")[:2])
    found = check(puzzle, GENERATED[name].kind, begun)
    assert found.phrasing == phrasing and not found.sound
    assert bare(found.right) in bare(told(puzzle, phrasing))


def chain(question: str) -> list[str]:
    """The sums of an arithmetic story, from its text alone."""
    value, sums = 0, []
    for verb, amount in re.findall(
        r"(has|finds|buys|gets|loses|sells|gives away|doubles|triples) (\w+)", question
    ):
        if verb == "has":
            value = int(amount)
            continue
        fixed = {"half": ("/", 2), "the": ("*", 2 if verb == "doubles" else 3)}
        sign, n = fixed.get(amount) or ("-" if verb in ("loses", "sells", "gives away") else "+", int(amount))
        result = {"+": value + n, "-": value - n, "*": value * n, "/": value // n}[sign]
        sums.append(f"{value} {sign} {n} = {result}")
        value = result
    return sums


def spoilt(text: str, others: list[str], rng: Random) -> str:
    """A text with words cut, swapped, doubled, left out, replaced, or inserted from other texts."""
    words = text.split(" ")
    for _ in range(rng.randint(1, 4)):
        place, other = rng.randrange(len(words)), rng.randrange(len(words))
        change = rng.randrange(7)
        if change == 0:
            words = words[: place + 1]
        elif change == 1:
            words[place], words[other] = words[other], words[place]
        elif change == 2:
            words.insert(place, words[other])
        elif change == 3 and len(words) > 1:
            del words[place]
        elif change == 4:
            words[place] = rng.choice(rng.choice(others).split(" "))
        elif change == 5:
            words[place] = words[place][: rng.randint(0, len(words[place]))] or "."
        else:
            start = rng.randrange(len(words))
            words[place:place] = rng.choice(others).split(" ")[start : start + rng.randint(1, 9)]
    return " ".join(words)


def rubbish(rng: Random) -> str:
    return "".join(rng.choice("ab AB12+=-*/.,:;\n'\"{}()<>é٣\u2028") for _ in range(rng.randint(0, 120)))


@pytest.mark.parametrize("name", NAMES_OF_TASKS)
def test_no_text_gets_a_false_claim(name: str) -> None:
    """2,500 spoilt texts per task: what is called wrong is no right step of that place, what is called right
    is one, and a text is called right only if its answer is."""
    rng = Random(name)
    puzzles = [drawn(name, rng) for _ in range(100)]
    others = [told(puzzle, n % 4, "answer", n) for n, puzzle in enumerate(puzzles)]
    for number in range(2500):
        puzzle, phrasing = rng.choice(puzzles), rng.randrange(PHRASINGS)
        whole = told(puzzle, phrasing, rng.choice(["none", "none", "answer", "step"]), number)
        text = rubbish(rng) if number % 25 == 0 else spoilt(whole, others, rng)
        found = check(puzzle, GENERATED[name].kind, text)
        own = "\n".join(told(puzzle, phrasing) for phrasing in range(PHRASINGS))
        assert bare(found.right) in bare(own), (text, found)
        assert " ".join(found.step.split()) in " ".join(
            re.split(r"[\s.,;:*]+", text)
        ) or found.step in " ".join(text.split()), (text, found)
        if found.said.startswith("The step") and "twice" not in found.said:
            assert found.step.casefold() != found.right.casefold(), (text, found)
        if found.said.startswith(f"The step '{found.step}' is wrong"):
            # the first of several names are another step
            ends = r"\." if re.search("(?:flipped|held) by", found.step) else r"\b"
            assert not re.search(rf"\b{re.escape(found.step)}{ends}", own), (text, found)
        if found.sound:
            assert re.search(rf"\b{puzzle.answer}\b", text, re.IGNORECASE), (text, found)
        if name == "arithmetic":
            sums_are_true(puzzle.question, text, found)


def sums_are_true(question: str, text: str, found: Checked) -> None:
    """Every sum that is named as right is one of the story, and what is called wrong is another one."""
    sums = chain(question)
    quoted = re.fullmatch(r"\d+ [-+*/] \d+ = \d+", found.right)
    assert not quoted or found.right in sums
    told_off = found.said.replace(found.step, "")
    for before, sign, n, result in re.findall(r"(\d+) ([-+*/]) (\d+)(?: is|, and that is) (\d+)", told_off):
        assert f"{before} {sign} {n} = {result}" in sums, (text, found)
    if quoted and re.fullmatch(r"\d+ [-+*/] \d+ = \d+", found.step):
        assert found.step != found.right, (text, found)


@pytest.mark.parametrize("name", NAMES_OF_TASKS)
def test_thousands_of_steps_are_read_in_linear_time(name: str) -> None:
    import time

    puzzle = drawn(name, Random(1))
    for text in (
        told(puzzle, 0) * 500,
        "a: " * 20_000,
        "1 + " * 20_000,
        "Putting a, " * 10_000,
        "The coin is flipped by a, " * 10_000,
        "When a and b swap, a gets b, " * 5_000,
        "x" * 100_000,
        "x y. " * 20_000,
    ):
        clock = time.process_time()
        check(puzzle, GENERATED[name].kind, text)
        assert time.process_time() - clock < 3

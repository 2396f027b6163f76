"""The same question in another layout is found, and another question is not."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Sequence

import pytest

from limbeck.records import Problem
from limbeck.tasks.forms import form, question_form
from limbeck.tasks.generated import GENERATED, generate
from limbeck.tasks.leaks import Near, find_leaks, groups, near_duplicates

STORY = "Ann's shop sold 1000 pens for $1.50 each. She paid 0.75 for a pen. How much did she earn?"


def asked(question: str, *options: str) -> Problem:
    return Problem(id="1", question=question, answer="1", options=options)


def how(one: Problem, other: Problem) -> str:
    found = find_leaks([form(one)], [form(other)])
    backwards = find_leaks([form(other)], [form(one)])
    assert [leak.how for leak in found] == [leak.how for leak in backwards]
    return found[0].how if found else ""


@pytest.mark.parametrize(
    "other",
    [
        STORY.replace("?", " ?").replace(". ", " . "),
        STORY.replace("'", "\u2019"),
        f"\u201c{STORY}\u201d",
        STORY.replace("Ann's", "Ann 's"),
        STORY.replace("1000", "1,000"),
        *(STORY.replace("1000", f"1{space}000") for space in (" ", "\u2009", "\u00a0", "\u202f")),
        STORY.replace("1.50", "1,50"),
        STORY.replace("0.75", ".75"),
        STORY.replace(" ", "\u00a0"),
        STORY.replace("shop", "sh\u200bop"),
        STORY.upper(),
        f"Q: {STORY}",
        f"Q. {STORY}",
        f"Question: {STORY}\nAnswer:",
        f"Question 17: {STORY}\nA:",
        f"### Question\n{STORY}",
        f"**Problem:** {STORY}",
        f"12) {STORY}",
        f"Human: Question: {STORY}\n\nAssistant:",
        STORY.replace(". ", ".\n"),
    ],
)
def test_a_layout_is_no_other_question(other: str) -> None:
    assert how(asked(STORY), asked(other))


WHICH = "Which of them is a bird?"


@pytest.mark.parametrize(
    "listed",
    [
        f"{WHICH}\nAnswer choices: (A) owl, (B) bat.",
        f"{WHICH} Answer Choices:\nA. owl\nB. bat\n",
        f"{WHICH}\nWhich choice is true? Answer choices: (A) owl, (B) bat.",
        f"{WHICH}\nOptions:\n(A) owl\n(B) bat",
        f"{WHICH}\nOptions:\n(a) owl\n(b) bat\nAnswer:",
        f"{WHICH}\nOptions:\n- owl\n- bat",
        f"{WHICH} A) owl B) bat",
        f"{WHICH} [A] owl [B] bat",
        f"Q: {WHICH}\n(A) owl (B) bat",
        f"{WHICH}\nOptions:\n(A) bat\n(B) owl",
    ],
)
def test_options_in_the_text_or_in_a_column_or_not_there(listed: str) -> None:
    for other in (asked(listed), asked(WHICH, "owl", "bat"), asked(WHICH, "A) bat", "B) owl"), asked(WHICH)):
        assert how(asked(listed), other)
    assert not how(asked(listed), asked(listed.replace("bat", "gnu"))), "its options are part of a text"


@pytest.mark.parametrize(
    "plain",
    [
        "Options: owl, bat",
        "Options: owl, bat. Answer with one of them.",
        "Options: owl,bat\nAnswer:",
        "Choices: owl; bat.",
        "**Options:** owl | bat",
        "Options: owl or bat",
        "Answer choices: owl, or bat",
        "Possible answers: [owl/bat]",
        "Options:\nowl\nbat",
    ],
)
def test_options_without_letters_count_where_both_list_the_same(plain: str) -> None:
    for text in (f"{WHICH} {plain}", f"{WHICH}\n{plain}"):
        same = [
            asked(WHICH, "owl", "bat"),
            asked(WHICH, "A) bat", "B) owl"),
            asked(f"{WHICH}\n(A) owl (B) bat"),
            asked(f"{WHICH}\nOptions:\n- bat\n- owl"),
            asked(f"{WHICH} Options: bat; owl"),
            asked(text, "owl", "bat"),
        ]
        assert all(how(asked(text), other) for other in same)
        assert all(how(asked(text, "bat", "owl"), other) for other in (*same, asked(WHICH)))
        for other in (asked(WHICH), asked(WHICH, "owl", "gnu"), asked(text.replace("bat", "gnu"))):
            assert not how(asked(text), other), "by itself it is no list"
        assert len(set(groups([form(one) for one in (asked(text), *same)]))) == 1


def test_the_last_list_counts_where_letters_stand_elsewhere_too() -> None:
    text = "Let P (A) = 0.25 and P(B) = 0.5. What is P(A and B)?"
    assert how(asked(f"{text} Options:\nA)0.5\nB)0.125"), asked(text, "0.5", "0.125"))


def test_letters_of_options_count_only_where_all_have_theirs() -> None:
    assert how(asked(WHICH, "B) owl", "A) bat"), asked(WHICH, "owl", "bat")) == "word for word"
    assert how(asked(WHICH, "A)A) owl", "B)B) bat"), asked(WHICH, "owl", "bat")) == "word for word"
    assert (
        how(asked(WHICH, "s.50 more", "t.60 more"), asked(WHICH, "50 more", "60 more"))
        == "with other options"
    )


def test_options_without_letters_decide_among_many_lists() -> None:
    lists = [(f"{n} is odd", f"{n} is even") for n in range(6)]
    columns = [form(asked("Which is true?", *options)) for options in lists]
    plain = [form(asked(f"Which is true? Options: {'; '.join(options)}")) for options in lists]
    assert [(leak.learned, leak.examined) for leak in find_leaks(plain, columns)] == [
        (n, n) for n in range(6)
    ]
    names = groups(columns + plain)
    assert len(set(names)) == 6 and names[:6] == names[6:]


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("Box A. Box B holds 4 pens more than box A. Box C holds none. How many pens are there?", ()),
        ("Let P(A) = 0.25 and P(B) = 0.5. What is P(A and B)?", ("0.5", "0.125")),
        ("Owls hunt in the", ("dark", "day")),
    ],
)
def test_letters_that_are_no_labels(text: str, options: tuple[str, ...]) -> None:
    one = asked(text, *options)
    listed = f"{text}\nAnswer Choices:\nA. {options[0]}\nB. {options[1]}" if options else f"Q: {text}\nA:"
    small = f"Q: {text}\n(a) {options[0]}\n(b) {options[1]}\nA:" if options else text.replace(".", " .")
    for other in (asked(listed), asked(small), asked(f"Q: {text}\nA:"), asked(text.upper(), *options)):
        assert how(one, other), other
    assert len(set(groups([form(one), form(asked(listed)), form(asked(small))]))) == 1


def test_other_options_in_a_column_make_a_leak_of_its_own_name() -> None:
    owls, gnus = asked(WHICH, "owl", "bat"), asked(WHICH, "emu", "gnu")
    assert (
        how(owls, gnus) == "with other options" and how(owls, asked(WHICH, "bat", "owl")) == "word for word"
    )
    many = [asked("Which is true?", f"{n} is odd", f"{n} is even") for n in range(6)]
    forms = [form(one) for one in many]
    assert not find_leaks(forms[:3], forms[3:]), "a text that many lists follow asks nothing by itself"
    assert [leak.how for leak in find_leaks(forms[:3], forms[2:])] == ["word for word"]
    assert len(set(groups(forms))) == 6 and len(set(groups([form(owls), form(gnus)]))) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Is 1.5 more?", "Is 15 more?"),
        ("Is .5 more?", "Is 5 more?"),
        ("Is 1,5 more?", "Is 15 more?"),
        ("Is 1,000 more?", "Is 1.000 more?"),
        ("Which is next: 1 200 3?", "Which is next: 1200 3?"),
        ("Which is next: 5 000 12?", "Which is next: 5000 12?"),
        ("Which is next: 12 5 000?", "Which is next: 12 5000?"),
        ("Which is next: 0 100?", "Which is next: 0100?"),
        ("Which is next: 1 2000?", "Which is next: 12000?"),
        ("Which is next: 1.5 200?", "Which is next: 1.5200?"),
        ("Which is next:\n5 100\n7 200", "Which is next:\n5100\n7200"),
        ("Is $5 more?", "Is €5 more?"),
        ("Is £5 more?", "Is €5 more?"),
        ("What is $5 - $3?", "What is $5 + $3?"),
        ("What is 5 € - 3 €?", "What is 5 € + 3 €?"),
        ("What is $x$ - $y$?", "What is $x$ + $y$?"),
        ("Where is 1,-2?", "Where is 1-2?"),
        ("What is |x|?", "What is x?"),
        ("What is |x| - 3?", "What is |x| + 3?"),
        ("Is ~p true?", "Is p true?"),
        ("Is !p true?", "Is p true?"),
        ("Does ~(p and q) hold?", "Does ~p and q hold?"),
        ("Does (p ∧ q) ∨ r hold?", "Does p ∧ (q ∨ r) hold?"),
        ("What is f'(2)?", "What is f(2)?"),
        ("What is 5 - 3?", "What is 5 + 3?"),
        ("What is 5*3?", "What is 5/3?"),
        ("What is -5 + 3?", "What is 5 + 3?"),
        ("Solve x - y = 2 for x.", "Solve x + y = 2 for x."),
        ("Find x^2 for x = 3.", "Find x*2 for x = 3."),
        ("What is (1 + 2) * 3?", "What is 1 + (2 * 3)?"),
        ("What is 12 3?", "What is 1 23?"),
        ("What is 5²?", "What is 52?"),
        ("Is it 10⁻² m?", "Is it 10² m?"),
        ("What is 2½?", "What is 21/2?"),
        ("Is a >= b?", "Is a <= b?"),
        ("Is a ≥ b?", "Is a ≤ b?"),
        ("Is a >= b?", "Is a > b?"),
        ("Is the width > the height?", "Is the width < the height?"),
        ("Does a != b hold?", "Does a == b hold?"),
        ("Is a && b true?", "Is a || b true?"),
        ("Is C++ old?", "Is C old?"),
        ("Is C# old?", "Is C old?"),
        ("Is blood type O+ rare?", "Is blood type O- rare?"),
        ("What is 3!?", "What is 3?"),
        ("What is 3! + 2?", "What is 3 + 2?"),
        ("What is 5% of 20?", "What is 5 of 20?"),
        ("What is √9?", "What is 9?"),
        ("Is p ∧ q true?", "Is p ∨ q true?"),
        ("not ( True and False ) is", "( not True ) and False is"),
        ("Is ₹5 × 2 more?", "Is ₹5 × 3 more?"),
        ("Did the owl see the bat?", "Did the bat see the owl?"),
        ("🍎 + 🍎 = 10. What is 🍎?", "🍌 + 🍌 = 10. What is 🍌?"),
        ("क्या यह सही है?", "क्या यह सहा है?"),
    ],
)
def test_another_question_is_none(one: str, other: str) -> None:
    assert not how(asked(one), asked(other))


def test_a_calculation_in_another_layout() -> None:
    assert how(asked("What is (5 - 3) * 2?"), asked("Q: what is (5-3)*2 ?"))
    assert how(asked("Ann \u2013 who is 5 \u2013 runs 1/2 mile."), asked("Ann - who is 5 - runs 1/2 mile."))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is 5²?", "what is 5^2 ?"),
        ("What is 2½ + 1?", "What is 2 1/2 + 1?"),
        ("Is a ≥ b?", "is a>=b ?"),
        ("Is C++ old?", "is c++ old ?"),
        ("He paid 3! How many?", "He paid 3 ! How many ?"),
        ("Wow! Who is it?", "Wow ! Who is it ?"),
        ("How much is 5% of 20?", "How much is 5 % of 20 ?"),
        ("What is 5 + 3?", "What is 5 + 3 = ?"),
        ("What is 5*-3?", "What is 5 * -3?"),
        ("Is 1 000 000.50 more?", "Is 1,000,000.50 more?"),
        ("Is it 1 000, 5 000 or 70 000?", "Is it 1000, 5000 or 70,000?"),
        ("Is 5 € more?", "Is €5 more?"),
        ("Is $5 more?", "Is $ 5 more?"),
        ("Is ~p true?", "is ~ p true ?"),
        ("|owl|bat|\n|5|7|", "| owl | bat |\n| 5 | 7 |"),
        ("Who is it?\n=====\nAnn?", "> Who is it? Ann?"),
        ("# Owls\nWho is well-known and/or old?", "Owls. Who is well known and or old ?"),
    ],
)
def test_signs_in_another_layout(one: str, other: str) -> None:
    assert how(asked(one), asked(other))


def test_what_is_all_prefix_or_options_is_compared_whole() -> None:
    assert not how(asked("Question:"), asked("Problem:"))
    assert not how(asked("(A) one (B) two"), asked("(A) one (B) three"))
    assert how(asked("(A) one (B) two"), asked("(a) One (b) Two"))


def test_the_first_question_and_the_nearest_layout_are_named() -> None:
    examined = [form(asked(text)) for text in ("Other?", "Q: Who is it?", "who  is it?", "Who is it?")]
    (leak,) = find_leaks([form(asked("Who is it?"))], examined)
    assert (leak.examined, leak.how) == (2, "word for word")


LONG = (
    "A farmer keeps 12 brown hens and 7 white ones behind her house. In spring she buys 5 more at a market, "
    "and in autumn she gives 3 of them to her sister who lives by the old mill. How many hens does she keep?"
)


def near(one: str, other: str) -> list[Near]:
    return near_duplicates([form(asked(one))], [form(asked("Else?")), form(asked(other))], [])


def test_a_few_other_words_are_nearly_a_repeat() -> None:
    (found,) = near(LONG, LONG.replace("spring", "summer").replace("the old", "an old"))
    assert found.learned == 0 and found.examined == 1 and 0.93 <= found.share < 1
    assert not near(LONG, LONG.replace("12", "13")), "other numbers"
    assert not near(LONG, LONG.replace("12", "x").replace("7", "12").replace("x", "7")), "in another order"
    assert not near(LONG, LONG.replace("How many hens", "What is the largest number of animals that"))
    assert not near("Would an owl sink in water?", "Would an owl sink in oil?"), "a short one has other words"
    leaks = find_leaks([form(asked(LONG))], [form(asked(LONG))])
    assert not near_duplicates([form(asked(LONG))], [form(asked(LONG))], leaks), "it is a leak already"


def plainly(one: Problem, other: Problem) -> float:
    """Words in common, in order, by the textbook's table."""
    a, b = (form(text).words.split() for text in (one, other))
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, j in itertools.product(range(len(a)), range(len(b))):
        same = a[i] == b[j]
        table[i + 1][j + 1] = table[i][j] + 1 if same else max(table[i][j + 1], table[i + 1][j])
    numbers = [[word for word in words if word[0].isdigit()] for words in (a, b)]
    return table[-1][-1] / max(len(a), len(b)) if numbers[0] == numbers[1] else 0.0


def test_near_duplicates_are_those_of_comparing_all_with_all() -> None:
    draw = random.Random(0)
    words = LONG.split()

    def changed() -> Problem:
        some = list(words)
        for _ in range(draw.randint(0, 4)):
            place = draw.randrange(len(some))
            some[place : place + draw.randint(0, 1)] = draw.choice([[], [draw.choice(words)], ["now"]])
        return asked(" ".join(some))

    learned, examined = [changed() for _ in range(60)], [changed() for _ in range(40)]
    ours = [form(one) for one in learned], [form(one) for one in examined]
    best = [max(plainly(one, other) for other in examined) for one in learned]
    found = near_duplicates(*ours, [])
    assert {one.learned for one in found} == {n for n, share in enumerate(best) if share >= 0.93}
    assert all(one.share == best[one.learned] for one in found) and 10 < len(found) < 60


def test_built_in_tasks_share_nothing() -> None:
    """Thousands of made questions of one pattern each: no two of different splits or tasks are the same."""
    splits: dict[str, Sequence[Problem]] = {
        f"{name} {split}": generate(name, split, 300, 0)  # type: ignore[arg-type]
        for name in GENERATED
        for split in ("train", "test")
    }
    forms = {name: [form(one) for one in some] for name, some in splits.items()}
    for one, other in itertools.combinations(forms, 2):
        assert find_leaks(forms[one], forms[other]) == [], (one, other)


def test_it_takes_linear_time() -> None:
    hard = ["(a" * 20_000, "5-" * 20_000, "\n- " * 10_000, "Q: " * 10_000, "1," * 20_000, "Options: " * 5_000]
    hard += ["1 000 " * 10_000, "1 000, " * 10_000, "|x| - " * 10_000, "5 € " * 10_000, "5 -" + " " * 50_000]
    hard += ["Options: a, " * 5_000, "Options:\n" * 5_000, "f'(" * 10_000, "~(!p " * 10_000]
    began = time.process_time()
    for text in hard:
        form(asked(text))
    assert time.process_time() - began < 5


def test_questions_of_brackets_are_not_all_one() -> None:
    texts = ["Close the brackets: [ { [ ]", "Close the brackets: [ { ( )", "Close the brackets: < < [ ]"]
    forms = [question_form(text) for text in texts]
    assert len(set(groups(forms))) == 3 and not find_leaks(forms[:1], forms[1:])
    assert find_leaks([question_form("Q: Close the brackets: [{[]")], forms[:1])

"""The first wrong step of a student's text, and what a teacher says about it.

A family gives the steps of the right reasoning in each phrasing (`RightStep`) and reads a text's claims
(`claims.py`). Here both are compared in their order. What is said is true whatever the text was: a claim
is called wrong only where the puzzle says otherwise, and the right step is named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from random import Random

from limbeck.tasks.answers import AnswerKind, read, same
from limbeck.tasks.claims import Claim
from limbeck.tasks.puzzle import PHRASINGS, Puzzle, RightStep
from limbeck.tasks.run_on import spoken
from limbeck.tasks.statements import read_plainly

_LONGEST = 120
"""Characters of a step that are quoted."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found in a text.

    Attributes:
        phrasing: in which it tells; 0 where none can be recognised.
        step: the first wrong step as it was written; "" where a step is missing, or none is wrong.
        right: what belongs there; "" where all steps are right.
        said: what the teacher says.
        sound: nothing is wrong, and the answer is right.
    """

    phrasing: int
    step: str
    right: str
    said: str
    sound: bool = False


def check(puzzle: Puzzle, kind: AnswerKind, text: str) -> Checked:
    """Find the first wrong step of a text: false, not the one that comes here, missing, or unreadable.

    Args:
        puzzle: what was asked.
        kind: of its answer.
        text: whatever a student wrote, its closing statement included. What it goes on to after its
            answer ("Q: …") is left out, as in grading.
    """
    found = read(kind, text, puzzle.options)
    plain = read_plainly(text)
    plain = plain[: spoken(plain)]
    claims = puzzle.claims(plain[: len(plain) - found.cut])
    phrasing = _phrasing(puzzle, plain, claims)
    stated = found.answer if found.how == "marker" else None
    wrong = _Walk(puzzle.right_steps(phrasing), claims, stated is not None).first_error()
    if wrong is not None:
        return Checked(phrasing, *wrong)
    if stated is not None and same(kind, stated, puzzle.answer):
        said = f"No step is wrong, and the answer {puzzle.answer} is right."
        return Checked(phrasing, "", "", said, sound=True)
    fault = "it states no answer" if stated is None else f"the answer {_quoted(stated)} does not follow"
    return Checked(phrasing, "", "", f"No step is wrong, but {fault}: it is {puzzle.answer}.")


def _phrasing(puzzle: Puzzle, text: str, claims: Sequence[Claim]) -> int:
    """That of most claims; where none tells, the one whose rationale begins with the same two words."""
    votes = Counter(claim.phrasing for claim in claims if claim.phrasing is not None)
    if votes:
        return votes.most_common(1)[0][0]
    right = [puzzle.rationale(phrasing, "none", Random(0))[0] for phrasing in range(PHRASINGS)]
    shared = [_shared(rationale.split(), text.split()) for rationale in right]
    return shared.index(max(shared)) if max(shared) > 1 else 0


def _shared(one: Sequence[str], other: Sequence[str]) -> int:
    """How many words two texts share at their beginning."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


Wrong = tuple[str, str, str]
"""The step as written, the right one, what is said."""


@dataclass
class _Walk:
    """Claims next to steps: `here` is the first step that was not met yet."""

    steps: Sequence[RightStep]
    claims: Sequence[Claim]
    answered: bool
    here: int = 0

    def first_error(self) -> Wrong | None:
        met: list[int] = []
        last = ""
        following = self._following()
        for number, claim in enumerate(self.claims):
            place = self._met(claim)
            if place is not None:
                met.append(place)
                self.here, last = place + 1, claim.text
            elif claim.about:
                return self._wrong(claim, met)
            elif not self._only_chatter(following[number]):
                return self._unreadable(claim, ends=number == len(self.claims) - 1)
        missing = self._expected()
        if missing is None or missing.optional:
            return None
        if not met:
            said = f"No step of the reasoning is there; the first one is {_quoted(missing.says)}."
        elif self.answered:
            said = f"After {_quoted(last)} a step is missing: {_quoted(missing.says)}."
        else:
            said = f"The text ends after {_quoted(last)}; the next step is {_quoted(missing.says)}."
        return "", missing.says, said

    def _near(self) -> range:
        """The steps that may come now: the next one, and those after it as far as it may be left out."""
        end = self.here
        while end < len(self.steps) and self.steps[end].optional:
            end += 1
        return range(self.here, min(end + 1, len(self.steps)))

    def _expected(self) -> RightStep | None:
        """The step that has to come now; where all may be left out, the next one."""
        near = [self.steps[place] for place in self._near()]
        return next((step for step in near if not step.optional), near[0] if near else None)

    def _met(self, claim: Claim) -> int | None:
        return next((place for place in self._near() if _is_right(claim, self.steps[place])), None)

    def _same_place(self, claim: Claim) -> RightStep | None:
        return next((self.steps[place] for place in self._near() if self.steps[place].is_about(claim)), None)

    def _following(self) -> list[Claim | None]:
        """Behind each claim the next one that can be read."""
        found: list[Claim | None] = []
        after = None
        for claim in reversed(self.claims):
            found.append(after)
            after = claim if claim.about else after
        return found[::-1]

    def _only_chatter(self, following: Claim | None) -> bool:
        """Whether what cannot be read takes no step's place: the step of here follows, or none is left."""
        if following is None:
            expected = self._expected()
            return expected is None or (expected.optional and self.answered)
        return self._same_place(following) is not None or not self._near()

    def _wrong(self, claim: Claim, met: Sequence[int]) -> Wrong:
        """What is wrong with a claim that can be read and is not the step that comes here."""
        expected, step = self._expected(), _quoted(claim.text)
        again = any(_is_right(claim, self.steps[place]) for place in met)
        if expected is None:
            fault = "comes twice" if again else "is one too many"
            return claim.text, "", f"The step {step} {fault}: all steps were there before it."
        at = self._same_place(claim)
        there = at or expected
        right = _quoted(there.says)
        if any(_is_right(claim, later) for later in self.steps[self.here :]):
            said = f"The step {step} comes too early: before it comes {right}."
        elif again:
            said = f"The step {step} comes twice; what comes here is {right}."
        elif at is not None and not any(_is_right(claim, one) for one in self.steps[: self.here]):
            why = next(why for name, value in claim.facts if (why := at.objection(name, value)))
            said = f"The step {step} is wrong: {why}."
        else:
            since = f", since {there.because}" if there.because else ""
            said = f"The step {step} is not the one that comes here: that is {right}{since}."
        return claim.text, there.says, said

    def _unreadable(self, claim: Claim, ends: bool) -> Wrong:
        expected = self._expected()
        assert expected is not None, "where no step is left, what cannot be read takes no step's place"
        verb = "The text breaks off at" if ends and not self.answered else "No step can be read in"
        said = f"{verb} {_quoted(claim.text)}; what comes here is {_quoted(expected.says)}."
        return claim.text, expected.says, said


def _is_right(claim: Claim, step: RightStep) -> bool:
    return step.is_about(claim) and not any(step.objection(name, value) for name, value in claim.facts)


def _quoted(text: str) -> str:
    """In quotes, shortened."""
    return f"'{text if len(text) <= _LONGEST else text[:_LONGEST].rstrip() + '…'}'"

"""The `claims:` part of a recipe: what is drawn afresh how often, and which claims are tested.

claims:
  problem_draws: 2
  mentors: 2                         per problem draw
  students: 5                        per mentor, of every student in the recipe
  processes: 2
  compare:
    - [finetune-cot, mentor-kd]      the second one is better than the first
    - {a: finetune-cot, b: part, margin: -2, claim: 40 % of the teacher's data suffice}
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from limbeck.settings import Settings
from limbeck.statistics import ENOUGH


class Claim(Settings):
    """B is better than A, by more than a margin. `[a, b]` is short for it."""

    a: str = Field(description='a student of the recipe, or "mentor NAME"')
    b: str = Field(description="another one")
    margin: float = Field(
        0.0, ge=-100, le=100, description="points that B − A must exceed; below 0: B may lose that much"
    )
    claim: str | None = Field(None, min_length=1, description="in words, for the table")

    @model_validator(mode="before")
    @classmethod
    def _in_short(cls, value: object) -> object:
        return dict(zip("ab", value, strict=True)) if isinstance(value, list) and len(value) == 2 else value

    @model_validator(mode="after")
    def _two(self) -> Self:
        if self.a == self.b:
            raise ValueError("a and b are the same; name two")
        return self

    @property
    def words(self) -> str:
        if self.claim is not None:
            return self.claim
        by = "" if self.margin == 0 else f" by more than {self.margin:g} points"
        return f"{self.b} is better than {self.a}{by}"

    @property
    def compared(self) -> str:
        """The same, where nothing is claimed."""
        return self.claim or f"{self.b} against {self.a}"


class ClaimsSettings(Settings):
    """How often problems, mentors and students are drawn, and what is claimed."""

    problem_draws: int = Field(1, ge=1, le=1000, description="draws of train, dev and test problems")
    mentors: int = Field(1, ge=1, le=1000, description="mentors per problem draw")
    students: int = Field(3, ge=1, le=1000, description="seeds of every student, per mentor")
    processes: int = Field(1, ge=1, description="runs side by side, one thread each")
    exploratory: bool = Field(False, description="compare and claim nothing: no verdicts, p as it comes")
    compare: tuple[Claim, ...] = Field(min_length=1, description="claims: [a, b] says that b is better")

    @model_validator(mode="after")
    def _can_decide(self) -> Self:
        """The highest level that is drawn several times must bring two degrees of freedom."""
        draws, mentors, students = self.problem_draws, self.mentors, self.students
        within = mentors if mentors > 1 else students
        if draws - 1 < ENOUGH and draws * (within - 1) < ENOUGH:
            raise ValueError(
                f"problem_draws {draws}, mentors {mentors} and students {students} decide nothing; take 3 "
                "problem draws, or 3 mentors (2 with 2 problem draws), or 1 mentor and 3 students"
            )
        return self

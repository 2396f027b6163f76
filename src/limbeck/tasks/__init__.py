"""What to learn: the built-in tasks, your own data, answers, prompts."""

from __future__ import annotations

from limbeck.tasks.generated import GENERATED, Generated

TASKS: dict[str, Generated] = GENERATED
"""The built-in tasks by name, as `limbeck tasks` lists them."""

__all__ = ["TASKS", "Generated"]

"""What the report reads in a run next to its exams: run.json, recipe.yaml, histories."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from limbeck import sealed
from limbeck.errors import DataError, DiskError
from limbeck.records import first_problem, numbered_lines

AGAIN = "`limbeck run` with this folder as --out writes it again"

M = TypeVar("M", bound=BaseModel)


class RunFacts(BaseModel):
    """What is read of run.json."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    recipe: str
    task: str = ""
    kind: str = ""
    seed: int | None = None
    versions: dict[str, str] = {}
    git: str | None = None
    created: str = ""


def run_facts(run: Path) -> RunFacts:
    """The facts of run.json.

    Raises:
        DataError: the file is not what `limbeck run` writes.
    """
    read_json(run / "run.json")  # says so if it is not JSON at all
    return validated(run / "run.json", _sealed(run), RunFacts)


def _sealed(run: Path) -> dict[str, Any]:
    """run.json.

    Raises:
        DataError: it is damaged.
    """
    found = sealed.read(run / "run.json")
    if found is None and (run / "run.json").is_file():
        raise DataError(run / "run.json", f"damaged; {AGAIN}")
    return found or {}


def read_recipe(run: Path | None) -> dict[str, Any]:
    """The run's resolved recipe as plain values; {} when it has none.

    Raises:
        DataError: the file is damaged or not a YAML mapping: who is in the recipe would be a guess.
    """
    if run is None:
        return {}
    path, written = run / "recipe.yaml", _sealed(run).get("sha256", {}).get("recipe.yaml")
    if written and not path.is_file():
        raise DataError(path, f"missing; {AGAIN}")
    if not path.is_file():
        return {}
    if written and sealed.sums(run, ["recipe.yaml"])["recipe.yaml"] != written:
        raise DataError(path, f"changed since it was written; {AGAIN}")
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DiskError(path, error) from error
    except (ValueError, yaml.YAMLError):
        recipe = None
    if not isinstance(recipe, dict):
        raise DataError(path, f"not a recipe; {AGAIN}")
    return recipe


def recipe_part(recipe: Mapping[str, Any], part: str) -> dict[str, dict[str, Any]]:
    """The `students:` or `mentors:` of a recipe, in its order."""
    own = recipe.get(part)
    if not isinstance(own, dict):
        return {}
    return {str(name): one if isinstance(one, dict) else {} for name, one in own.items()}


def history(learner: Path) -> list[dict[str, Any]]:
    """Rows of a learner's history.jsonl; none when it never trained.

    A torn last line (training was killed) is left out.

    Raises:
        DataError: the file is damaged, or a line is not a JSON object with a step.
    """
    path = learner / "history.jsonl"
    if not path.is_file():
        return []
    sealed.check(path)
    rows: list[dict[str, Any]] = []
    for number, line in numbered_lines(path, torn_tail=True):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            raise DataError(f"{path}:{number}", "not a row with a step; train this learner again")
        rows.append(row)
    return rows


def read_json(path: Path) -> Any:
    """The JSON document in a file.

    Raises:
        DataError, DiskError: damaged or not JSON; not readable.
    """
    sealed.check(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DiskError(path, error) from error
    except ValueError:
        raise DataError(path, "not valid JSON; run the stage that wrote it again") from None


def validated(path: Path, value: Any, kind: type[M]) -> M:
    """The value as `kind`; `path` is where it came from."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise DataError(path, f"{first_problem(error)}; run the stage that wrote it again") from None

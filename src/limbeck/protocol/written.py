"""The protocol: a file that is written before the first run and not changed afterwards.

It holds the whole recipe with every default, the seeds of every run, and hashes of what the recipe names:
data, rationales, demonstrations, model folders, and methods outside the package. A recipe that says something
else, or a changed file, is refused: what is claimed, and how often is looked, must not depend on what was
seen.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from limbeck.errors import DataError, InputError, RecipeError
from limbeck.files import whole_file
from limbeck.methods import Chosen
from limbeck.old_runs import flat
from limbeck.protocol.settings import ClaimsSettings
from limbeck.recipe import GivenTeacherSettings, LocalTeacherSettings, Recipe
from limbeck.records import write_json
from limbeck.run_folder import fingerprint, git_revision, path_fingerprint, read_json, versions
from limbeck.stages.knowledge import knowledge_fingerprints
from limbeck.stages.model_inputs import model_inputs
from limbeck.stages.preflight import check_kind, check_models, check_reading
from limbeck.stages.rationales import file_inputs
from limbeck.tasks.others import load_other, other_fingerprint
from limbeck.tasks.readers import locate
from limbeck.tasks.settings import own_name
from limbeck.tasks.sources import load_splits, source_fingerprint

FILE = "protocol.json"


@dataclass(frozen=True, slots=True)
class Planned:
    """One run of a protocol: one mentor of one problem draw, with all its students. Numbers count from 0."""

    name: str
    draw: int
    mentor: int
    recipe: Recipe


@dataclass(frozen=True, slots=True)
class Protocol:
    """What is tested, and by which runs."""

    folder: Path
    recipe: Recipe
    claims: ClaimsSettings
    runs: list[Planned]
    digest: str
    teachers: Mapping[str, str | None]
    """Student -> the mentor that it learns from."""
    labelled: frozenset[str]
    """Students that learn from a mentor's soft labels."""
    ranked: frozenset[str] = frozenset()
    """Students whose passages the run's reranker puts in order."""

    def run_folder(self, one: Planned) -> Path:
        return self.folder / "runs" / one.name

    def recipe_file(self, one: Planned) -> Path:
        return self.folder / "recipes" / f"{one.name}.yaml"


def open_protocol(folder: Path, recipe: Recipe, place: str, chosen: Mapping[str, Chosen]) -> Protocol:
    """Write the protocol, or check that it is the one that was written.

    Args:
        folder: of the protocol; made when missing.
        recipe: resolved, with `claims`.
        place: the recipe's path, which opens error texts.
        chosen: each student's method.

    Raises:
        RecipeError: the recipe has no claims, cannot be drawn that often, or is not the one of the protocol.
        DataError: the protocol file was changed, or the data were.
        InputError: the folder holds something else.
    """
    untrained = {f"students.{name}" for name, one in chosen.items() if not one.uses.trains}
    claims = _checked(recipe, place, untrained)
    body = {
        "recipe": _plain(recipe),
        "methods": {name: one.method.source for name, one in chosen.items() if one.method.source},
        "data": {**source_fingerprint(recipe.task), **_named(recipe), **_of_methods(chosen)},
        "code": code_fingerprint(),
    }
    if (folder / FILE).exists():
        _compare(folder / FILE, body, place)
    else:
        _refuse_other(folder)
        check_kind(recipe)
        compared = [name for name, one in chosen.items() if one.uses.answer_places]
        check_reading(recipe, [one.uses for one in chosen.values()])
        check_models(recipe, compared)  # what cannot be trained or drawn must not become a protocol
        for draw in range(claims.problem_draws):
            load_splits(recipe.task, recipe.seed + draw)
            for other in recipe.exam.also:
                load_other(other, recipe.seed + draw)
        _write(folder / FILE, body, planned(recipe, claims))
    runs = planned(recipe, claims)
    teachers = {name: one.uses.mentor for name, one in chosen.items()}
    digest = (read_json(folder / FILE) or {})["digest"]
    labelled = frozenset(name for name, one in chosen.items() if one.uses.soft_labels)
    ranked = frozenset(name for name, one in chosen.items() if one.uses.ranks)
    protocol = Protocol(folder, recipe, claims, runs, digest, teachers, labelled, ranked)
    for one in runs:
        with whole_file(protocol.recipe_file(one)) as stream:
            stream.write(one.recipe.to_yaml())
    return protocol


def _named(recipe: Recipe) -> dict[str, str]:
    """Hashes of the files and model folders that the recipe names apart from the task's, by their setting."""
    learners = recipe.learners
    models = {place: one.model for place, one in learners.items()}
    files = {f"mentors.{name}.file": one.file for name, one in recipe.mentors.items()}
    files |= {f"{place}.train.deepspeed": one.train.deepspeed for place, one in learners.items()}
    shown = {place: one.prompt.examples for place, one in learners.items()}
    if isinstance(recipe.teacher, GivenTeacherSettings):
        files["teacher.file"] = recipe.teacher.file
    else:
        shown["teacher"] = recipe.teacher.prompt.examples
    if isinstance(recipe.teacher, LocalTeacherSettings):
        models["teacher"] = recipe.teacher.model
    if recipe.knowledge:
        models["knowledge.reranker"] = recipe.knowledge.reranker.model
    found = {name: print_ for name, file in files.items() for print_ in file_inputs(file).values()}
    for other in recipe.exam.also:
        prints = other_fingerprint(other)
        found |= {f"exam.also.{own_name(other)}.{split}": print_ for split, print_ in prints.items()}
    found |= {f"knowledge.{part}": print_ for part, print_ in knowledge_fingerprints(recipe).items()}
    for place, examples in shown.items():
        path = locate(examples.file)[0] if examples and examples.file else None
        if path and path.is_file():
            found[f"{place}.prompt.examples.file"] = path_fingerprint(path)
    for place, model in models.items():
        found |= {f"{place}.{part}": print_ for part, print_ in model_inputs(model).items()}
    return found


def _of_methods(chosen: Mapping[str, Chosen]) -> dict[str, str]:
    """Hashes of the files that the methods' own settings name."""
    return {
        f"students.{name}.settings: {file}": print_
        for name, one in chosen.items()
        for file in one.uses.files
        for print_ in file_inputs(file).values()
    }


def code_fingerprint() -> str:
    """Fingerprint of Limbeck's own source: runs of one protocol are made by one code."""
    root = Path(__file__).parents[1]
    files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.py"))
    return fingerprint({name: path_fingerprint(root / name) for name in files})


def check_code(path: Path) -> None:
    """Refuse to go on with a protocol whose file was written by other code.

    Raises:
        DataError: it was.
    """
    about = read_json(path) or {}
    if about.get("code") != code_fingerprint():
        made = about.get("versions", {}).get("limbeck")
        of = f" at revision {about['git']}" if about.get("git") else ""
        raise DataError(
            path,
            f"was written by other code (Limbeck {made}{of}), and a protocol is run by one; go on with that "
            "one, or name a new folder with --out",
        )


def _refuse_other(folder: Path) -> None:
    there = [one for one in folder.iterdir() if one.name[0] != "."] if folder.is_dir() else []
    if there or folder.is_file():
        raise InputError(f"{folder}: holds other files and no {FILE}; name a new folder with --out")


def planned(recipe: Recipe, claims: ClaimsSettings) -> list[Planned]:
    """The runs: every problem draw, mentor, verifier, reranker and student has a seed that no other one has.

    The recipe's own seeds come first, the following ones are counted up from them.
    """
    runs = []
    for draw in range(claims.problem_draws):
        for mentor in range(claims.mentors):
            number = draw * claims.mentors + mentor
            first = number * claims.students
            name = f"draw{draw + 1}-mentor{mentor + 1}"
            raw = recipe.model_dump(mode="json")
            raw.update(name=f"{recipe.name}-{name}", seed=recipe.seed + draw, claims=None)
            rerankers = [raw["knowledge"]["reranker"]] if raw["knowledge"] else []
            for one in [*raw["mentors"].values(), *filter(None, [raw["verifier"]]), *rerankers]:
                one["seed"] += number
            for one in raw["students"].values():
                begin = one["seeds"][0] + first
                one["seeds"] = list(range(begin, begin + claims.students))
            runs.append(Planned(name, draw, mentor, Recipe.model_validate(raw)))
    return runs


def _checked(recipe: Recipe, place: str, untrained: Collection[str] = ()) -> ClaimsSettings:
    claims = recipe.claims
    if claims is None:
        raise RecipeError(
            f"{place}: claims: this setting is needed; add what is compared (docs/statistics.md)"
        )
    if recipe.teacher.kind == "api":
        raise RecipeError(
            f"{place}: teacher.kind: a protocol pays no teacher; `limbeck collect` its rationales, then "
            "give them as teacher: {kind: given, file: ...}"
        )
    if recipe.task.source == "files" and claims.problem_draws > 1:
        raise RecipeError(
            f"{place}: claims.problem_draws: problems from files are one draw; set it to 1, or take a "
            "built-in task"
        )
    endpoints = {"exam": recipe.exam.endpoint}
    endpoints |= {f"mentors.{name}": one.endpoint for name, one in recipe.mentors.items()}
    for where, endpoint in endpoints.items():
        if endpoint is not None:
            raise RecipeError(
                f"{place}: {where}.endpoint: a protocol's runs train models that no server has yet, and wait "
                "for none; leave it out, and each run writes its answers itself"
            )
    for where, one in recipe.learners.items():
        if one.train.precision == "auto" and where not in untrained:
            raise RecipeError(
                f"{place}: {where}.train.precision: each run would settle auto by itself; write fp32 or bf16"
            )
    most = claims.problem_draws * claims.mentors * claims.students
    seeds = [recipe.seed, *(one.seed for one in recipe.mentors.values())]
    seeds += [recipe.verifier.seed] if recipe.verifier else []
    seeds += [recipe.knowledge.reranker.seed] if recipe.knowledge else []
    seeds += [one.seeds[0] for one in recipe.students.values()]
    if max(seeds) + most >= 2**32:
        raise RecipeError(f"{place}: seed: {max(seeds)} leaves no room for {most} seeds after it; lower it")
    return claims


def _plain(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON, without how many processes work on it: that decides no result."""
    raw: dict[str, Any] = recipe.model_dump(mode="json")
    del raw["claims"]["processes"]
    return raw


def _write(path: Path, body: Mapping[str, Any], runs: list[Planned]) -> None:
    listed = [
        {
            "name": one.name,
            "problems": one.recipe.seed,
            "mentors": {name: mentor.seed for name, mentor in one.recipe.mentors.items()},
            "students": {name: list(student.seeds) for name, student in one.recipe.students.items()},
        }
        for one in runs
    ]
    about = {
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "git": git_revision(),
        **body,
        "runs": listed,
    }
    write_json(path, {**about, "digest": fingerprint(about)})
    path.chmod(0o444)


def _compare(path: Path, body: Mapping[str, Any], place: str) -> None:
    """Refuse a protocol that was changed, and a recipe, method or data that are not the protocol's."""
    written = read_json(path) or {}
    about = {key: value for key, value in written.items() if key != "digest"}
    if written.get("digest") != fingerprint(about):
        raise DataError(
            path, "was changed after it was written; put it back, or name a new folder with --out"
        )
    try:
        before = flat(_plain(Recipe.model_validate(about["recipe"])))
    except ValidationError:
        raise DataError(path, "was written by another version of Limbeck; go on with that one") from None
    now = flat(body["recipe"])
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            raise RecipeError(
                f"{place}: {key}: is {now.get(key)!r}, but {path} was written with {before.get(key)!r}; a "
                "protocol does not change any more: put the recipe back, or name a new folder with --out"
            )
    check_code(path)
    for part, what in (("methods", "the file of method"), ("data", "the data")):
        for key in sorted(about[part].keys() | body[part].keys()):
            if about[part].get(key) != body[part].get(key):
                raise DataError(
                    path, f"{what} {key} changed since; put it back, or name a new folder with --out"
                )

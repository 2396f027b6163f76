"""Methods by name: the published ones, one file each in this folder, and any that you bring.

`method: mentor-kd` is the file `mentor_kd.py` here; `method: ./mine.py` is a file of yours, named
from the recipe's folder; any other name is an entry point of the group `limbeck.methods` in an
installed package. Each of them holds one `METHOD`. Importing this loads no torch.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from limbeck.errors import RecipeError
from limbeck.recipe import Recipe, StudentSettings, complaint
from limbeck.uses import Uses as Uses

if TYPE_CHECKING:
    from limbeck.stages import Context, Learner

HERE = Path(__file__).parent


Story = Callable[["Context", "Learner", Any], None]
"""story(context, student, settings): every stage from problems to exam."""

Shared = Callable[["Context", Sequence[Any]], None]
"""shared(context, settings of all its students): stages that come before the first student is trained."""


@dataclass(frozen=True, slots=True)
class Method:
    """One way to distil.

    Attributes:
        summary, paper: what `limbeck methods` lists.
        settings: the class of its own settings; the recipe's `settings:` are checked by it.
        story: the stages in the paper's order.
        uses: what it needs, from its settings.
        check: refuses settings that cannot go together with the recipe: (recipe, settings, place).
        plan: the settings that decide what the student becomes; all of them by default.
        shared: makes what its students have in common, so that `--until` ends there before any training;
            nothing by default, since a story makes what is not there.
        source: fingerprint of its file when it is not part of Limbeck, so that its students are
            trained again when the file changes.
    """

    summary: str
    paper: str
    settings: type[BaseModel]
    story: Story
    uses: Callable[[Any], Uses] = field(default=lambda settings: Uses())
    check: Callable[[Recipe, Any, str], None] = field(default=lambda recipe, settings, place: None)
    plan: Callable[[Any], BaseModel] = field(default=lambda settings: settings)
    shared: Shared = field(default=lambda context, settings: None)
    source: str = ""


def built_in() -> list[str]:
    """Names of the methods in this folder."""
    return sorted(path.stem.replace("_", "-") for path in HERE.glob("*.py") if path.stem != "__init__")


def installed() -> list[str]:
    """Names of the methods that other installed packages bring."""
    return sorted({entry.name for entry in entry_points(group="limbeck.methods")})


def find_method(name: str, place: str = "method", folder: Path = Path()) -> Method:
    """A method by its name or file.

    Args:
        name: as in a recipe.
        place: begins the error's text.
        folder: what the path of a file is relative to, the recipe's folder.

    Raises:
        RecipeError: there is none, or its module cannot be loaded or holds no `METHOD`.
    """
    if name.endswith(".py"):
        return _from_file(folder / Path(name).expanduser(), place)
    if name in built_in():
        module = importlib.import_module(f"limbeck.methods.{name.replace('-', '_')}")
        return _method_of(module, f"{place}: {name}")
    for entry in entry_points(group="limbeck.methods", name=name):
        try:
            found = entry.load()
        except (Exception, SystemExit) as error:  # whatever the package raises, the user must see which one
            raise RecipeError(f"{place}: {name}: {entry.value} cannot be loaded ({error})") from error
        where = f"{place}: {entry.value}"
        method = _checked(found, where) if isinstance(found, Method) else _method_of(found, where)
        return replace(method, source=_source_of(method))
    known = ", ".join([*built_in(), *installed()])
    raise RecipeError(f"{place}: no method {name!r}; choose one of {known}, or name a .py file")


def _from_file(path: Path, place: str) -> Method:
    if not path.is_file():
        raise RecipeError(f"{place}: {path}: no such file; paths are relative to the recipe")
    label = f"limbeck_method_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(label, path)
    assert spec and spec.loader  # the name ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[label] = module  # dataclasses and pydantic look their module up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever the file raises, the user must see which file
        raise RecipeError(f"{place}: {path}: {type(error).__name__}: {error}") from error
    method = _method_of(module, f"{place}: {path}")
    return replace(method, source=hashlib.sha256(path.read_bytes()).hexdigest())


def _method_of(module: Any, place: str) -> Method:
    method = getattr(module, "METHOD", None)
    if not isinstance(method, Method):
        raise RecipeError(f"{place}: holds no METHOD; write METHOD = Method(...) at its end")
    return _checked(method, place)


def _checked(method: Method, place: str) -> Method:
    """Refuse what would fail when the student's turn comes."""
    if not (isinstance(method.settings, type) and issubclass(method.settings, BaseModel)):
        raise RecipeError(
            f"{place}: METHOD.settings is not a class of settings; derive one from limbeck.recipe.Settings"
        )
    for name in ("story", "uses", "check", "plan", "shared"):
        if not callable(getattr(method, name)):
            raise RecipeError(f"{place}: METHOD.{name} is not a function; give it one")
    return method


def _source_of(method: Method) -> str:
    """Fingerprint of the file that a method of an installed package is written in."""
    file = sys.modules[method.story.__module__].__file__
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""


@dataclass(frozen=True)
class Chosen:
    """A student's method with its checked settings."""

    method: Method
    settings: Any

    @property
    def uses(self) -> Uses:
        return self.method.uses(self.settings)

    @property
    def plan(self) -> dict[str, Any]:
        """What of it decides what the student becomes."""
        return {"settings": self.method.plan(self.settings)}


def choose(student: StudentSettings, place: str, folder: Path) -> Chosen:
    """The method of a student, with its settings checked.

    Raises:
        RecipeError: naming the student and the setting.
    """
    method = find_method(student.method, f"{place}.method", folder)
    try:
        settings = method.settings.model_validate(student.settings)
    except ValidationError as error:
        raise RecipeError(f"{place}.settings.{complaint(error, method.settings)}") from None
    if not isinstance(method.uses(settings), Uses):
        raise RecipeError(f"{place}.method: METHOD.uses gives no Uses; return Uses(...)")
    return Chosen(method, settings)


def resolve_methods(recipe: Recipe, place: str, folder: Path = Path()) -> tuple[Recipe, dict[str, Chosen]]:
    """The recipe with every method's settings at their values, and each student's method.

    Wrong ones are refused before any work begins.

    Args:
        place: the recipe's file, for errors.
        folder: the recipe's folder.

    Raises:
        RecipeError: naming the student and the setting.
    """
    students, chosen = {}, {}
    for name, student in recipe.students.items():
        where = f"{place}: students.{name}"
        found = chosen[name] = choose(student, where, folder)
        wanted = found.uses.mentor
        if wanted is not None and wanted not in recipe.mentors:
            known = ", ".join(recipe.mentors)
            fix = f"name one of {known}" if known else "add it under mentors:"
            raise RecipeError(f"{where}.settings.mentor: the recipe has no mentor {wanted!r}; {fix}")
        found.method.check(recipe, found.settings, where)
        own = student.method
        if own.endswith(".py"):  # the resolved recipe is in another folder
            own = str((folder / Path(own).expanduser()).resolve())
        settings = found.settings.model_dump(mode="json")
        students[name] = student.model_copy(update={"method": own, "settings": settings})
    return recipe.model_copy(update={"students": students}), chosen

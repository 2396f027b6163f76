"""Who is trained, and what came of it.

A `Learner` is a student or a mentor of the recipe before training, a `Trained` one after. `Untrained` is
its base as it comes. All are values: a method hands them from one verb to the next (`train`, `write`,
`examine`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from limbeck import sealed
from limbeck.errors import InputError
from limbeck.exam import LOG
from limbeck.lm import Prompt
from limbeck.lm.chunks import Chunks
from limbeck.recipe import LearnerSettings
from limbeck.records import Problem
from limbeck.run_folder import Plan, Stage, fingerprint, path_fingerprint, plan
from limbeck.stages.asking import asking_learner
from limbeck.stages.context import Context
from limbeck.stages.model_inputs import model_inputs
from limbeck.stages.models import Opened, Question, Weights
from limbeck.stages.others import Other
from limbeck.tasks.asking import Asking

if TYPE_CHECKING:
    from limbeck.lm.load import Loaded, Unloaded


ROLES = ("student", "mentor", "verifier")
"""Of who is trained."""

MARK = 12
"""Characters of a training's fingerprint that a server may know its model by."""


@dataclass(frozen=True, slots=True)
class Learner:
    """Who is trained.

    Attributes:
        role: student, mentor or verifier, as in `exam_facts`.
        name: in the recipe.
        own: the plan of its method: settings beyond those of every learner that decide the result.
        source: fingerprint of its method's file, when that is not part of Limbeck.
        round: of a method that trains in rounds; None elsewhere.
        after_round: the round that the weights come from, where they are examined as the student itself.
    """

    role: str
    name: str
    settings: LearnerSettings
    seed: int
    asking: Asking
    method: str = ""
    own: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    round: int | None = None
    after_round: int | None = None

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise InputError(f"role: there is no role {self.role!r}; choose one of {', '.join(ROLES)}")

    @property
    def place(self) -> str:
        """Its folder in the run."""
        if self.role == "verifier":
            return f"verifier/{self.name}"
        folder = f"{self.role}s/{self.name}" + ("" if self.role == "mentor" else f"/seed{self.seed}")
        return folder if self.round is None else f"{folder}/round{self.round}"

    @property
    def shown(self) -> str:
        """What progress lines and tables call it."""
        if self.role == "verifier":
            return f"verifier {self.name}"
        name = self.name if self.role != "mentor" or self.name == "mentor" else f"mentor {self.name}"
        return name if self.role == "mentor" else f"{name} (seed {self.seed})"

    @property
    def facts(self) -> dict[str, Any]:
        """Who it is, in a report."""
        return {
            "role": self.role,
            "name": self.name,
            "seed": self.seed,
            "round": self.round,
            "after_round": self.after_round if self.round is None else self.round,
            "model": self.settings.model,
            "dtype": self.settings.dtype,
            "method": self.method,
        }

    def question(self, problem: Problem) -> Question:
        """The plain question of a problem, as this learner is asked it."""
        return Question(problem.id, problem.id, self.asking.pieces(problem))

    def plan(self, version: int, **more: Any) -> Plan:
        """All settings that decide what training makes of it, without defaults.

        Args:
            version: of the code that trains.
            more: further settings.
        """
        names = LearnerSettings.model_fields.keys() - {"device", "prompt"}
        shared = LearnerSettings.model_construct(**{name: getattr(self.settings, name) for name in names})
        if file := shared.train.deepspeed:  # its content decides, not where it is
            print_ = path_fingerprint(Path(file).expanduser())
            shared = shared.model_copy(
                update={"train": shared.train.model_copy(update={"deepspeed": print_})}
            )
        asking = self.asking.plan()  # the format is among the settings
        more |= {"asking": asking} if asking else {}
        return plan(shared, version=version, source=self.source, seed=self.seed, **self.own, **more)


def student(
    context: Context, name: str, seed: int, own: Mapping[str, Any], *, source: str = "", reasons: bool = True
) -> Learner:
    """A student of the recipe with one of its seeds.

    Args:
        own: its method's plan.
        source: see `Learner`.
        reasons: whether its method teaches it to reason; see `asking_learner`.
    """
    settings = context.recipe.students[name]
    method = Path(settings.method).stem if settings.method.endswith(".py") else settings.method
    return Learner(
        "student",
        name,
        settings,
        seed,
        asking_learner(context, settings, f"students.{name}", reasons=reasons),
        method,
        {"method": method, **own},
        source,
    )


def mentor_learner(context: Context, name: str) -> Learner:
    """A mentor of the recipe."""
    settings = context.recipe.mentors[name]
    fields = type(settings).model_fields
    own = {
        chosen: getattr(settings, chosen)
        for chosen in ("rationales", "choose", "ngram", "teacher_share")
        if getattr(settings, chosen) != fields[chosen].default
    }
    how = asking_learner(context, settings, f"mentors.{name}")
    return Learner("mentor", name, settings, settings.seed, how, "finetune-cot", own)


SUMMED = ("steps", "epochs", "tokens", "train_seconds")
"""What several trainings of one model take together."""


@dataclass(frozen=True, slots=True)
class Trained:
    """A model that was trained: its stage, who learned, and what the training counted (`training.json`).

    It can write and be examined (see `models.Model`), and another training can start from it; `start` is the
    one that this training started from.
    """

    stage: Stage
    learner: Learner
    counted: Mapping[str, Any]
    start: Trained | None = None
    shared: ClassVar[bool] = True
    timed: ClassVar[bool] = True
    begins: ClassVar[bool] = True

    @property
    def path(self) -> Path:
        """The model folder: weights or an adapter, tokenizer, and limbeck.json."""
        return self.stage.folder / "model"

    @property
    def name(self) -> str:
        return self.learner.shown

    @property
    def folder(self) -> str:
        return self.stage.name

    @property
    def identity(self) -> Mapping[str, Any]:
        """Nothing beyond its fingerprint: how it is asked was decided when it was trained."""
        return {}

    @property
    def inputs(self) -> Mapping[str, str]:
        return {self.learner.role: self.stage.fingerprint}

    @property
    def facts(self) -> dict[str, Any]:
        counted = dict(self.counted)
        for how in ("share_prompts", "held_parameters", "skipped_steps"):  # it was trained, not what
            counted.pop(how, None)
        if self.start is not None and self.learner.round is None:
            counted |= self._of_all_rounds()
        return {**self.learner.facts, **counted, "weights": self._sum_of_weights()}

    def _sum_of_weights(self) -> str | None:
        """What the stage says that its weights hold; None: an earlier version said nothing."""
        sums = (sealed.read(self.stage.folder / sealed.STAGE) or {}).get("sha256", {})
        own = {
            name: one
            for name, one in sums.items()
            if name.startswith("model/") and name.endswith(sealed.LARGE)
        }
        return fingerprint(own)[:MARK] if own else None

    def _of_all_rounds(self) -> dict[str, Any]:
        """What all trainings behind the weights took, and each by itself.

        A round learns what the rounds before it learned, and more; so the largest number of examples is that
        of different ones.
        """
        trainings: list[Trained] = [self]
        while (earlier := trainings[0].start) is not None:
            trainings.insert(0, earlier)
        own = [one.learner.round for one in trainings[:-1]] + [self.learner.after_round]
        rounds = [
            {"round": number, **{name: one.counted.get(name) for name in ("training_examples", *SUMMED)}}
            for number, one in zip(own, trainings, strict=True)
        ]
        examples = _if_known(max, [one["training_examples"] for one in rounds])
        sums = {name: _if_known(sum, [one[name] for one in rounds]) for name in SUMMED}
        return {"training_examples": examples, **sums, "by_round": rounds}

    @property
    def reads(self) -> tuple[Path, ...]:
        return (self.path,)

    def question(self, problem: Problem) -> Question:
        return self.learner.question(problem)

    def questions(self, problem: Problem) -> Sequence[Question]:
        return (self.question(problem),)

    def asked_of(self, other: Other) -> Self:
        return self  # its prompts are those of its training, whatever the question

    @property
    def weights(self) -> Weights:
        return Weights(
            str(self.path.resolve()),
            self.stage.name,
            self.stage.fingerprint[:MARK],
            self.learner.role,
            self.learner.name,
            partial(Asking.of_folder, self.path),
        )

    def load(self) -> Loaded:
        """The model as a user would load it: from its folder, ready to write."""
        from limbeck.lm.load import load

        settings = self.learner.settings
        return load(str(self.path), dtype=settings.dtype, device=settings.device, name=self.name)

    def open(self, folder: Path, batch_size: int, max_tokens: int) -> Opened:
        return _opened(self.load(), Asking.of_folder(self.path), folder, batch_size, max_tokens)


def _if_known(total: Callable[[list[Any]], Any], values: list[Any]) -> Any:
    """A total; None where one of the values is not known. Sums of seconds are rounded as each is."""
    return None if None in values else round(total(values), 4)


@dataclass(frozen=True, slots=True)
class Untrained:
    """A learner's base as it comes, asked as the learner would be. It can write and be examined."""

    learner: Learner
    shared: ClassVar[bool] = True
    timed: ClassVar[bool] = True
    begins: ClassVar[bool] = True

    @property
    def name(self) -> str:
        return self.learner.shown

    @property
    def folder(self) -> str:
        return self.learner.place

    @property
    def identity(self) -> Mapping[str, Any]:
        settings = self.learner.settings
        about: dict[str, Any] = {"model": settings.model, "format": settings.format}
        about |= {"dtype": settings.dtype} if settings.dtype != "float32" else {}
        about |= {"layers": settings.layers} if settings.layers is not None else {}
        about |= {"four_bits": settings.four_bits} if settings.four_bits else {}
        asking = self.learner.asking.plan()
        return about | ({"asking": asking} if asking else {})

    @property
    def inputs(self) -> Mapping[str, str]:
        return model_inputs(self.learner.settings.model)

    @property
    def facts(self) -> dict[str, Any]:
        from limbeck.lm.load import parameters_of

        settings = self.learner.settings
        parameters = parameters_of(settings.model, None, settings.layers)
        return {**self.learner.facts, "parameters": parameters or None, "steps": 0}

    @property
    def reads(self) -> tuple[Path, ...]:
        return ()

    @property
    def weights(self) -> Weights | None:
        one = self.learner
        if one.settings.layers is not None:
            return None  # no folder has them: a server would answer with all layers
        source = one.settings.model
        return Weights(source, one.place, "untrained", one.role, one.name, lambda: one.asking)

    def question(self, problem: Problem) -> Question:
        return self.learner.question(problem)

    def questions(self, problem: Problem) -> Sequence[Question]:
        return (self.question(problem),)

    def asked_of(self, other: Other) -> Self:
        return self  # its prompts are the learner's, whatever the question

    def open(self, folder: Path, batch_size: int, max_tokens: int) -> Opened:
        from limbeck.lm.load import load

        settings = self.learner.settings
        loaded = load(
            settings.model,
            dtype=settings.dtype,
            device=settings.device,
            layers=settings.layers,
            name=self.name,
            compressed=settings.four_bits,
        )
        return _opened(loaded, self.learner.asking, folder, batch_size, max_tokens)


def _opened(loaded: Loaded, asking: Asking, folder: Path, batch_size: int, max_tokens: int) -> Opened:
    from limbeck.lm.local import LocalModel

    prompt = prompted(loaded, asking, max_tokens)
    return Opened(Chunks(LocalModel(loaded, max_rows=batch_size), folder / LOG), prompt)


def prompted(model: Loaded | Unloaded, asking: Asking, max_tokens: int) -> Callable[[Question], Prompt]:
    """What puts a question's pieces together for a model, with room for so many new tokens."""
    from limbeck.lm.local import prompt_room

    room = prompt_room(model, max_tokens)

    def prompt(question: Question) -> Prompt:
        text = asking.text(model.tokenizer, question.pieces, room)
        own, opened = (question.id, question.problem_id), asking.opened(text)
        begun = asking.direct(text) if question.direct else ""
        return Prompt(*own, text, about=question.about, opened=opened, begun=begun, pieces=question.pieces)

    return prompt

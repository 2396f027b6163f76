"""The recipe: one YAML file that says everything a run depends on.

Settings are frozen and closed: an unknown key is refused with the nearest known
one. `student:` holds what all `students:` share; each of those only says what
differs. A recipe without `students:` trains the one of `student:`. The same goes
for `mentor:` and `mentors:`, which only Mentor-KD needs. `base: other.yaml` lays a
recipe over another one, so that a variation only says what differs; `students: {NAME: null}`
there leaves one of the other's students out, as `--set students.NAME=null` does.
"""

from __future__ import annotations

import dataclasses
import difflib
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    JsonValue,
    ValidationError,
    field_validator,
    model_validator,
)

from limbeck.errors import RecipeError
from limbeck.exam_facts import DIRECT
from limbeck.knowledge.settings import (
    CorpusSettings,
    EncoderSettings,
    EngineSettings,
    IndexSettings,
    RankingSettings,
)
from limbeck.lm import Sampling
from limbeck.lm.cost import ApiSettings
from limbeck.lm.endpoints import EndpointSettings, MentorEndpointSettings
from limbeck.lm.settings import Layers, LoraSettings, Reasoning, Stops
from limbeck.protocol.settings import ClaimsSettings
from limbeck.safe_yaml import parse, read_yaml
from limbeck.settings import Name
from limbeck.settings import Settings as Settings
from limbeck.tasks.asking import RATIONALE
from limbeck.tasks.explaining import PLACES as EXPLAINING
from limbeck.tasks.settings import OtherTask, PromptSettings, TaskSettings, own_name
from limbeck.tasks.templates import Template
from limbeck.training.settings import RANKING, TrainSettings, refuse_unused_in_ranking

S = TypeVar("S", bound=Settings)


def _as_folder(name: str) -> str:
    """What file systems of macOS and Windows take a folder's name for."""
    return unicodedata.normalize("NFC", name).casefold()


def _are_different_folders(named: Mapping[str, Any]) -> Mapping[str, Any]:
    seen: dict[str, str] = {}
    for name in named:
        other = seen.setdefault(_as_folder(name), name)
        if other != name:
            raise ValueError(f"{other} and {name} would be one folder on macOS and Windows; rename one")
    return named


Seed = Annotated[int, Field(ge=0, lt=2**32)]

Device = Literal["auto", "cpu", "cuda", "mps"]

OfThinking = Annotated[
    Reasoning,
    Field(
        description="of a teacher that thinks first (a field of its own, or <think> tags): what becomes the "
        "rationale, its thinking, its answer's text, or one after the other"
    ),
]
"""The default is both: nothing that was paid for is left out, and a kept rationale leads to its answer
whether the model argues in its thinking, in its answer, or in both."""


class OfflineTeacherSettings(Settings):
    """The built-in teacher of the built-in tasks: no network, wrong at a set rate."""

    kind: Literal["offline"] = "offline"
    wrong_answer: float = Field(0.1, ge=0, le=1, description="share of rationales with a wrong final answer")
    wrong_step: float = Field(0.05, ge=0, le=1, description="share with a wrong step but the right answer")
    openings: bool = Field(
        False,
        description="begin each sampled rationale with one of four sentences or with none, so that more of "
        "them differ",
    )
    prompt: PromptSettings = PromptSettings()
    exam: bool = Field(True, description="examine the teacher on the test split too")


class ApiTeacherSettings(ApiSettings):
    """Any OpenAI-compatible endpoint."""

    kind: Literal["api"] = "api"
    prompt: PromptSettings = PromptSettings()
    reasoning: OfThinking = "both"
    exam: bool = Field(True, description="examine the teacher on the test split too (costs money)")

    @model_validator(mode="after")
    def _one_system_prompt(self) -> Self:
        if self.system is not None and self.prompt.system is not None:
            raise ValueError("system and prompt.system are both given; keep one of them")
        return self


class LocalTeacherSettings(Settings):
    """A Hugging Face model run here."""

    kind: Literal["local"] = "local"
    model: str = Field(description="name or folder of the model, a GGUF file, or a base (`limbeck bases`)")
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    device: Device = Field(
        "auto", description='"auto", "cpu", "cuda" (CUDA_VISIBLE_DEVICES says which) or "mps"'
    )
    prompt: PromptSettings = PromptSettings()
    stop: Stops = Field((), description="texts at which it stops; they are not part of what it wrote")
    reasoning: OfThinking = "both"
    exam: bool = Field(True, description="examine the teacher on the test split too")


class GivenTeacherSettings(Settings):
    """No teacher is asked: the rationales are in the data (`task.columns.rationale`) or in a file."""

    kind: Literal["given"] = "given"
    file: str | None = Field(
        None, min_length=1, description="rationales as JSONL, such as `limbeck import` writes"
    )
    source: str = Field("given", description="who wrote them, for the report")
    reasoning: OfThinking = "both"


TeacherSettings = Annotated[
    OfflineTeacherSettings | ApiTeacherSettings | LocalTeacherSettings | GivenTeacherSettings,
    Field(discriminator="kind"),
]


class AgreementSettings(Settings):
    """When the samples of a problem agree on an answer."""

    share: float = Field(
        0.5, gt=0, le=1, description="of a problem's samples that must state the same answer, at least"
    )
    least: int = Field(2, ge=2, description="samples that must state it, at least")
    abstentions: Literal["count", "leave-out"] = Field(
        "count", description="samples without a readable answer: part of the whole, or left out of the share"
    )


Keep = Literal["correct", "unless-wrong", "all", "agreement"]
"""`agreement` looks at no gold answer; `agreement:` next to one of the others is a second condition."""

GoldRule = Literal["correct", "unless-wrong", "all"]

Choose = Literal["first", "random", "diverse", "similar"]
"""Which of a problem's kept rationales are trained on; see `selection.py`."""


def rules_of(keep: Keep, agreement: AgreementSettings | None) -> tuple[GoldRule, AgreementSettings | None]:
    """What is compared with gold, and what the samples must agree on (None: nothing)."""
    if keep == "agreement":
        return "all", agreement or AgreementSettings()
    return keep, None if keep == "all" else agreement


class ExplainSettings(Settings):
    """How the teacher is shown a gold answer, to explain it."""

    template: str | None = Field(
        None, description="text with the places {question} {options} {gold} {instruction}; null: ours"
    )
    instruction: str | None = Field(None, description="what the teacher shall write; null: ours")

    @field_validator("template")
    @classmethod
    def _is_read(cls, template: str | None) -> str | None:
        if template is not None and "gold" not in Template.read(template, EXPLAINING).names:
            raise ValueError("has no place {gold}; write where the gold answer goes")
        return template


def _yes_or_no(value: object) -> object:
    """`explain_gold: true` takes everything at its default."""
    return {True: {}, False: None}[value] if isinstance(value, bool) else value


class RationaleSettings(Settings):
    """How many rationales are collected per problem, and which are kept."""

    per_problem: int = Field(
        1, ge=1, le=1000, description="rationales asked of the teacher per training problem"
    )
    temperature: float = Field(0.7, ge=0, description="0 is greedy and allows one per problem")
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: int = Field(512, ge=1, le=1_000_000, description="new tokens per rationale")
    explain_gold: Annotated[ExplainSettings | None, BeforeValidator(_yes_or_no)] = Field(
        None, description="true: the teacher is shown the gold answer and explains it; or how it is asked"
    )
    keep: Keep = Field(
        "correct",
        description='"unless-wrong" keeps rationales that name no answer explicitly; "agreement" needs no '
        "gold answers: the samples of a problem decide",
    )
    agreement: AgreementSettings | None = Field(
        None, description="the samples of a problem must agree too; null: only where keep is agreement"
    )
    drop_false_equations: bool = Field(
        False, description="drop rationales with an equation that does not hold"
    )

    @model_validator(mode="after")
    def _greedy_is_one(self) -> Self:
        if self.temperature == 0 and self.per_problem > 1:
            raise ValueError(
                "per_problem above 1 needs a temperature above 0; greedy completions are all equal"
            )
        return self

    @model_validator(mode="after")
    def _all_is_all(self) -> Self:
        _refuse_all_that_agree(self.keep, self.agreement)
        return self


def _refuse_all_that_agree(keep: Keep, agreement: AgreementSettings | None) -> None:
    if keep == "all" and agreement is not None:
        raise ValueError("agreement: keep: all drops nothing for its answer; set keep: agreement")


class ExamSettings(Settings):
    """How students and teacher are examined on the test split."""

    max_tokens: int = Field(256, ge=1, le=1_000_000, description="new tokens per answer")
    votes: int = Field(1, ge=1, le=1000, description="1 is greedy; more is the majority of sampled answers")
    temperature: float = Field(0.7, gt=0, description="of the votes; not used by greedy exams")
    top_p: float = Field(
        1.0, gt=0, le=1, description="of the votes: the likeliest tokens with this probability"
    )
    top_k: int = Field(0, ge=0, description="of the votes: so many of the likeliest tokens; 0: all")
    batch_size: int = Field(64, ge=1, description="completions generated side by side")
    stop: Stops = Field((), description="texts at which students and mentors stop; not part of the answer")
    direct: bool = Field(
        False, description="examine students and mentors once more without reasoning: the answer comes first"
    )
    endpoint: EndpointSettings | None = Field(
        None, description="a server that has students and mentors and writes their answers (docs/scale.md)"
    )
    also: tuple[OtherTask, ...] = Field(
        (), description="other tasks whose test split everybody is examined on too (docs/data.md)"
    )

    def sampling(self, seed: int) -> Sampling:
        """How answers are written: greedily, or drawn for a vote."""
        sampling = Sampling(max_tokens=self.max_tokens, seed=seed, stop=self.stop)
        if self.votes == 1:
            return sampling
        drawn = {name: getattr(self, name) for name in ("temperature", "top_p", "top_k")}
        return dataclasses.replace(sampling, n=self.votes, **drawn)

    @model_validator(mode="after")
    def _models_have_names(self) -> Self:
        if self.endpoint is not None and not self.endpoint.distinguishes:
            raise ValueError(
                "endpoint.model: is one name for all models; write {path}, {place} or {mark} into it"
            )
        return self

    @model_validator(mode="after")
    def _can_be_begun(self) -> Self:
        if self.direct and self.endpoint is not None and self.endpoint.endpoint == "chat":
            raise ValueError(
                "direct: an answer cannot be begun in a chat; set endpoint.endpoint to completions or tokens"
            )
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        seen: set[str] = set()
        for name in map(own_name, self.also):
            if name == DIRECT:
                raise ValueError(
                    f"also: {DIRECT} is the exam without reasoning (exam.direct); give the task another name "
                    "(of a built-in task: under called)"
                )
            if _as_folder(name) in seen:
                raise ValueError(
                    f"also: two other tasks are called {name}; give one another name "
                    "(of a built-in task: under called)"
                )
            seen.add(_as_folder(name))
        return self


class LearnerSettings(Settings):
    """What students and mentors have in common: what model it is, how it trains."""

    model: str = Field(
        "tiny-causal",
        description="name, folder or GGUF file, a base such as smollm2-135m (`limbeck bases`), "
        "or tiny-causal / tiny-seq2seq from scratch",
    )
    layers: Layers | None = Field(
        None, description="keep so many of the model's layers, evenly spaced, or those in a list, from 0"
    )
    format: Literal["plain", "arrow", "chat"] = "plain"
    prompt: PromptSettings = Field(PromptSettings(), description="of training and of every exam")
    thinks: bool = Field(
        False, description="it reasons inside <think> tags; exams read the answer behind them"
    )
    lora: LoraSettings | None = Field(None, description="train a low-rank adapter instead of all weights")
    quantize: Literal["4bit"] | None = Field(
        None,
        description="4bit: the base below the adapter of `lora` is kept in 4 bits (QLoRA, by bitsandbytes), "
        "in training and in exams",
    )
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: Device = Field(
        "auto", description='"auto", "cpu", "cuda" (CUDA_VISIBLE_DEVICES says which) or "mps"'
    )
    train: TrainSettings = TrainSettings()

    @model_validator(mode="after")
    def _template_fits(self) -> Self:
        self.prompt.check_format(self.format)
        return self

    @model_validator(mode="after")
    def _a_base_in_4_bits_is_frozen_and_whole(self) -> Self:
        if self.quantize is None:
            return self
        if self.lora is None:
            raise ValueError(
                "quantize: 4bit trains an adapter, because weights in 4 bits take no updates; add lora: {}"
            )
        if self.layers is not None:
            raise ValueError("quantize: 4bit does not go with layers; leave one of them out")
        if self.train.how_shared is not None:
            raise ValueError(
                f"quantize: 4bit does not go with train.{self.train.how_shared}, which cannot cut weights in "
                "4 bits; leave one of them out"
            )
        if self.train.precision == "auto":
            raise ValueError(
                "quantize: 4bit does not go with train.precision: auto; write bf16, fp16 or fp32"
            )
        return self

    @model_validator(mode="after")
    def _deepspeed_computes_in_one_type(self) -> Self:
        if self.train.deepspeed is not None and self.dtype != "float32":
            raise ValueError(
                f"train.deepspeed was never tried with dtype: {self.dtype}; set it to float32, or take "
                "train.sharding: fsdp"
            )
        return self

    @property
    def four_bits(self) -> str | None:
        """The precision in which a base in 4 bits computes, as in its training; None: it is in none."""
        return self.train.precision if self.quantize else None


class VerifierSettings(LearnerSettings):
    """A model that reads question and rationale: a rationale that does not lead it to gold is dropped."""

    folds: int = Field(
        2,
        ge=0,
        le=100,
        description="parts that the problems are cut into; rationales of each are judged by a model that is "
        "trained on those of the others. 0: the model is asked as it comes, and trained on nothing",
    )
    template: str | None = Field(
        None, description="text with the places {question} {options} {rationale} {instruction}; null: ours"
    )
    instruction: str | None = Field(
        None, description="what to do; null: nothing for a model that is trained, else to answer"
    )
    max_tokens: int = Field(32, ge=1, le=1_000_000, description="new tokens of its answer")
    batch_size: int = Field(64, ge=1, description="rationales judged side by side")
    seed: Seed = 0

    @field_validator("template")
    @classmethod
    def _is_read(cls, template: str | None) -> str | None:
        places = ("instruction", "question", "options", RATIONALE)
        if template is not None and RATIONALE not in Template.read(template, places).names:
            raise ValueError("has no place {rationale}; write where it goes")
        return template

    @model_validator(mode="after")
    def _judges_what_it_was_not_trained_on(self) -> Self:
        if self.folds == 1:
            raise ValueError("folds: 1 would judge what it was trained on; take 2 or more, or 0")
        if self.folds == 0 and (self.lora or self.train != TrainSettings()):
            raise ValueError("folds: 0 trains nobody; leave out train and lora, or take 2 folds")
        if self.train.choose != "last":
            raise ValueError("train.choose: there are no dev examples of a verifier; leave it out")
        if self.prompt != PromptSettings():
            raise ValueError("prompt: has no place for a rationale; write template and instruction instead")
        if self.template is not None and self.format != "chat" and not self.template[-1:].isspace():
            raise ValueError("template: must end in a line break or a space, because the answer follows it")
        return self


class StudentSettings(LearnerSettings):
    """One student: by which method it learns, from which seeds."""

    method: str = Field(description="a name from `limbeck methods`")
    settings: Mapping[str, JsonValue] = Field(default_factory=dict, description="the method's own settings")
    seeds: tuple[Seed, ...] = Field((0,), min_length=1, description="one student is trained per seed")

    @model_validator(mode="after")
    def _seeds_differ(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds must differ; the same seed gives the same student")
        return self


class WritingSettings(Settings):
    """How a mentor writes rationales; the defaults are Mentor-KD's (its top_k is the library's default)."""

    per_problem: int = Field(3, ge=1, le=1000, description="rationales written per training problem")
    temperature: float = Field(0.7, gt=0)
    top_k: int = Field(50, ge=0, description="drawn from the likeliest tokens only; 0: from all")
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: int = Field(512, ge=1, le=1_000_000, description="new tokens per rationale")
    batch_size: int = Field(64, ge=1, description="rationales written side by side")
    stop: Stops = Field((), description="texts at which it stops; they are not part of the rationale")
    problems: Literal["all", "taught"] = Field(
        "all", description='"taught": only those that the mentor has seen a rationale of'
    )


class MentorSettings(LearnerSettings):
    """A mid-sized model, fine-tuned on the teacher's rationales, that writes more and gives soft labels."""

    seed: Seed = 0
    rationales: int = Field(3, ge=1, description="rationales of the teacher per problem it is trained on")
    choose: Choose = Field("first", description="which ones: first, random, diverse or similar")
    ngram: int = Field(3, ge=1, description="diverse or similar by word n-grams of this n")
    teacher_share: float = Field(
        1.0, gt=0, le=1, description="share of the training problems whose rationales it may see"
    )
    writes: WritingSettings = WritingSettings()
    keep: Keep = Field("correct", description="of what it wrote; the teacher's rule is under rationales.keep")
    agreement: AgreementSettings | None = Field(
        None, description="its samples of a problem must agree too; null: only where keep is agreement"
    )
    file: str | None = Field(
        None, min_length=1, description="rationales it wrote before, as JSONL; it is not asked to write then"
    )
    exam: bool = Field(True, description="examine the mentor on the test split too")
    endpoint: MentorEndpointSettings | None = Field(
        None, description="a server that has the mentor and writes its rationales and exam (docs/scale.md)"
    )

    @model_validator(mode="after")
    def _all_is_all(self) -> Self:
        _refuse_all_that_agree(self.keep, self.agreement)
        return self


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


class RerankerSettings(Settings):
    """A reranker that is trained in the run: from the question alone it ranks as the rationale finds."""

    model: str = Field(
        "all-minilm-l6-v2",
        description="an encoder, or a ColBERT checkpoint: a name, a folder, a base of `limbeck bases`, or "
        "tiny-encoder from scratch",
    )
    encoder: EncoderSettings = EncoderSettings()
    ranking: RankingSettings = RankingSettings()
    train: TrainSettings = RANKING
    lora: LoraSettings | None = Field(None, description="train an adapter, which is folded in at the end")
    candidates: int = Field(100, ge=1, description="passages that the question finds, and that are ranked")
    seed: int = Field(0, ge=0)
    device: Device = Field("auto", description="as for students")

    @field_validator("train", mode="before")
    @classmethod
    def _begins_as_published(cls, train: object) -> object:
        """What is not said is KARD's, and not the default of students."""
        usual = RANKING.model_dump(exclude_unset=True)
        return usual | train if isinstance(train, dict) else train

    @model_validator(mode="after")
    def _is_all_used(self) -> Self:
        refuse_unused_in_ranking(self.train)
        return self


class KnowledgeSettings(Settings):
    """What a recipe's students may read. An index of a corpus, made in the run or before it."""

    corpus: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_as_list)] = Field(
        (), description="files of the corpus (docs/knowledge.md), or built-in: that of the built-in task"
    )
    index: str | None = Field(
        None, min_length=1, description="a folder of `limbeck index`, in place of corpus"
    )
    columns: CorpusSettings = CorpusSettings()
    search: IndexSettings = IndexSettings()
    engine: EngineSettings = EngineSettings()
    reranker: RerankerSettings = RerankerSettings()

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if bool(self.corpus) == (self.index is not None):
            raise ValueError("names both corpus and index, or none of them; name one")
        own, usual = (
            (self.columns, self.search, self.engine),
            (CorpusSettings(), IndexSettings(), EngineSettings()),
        )
        if self.index is not None and own != usual:
            raise ValueError("index: was made with settings of its own; leave out columns, search and engine")
        return self


class Recipe(Settings):
    """Everything a run depends on."""

    name: Name = Field(description="names the run folder; letters, digits, . _ -")
    seed: Seed = Field(0, description="of problems, teacher and selection (students have their own)")
    task: TaskSettings
    teacher: TeacherSettings = OfflineTeacherSettings()
    rationales: RationaleSettings = RationaleSettings()
    knowledge: KnowledgeSettings | None = Field(None, description="what students with `method: kard` read")
    verifier: VerifierSettings | None = Field(None, description="what judges the teacher's rationales")
    mentors: Annotated[Mapping[Name, MentorSettings], AfterValidator(_are_different_folders)] = Field(
        default_factory=dict
    )
    students: Annotated[Mapping[Name, StudentSettings], AfterValidator(_are_different_folders)] = Field(
        default_factory=dict, description="none: only the mentors are trained"
    )
    exam: ExamSettings = ExamSettings()
    claims: ClaimsSettings | None = Field(
        None, description="what `limbeck claims` tests; `run` leaves it alone"
    )

    @model_validator(mode="after")
    def _other_exams_have_other_names(self) -> Self:
        for name in map(own_name, self.exam.also):
            if _as_folder(name) == _as_folder(self.task.name):
                raise ValueError(
                    f"exam.also: {name} is the name of the task itself; give the other one another name "
                    "(of a built-in task: under called)"
                )
        return self

    @model_validator(mode="after")
    def _claims_are_about_students(self) -> Self:
        for claim in self.claims.compare if self.claims else ():
            for name in (claim.a, claim.b):
                mentor = name.removeprefix("mentor ")
                alone = self.claims and self.claims.problem_draws < 3 and self.claims.mentors == 1
                examined = mentor in self.mentors and self.mentors[mentor].exam
                if name in self.students:
                    continue
                if name == mentor or not examined:
                    known = ", ".join([*self.students, *(f"mentor {m}" for m in self.mentors)])
                    raise ValueError(f"claims.compare: nobody is examined as {name!r}; choose one of {known}")
                if alone:
                    raise ValueError(
                        f"claims.compare: {name}: one mentor decides nothing; take claims.mentors: 3"
                    )
        return self

    @model_validator(mode="after")
    def _rationales_can_be_judged(self) -> Self:
        """Without gold answers something else must decide; one sample agrees with nobody."""
        asked = None if self.teacher.kind == "given" else self.rationales.per_problem
        rules: list[tuple[str, str, RationaleSettings | MentorSettings, int | None]]
        rules = [("rationales", "per_problem", self.rationales, asked)]
        rules += [
            (f"mentors.{name}", "writes.per_problem", one, None if one.file else one.writes.per_problem)
            for name, one in self.mentors.items()
        ]
        for place, count, one, samples in rules:
            gold, agreement = rules_of(one.keep, one.agreement)
            if (
                self.task.source == "files"
                and self.task.gold == "optional"
                and gold != "all"
                and not agreement
            ):
                raise ValueError(
                    f"{place}.keep: {one.keep} compares with gold answers, and by task.gold: optional some "
                    "are missing; set it to agreement, or add agreement: {} next to it"
                )
            if agreement and samples is not None and samples < agreement.least:
                raise ValueError(
                    f"{place}.{count}: {samples} of a problem cannot agree; "
                    f"take {agreement.least} or more ({place}.agreement.least)"
                )
        return self

    @model_validator(mode="after")
    def _gold_can_be_explained(self) -> Self:
        if self.rationales.explain_gold is None:
            return self
        if self.teacher.kind == "given":
            raise ValueError("rationales.explain_gold: asks a teacher, and there is none; leave it out")
        if self.task.source == "files" and self.task.gold == "optional":
            raise ValueError("rationales.explain_gold: by task.gold: optional some gold answers are missing")
        return self

    @model_validator(mode="after")
    def _teacher_has_examples(self) -> Self:
        asked = None if self.teacher.kind == "given" else self.teacher.prompt.examples
        given = self.task.source == "files" and self.task.columns.rationale is not None
        if asked is not None and asked.file is None and not given:
            raise ValueError(
                "teacher.prompt.examples: the training data hold no rationales to show; "
                "name a file, or task.columns.rationale"
            )
        return self

    @property
    def learners(self) -> dict[str, LearnerSettings]:
        """Who is trained, by place: `verifier`, `mentors.NAME` and `students.NAME`."""
        verifier: dict[str, LearnerSettings] = {"verifier": self.verifier} if self.verifier else {}
        mentors: dict[str, LearnerSettings] = {f"mentors.{name}": one for name, one in self.mentors.items()}
        return verifier | mentors | {f"students.{name}": one for name, one in self.students.items()}

    def to_yaml(self) -> str:
        """The resolved recipe; loading it again gives an equal one."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


ROLES = ("students", "mentors")
"""Groups of named learners; null leaves one out."""


def load_recipe(path: Path | str, overrides: Sequence[str] = (), *, trains: bool = True) -> Recipe:
    """Read, override and check a recipe.

    Args:
        path: the YAML file.
        overrides: `a.b=value` texts; the value is read as YAML.
        trains: False where nobody is trained; students without a method are left out then.

    Raises:
        RecipeError: not YAML, an unknown key, a wrong type or value.
        DiskError: the file cannot be read.
    """
    raw = _with_base(Path(path))
    before = raw.get("students")
    for override in overrides:
        _override(raw, override)
    _refuse_nobody(path, before, raw.get("students"))
    return check_recipe(raw, str(path), trains=trains)


def _with_base(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A recipe laid over the one its `base:` names, a path from its own folder."""
    raw = read_yaml(path)
    base = raw.pop("base", None)
    if base is None:
        return raw
    if not isinstance(base, str) or not base:
        raise RecipeError(f"{path}: base: must be the path of a recipe, such as base: demo.yaml")
    below, chain = path.parent / Path(base).expanduser(), (*above, path.resolve())
    if not below.is_file():
        raise RecipeError(f"{path}: base: {base}: no such recipe file from this one's folder; check the path")
    if below.resolve() in chain:
        raise RecipeError(f"{path}: base: {base} builds on this recipe itself; break the circle")
    whole = _with_base(below, chain)
    merged = _laid_over(whole, raw)
    _refuse_nobody(path, whole.get("students"), merged.get("students"))
    return merged


def _laid_over(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """The two merged, without the students and mentors of `base` that `over` sets to null."""
    merged = _merged(base, over)
    for role in ROLES:
        below, above = base.get(role), over.get(role)
        if isinstance(below, dict) and isinstance(above, dict):
            for name in [name for name, one in above.items() if one is None]:
                _leave_out(merged, role, name, below)
    return merged


def _refuse_nobody(path: Path | str, before: object, after: object) -> None:
    """Refuse that all students are left out: one with the shared settings would take their place."""
    if before and after == {}:
        raise RecipeError(f"{path}: students: nobody is left; keep one")


def _leave_out(raw: dict[str, Any], role: str, name: str, known: Collection[str]) -> None:
    """Remove one of the `students` or `mentors`.

    Raises:
        RecipeError: it is none of those that are known.
    """
    if name not in known:
        there = ", ".join(map(str, known)) or "none"
        raise RecipeError(
            f"{role}.{name}: null leaves one out, and of that name there is none; there are {there}; "
            f"write {{}} for a new one"
        )
    raw[role] = {other: one for other, one in raw[role].items() if other != name}


def _override(raw: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    keys = _keys(raw, path)
    if not equals or not all(keys):
        raise RecipeError(f"--set {override}: write it as --set part.setting=value")
    try:
        value = parse(text) if text else None
    except yaml.YAMLError as error:
        problem = error.problem if isinstance(error, yaml.MarkedYAMLError) else _short(error)
        raise RecipeError(f"--set {override}: the value is not YAML ({problem}); quote it") from None
    place = raw
    for key in keys[:-1]:
        inner = place.get(key)
        if inner is None:
            inner = place[key] = {}
        if not isinstance(inner, dict):
            raise RecipeError(f"--set {override}: {key} is a value, not a group of settings")
        place = inner
    if value is None and len(keys) == 2 and keys[0] in ROLES:
        _leave_out(raw, keys[0], keys[1], place)
    else:
        place[keys[-1]] = value


def _keys(raw: Mapping[str, Any], path: str) -> list[str]:
    """The keys of `a.b.c`; the name of a student or mentor that is there may have dots itself."""
    role, _, rest = path.partition(".")
    there = raw.get(role) if role in ROLES else None
    named = [name for name in there or () if "." in str(name) and f"{rest}.".startswith(f"{name}.")]
    if not named:
        return path.split(".")
    name = max(named, key=len)
    more = rest[len(name) + 1 :]
    return [role, name, *(more.split(".") if more else ())]


def _short(error: Exception) -> str:
    """The first line of an error's text, or what kind it is."""
    return str(error).partition("\n")[0] or type(error).__name__


def check_recipe(raw: Mapping[str, Any], place: str, *, trains: bool = True) -> Recipe:
    """Merge `student:` into every student, `mentor:` into every mentor, and validate the whole.

    Args:
        place: opens error texts.
        trains: as for `load_recipe`.
    """
    settings = dict(raw)
    if settings.get("mentors") == {}:  # all are left out
        settings.pop("mentor", None)
    if settings.get("mentor") or settings.get("mentors"):
        settings["mentors"] = _each(settings, "mentor", "mentor", place)
    for absent in ("mentor", "mentors"):
        if settings.get(absent, 0) is None:
            del settings[absent]
    method = settings["student"].get("method") if isinstance(settings.get("student"), dict) else None
    if settings.get("student") or settings.get("students") or not settings.get("mentors"):
        settings["students"] = _each(settings, "student", Path(str(method or "student")).stem, place)
    else:  # a recipe that trains mentors alone
        settings = {key: value for key, value in settings.items() if key not in ("student", "students")}
    if not trains:
        students = settings.get("students", {})
        settings["students"] = {name: student for name, student in students.items() if "method" in student}
    try:
        return Recipe.model_validate(settings)
    except ValidationError as error:
        raise RecipeError(f"{place}: {complaint(error, Recipe)}") from None


def _each(settings: dict[str, Any], role: str, only: str, place: str) -> dict[str, Any]:
    """`mentors:` or `students:` with what they share laid under each; one named `only` when none is named."""
    shared = settings.pop(role, None) or {}
    if not isinstance(shared, dict):
        raise RecipeError(f"{place}: {role}: must be a group of settings, such as `model: tiny-causal`")
    own = settings.get(f"{role}s") or {only: {}}
    if not isinstance(own, dict) or not all(isinstance(value, dict | None) for value in own.values()):
        raise RecipeError(f"{place}: {role}s: must map each {role}'s name to a group of its settings")
    for name in own:
        if not isinstance(name, str):
            raise RecipeError(f"{place}: {role}s: the name {name!r} is not text in YAML; put it in quotes")
    return {str(name): _merged(shared, value or {}) for name, value in own.items()}


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid over `base`, mappings merged, everything else replaced."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = _merged(old, value) if both else value  # type: ignore[arg-type]
    return merged


def checked(model: type[S], raw: Mapping[str, Any], place: str, overrides: Sequence[str] = ()) -> S:
    """Settings that are no part of a recipe.

    Args:
        raw: their values.
        place: opens error texts.
        overrides: `a.b=value` texts, laid over `raw`.

    Raises:
        RecipeError: an unknown key, a wrong type or value.
    """
    values = dict(raw)
    for override in overrides:
        _override(values, override)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise RecipeError(f"{place}{complaint(error, model)}") from None


def complaint(error: ValidationError, model: type[BaseModel]) -> str:
    """The first complaint as `part.setting: what is wrong; how to fix it`."""
    first = error.errors()[0]
    tags = {"offline", "api", "local", "given", "generated", "files"}
    where = ".".join(
        " ".join(str(part).split())[:60] for part in first["loc"] if part not in tags and "[" not in str(part)
    )
    if first["type"] == "extra_forbidden":
        key = str(first["loc"][-1])
        near = difflib.get_close_matches(key, sorted(_known_keys(model) - {key}), n=1)
        return f"{where}: unknown setting; " + (f"did you mean {near[0]}?" if near else "remove it")
    if first["type"] == "missing":
        return f"{where}: this setting is needed; add it"
    given = first["input"]
    # a key may be anywhere there, most likely in the wrong place; a password in an address
    secret = where.startswith("teacher") or ".endpoint" in where or where.endswith(("milvus", "base_url"))
    shown = (
        f" (given: {repr(given)[:60]})"
        if isinstance(given, str | int | float | bool | None) and not secret
        else ""
    )
    return f"{where}: {first['msg'].removeprefix('Value error, ')}{shown}"


def _known_keys(model: type[BaseModel]) -> set[str]:
    schema = model.model_json_schema()
    parts = [schema, *schema.get("$defs", {}).values()]
    return {"student", "mentor", "base"} | {key for part in parts for key in part.get("properties", {})}

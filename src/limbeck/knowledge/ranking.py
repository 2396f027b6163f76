"""Training a reranker: from the question alone it learns to rank passages as the rationale would find them.

    loss of a step = 1 / questions of the step · Σ KL( softmax(b / τ₁) ‖ softmax(s / τ₂) )

over all micro-batches and ranks, so that how a step is cut changes nothing. The loop is that of transformers'
`Trainer`, with checkpoints that survive a kill (`training.checkpoints`). It is not the trainer of
sentence-transformers, whose data have the same candidates in every epoch and as many of them in every row,
and whose distillation loss has fixed temperatures and is multiplied by the square of one of them; nor
`training.trainer`, whose rows are prompts with completions.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer

from limbeck import ranks
from limbeck.errors import ModelError, RecipeError, TrainingError, first_line
from limbeck.knowledge.candidates import Pool, draw, fewest
from limbeck.knowledge.encoders import Encoder
from limbeck.knowledge.scoring import LateInteraction
from limbeck.knowledge.search import Search
from limbeck.knowledge.settings import RankingSettings, Temperature
from limbeck.knowledge.shards import searched
from limbeck.lm.load import quiet
from limbeck.lm.settings import LoraSettings
from limbeck.lm.tiny import seeded
from limbeck.objectives.listwise import annealed, best_cross_entropy, listwise_kl
from limbeck.progress import notice
from limbeck.training.arguments import arguments, set_steps
from limbeck.training.checkpoints import Keeper
from limbeck.training.settings import RANKING, TrainSettings, refuse_unused_in_ranking
from limbeck.training.trainer import REMEDY, Progress, release, run

VERSION = 1
"""Raised when the same settings train another reranker."""

PUBLISHED = RANKING
"""KARD's training of its reranker: 5% warm-up, then the rate falls to 0."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """What one training did.

    Attributes:
        pools: rationales that were learned from.
        left_out: rationales of which an epoch may draw fewer than two candidates.
        steps: optimiser steps.
        resumed_from: the step this call went on from; 0: it began at the beginning.
        seconds: wall time of all steps, before a resumption too.
    """

    pools: int
    left_out: int
    steps: int
    resumed_from: int
    seconds: float


def train_reranker(
    encoder: Encoder,
    search: Search,
    pools: Sequence[Pool],
    ranking: RankingSettings,
    settings: TrainSettings,
    folder: Path,
    *,
    seed: int,
    lora: LoraSettings | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] = notice,
) -> Ranked:
    """Train an encoder in place, on the device where it is; go on from the newest checkpoint if there is one.

    Called again after a kill with the same arguments, the encoder as it was loaded, it ends with the same
    weights (bit for bit on CPU). Writes `history.jsonl` and `checkpoints/` into `folder`; saving is the
    caller's. Seeds the global generators.

    Args:
        search: where the passages' texts are.
        pools: see `candidates`; each is seen once per epoch.
        settings: `batch_size` counts rationales; `batch_tokens` bounds what is encoded together.
        lora: train an adapter on the encoder, and the projection; it is folded in at the end.

    Raises:
        RecipeError: settings that mean nothing here, or other ones than the checkpoints were begun with.
        TrainingError: no rationale has two candidates; a loss or a gradient is not finite.
        DiskError: the folder cannot be written.
    """
    mark = {"encoder": encoder.fingerprint(), "lora": lora.model_dump(mode="json") if lora else None}
    with _adapted(encoder, lora, seed):
        scorer = LateInteraction(encoder, settings.batch_tokens)
        checkpointing = settings.gradient_checkpointing
        if checkpointing:
            encoder.transformer.auto_model.activation_checkpointing_enable({"use_reentrant": False})
        try:
            return train_scorer(
                scorer, mark, search, pools, ranking, settings, folder, seed=seed, progress=progress, say=say
            )
        finally:
            if checkpointing:
                encoder.transformer.auto_model.activation_checkpointing_disable()
            encoder.model.eval()


def train_scorer(
    scorer: nn.Module,
    mark: Mapping[str, Any],
    search: Search,
    pools: Sequence[Pool],
    ranking: RankingSettings,
    settings: TrainSettings,
    folder: Path,
    *,
    seed: int,
    progress: Progress | None = None,
    say: Callable[[str], None] = notice,
) -> Ranked:
    """As `train_reranker`, of any module that scores passages for questions as `LateInteraction` does.

    Args:
        mark: says which module it is, with its weights.
    """
    ranks.barrier()  # begins their group, before the library would with a timeout of minutes
    try:
        refuse_unused_in_ranking(settings)
    except ValueError as error:
        raise RecipeError(str(error)) from None
    usable = [pool for pool in pools if fewest(pool, ranking) > 1]
    if not usable:
        raise TrainingError(f"{folder}: no rationale has two candidates to rank; look at the corpus")
    turns = -(-settings.accumulate // ranks.world())
    lists = Lists(usable, search, ranking, settings, seed, turns * ranks.world())
    args = arguments(settings, folder / "checkpoints", seed, next(scorer.parameters()).device, turns)
    set_steps(args, settings, lists.steps_per_epoch, evaluate=False)
    args.num_train_epochs, args.max_steps = 1, lists.steps  # the epochs are in the order of the data
    args.train_sampling_strategy = "sequential"
    args.remove_unused_columns = args.activation_checkpointing = False
    keeper = Keeper(folder / "history.jsonl", _mark(mark, search, usable, lists), lists, progress)
    learner = Learner(scorer, ranking)
    with quiet():
        trainer = Trainer(
            model=learner, args=args, train_dataset=lists, data_collator=_only, callbacks=[keeper]
        )
        trainer.remove_callback(PrinterCallback)
        keeper.read_step = lambda: learner.read_step(trainer)
        start = run(trainer, keeper, say)
    release(trainer)
    learner.eval()
    return Ranked(len(usable), len(pools) - len(usable), lists.steps, start, keeper.seconds)


def _mark(mark: Mapping[str, Any], search: Search, pools: Sequence[Pool], lists: Lists) -> str:
    """Identifies a training, so that none goes on from another's checkpoint."""
    said = [
        VERSION,
        dict(mark),
        search.fingerprint,
        lists.ranking.model_dump(mode="json"),
        lists.settings.model_dump(mode="json"),
        lists.seed,
    ]
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    for pool in pools:
        digest.update(pool.model_dump_json().encode())
    return digest.hexdigest()


def _only(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    (one,) = items
    return one


class Lists(Dataset[dict[str, Any]]):
    """The micro-batches of all ranks and steps of a training, in order.

    Args:
        slices: into how many micro-batches a step is cut, over all ranks.
    """

    def __init__(
        self,
        pools: Sequence[Pool],
        search: Search,
        ranking: RankingSettings,
        settings: TrainSettings,
        seed: int,
        slices: int,
    ) -> None:
        self.pools = pools
        self.search = search
        self.ranking = ranking
        self.settings = settings
        self.seed = seed
        self.slices = slices
        self.batch = settings.batch_size * settings.accumulate
        self.steps = settings.steps or settings.epochs * self.steps_per_epoch

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of an epoch."""
        return math.ceil(len(self.pools) / self.batch)

    def set_epoch(self, epoch: int) -> None:
        """Nothing: an item knows its epoch."""

    def __len__(self) -> int:
        return self.steps * self.slices

    def __getitem__(self, place: int) -> dict[str, Any]:
        step, part = divmod(place, self.slices)
        epoch, first = divmod(step, self.steps_per_epoch)
        order = list(range(len(self.pools)))
        random.Random(f"{self.seed} {epoch}").shuffle(order)
        rows = [self.pools[one] for one in order[first * self.batch :][: self.batch]]
        return {
            **self._lists(rows[part :: self.slices], epoch),
            "progress": step / self.steps,
            "share": self.slices / len(rows),
        }

    def _lists(self, pools: Sequence[Pool], epoch: int) -> dict[str, Any]:
        """Questions (Q), their passages (P), the question of each (P), its score for the rationale (P)."""
        drawn = [draw(pool, self.ranking, self.seed, epoch) for pool in pools]
        found = self.search.passages([name for one in drawn for name in one.passages])
        return {
            "questions": [pool.question for pool in pools],
            "passages": [searched(passage) for passage in found],
            "owners": [row for row, one in enumerate(drawn) for _ in one.passages],
            "targets": [score for one in drawn for score in one.scores],
        }


class Learner(nn.Module):
    """A scorer with its loss, as the library's trainer wants it."""

    def __init__(self, scorer: nn.Module, ranking: RankingSettings) -> None:
        super().__init__()
        self.scorer = scorer
        self.ranking = ranking
        self._values: list[Tensor] = []

    def forward(
        self,
        questions: list[str],
        passages: list[str],
        owners: list[int],
        targets: list[float],
        progress: float,
        share: float,
    ) -> dict[str, Tensor]:
        """The loss of a micro-batch, such that the mean over those of a step is the step's loss.

        Args:
            progress: the share of the training that is done.
            share: micro-batches of the step / questions of the step.
        """
        if not questions:  # more ranks than questions in the last step of an epoch
            loss = sum((one.sum() * 0 for one in self.parameters() if one.requires_grad), torch.tensor(0.0))
        else:
            scores_P = self.scorer(questions, passages, owners)
            loss = self._loss(scores_P, owners, targets, len(questions), progress).sum() * share
        self._values.append(loss.detach())
        return {"loss": loss}

    def _loss(
        self, scores_P: Tensor, owners: list[int], targets: list[float], questions: int, progress: float
    ) -> Tensor:
        """Of each question's list, (Q,)."""
        device, count = scores_P.device, torch.tensor(owners).bincount(minlength=questions)
        mask_QN = (torch.arange(int(count.max())) < count[:, None]).to(device)
        scores_QN = scores_P.new_zeros(mask_QN.shape).masked_scatter(mask_QN, scores_P)
        given = torch.tensor(targets, dtype=torch.float32, device=device)
        targets_QN = given.new_zeros(mask_QN.shape).masked_scatter(mask_QN, given)
        tau_scores = _at(self.ranking.tau_scores, progress)
        if self.ranking.loss == "best":
            return best_cross_entropy(scores_QN, targets_QN, mask_QN, tau_scores)
        return listwise_kl(
            scores_QN, targets_QN, mask_QN, _at(self.ranking.tau_targets, progress), tau_scores
        )

    def read_step(self, trainer: Trainer) -> float:
        """The loss of the step that was computed.

        Raises:
            TrainingError: it is not finite.
        """
        mean = torch.stack(self._values).mean()
        self._values = []
        if ranks.world() > 1:
            mean = trainer.accelerator.reduce(mean, "mean")
        value = float(mean)
        if not math.isfinite(value):
            raise TrainingError(
                f"step {trainer.state.global_step + 1}: the reranker's loss is {value}; {REMEDY}"
            )
        return value


def _at(tau: Temperature, progress: float) -> float:
    """The temperature at a moment of the training."""
    first, last = tau if isinstance(tau, tuple) else (tau, tau)
    return annealed(first, last, progress)


@contextmanager
def _adapted(encoder: Encoder, lora: LoraSettings | None, seed: int) -> Iterator[None]:
    """With an adapter on the transformer, which is folded in at the end; with none, as it is."""
    if lora is None:
        yield
        return
    from peft import LoraConfig, get_peft_model  # seconds of import, needed only here

    module = encoder.transformer
    targets = lora.target_modules if lora.target_modules == "all-linear" else list(lora.target_modules)
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        task_type="FEATURE_EXTRACTION",
    )
    with seeded(seed), quiet(), warnings.catch_warnings():
        try:
            module.model = get_peft_model(module.auto_model, config)
        except ValueError as error:
            wrong = f"{encoder.name}: lora.target_modules: {first_line(error)}; name its layers"
            raise ModelError(wrong) from None
    try:
        yield
    finally:
        module.model = module.auto_model.merge_and_unload().requires_grad_(True)

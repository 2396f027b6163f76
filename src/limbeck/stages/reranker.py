"""The stage of the reranker: trained from the rationales of the training questions (KARD, arXiv 2305.18395).

reranker/          pools.jsonl, history.jsonl, training.json
reranker/model/    an ordinary folder of sentence-transformers
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck import ranks
from limbeck.knowledge.search import Search
from limbeck.progress import Track
from limbeck.recipe import RerankerSettings
from limbeck.records import write_json, write_jsonl
from limbeck.run_folder import Stage, plan
from limbeck.stages.context import Context, once
from limbeck.stages.knowledge import Knowledge
from limbeck.stages.model_inputs import model_inputs
from limbeck.stages.problems import problems
from limbeck.stages.rationales import rationales

if TYPE_CHECKING:
    from limbeck.knowledge.encoders import Encoder

VERSION = 2
"""Raised by hand when this code trains another reranker from the same recipe."""

PLACE = "reranker"


@dataclass(frozen=True)
class Reranker:
    """A trained reranker."""

    stage: Stage
    settings: RerankerSettings

    @property
    def model(self) -> Path:
        """Its folder."""
        return self.stage.folder / "model"

    def encoder(self) -> Encoder:
        """The encoder, loaded."""
        from limbeck.knowledge.encoders import load_encoder

        return load_encoder(self.model, self.settings.encoder, device=self.settings.device)

    def search(self, base: Knowledge, states: Path, questions: Sequence[str], track: Track) -> Search:
        """The base's best passages, ranked by this.

        Args:
            states: a folder for those of passages; what another encoder left there is removed.
        """
        from limbeck.knowledge.rerank import ranked_for
        from limbeck.knowledge.states import Kept

        encoder, search = self.encoder(), base.search()
        if not Kept.fits(states, encoder, search):
            shutil.rmtree(states)
        kept = Kept(states, encoder, search)
        return ranked_for(questions, search, kept, self.settings.candidates, track)


def reranker(context: Context, base: Knowledge) -> Reranker:
    """The run's reranker; all students that want one share it."""
    return once(context, PLACE, lambda: _reranker(context, base))


def _reranker(context: Context, base: Knowledge) -> Reranker:
    knowledge = context.recipe.knowledge
    assert knowledge is not None, "`check_reads` saw to it"
    settings, given = knowledge.reranker, rationales(context)

    def work(folder: Path) -> None:
        from limbeck.knowledge.candidates import pools
        from limbeck.knowledge.encoders import load_encoder
        from limbeck.knowledge.ranking import train_reranker

        asked = problems(context).train
        kept = [one for one in given.all if one.dropped is None]
        found = pools(base.search(), asked, kept, settings.ranking.top)
        if ranks.main():
            write_jsonl(folder / "pools.jsonl", found)
        texts = [one.question for one in asked] + [one.reasoning for one in kept]
        encoder = load_encoder(
            settings.model, settings.encoder, seed=settings.seed, texts=texts, device=settings.device
        )
        with context.track("training the reranker", 0) as advance:
            done = train_reranker(
                encoder,
                base.search(),
                found,
                settings.ranking,
                settings.train,
                folder,
                seed=settings.seed,
                lora=settings.lora,
                progress=lambda step, steps, loss: advance(step, f"loss {loss:.3f}", steps),
                say=context.run.say,
            )
        if ranks.main():
            encoder.save(folder / "model")
            write_json(folder / "training.json", asdict(done))
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)

    how = settings.model_copy(update={"candidates": RerankerSettings().candidates, "device": "auto"})
    inputs = {**given.inputs, **base.inputs, **model_inputs(settings.model)}
    stage = context.run.stage(PLACE, plan(how, version=VERSION), inputs, work, everyone=True)
    return Reranker(stage, settings)

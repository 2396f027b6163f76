"""Training a reranker: what it learns, from kills, in several cuts; its loss against plain sums."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from limbeck.errors import RecipeError, TrainingError
from limbeck.knowledge.bm25 import Index
from limbeck.knowledge.building import build
from limbeck.knowledge.candidates import Pool
from limbeck.knowledge.encoders import Encoder, load_encoder
from limbeck.knowledge.ranking import Learner, Lists, train_reranker
from limbeck.knowledge.scoring import LateInteraction
from limbeck.knowledge.settings import IndexSettings, RankingSettings
from limbeck.knowledge.shards import searched
from limbeck.lm.settings import LoraSettings
from limbeck.training.settings import TrainSettings
from tests.knowledge.corpora import NOUNS, documents, write
from tests.knowledge.encoders import tiny

RANKING = RankingSettings(top=6, from_rationale=2, from_question=2, tau_targets=(3.0, 1.0))
TRAIN = TrainSettings(epochs=2, learning_rate=3e-3, batch_size=4, checkpoints=3)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    folder = tmp_path_factory.mktemp("index")
    rows = [{**row, "text": row["text"][:120]} for row in documents(40)]
    build([str(write(folder / "c.jsonl", rows))], folder / "i", IndexSettings())
    return Index(folder / "i")


def some_pools(number: int = 10) -> list[Pool]:
    """The question names a thing; passages count down from a place that follows from it."""
    found = []
    for row in range(number):
        names = [f"d{(row * 3 + place) % 40}" for place in range(6)]
        found.append(
            Pool(
                problem_id=f"p{row}",
                source="t",
                index=0,
                question=f"Where is the {NOUNS[row % len(NOUNS)]}?",
                passages=tuple(names),
                scores=(12.0, 9.5, 7.0, 3.0, 2.0, 0.0),
                by_rationale=4,
                by_question=(4, 5, 0),
            )
        )
    return found


def trained(
    index: Index,
    folder: Path,
    train: TrainSettings = TRAIN,
    ranking: RankingSettings = RANKING,
    **more: object,
) -> tuple[Encoder, list[dict[str, float]]]:
    encoder = tiny()
    train_reranker(encoder, index, some_pools(), ranking, train, folder, seed=1, **more)  # type: ignore[arg-type]
    return encoder, [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def weights(encoder: Encoder) -> dict[str, torch.Tensor]:
    return {name: one.detach().clone() for name, one in encoder.model.state_dict().items()}


@pytest.mark.parametrize("loss", ["kl", "best"])
def test_it_learns_the_order(index: Index, tmp_path: Path, loss: str) -> None:
    ranking = RANKING.model_copy(update={"loss": loss, "tau_targets": 3.0})
    encoder, history = trained(index, tmp_path, TRAIN.model_copy(update={"epochs": 15}), ranking)
    losses = [row["loss"] for row in history]
    assert np.mean(losses[-9:]) < 0.6 * np.mean(losses[:3])
    before = weights(tiny())
    for part in ("embeddings.word_embeddings.weight", "linear.weight"):
        assert any(
            part in name and not torch.equal(one, before[name]) for name, one in weights(encoder).items()
        )


def test_the_loss_is_the_papers(index: Index) -> None:
    """KL of softmaxes of sums of largest products, one question and one passage at a time, in float64."""
    encoder, pools = tiny(), some_pools(3)
    lists = Lists(pools, index, RANKING, TRAIN, 1, 1)
    item = lists[0]
    found = Learner(LateInteraction(encoder, 64), RANKING)(**{**item, "progress": 0.0})["loss"].item()
    total = 0.0
    for row, question in enumerate(item["questions"]):
        places = [place for place, owner in enumerate(item["owners"]) if owner == row]
        states = encoder.question(question).astype(float)
        scores = []
        for place in places:
            passage = encoder.model.encode_document([item["passages"][place]])[0].double().numpy()
            scores.append((states @ passage.T).max(1).sum())
        p, q = (
            np.exp(x) / np.exp(x).sum()
            for x in (np.array([item["targets"][one] for one in places]) / 3.0, np.array(scores) / 0.5)
        )
        total += float((p * np.log(p / q)).sum())
    assert found == pytest.approx(total / 3, rel=1e-4)


def test_gradients_reach_questions_and_passages(index: Index) -> None:
    """The published code says that it trains both towers, and runs passages without gradients."""
    encoder = tiny()
    seen = {}
    plain = encoder.__class__.__call__

    def watched(self: Encoder, texts: list[str], task: str) -> object:
        found = plain(self, texts, task)
        found.states.retain_grad()
        seen[task] = found.states
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Encoder, "__call__", watched)
        Learner(LateInteraction(encoder, 10_000), RANKING)(
            **Lists(some_pools(), index, RANKING, TRAIN, 1, 1)[0]
        )["loss"].backward()
    assert all(states.grad.abs().sum() > 0 for states in seen.values()) and set(seen) == {"query", "document"}


def test_chunks_of_passages_change_nothing_and_pad_little(index: Index) -> None:
    encoder = tiny()
    item = Lists(some_pools(), index, RANKING, TRAIN, 1, 1)[0]
    given = [item[name] for name in ("questions", "passages", "owners")]
    small, large = (LateInteraction(encoder, tokens) for tokens in (60, 10_000))
    torch.testing.assert_close(small(*given), large(*given), rtol=1e-5, atol=1e-5)
    chunks = list(small._chunks(item["passages"]))
    assert (
        sorted(place for chunk in chunks for place in chunk) == list(range(len(item["passages"])))
        and len(chunks) > 4
    )
    assert all(
        len(chunk) * 40 <= 60 or len(encoder.passages([item["passages"][chunk[0]]])[0]) * len(chunk) <= 60
        for chunk in chunks
        if len(chunk) > 1
    )


def test_an_epoch_sees_each_rationale_once(index: Index) -> None:
    lists = Lists(some_pools(10), index, RANKING, TRAIN, 1, 2)
    assert lists.steps_per_epoch == 3 and len(lists) == 2 * 3 * 2
    epochs = [
        [question for place in range(6 * epoch, 6 * epoch + 6) for question in lists[place]["questions"]]
        for epoch in range(2)
    ]
    assert epochs[0] != epochs[1] and sorted(epochs[0]) == sorted(epochs[1])
    assert sorted(epochs[0]) == sorted(pool.question for pool in some_pools(10))
    assert [lists[place]["share"] for place in (0, 4)] == [2 / 4, 2 / 2]  # the last step has two questions


class Killed(Exception):
    pass


def kill(at: int) -> object:
    def progress(step: int, steps: int, loss: float) -> None:
        if step == at:
            raise Killed

    return progress


def test_killed_it_ends_with_the_same_weights(index: Index, tmp_path: Path) -> None:
    whole, history = trained(index, tmp_path / "whole")
    for at in (3, 5):
        with pytest.raises(Killed):
            trained(index, tmp_path / "cut", progress=kill(at))
    encoder = tiny()
    done = train_reranker(encoder, index, some_pools(), RANKING, TRAIN, tmp_path / "cut", seed=1)
    assert (done.steps, done.resumed_from, done.pools, done.left_out) == (6, 4, 10, 0)
    assert encoder.fingerprint() == whole.fingerprint() != tiny().fingerprint()
    rows = [json.loads(line) for line in (tmp_path / "cut" / "history.jsonl").read_text().splitlines()]
    assert rows == history
    with pytest.raises(RecipeError, match="begun with other settings"):
        train_reranker(tiny(2), index, some_pools(), RANKING, TRAIN, tmp_path / "cut", seed=1)


def test_how_a_step_is_cut_changes_nothing(index: Index, tmp_path: Path) -> None:
    once, _ = trained(index, tmp_path / "a")
    cut = TRAIN.model_copy(update={"batch_size": 1, "accumulate": 4, "batch_tokens": 50})
    twice, history = trained(index, tmp_path / "b", cut)
    assert all(row["loss"] > 0 for row in history)
    for name, one in weights(once).items():
        torch.testing.assert_close(weights(twice)[name], one, rtol=1e-3, atol=2e-4)


def test_an_adapter_is_folded_in(index: Index, tmp_path: Path) -> None:
    lora = LoraSettings(r=4, dropout=0, target_modules=("query", "value"))
    encoder, _ = trained(index, tmp_path, lora=lora)
    before, after = weights(tiny()), weights(encoder)
    assert before.keys() == after.keys()
    changed = {name for name, one in after.items() if not torch.equal(one, before[name])}
    assert {name.split(".")[-2] for name in changed} == {"query", "value", "linear"}
    assert all(one.requires_grad for one in encoder.model.parameters())
    encoder.save(tmp_path / "model")
    assert load_encoder(tmp_path / "model", device="cpu").fingerprint() == encoder.fingerprint()


def test_less_memory_learns_the_same(index: Index, tmp_path: Path) -> None:
    plain, _ = trained(index, tmp_path / "a")
    checkpointed, _ = trained(
        index, tmp_path / "b", TRAIN.model_copy(update={"gradient_checkpointing": True})
    )
    for name, one in weights(plain).items():
        torch.testing.assert_close(weights(checkpointed)[name], one, rtol=1e-4, atol=1e-5)


def test_what_teaches_nothing_is_refused(index: Index, tmp_path: Path) -> None:
    one = {"passages": ("d1",), "scores": (1.0,), "by_rationale": 1, "by_question": (0,)}
    alone = [pool.model_copy(update=one) for pool in some_pools()]
    with pytest.raises(TrainingError, match="no rationale has two candidates"):
        train_reranker(tiny(), index, alone, RANKING, TRAIN, tmp_path, seed=0)
    with pytest.raises(RecipeError, match=r"train\.choose: has no effect on a reranker; leave it at last"):
        settings = TRAIN.model_copy(update={"choose": "dev-loss"})
        train_reranker(tiny(), index, some_pools(), RANKING, settings, tmp_path, seed=0)


@pytest.mark.parametrize("side", ["by_question", "by_rationale"])
def test_of_one_search_only_those_count_that_it_finds(index: Index, tmp_path: Path, side: str) -> None:
    """A list of one has no loss, and would still count in the mean; one of none has nothing to score."""
    settings = {"from_rationale": 0} if side == "by_question" else {"from_question": 0}
    short: list[dict[str, object]] = (
        [{side: (4,)}, {side: ()}] if side == "by_question" else [{side: 1}, {side: 0}]
    )
    pools = some_pools(4) + [
        one.model_copy(update=short[place % 2]) for place, one in enumerate(some_pools(6))
    ]
    ranking = RANKING.model_copy(update=settings)
    train = TRAIN.model_copy(update={"batch_size": 1, "epochs": 1})
    done = train_reranker(tiny(), index, pools, ranking, train, tmp_path, seed=1)
    assert (done.pools, done.left_out, done.steps) == (4, 6, 4)


def test_a_loss_that_is_not_finite_ends_it(index: Index, tmp_path: Path) -> None:
    encoder = tiny()
    with torch.no_grad():
        encoder.model[1].linear.weight.fill_(torch.nan)
    with pytest.raises(TrainingError, match="step 1: the reranker's loss is nan"):
        train_reranker(encoder, index, some_pools(), RANKING, TRAIN, tmp_path, seed=0)


def test_texts_are_what_is_searched(index: Index) -> None:
    item = Lists(some_pools(1), index, RANKING, TRAIN, 1, 1)[0]
    assert item["passages"][0] in {searched(one) for one in index.passages(some_pools(1)[0].passages)}


def test_done_it_gives_the_same_weights_again(index: Index, tmp_path: Path) -> None:
    """A stage that was killed between training and saving."""
    once, history = trained(index, tmp_path)
    again, same = trained(index, tmp_path)
    assert again.fingerprint() == once.fingerprint() and same == history

"""Reranking: kept states rank as those encoded each time; whole or not at all; a search like any."""

import os
import shutil
import signal

import numpy as np
import pytest

from limbeck.errors import InputError, RunInUseError
from limbeck.knowledge import states as module
from limbeck.knowledge.bm25 import Index
from limbeck.knowledge.building import build
from limbeck.knowledge.rerank import Reranked, ranked_for
from limbeck.knowledge.residual import Codec
from limbeck.knowledge.search import Search
from limbeck.knowledge.settings import IndexSettings
from limbeck.knowledge.shards import searched
from limbeck.knowledge.states import LOCK, Fresh, Kept
from tests.knowledge.corpora import NOUNS, documents, write
from tests.knowledge.encoders import tiny

QUESTIONS = [f"Which {noun} holds a stone or a willow?" for noun in NOUNS] + ["zzz qqq"]
IDS = [f"d{place}" for place in range(50)]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    folder = tmp_path_factory.mktemp("index")
    build([str(write(folder / "c.jsonl", documents(50)))], folder / "i", IndexSettings())
    return Index(folder / "i")


@pytest.fixture(scope="module")
def encoder():
    return tiny()


def test_kept_states_rank_as_the_library_does_with_everything_encoded(index, encoder, tmp_path) -> None:
    kept = Kept(tmp_path, encoder, index)
    assert kept.fill(IDS) == 50 == len(kept)
    found = Reranked(index, Kept(tmp_path, encoder, index), 20).search(QUESTIONS, 20)
    assert found == Reranked(index, kept, 20).search(QUESTIONS, 20)
    fresh = Reranked(index, Fresh(encoder, index), 20).search(QUESTIONS, 20)
    for question, hits, others in zip(QUESTIONS, found, fresh, strict=True):
        names = [hit.passage for hit in index.search([question], 20)[0]]
        assert sorted(names) == sorted(hit.passage for hit in hits)
        if not names:
            assert hits == others == []
            continue
        texts = [searched(one) for one in index.passages(names)]
        theirs = encoder.model.similarity(
            encoder.model.encode_query([question]), encoder.model.encode_document(texts)
        )[0].tolist()
        expected = dict(zip(names, theirs, strict=True))
        assert [hit.score for hit in hits] == pytest.approx([expected[hit.passage] for hit in hits], abs=5e-3)
        assert ranking(hits, 5e-3) == ranking(others, 5e-3)
    assert found != index.search(QUESTIONS, 20)


def ranking(hits, width: float) -> list[set[str]]:
    """Passages in order; those whose scores half precision may exchange are one."""
    groups: list[set[str]] = []
    for place, hit in enumerate(hits):
        if place and hits[place - 1].score - hit.score < width:
            groups[-1].add(hit.passage)
        else:
            groups.append({hit.passage})
    return groups


def test_it_is_a_search(index, encoder) -> None:
    """What is found depends on the query alone; k cuts; scores are those of the search; ids give texts."""
    reranked: Search = Reranked(index, Fresh(encoder, index), 10)
    found = reranked.search(QUESTIONS, 10)
    assert reranked.search(QUESTIONS[3:4], 4)[0] == found[3][:4]
    assert [len(hits) for hits in found] == [10] * 11 + [0]
    for hits in found:
        scores = [hit.score for hit in hits]
        assert scores == sorted(scores, reverse=True)
    names = [hit.passage for hit in found[0]]
    again = reranked.scores(QUESTIONS[:1], [names[::-1]])[0][::-1]
    assert again == pytest.approx([hit.score for hit in found[0]], abs=1e-3)
    assert reranked.passages(names) == index.passages(names)
    with pytest.raises(ValueError, match="k is below 1"):
        reranked.search(QUESTIONS, 0)


def test_fingerprints_name_search_encoder_and_candidates(index, encoder) -> None:
    kinds = [(encoder, 10), (encoder, 11), (tiny(1), 10)]
    prints = {Reranked(index, Fresh(one, index), number).fingerprint for one, number in kinds}
    assert len(prints | {index.fingerprint}) == 4
    assert Reranked(index, Fresh(tiny(), index), 10).fingerprint in prints


def test_equal_scores_keep_the_order_of_the_search(index, encoder) -> None:
    """Passages of the same text; BM25 has the earlier one first."""
    texts = {}
    for name in IDS:
        texts.setdefault(searched(index.passages([name])[0]), []).append(name)
    same = next(names for names in texts.values() if len(names) > 1)
    hits = Reranked(index, Fresh(encoder, index), 50).search([" ".join(NOUNS)], 50)[0]
    order = [hit.passage for hit in hits if hit.passage in same]
    assert order == same


def test_passages_that_are_not_kept_are_encoded_and_not_kept(index, encoder, tmp_path) -> None:
    kept = Kept(tmp_path, encoder, index)
    kept.fill(IDS[:30])
    mixed, fresh = kept.of(["d40", "d3", "d40", "d7"]), Fresh(encoder, index).of(["d40", "d3", "d40", "d7"])
    assert mixed.lengths.tolist() == fresh.lengths.tolist() and len(kept) == 30
    np.testing.assert_allclose(mixed.states.astype(float), fresh.states.astype(float), atol=2e-3)
    assert kept.of([]).states.shape == (0, 16)
    assert kept.fill(IDS) == 20 and kept.fill(IDS) == 0 and len(kept) == 50


def test_for_some_questions_each_passage_is_encoded_once(index, tmp_path, monkeypatch) -> None:
    encoder, states = tiny(2), tmp_path / "states"
    encoded, plain = [], encoder.passages
    monkeypatch.setattr(encoder, "passages", lambda texts: encoded.extend(texts) or plain(texts))
    found = ranked_for(QUESTIONS, index, Kept(states, encoder, index), 10).search(QUESTIONS, 10)
    hits = index.search(QUESTIONS, 10)
    assert len(encoded) == len({hit.passage for own in hits for hit in own})
    fresh = Reranked(index, Fresh(encoder, index), 10).search(QUESTIONS, 10)
    assert [[hit.passage for hit in own] for own in found] == [[hit.passage for hit in own] for own in fresh]
    encoded.clear()
    ranked_for(QUESTIONS, index, Kept(states, encoder, index), 10)
    assert not encoded, "its own states are used again"


def fill_and_be_killed(kept: Kept) -> None:
    plain, calls = module.sealed.write, []

    def write(path, value):
        calls.append(path)
        if len(calls) == 4:  # states.json, two parts, and in the middle of the third
            os.kill(os.getpid(), signal.SIGKILL)
        plain(path, value)

    module.sealed.write = write
    kept.fill(IDS)


def test_killed_it_goes_on(index, encoder, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 8)
    Kept(tmp_path / "whole", encoder, index).fill(IDS)
    cut = Kept(tmp_path / "cut", encoder, index)
    child = os.fork()
    if not child:
        try:
            fill_and_be_killed(cut)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    kept = Kept(tmp_path / "cut", encoder, index)
    assert len(kept) == 16
    assert kept.fill(IDS) == 34
    for part in sorted((tmp_path / "whole" / "parts").iterdir()):
        for file in part.iterdir():
            assert (tmp_path / "cut" / "parts" / part.name / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("damage", ["encoder", "index", "part", "state", "sealed"])
def test_states_of_something_else_are_refused(index, encoder, tmp_path, damage) -> None:
    folder, other = tmp_path / "states", index
    Kept(folder, encoder, index).fill(IDS[:3])
    if damage == "encoder":
        encoder, wrong = tiny(1), "holds states of another encoder"
    elif damage == "index":
        build([str(write(tmp_path / "c.jsonl", documents(9)))], tmp_path / "i", IndexSettings(k1=1.2))
        other, wrong = Index(tmp_path / "i"), "holds states of another index"
    elif damage == "part":
        path = folder / "parts" / "00000" / "states.npy"
        path.write_bytes(path.read_bytes()[:-2])
        wrong = r"states\.npy is missing or has another size; remove this folder"
    elif damage == "state":
        (folder / "states.json").unlink()
        wrong = "states.json is missing or damaged"
    else:
        path = folder / "parts" / "00000" / "part.json"
        path.write_text(path.read_text().replace("1", "2"))
        wrong = "part.json is missing or damaged"
    with pytest.raises(InputError, match=wrong):
        Kept(folder, encoder, other)
    assert Kept.fits(folder, encoder, other) == (damage in ("part", "sealed"))


def test_a_folder_of_other_files_is_left_alone_and_one_that_was_begun_goes_on(
    index, encoder, tmp_path
) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "letter.txt").write_text("mine")
    with pytest.raises(InputError, match="documents: holds other files; name a new or an empty folder"):
        Kept(folder, encoder, index)
    assert [one.name for one in folder.iterdir()] == ["letter.txt"]
    begun = tmp_path / "begun"
    begun.mkdir()
    assert len(Kept(begun, encoder, index)) == 0
    (begun / LOCK).touch()  # all that is there after a kill before states.json
    assert Kept(begun, encoder, index).fill(IDS[:3]) == 3


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_removed_part_is_encoded_again_and_the_others_stay(
    index, encoder, tmp_path, monkeypatch, place
) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 10)
    Kept(tmp_path, encoder, index).fill(IDS[:30])
    shutil.rmtree(tmp_path / "parts" / f"{place:05d}")
    kept = Kept(tmp_path, encoder, index)
    before = kept.of(IDS).states
    assert len(kept) == 20 and kept.fill(IDS[:30]) == 10 and kept.fill(IDS) == 20
    again = Kept(tmp_path, encoder, index)
    assert len(again) == len(kept) == 50 and again.fill(IDS) == 0
    for one in (kept, again):
        np.testing.assert_allclose(one.of(IDS).states, before, atol=2e-3)


def test_two_processes_do_not_keep_at_once(index, encoder, tmp_path) -> None:
    filelock = pytest.importorskip("filelock")
    kept = Kept(tmp_path, encoder, index)
    with filelock.FileLock(tmp_path / LOCK), pytest.raises(RunInUseError, match="another process"):
        kept.fill(IDS)


def test_compressed_states_are_smaller_and_near(index, encoder, tmp_path, monkeypatch) -> None:
    """The more bits, the nearer; a later `fill` has the same codec; other bits are another folder."""
    monkeypatch.setattr(module, "AT_ONCE", 20)
    exact, errors, sizes = Fresh(encoder, index).of(IDS).states.astype(float), [], []
    for bits in (1, 2, 4, 8):
        folder = tmp_path / str(bits)
        assert Kept(folder, encoder, index, bits=bits).fill(IDS[:25]) == 25
        kept = Kept(folder, encoder, index, bits=bits)
        assert Kept(folder, encoder, index, bits=None).bits == bits
        before = kept.of(IDS).states
        assert kept.fill(IDS) == 25 and len(kept) == 50
        assert (Kept(folder, encoder, index, bits=bits).of(IDS).states == before).all(), "kept or not"
        errors.append(float(np.abs(before.astype(float) - exact).mean()))
        codes = [np.load(part / "states.npy", mmap_mode="r") for part in sorted((folder / "parts").iterdir())]
        assert {(one.dtype.name, one.shape[1]) for one in codes} == {("uint8", 2 + 16 * bits // 8)}
        sizes.append(sum(one.nbytes for one in codes))
    assert errors == sorted(errors, reverse=True) and errors[3] < 0.01 < errors[0] and sizes[1] < sizes[3] / 2
    near = Reranked(index, Kept(tmp_path / "8", encoder, index, bits=8), 20).search(QUESTIONS, 20)
    fresh = Reranked(index, Fresh(encoder, index), 20).search(QUESTIONS, 20)
    assert [ranking(one, 0.1)[:1] for one in near] == [ranking(one, 0.1)[:1] for one in fresh]
    with pytest.raises(InputError, match="holds states of another compression"):
        Kept(tmp_path / "8", encoder, index)
    (tmp_path / "8/codec/values.npy").unlink()
    with pytest.raises(InputError, match=r"values\.npy is missing .* remove the whole folder of states"):
        Kept(tmp_path / "8", encoder, index, bits=8)


def test_a_codec_gives_the_middle_of_each_bucket() -> None:
    """One centroid, at the mean; what is left goes into four buckets of equal numbers."""
    states = np.linspace(-1, 1, 9).astype(np.float16)[:, None]  # too few for a second centroid
    codec = Codec.of(states, 2)
    assert codec.centroids.tolist() == [[0.0]] and codec.cutoffs == pytest.approx([-0.5, 0, 0.5])
    assert codec.values == pytest.approx([-0.75, -0.25, 0.25, 0.75])
    assert codec.decode(codec.encode(states))[:, 0].tolist() == [
        *[-0.75] * 3,
        *[-0.25] * 2,
        *[0.25] * 2,
        *[0.75] * 2,
    ]

"""A paid teacher from the recipe's side: estimate, consent, cap, and nothing paid twice."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .served import served

Limbeck = Callable[..., object]


class Endpoint:
    """Answers every chat completion with the same rationale and counts the requests."""

    page = False  # instead of an answer

    def __init__(self) -> None:
        self.asked: list[dict[str, object]] = []

    def __call__(self, body: dict[str, object]) -> str | bytes:
        self.asked.append(body)
        if self.page:
            return b"<html>Bad gateway</html>"
        return f"Step {len(self.asked)} by step. The answer is yes."


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[list[dict[str, object]]]:
    pytest.importorskip("openai", reason="the extra `api` is not installed")
    endpoint = Endpoint()
    with served(endpoint) as address:
        (tmp_path / "r.yaml").write_text(
            "name: paid\ntask: {name: coin-flip, train: 6, dev: 1, test: 2}\n"
            f"teacher: {{kind: api, base_url: '{address}', model: big,\n"
            "  exam: false, prices: {usd_per_million_input: 1, usd_per_million_output: 10}}\n"
            "rationales: {per_problem: 2, max_tokens: 50}\n"
            "student: {method: finetune-cot, model: tiny-causal-xs, train: {epochs: 1}}\n"
        )
        yield endpoint.asked


def test_nothing_is_sent_without_consent(
    limbeck: Limbeck, tmp_path: Path, asked: list[dict[str, object]]
) -> None:
    answer = limbeck("collect", tmp_path / "r.yaml", "--out", tmp_path / "run")
    assert answer.status == 2 and "agree with --yes" in answer.err
    assert "12 requests" in answer.err and "at most $" in answer.err, "the estimate comes first"
    assert not asked


def test_paid_once_and_never_again(limbeck: Limbeck, tmp_path: Path, asked: list[dict[str, object]]) -> None:
    recipe, out = tmp_path / "r.yaml", tmp_path / "run"
    assert limbeck("collect", recipe, "--yes", "--out", out).status == 0
    assert len(asked) == 12
    assert limbeck("collect", recipe, "--out", out).status == 0
    more = limbeck("collect", recipe, "--out", out, "--max-cost", "1", "--set", "rationales.per_problem=3")
    assert more.status == 0 and len(asked) == 18, "only the third rationale of each problem is new"
    (out / "collected" / "completions.jsonl").unlink()
    again = limbeck("run", recipe, "--out", out, "--set", "rationales.per_problem=3")
    assert again.status == 0, again.err
    assert len(asked) == 18, "a lost stage is made again from memory, without consent because it is free"
    dearer = limbeck("collect", recipe, "--out", out, "--set", "teacher.prices.usd_per_million_output=20")
    assert dearer.status == 0 and len(asked) == 18


def test_the_cap_stops_and_keeps_what_was_paid(
    limbeck: Limbeck, tmp_path: Path, asked: list[dict[str, object]]
) -> None:
    recipe, out = tmp_path / "r.yaml", tmp_path / "run"
    stopped = limbeck("collect", recipe, "--max-cost", "0.002", "--out", out)
    assert stopped.status == 1 and "0.002" in stopped.err.replace("$0.0020", "0.002")
    sent = len(asked)
    assert 0 < sent < 12 and sent * (50 * 1 + 10 * 10) / 1e6 <= 0.002
    assert limbeck("collect", recipe, "--max-cost", "1", "--out", out).status == 0
    assert len(asked) == 12


def test_what_was_lost_counts_until_it_is_released(
    limbeck: Limbeck, tmp_path: Path, asked: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server charges and sends a page; the cap is used up until the user has looked at the bill."""
    recipe, out = tmp_path / "r.yaml", tmp_path / "run"
    command = ("collect", recipe, "--max-cost", "0.01", "--out", out, "--set", "teacher.backoff_s=0.001")
    monkeypatch.setattr(Endpoint, "page", True)
    stopped = limbeck(*command)
    assert stopped.status == 1 and "--release" in stopped.err and "not JSON" in stopped.err
    sent = len(asked)
    assert sent > 5
    monkeypatch.setattr(Endpoint, "page", False)
    again = limbeck(*command)
    assert (
        again.status == 1 and f"{sent} earlier requests have no answer and may have been charged" in again.err
    )
    assert len(asked) == sent
    released = limbeck(*command, "--release")
    assert released.status == 0 and f"{sent} requests without an answer count as not charged" in released.err
    assert len(asked) == sent + 12


def test_release_is_for_teachers_that_are_paid(
    limbeck: Limbeck, tmp_path: Path, asked: list[dict[str, object]]
) -> None:
    (tmp_path / "free.yaml").write_text(
        "name: free\ntask: {name: coin-flip, train: 6, dev: 0, test: 2}\nteacher: {kind: offline}\n"
        "student: {method: finetune-cot, model: tiny-causal-xs, train: {epochs: 1}}\n"
    )
    answer = limbeck("collect", tmp_path / "free.yaml", "--release", "--out", tmp_path / "run")
    assert (
        answer.status == 2 and "--release: the teacher of this recipe (offline) costs nothing" in answer.err
    )


def test_a_cap_without_prices_is_refused(
    limbeck: Limbeck, tmp_path: Path, asked: list[dict[str, object]]
) -> None:
    answer = limbeck(
        "collect",
        tmp_path / "r.yaml",
        "--max-cost",
        "1",
        "--out",
        tmp_path / "run",
        "--set",
        "teacher.prices=null",
    )
    assert answer.status == 2 and "prices" in answer.err and not asked


def test_a_key_written_into_the_recipe_is_not_repeated(
    limbeck: Limbeck, tmp_path: Path, asked: list[dict[str, object]]
) -> None:
    answer = limbeck(
        "collect", tmp_path / "r.yaml", "--set", "teacher.key_env=sk-secret-123", "--out", tmp_path / "run"
    )
    assert answer.status == 2 and "key_env" in answer.err and "sk-secret" not in answer.err


@pytest.mark.parametrize(
    "setting",
    ["base_url=https://me:sk-secret@host/v1", "extra_body={api_key: sk-secret}", "key_env=sk_secret"],
)
def test_a_key_in_the_wrong_place_is_neither_shown_nor_saved(
    limbeck: Limbeck, tmp_path: Path, asked: list[dict[str, object]], setting: str
) -> None:
    answer = limbeck("collect", tmp_path / "r.yaml", "--set", f"teacher.{setting}", "--out", tmp_path / "run")
    assert answer.status == 2 and "secret" not in answer.err.replace("access", "")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("cap", ["inf", "nan", "-1"])
def test_a_cap_is_a_sum_of_money(
    limbeck: Limbeck, tmp_path: Path, asked: list[dict[str, object]], cap: str
) -> None:
    answer = limbeck("collect", tmp_path / "r.yaml", f"--max-cost={cap}", "--out", tmp_path / "run")
    assert answer.status == 2 and "not a sum of money" in answer.err and not asked


@pytest.mark.parametrize(
    "changed",
    ["prompt.instruction=Briefly.", "prompt.system=You count.", "prompt.examples=SHOTS", "system=You count."],
)
def test_another_prompt_asks_again(
    limbeck: Limbeck, tmp_path: Path, asked: list[dict[str, object]], changed: str
) -> None:
    shots = tmp_path / "shots.jsonl"
    shots.write_text('{"question": "Is it?", "rationale": "It is. The answer is yes."}\n')
    recipe, out = tmp_path / "r.yaml", tmp_path / "run"
    setting = f"teacher.{changed.replace('SHOTS', str(shots))}"
    assert limbeck("collect", recipe, "--yes", "--out", out).status == 0
    assert limbeck("collect", recipe, "--yes", "--out", out, "--set", setting).status == 0
    assert len(asked) == 24
    if "SHOTS" in changed:
        shots.write_text('{"question": "Is it so?", "rationale": "It is not. The answer is no."}\n')
        assert limbeck("collect", recipe, "--yes", "--out", out, "--set", setting).status == 0
        assert len(asked) == 36, "what stands in the file counts"
    assert limbeck("collect", recipe, "--out", out).status == 0


def test_a_new_setting_of_a_teacher_asks_nothing_again() -> None:
    from limbeck.recipe import ApiTeacherSettings, check_recipe
    from limbeck.run_folder import plan
    from limbeck.stages.teacher import teacher_identity

    class Later(ApiTeacherSettings):
        think: bool = False

    given = {"kind": "api", "base_url": "http://a/v1", "model": "big", "timeout_s": 5, "exam": False}
    recipe = check_recipe(
        {"name": "x", "task": {"name": "coin-flip"}, "teacher": given, "student": {"method": "finetune-cot"}},
        "x",
    )
    now = plan({"teacher": teacher_identity(recipe)})
    later = recipe.model_copy(update={"teacher": Later.model_validate(given)})
    assert plan({"teacher": teacher_identity(later)}) == now
    assert now.settings == {"teacher": {"kind": "api", "base_url": "http://a/v1", "model": "big"}}


def test_a_paid_exam_says_what_it_cost(
    limbeck: Limbeck, tmp_path: Path, asked: list[dict[str, object]]
) -> None:
    out = tmp_path / "run"
    answer = limbeck(
        "run", tmp_path / "r.yaml", "--yes", "--out", out, "--set", "teacher.exam=true", "--until", "teacher"
    )
    assert answer.status == 0, answer.err
    metrics = json.loads((out / "teacher/exam/metrics.json").read_text())
    assert metrics["cost_usd"] == pytest.approx(len(asked) * (50 * 1 + 10 * 10) / 1e6)

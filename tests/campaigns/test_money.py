"""The campaign of money, small: restarts, lies, kills and faults against a server that keeps the bill."""

from collections.abc import Callable
from pathlib import Path

import pytest

from .money import LIES, SMALL, faults, kills, lies, restarts

pytest.importorskip("openai", reason="the extra `api` is not installed")

TRIALS: dict[str, Callable[[Path], str]] = {
    "restarts": lambda folder: restarts(folder, SMALL["restarts"], 400, 0),
    "kills": lambda folder: kills(folder, SMALL["kills"], 400, 0),
    "faults": lambda folder: faults(folder, SMALL["answers"], 0),
    **{lie: lambda folder, lie=lie: lies(folder, lie, 1, 400, 0) for lie in LIES},
}


@pytest.mark.parametrize("trial", TRIALS)
def test_paid_stays_under_the_cap(tmp_path: Path, trial: str) -> None:
    print(TRIALS[trial](tmp_path))

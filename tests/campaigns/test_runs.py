"""The small sizes of the campaigns on runs: damaged files, and kills."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("campaign", [("damage", "--only", "5"), ("kills", "--size", "6")])
def test_small(campaign: tuple[str, ...]) -> None:
    name, *size = campaign
    done = subprocess.run(
        [sys.executable, "-m", f"tests.campaigns.{name}", *size],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr

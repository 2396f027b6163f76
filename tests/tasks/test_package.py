from __future__ import annotations

import doctest
import importlib
import subprocess
import sys

import pytest

MODULES = ["candidates", "numbers", "options", "puzzle", "statements", "answers"]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_hold(name: str) -> None:
    assert doctest.testmod(importlib.import_module(f"limbeck.tasks.{name}")).failed == 0


def test_importing_the_tasks_loads_nothing_heavy() -> None:
    modules = ["answers", "generated", "options", "prompts", "readers", "settings", "sources"]
    code = (
        f"import sys, {', '.join(f'limbeck.tasks.{name}' for name in modules)}\n"
        "heavy = {'torch', 'transformers', 'datasets', 'pyarrow', 'numpy'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

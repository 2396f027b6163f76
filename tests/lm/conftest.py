"""Fixtures of the tests of models."""

from __future__ import annotations

from typing import Any

import pytest

from .families import FAMILIES, tiny_model


@pytest.fixture(params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    """The name of every family, one test each."""
    return str(request.param)


@pytest.fixture
def tiny_family(family: str) -> tuple[Any, Any]:
    """A random model of the family, and its tokenizer."""
    return tiny_model(family)

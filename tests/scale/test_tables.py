"""docs/scale.md shows what the command prints."""

from pathlib import Path

import pytest

from limbeck.scale.published import CONFIGS, made
from limbeck.scale.tables import kept, lines

DOCUMENT = (Path(__file__).parents[2] / "docs" / "scale.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["Llama 2 7B", "Mixtral 8x7B"])
def test_published_models_have_their_published_size(name: str) -> None:
    """As their makers' weights count: 6,738,415,616 and 46,702,792,704."""
    count = sum(one.numel() for one in made(name).parameters())
    assert count == {"Llama 2 7B": 6_738_415_616, "Mixtral 8x7B": 46_702_792_704}[name]


def test_the_tables_are_those_of_the_document() -> None:
    for line in [*lines(list(CONFIGS), 8, [32, 80], 8, 512), *kept()]:
        assert line in DOCUMENT, line

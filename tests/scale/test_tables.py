"""docs/scale.md shows what the command prints."""

from pathlib import Path

import pytest

from limbeck.scale.published import CONFIGS, made
from limbeck.scale.tables import kept, lines, trained, ways
from limbeck.scale.training import MicroBatch

DOCUMENT = (Path(__file__).parents[2] / "docs" / "scale.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["Llama 2 7B", "Mixtral 8x7B"])
def test_published_models_have_their_published_size(name: str) -> None:
    """As their makers' weights count: 6,738,415,616 and 46,702,792,704."""
    count = sum(one.numel() for one in made(name).parameters())
    assert count == {"Llama 2 7B": 6_738_415_616, "Mixtral 8x7B": 46_702_792_704}[name]


LAYER = 4 * 4096**2 + 3 * 4096 * 11_008 + 2 * 4096
ENDS = 2 * 32_000 * 4096
WEIGHTS = 32 * LAYER + ENDS + 4096
ADAPTER = 32 * 64 * (4 * (4096 + 4096) + 3 * (4096 + 11_008))
"""Parameters of Llama 2 7B and of its adapter of rank 64, from its config.json."""


def test_an_eighth_of_7b_by_hand() -> None:
    """What docs/architecture.md says of sharded models: embeddings and head are whole for a whole pass, in
    the type of the weights, beside the layer at work and the next; adapters are whole on every device.

    Of the whole model's row only the activations are taken.
    """
    batch = MicroBatch(8, (512,), 8 * 256)
    lora, full = (trained(made("Llama 2 7B"), way, batch, 8) for way in ways())
    adapter = 16 * ADAPTER  # itself, its gradient and two moments, in float32
    activations = lora.replicated - 2 * WEIGHTS - adapter
    by_hand = 2 * WEIGHTS / 8 + adapter + 2 * (ENDS + 2 * LAYER) + activations
    assert lora.sharded == pytest.approx(by_hand, abs=1e5)  # AdamW's counts of steps
    copies = 2 * (32 * (LAYER - 2 * 4096) + ENDS)
    activations = full.replicated - 16 * WEIGHTS - copies
    gathered = 4 * (ENDS + 2 * LAYER) + 4 * 2 * LAYER + 2 * LAYER  # weights, gradients, a layer in bf16
    assert full.sharded == pytest.approx(16 * WEIGHTS / 8 + gathered + activations, abs=1e5)


def test_the_tables_are_those_of_the_document() -> None:
    for line in [*lines(list(CONFIGS), 8, [32, 80], 8, 512), *kept()]:
        assert line in DOCUMENT, line

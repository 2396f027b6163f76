"""How a reranker scores candidates of several questions in training: with gradients and little padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from limbeck.knowledge.encoders import Encoder
from limbeck.objectives.late_interaction import maxsim


class LateInteraction(nn.Module):
    """MaxSim of an encoder's states; gradients reach it through questions and passages.

    Args:
        encoder: in training.
        tokens: most tokens, with padding, of passages that are encoded together.
    """

    def __init__(self, encoder: Encoder, tokens: int) -> None:
        super().__init__()
        self.model = encoder.model
        self._encoder = encoder
        self._tokens = tokens

    def forward(self, questions: Sequence[str], passages: Sequence[str], owners: Sequence[int]) -> Tensor:
        """The score of each passage for the question that owns it, (passages,), in float32."""
        states_QLD, mask_QL = self._encoder(questions, "query")
        scores: list[Tensor] = []
        order: list[int] = []
        for places in self._chunks(passages):
            own = torch.tensor([owners[one] for one in places], device=states_QLD.device)
            passages_PMD, passages_PM = self._encoder([passages[one] for one in places], "document")
            with torch.autocast(states_QLD.device.type, enabled=False):
                scores.append(maxsim(states_QLD[own], mask_QL[own], passages_PMD, passages_PM))
            order += places
        back = torch.tensor(order, device=states_QLD.device).argsort()
        return torch.cat(scores)[back]

    def _chunks(self, passages: Sequence[str]) -> Iterator[list[int]]:
        """Places of passages of similar length, the longest first."""
        limit = self._encoder.transformer.document_length
        ids = self.model.tokenizer(list(passages), add_special_tokens=True)["input_ids"]
        lengths = [min(len(one), limit or len(one)) for one in ids]
        chunk: list[int] = []
        for place in sorted(range(len(passages)), key=lambda one: -lengths[one]):
            if chunk and lengths[chunk[0]] * (len(chunk) + 1) > self._tokens:
                yield chunk
                chunk = []
            chunk.append(place)
        yield chunk

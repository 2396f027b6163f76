"""The mentor itself as the source of soft labels, on the student's own batch.

Student and mentor share a tokenizer (`tokenizers`). Their embeddings may have different numbers of
padding rows above it; the distributions are taken over real tokens only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from limbeck.errors import ModelError
from limbeck.objectives.align import Scored, head_weight, hidden, plain_head, score
from limbeck.objectives.soft import SoftTargets, chunks, full, top_k
from limbeck.soft_labels.settings import CodecSettings
from limbeck.training.collate import Batch


@dataclass(frozen=True)
class Live:
    """A forward pass of the mentor on the student's ids, in the mentor's own precision.

    Autocast around the student does not reach the mentor, so that its answers are those a cache
    would hold. Where the mentor's head is a plain matrix, logits exist for a chunk of tokens at a time.

    Args:
        mentor: any Hugging Face model of the student's architecture; put into evaluation mode.
        codec: what of the distribution is kept.
        temperature: τ.
        vocabulary: real tokens, see `tokenizers.vocabulary_of`.
    """

    mentor: nn.Module
    codec: CodecSettings
    temperature: float
    vocabulary: int

    def of(self, batch: Batch) -> SoftTargets:
        """Targets of the scored tokens, without gradients.

        Raises:
            ModelError: the mentor has fewer embedding rows than there are tokens.
        """
        if self.mentor.training:
            self.mentor.eval()
        home = batch["labels"].device
        device = next(self.mentor.parameters()).device
        there = {
            name: values.to(device) if isinstance(values, Tensor) else values
            for name, values in batch.items()
        }
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            scored, logits, width = self._forward(there)
            if width < self.vocabulary:
                raise ModelError(
                    f"the mentor has {width} embeddings for the {self.vocabulary} tokens of the tokenizer; "
                    "choose a mentor that was trained with this tokenizer"
                )
            spans = chunks(scored.targets_N.numel(), width) or [(0, 0)]
            return _joined([self._encode(logits(start, stop)) for start, stop in spans], home)

    @cached_property
    def _plain(self) -> bool:
        return plain_head(self.mentor)

    def _forward(self, batch: Batch) -> tuple[Scored, Callable[[int, int], Tensor], int]:
        """The scored tokens, a function that gives the logits of a stretch of them, and their width."""
        if not self._plain:
            scored, logits_NV = score(self.mentor, batch)
            return scored, lambda start, stop: logits_NV[start:stop], logits_NV.shape[1]
        scored, hidden_NH = hidden(self.mentor, batch)
        head_VH = head_weight(self.mentor)
        return scored, lambda start, stop: hidden_NH[start:stop] @ head_VH.T, head_VH.shape[0]

    def _encode(self, logits_CV: Tensor) -> SoftTargets:
        if self.codec.kind == "full":
            return full(logits_CV, self.temperature, self.vocabulary)
        return top_k(logits_CV, self.temperature, self.vocabulary, self.codec.k)


def _joined(parts: Sequence[SoftTargets], device: torch.device) -> SoftTargets:
    """One after the other."""
    first = parts[0]
    ids = [part.ids_NK for part in parts if part.ids_NK is not None]
    log_p_NK = torch.cat([part.log_p_NK for part in parts]).to(device)
    return SoftTargets(log_p_NK, torch.cat(ids).to(device) if ids else None, first.tail, first.vocabulary)

"""A mentor that a server has, as the source of soft labels: vLLM's `prompt_logprobs`.

A row's tokens are sent as the prompt, and the server gives the likeliest tokens at every place of it with
their log-probabilities, which is what top-k keeps; what they lack is the tail. These are the model's own, at
temperature 1. Those of another one follow from all logits, which no server gives, so it is refused.

    choices[0].prompt_logprobs: [null, {"17": {"logprob": -0.5, "rank": 1, ...}, ...}, ...]

One entry for each token of the prompt, the first null; keys are token numbers. A place's own token is among
them even where it is not one of the likeliest. A model may have rows above its tokenizer, and where such a
row is among the likeliest, the next ones take its place: so some more than k are asked for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any

import torch

from limbeck import ranks
from limbeck.errors import ModelError, RecipeError, TeacherError
from limbeck.lm.api import openai_of, secret_of
from limbeck.lm.endpoints import EndpointSettings
from limbeck.lm.hiding import hiding
from limbeck.lm.load import Unloaded
from limbeck.lm.local import positions_of
from limbeck.lm.reply import refused
from limbeck.lm.served import check_served
from limbeck.objectives.align import align_batch
from limbeck.objectives.soft import SoftTargets
from limbeck.soft_labels.settings import CodecSettings
from limbeck.soft_labels.tokenizers import PROBES, vocabulary_of
from limbeck.training.collate import Batch

MORE = 8
"""Tokens that are asked for beyond k."""

Place = Mapping[int, float]
"""Log-probabilities at one place of a prompt, by token."""


def refuse_elsewhere(temperature: float, codec: CodecSettings, place: str, where: str) -> None:
    """Refuse soft labels that no server gives.

    Args:
        place: of the student's settings.
        where: of the server's.

    Raises:
        RecipeError: another temperature than 1, or the whole vocabulary.
    """
    here = f"or have them made here ({where}.soft_labels: false)"
    if temperature != 1:
        raise RecipeError(
            f"{place}.temperature: {temperature:g}, and a server gives log-probabilities of temperature 1 "
            f"alone, since others follow from all logits; set it to 1, {here}"
        )
    if codec.kind == "full":
        raise RecipeError(
            f"{place}.codec.kind: full, and a server gives the likeliest tokens alone; take top-k, {here}"
        )


class ServedLabels:
    """Soft labels of a mentor that a server has; with the one method of `live.Live` that writing needs.

    Args:
        endpoint: the server.
        served_as: the name under which it has the mentor.
        mentor: the same model without its weights.
        k: tokens kept.
        place: of the server's settings, for errors.

    Raises:
        NotServedError: the server cannot be reached, or has no model of this name.
        ModelError: it reads texts as other tokens, or gives no log-probabilities of prompts.
        RecipeError: as `lm.api.ApiTeacher`; or k is no less than the vocabulary.
    """

    def __init__(
        self, endpoint: EndpointSettings, served_as: str, mentor: Unloaded, k: int, place: str
    ) -> None:
        self.vocabulary = vocabulary_of(mentor.tokenizer)
        if k >= self.vocabulary:
            raise RecipeError(
                f"codec.k: {k} tokens are all of the {self.vocabulary}, and {place} gives the likeliest "
                "alone; lower it"
            )
        check_served(endpoint, served_as, place, mentor.name)
        self._endpoint, self._served_as, self._mentor = endpoint, served_as, mentor
        self._k, self._place = k, place
        self._wanted = min(k + MORE, self.vocabulary)
        secret = secret_of(endpoint, place)
        self._hide, self._openai = hiding(secret), openai_of(place)
        self._client = self._openai.OpenAI(
            base_url=endpoint.base_url,
            api_key=secret or "none",
            max_retries=endpoint.retries,
            timeout=endpoint.timeout_s,
        )
        self._check_tokenizer()

    def of(self, batch: Batch) -> SoftTargets:
        """Targets of the scored tokens.

        Raises:
            TeacherError: the server refused or did not answer.
            ModelError: its answer is not about these tokens.
        """
        keep_BT = align_batch(batch, encoder_decoder=False).keep_BT
        lengths = batch["attention_mask"].sum(1).tolist()
        rows = [ids[:length] for ids, length in zip(batch["input_ids"].tolist(), lengths, strict=True)]
        asked = [number for number in range(len(rows)) if keep_BT[number].any()]
        own = max(1, self._endpoint.concurrency // ranks.world())  # every process asks for its own rows
        with ThreadPoolExecutor(own) as crew:
            told = list(crew.map(self._places, [rows[number] for number in asked]))
        found = [
            self._likeliest(places[position + 1])  # the logits of a place are about the token behind it
            for number, places in zip(asked, told, strict=True)
            for position in keep_BT[number].nonzero()[:, 0].tolist()
        ]
        ids_NK = torch.tensor([list(one) for one in found], dtype=torch.long).reshape(-1, self._k)
        log_p_NK = torch.tensor([list(one.values()) for one in found]).reshape(-1, self._k)
        return SoftTargets(log_p_NK, ids_NK, True, self.vocabulary)

    def refuse_too_long(self, tokens: int) -> None:
        """Refuse rows behind which there is no room for the one token that a server writes.

        Args:
            tokens: of the longest row.

        Raises:
            RecipeError: naming both lengths.
        """
        limit = positions_of(self._mentor.config)
        if limit is not None and tokens >= limit:
            raise RecipeError(
                f"train.max_length: the longest example has {tokens} tokens, and a server writes one more, "
                f"which the {limit} positions of {self._mentor.name} must hold; lower it to {limit - 1}, "
                "which leaves longer ones out, or have soft labels made here "
                f"({self._place}.soft_labels: false)"
            )

    def close(self) -> None:
        """End the connections."""
        self._client.close()

    def _likeliest(self, place: Place) -> Place:
        """The k likeliest real tokens of a place, likeliest first."""
        # The place's own token comes on top where it is none of the likeliest: then it is the last one here.
        best = sorted(place, key=lambda token: (-place[token], token))[: self._wanted]
        real = [token for token in best if token < self.vocabulary]
        if len(best) < self._wanted or len(real) < self._k:
            raise ModelError(
                f"{self._place}: the server gives {len(real)} of the tokenizer's tokens among the "
                f"{self._wanted} likeliest at a place, and codec.k is {self._k}; lower it, or have soft "
                f"labels made here ({self._place}.soft_labels: false)"
            )
        return {token: place[token] for token in real[: self._k]}

    def _check_tokenizer(self) -> None:
        """Refuse a server whose tokenizer makes other tokens of texts: its model is another one."""
        for text in PROBES:
            ids = list(self._mentor.tokenizer(text, verbose=False)["input_ids"])
            places = self._asked(text)
            if len(places) != len(ids) or not all(
                token in place for token, place in zip(ids[1:], places[1:], strict=True)
            ):
                raise ModelError(
                    f"{self._place}: the server reads a text as {len(places)} tokens that are not the "
                    f"{len(ids)} of {self._mentor.name}; give it this model with its own tokenizer"
                )

    def _places(self, ids: Sequence[int]) -> list[Place]:
        """What the server says of every place of a row."""
        places = self._asked(list(ids))
        if len(places) != len(ids):
            raise ModelError(
                f"{self._place}: the server gave log-probabilities of {len(places)} tokens for {len(ids)}; "
                "it adds or cuts some"
            )
        return places

    def _asked(self, prompt: str | list[int]) -> list[Place]:
        """One request: a prompt's log-probabilities, and the one token that a server cannot leave out."""
        openai, settings = self._openai, self._endpoint
        where = f"the server of {self._mentor.name} at {settings.base_url}"
        try:
            said = self._client.completions.with_raw_response.create(
                model=self._served_as,
                prompt=prompt,
                max_tokens=1,
                temperature=1,
                extra_body={"prompt_logprobs": self._wanted, **settings.extra_body},
            ).http_response.text
        except openai.APIStatusError as error:
            trouble = refused(
                error.status_code,
                error.body or error.message,
                error.response.headers,
                self._hide,
                self._place,
            )
            many = f" (vLLM gives 20 tokens unless it is started with --max-logprobs {self._wanted})"
            fix = f"{trouble.fix}{many if error.status_code == HTTPStatus.BAD_REQUEST else ''}"
            raise TeacherError(f"{where}: {trouble.said}; {fix}, what was written is kept") from None
        except openai.APIConnectionError as error:
            why = type(error.__cause__).__name__
            raise TeacherError(
                f"{where}: lost the connection ({why}); run again later, what was written is kept"
            ) from None
        return self._read(said)

    def _read(self, said: str) -> list[Place]:
        """The places of an answer; the first has none."""
        try:
            found: Any = json.loads(said)["choices"][0]["prompt_logprobs"]
            places: list[Place] = [
                {int(token): float(one["logprob"]) for token, one in (place or {}).items()} for place in found
            ]
        except (AttributeError, KeyError, IndexError, TypeError, ValueError, RecursionError):
            raise ModelError(
                f"{self._place}: the server gives no log-probabilities of prompts (vLLM's prompt_logprobs); "
                f"take one that does, or set {self._place}.soft_labels: false"
            ) from None
        if not all(places[1:]):
            raise ModelError(f"{self._place}: the server left the log-probabilities of some tokens out")
        return places

"""A model of ours that a server has: vLLM, SGLang, transformers serve, any that speaks OpenAI's protocol.

The server has the weights, and all else stays here. Prompts are put together by the model's own tokenizer and
sent as they are, to the letter. The settings of decoding are sent, each request with a seed of its own. What
comes back is cut at stop texts and read as a text that was written here. Nothing is paid, so there are no
prices; attempts, waits and errors are those of a teacher (`api`).

What a server would read otherwise than the model was trained is refused and not asked: its tokenizer is the
model's own, so what it reads is known here.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from limbeck.errors import InputError, ModelError, NotServedError
from limbeck.lm import Completion, Prompt, Sampling
from limbeck.lm.api import ApiTeacher, Keep, Say, openai_of, secret_of
from limbeck.lm.cost import ApiSettings, Receipt, Request
from limbeck.lm.endpoints import EndpointSettings, ServerSettings
from limbeck.lm.load import Unloaded, explained
from limbeck.lm.local import (
    begun_ids,
    check_sampling,
    config_of,
    no_text,
    position_limit,
    prompt_ids,
    room_of,
)
from limbeck.lm.remember import Remembered
from limbeck.tasks.chat_template import message

log = logging.getLogger(__name__)

FEW = 3
"""Questions; with fewer, equal answers say nothing of the server."""

LOOKING_S = 30.0
"""How long a server may take to say which models it has."""


class ServedModel:
    """`Complete` with a server that has the model; `ask` does so for single completions.

    `Completion.tokens` are the server's count, with those that the completion begins with. A text that a
    server cut off is known by its `finish_reason`.

    Args:
        endpoint: the server.
        served_as: the name under which it has the model.
        model: the same model, without its weights.
        thinks: it reasons inside `<think>` tags. Stop texts do not count there, so they are not sent but cut
            here.
        place: of the settings, for errors.
        say: shows a line.
        client: see `ApiTeacher`.

    Raises:
        ModelError: the model is an encoder-decoder, or its thinking would not be seen.
        RecipeError: as `ApiTeacher`.
    """

    def __init__(
        self,
        endpoint: EndpointSettings,
        served_as: str,
        model: Unloaded,
        *,
        thinks: bool = False,
        place: str = "exam.endpoint",
        say: Say = log.warning,
        client: Any = None,
    ) -> None:
        if model.encoder_decoder:
            raise ModelError(
                f"{place}: {model.name} is an encoder-decoder model, of which servers give back a cut text "
                "or none; leave the endpoint out"
            )
        if thinks and no_text(model.tokenizer):
            raise ModelError(
                f"{place}: the thinking tags of {model.name} are special tokens, which servers leave out of "
                "texts; leave the endpoint out"
            )
        self._endpoint, self._served_as, self._model, self._place = endpoint, served_as, model, place
        self._limit, self._say = position_limit(config_of(model)), say
        own = endpoint.model_dump(include=set(ServerSettings.model_fields))
        if thinks:
            own["omit"] = tuple(dict.fromkeys((*own["omit"], "stop")))
        self._ids: dict[str, list[int]] = {}  # of prompts, where they are sent in place of texts
        chat, tokens = (endpoint.endpoint == route for route in ("chat", "tokens"))
        self._client = ApiTeacher(
            ApiSettings(**own, model=served_as, endpoint="chat" if chat else "completions"),
            client=client,
            say=say,
            place=place,
            called=f"the server of {model.name}",
            explicit=True,
            spelled=(lambda prompt: self._ids[prompt.id]) if tokens else None,
        )

    @property
    def name(self) -> str:
        return self._model.name

    def __call__(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Completion]:
        """Complete every prompt `sampling.n` times, each by a request of its own; see `ask`."""
        requests = [Request(prompt, index) for prompt in prompts for index in range(sampling.n)]
        return (receipt.completion for receipt in self.ask(requests, sampling))

    def ask(
        self, requests: Sequence[Request], sampling: Sampling, keep: Keep | None = None
    ) -> Generator[Receipt, None, None]:
        """Send every request; see `ApiTeacher.ask`.

        Raises:
            NotServedError: the server cannot be reached, or has no model of this name.
            InputError: impossible sampling; a prompt that is too long, or that the server would read as other
                tokens.
            TeacherError: as `ApiTeacher.ask`.
        """
        check_sampling(sampling)
        sent = self._sent(list(dict.fromkeys(request.prompt for request in requests)), sampling)
        check_served(self._endpoint, self._served_as, self._place, self._model.name)
        rooms: dict[int, list[Request]] = defaultdict(list)
        for request in requests:
            prompt, room = sent[request.prompt.id]
            rooms[room].append(Request(prompt, request.index))
        begun = {request.prompt.id: request.prompt for request in requests if request.prompt.begun}
        whole, texts = partial(self._whole, begun), defaultdict[str, list[str]](list)
        kept = None if keep is None else _through(whole, keep)
        for room, some in rooms.items():  # nearly always one: few prompts reach the model's last position
            for receipt in self._client.ask(some, replace(sampling, max_tokens=room), kept):
                texts[receipt.completion.prompt_id].append(receipt.completion.text)
                yield whole(receipt)
        self._report_equal(texts, sampling)

    def _report_equal(self, texts: Mapping[str, list[str]], sampling: Sampling) -> None:
        """Say that nothing seems to be drawn: a model may be so sure, but a server may also be greedy."""
        several = [own for own in texts.values() if len(own) > 1]
        if sampling.temperature and len(several) >= FEW and all(len(set(own)) == 1 for own in several):
            fix = f"{self._place}.extra_body: {{generation_config: '{{\"do_sample\": true}}'}}"
            self._say(
                f"the server of {self.name}: all answers to a question are equal, for each of {len(several)} "
                "questions; if the model is not that sure, the server ignores the temperature (transformers "
                f"serve: set {fix})"
            )

    def _sent(self, prompts: Sequence[Prompt], sampling: Sampling) -> dict[str, tuple[Prompt, int]]:
        """What is sent for each prompt, by its id, and how many new tokens are asked for."""
        ids = prompt_ids(self._model, [prompt.text for prompt in prompts])
        sent = {}
        for prompt, own in zip(prompts, ids, strict=True):
            if prompt.system:
                raise InputError(
                    f"prompt {prompt.id}: its system prompt is separate; render it into the text"
                )
            room = room_of(self._model, self._limit, prompt, len(own), sampling.max_tokens)
            begun = begun_ids(self._model, prompt, room)
            text = self._message(prompt) if self._endpoint.endpoint == "chat" else prompt.text + prompt.begun
            if self._endpoint.endpoint == "tokens":
                self._ids[prompt.id] = [*own, *begun]
            else:
                self._check_read(prompt, text, [*own, *begun])
            sent[prompt.id] = replace(prompt, text=text, begun=""), room - len(begun)
        return sent

    def _message(self, prompt: Prompt) -> str:
        """What a user sends to the chat endpoint, where the server's template makes the prompt of it.

        Raises:
            InputError: that is not known.
        """
        other = f"set {self._place}.endpoint to completions or tokens"
        if prompt.begun:
            raise InputError(f"{self._place}: an answer cannot be begun in a chat; {other}")
        if not self._model.saved or self._model.template is None or prompt.pieces is None:
            raise InputError(
                f"{self._place}: {self._model.name} has no chat template of its training, as students that "
                f"Limbeck saved have; {other}"
            )
        return message(prompt.pieces)

    def _check_read(self, prompt: Prompt, text: str, wanted: list[int]) -> None:
        """Refuse a text that the server's tokenizer, which is the model's, makes other tokens of.

        Raises:
            InputError: naming the prompt.
        """
        tokenizer, chat = self._model.tokenizer, self._endpoint.endpoint == "chat"
        if chat:
            with explained(self._model.name, "the chat template"):
                text = tokenizer.apply_chat_template(
                    [{"role": "user", "content": text}],
                    chat_template=self._model.template,
                    tokenize=False,
                    add_generation_prompt=True,
                )
        read = list(tokenizer(text, add_special_tokens=not chat, verbose=False)["input_ids"])
        if read == wanted:
            return
        fix = f"set {self._place}.endpoint to tokens, where the server takes token numbers (vLLM, SGLang)"
        if chat:
            what = "its chat template makes another prompt than the training's of it"
        elif read[: len(wanted)] == wanted:
            what = f"its tokenizer ends every text with {tokenizer.convert_ids_to_tokens(read[-1])}"
        else:
            what = f"prompt and {prompt.begun!r} in one text are other tokens than apart"
        raise InputError(f"{self._place}: {self._model.name}, prompt {prompt.id}: {what}; {fix}")

    def _whole(self, begun: Mapping[str, Prompt], receipt: Receipt) -> Receipt:
        """A receipt whose completion has what it began with, which was sent with its prompt."""
        written = receipt.completion
        prompt = begun.get(written.prompt_id)
        if prompt is None:
            return receipt
        ids = begun_ids(self._model, prompt, len(prompt.begun) + 1)
        text = f"{prompt.begun}{self._space(prompt.begun, ids, written.text)}{written.text}"
        whole = replace(written, text=text, tokens=written.tokens + len(ids))
        return replace(receipt, completion=whole)

    def _space(self, begun: str, ids: list[int], text: str) -> str:
        """The space in front of a text's first word, where the tokenizer loses it (SentencePiece) and the
        server did not put it back."""
        more = self._model.tokenizer(f"{begun} 7", add_special_tokens=False, verbose=False)["input_ids"]
        kept = self._model.tokenizer.decode(more[len(ids) :])[:1].isspace()
        return "" if kept or not text[:1].isalnum() else " "


def remembered(model: ServedModel, path: Path, key: Mapping[str, object]) -> Remembered:
    """A served model whose completions are kept as they arrive, so that a killed exam goes on.

    Args:
        path: the log.
        key: what else decides the texts: where the log serves one model alone, nothing.
    """
    return Remembered(model, path, key=key, ask=model.ask)


def check_served(endpoint: EndpointSettings, served_as: str, place: str, called: str) -> None:
    """Refuse a server that cannot be reached or says that it has other models.

    Some servers answer whatever name they are asked for with the one model they have, so the list is
    looked at before anything is asked. One without a list, or with an empty one, is believed.

    Raises:
        NotServedError: naming the model.
        RecipeError: as `ApiTeacher`.
    """
    openai, secret = openai_of(place), secret_of(endpoint, place)
    again = "then run the same command again"
    not_served = partial(NotServedError, place, endpoint.base_url, served_as)
    with openai.OpenAI(
        base_url=endpoint.base_url, api_key=secret or "none", max_retries=0, timeout=LOOKING_S
    ) as client:
        try:
            said = client.models.with_raw_response.list().http_response.text
        except openai.APIConnectionError:
            why = (
                f"no server at {endpoint.base_url} can be reached; start one that has {called} as {served_as}"
            )
            raise not_served(f"{why}, {again}") from None
        except openai.APIStatusError:
            return
    known = _listed(said)
    if known and served_as not in known and endpoint.listed:
        raise not_served(
            f"the server at {endpoint.base_url} has {', '.join(known)}, and {called} not as {served_as}; "
            f"start one that has it, {again}; or set {place}.listed: false if it loads models by name"
        )


def _listed(said: str) -> list[str]:
    """The names in a list of models; none where it is not such a list."""
    try:
        body = json.loads(said)
    except (ValueError, RecursionError):
        return []
    data = body.get("data") if isinstance(body, dict) else None
    found = [one.get("id") for one in data if isinstance(one, dict)] if isinstance(data, list) else []
    return [name for name in found if isinstance(name, str)]


def _through(change: Callable[[Receipt], Receipt], keep: Keep) -> Keep:
    return lambda receipt: keep(change(receipt))

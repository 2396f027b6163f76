"""Settings of a server that writes: where it is and how it is asked. Importing this loads no torch.

A teacher's (`cost.ApiSettings`) is somebody else's model and has a price. That of a student or mentor
(`EndpointSettings`) is a server of the user's own, which has the very model that Limbeck trained.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, JsonValue, field_validator

from limbeck.settings import Settings

_OURS = {
    *("model", "messages", "prompt", "stop", "seed", "temperature", "top_p"),  # in the memory's key
    *("n", "best_of", "stream", "stream_options"),  # what the cap counts on
    *("max_tokens", "max_completion_tokens"),
}
"""Request parameters that extra_body may not hold."""


_SECRET = re.compile(
    r"(^|[_-]|api)(key|secret|password|authorization|token)$|(?-i:[a-z](Key|Secret|Password|Token))$", re.I
)
"""How the names of what is secret end, in snake_case, kebab-case and camelCase."""

PLACES = ("path", "place", "mark")
"""What may stand in braces in the name under which a server has a model."""


class ServerSettings(Settings):
    """An OpenAI-compatible server: its address, what it takes, how long it is waited for."""

    base_url: str = Field(description="address of the endpoint, such as http://localhost:8000/v1")
    key_env: str | None = Field(None, description="environment variable with the key; null: no key")
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="what the endpoint calls the bound on new tokens"
    )
    omit: tuple[Literal["seed", "temperature", "top_p", "stop"], ...] = Field(
        (), description="parameters that this model refuses and that are not sent"
    )
    stream: bool = Field(
        False,
        description="let the server stream: some stream reasoning models only, and some connections end "
        "while nothing comes",
    )
    extra_body: Mapping[str, JsonValue] = Field(default_factory=dict, description="further parameters")
    concurrency: int = Field(8, ge=1, le=512, description="requests under way at the same time")
    timeout_s: float = Field(600.0, gt=0, description="seconds that one attempt may take in all")
    retries: int = Field(6, ge=0, description="further attempts after a passing failure")
    backoff_s: float = Field(1.0, gt=0, description="first wait before a retry in seconds; it doubles")
    max_wait_s: float = Field(120.0, gt=0, description="longest wait before a retry in seconds")

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be an address such as https://api.openai.com/v1")
        if parts.username or parts.password or parts.query:
            raise ValueError("must hold no user, password or query; name the key's variable in key_env")
        return url.rstrip("/")

    @field_validator("key_env")
    @classmethod
    def _a_name(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", name):
            raise ValueError("must be the name of an environment variable in capitals, never the key itself")
        return name

    @field_validator("extra_body")
    @classmethod
    def _not_ours(cls, body: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
        if taken := sorted(_OURS & body.keys()):
            raise ValueError(f"{taken[0]} is set by Limbeck; remove it from extra_body")
        if any(map(_SECRET.search, [*body, *_texts_in(body)])):
            raise ValueError("must hold no key, since recipes are saved; name the key's variable in key_env")
        return body


class EndpointSettings(ServerSettings):
    """A server that has a model of this run; it is asked what the model would be asked here."""

    model: str = Field(
        "{path}",
        min_length=1,
        description="the name under which the server has the model: {path} is its folder, {place} that "
        "within the run (students/cot/seed0), {mark} changes with its training",
    )
    endpoint: Literal["completions", "tokens", "chat"] = Field(
        "completions",
        description='"tokens": prompts are sent as token numbers (vLLM, SGLang); "chat": for servers that '
        "take neither",
    )
    omit: tuple[Literal["seed", "stop"], ...] = Field((), description="parameters that the server refuses")
    extra_body: Mapping[str, JsonValue] = Field(
        default_factory=dict, description="further parameters; they belong to no stage's plan"
    )
    concurrency: int = Field(32, ge=1, le=512, description="requests under way at the same time")
    listed: bool = Field(
        True, description="false: the server loads what a request names, whatever its list of models says"
    )

    @field_validator("model")
    @classmethod
    def _known_places(cls, model: str) -> str:
        for name in re.findall(r"\{([^{}]*)\}", model):
            if name not in PLACES:
                raise ValueError(f"has no place {{{name}}}; there are {{path}}, {{place}} and {{mark}}")
        return model

    def named(self, path: str, place: str, mark: str) -> str:
        """The name of one model."""
        known = {"path": path, "place": place, "mark": mark}
        return re.sub(r"\{([^{}]*)\}", lambda found: known[found[1]], self.model)

    @property
    def distinguishes(self) -> bool:
        """Whether two models have two names."""
        return "{" in self.model


class MentorEndpointSettings(EndpointSettings):
    """A server that has one mentor."""

    soft_labels: bool = Field(
        False, description="its soft labels come from there too, at temperature 1 (vLLM's prompt_logprobs)"
    )


def _texts_in(value: object) -> Iterator[str]:
    """The names of all texts in nested settings; a name of a group, as in a JSON schema, is not one."""
    if isinstance(value, Mapping):
        yield from (name for name, inner in value.items() if isinstance(inner, str))
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    for one in inner:
        yield from _texts_in(one)

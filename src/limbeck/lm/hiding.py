"""Nothing of a key is printed, however a server quotes it back."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Callable
from urllib.parse import quote, quote_plus

PIECE = 4
"""Characters of a key in a row that are hidden: masked keys ("sk-…wxyz") show no fewer."""

LOOKED_AT = 20_000
"""Characters of a text that are looked at; the rest is dropped, since only a line is shown."""

Hide = Callable[[str], str]


def hiding(secret: str) -> Hide:
    """A function that replaces every piece of the key in a text by "[key]".

    The key is known in all forms that come up in error texts: as it is, inside JSON and Python strings
    (with its quotes and backslashes escaped, also twice), in URLs, in HTML, in base64 and in hexadecimal
    digits, in capitals or not.
    Text first, cut afterwards: a piece of a key that was cut in two is still a piece.
    """
    forms = {
        secret,
        " ".join(secret.split()),
        quote(secret, safe=""),
        quote_plus(secret),
        html.escape(secret),
        secret.encode().hex(),
    }
    for _ in range(2):
        forms |= {_inside(json.dumps(form)) for form in forms} | {_inside(repr(form)) for form in forms}
    forms |= {_encoded(secret, before) for before in range(3)}
    size = min(PIECE, len(secret))
    small = map(_small, forms)
    pieces = (
        {form[at : at + size] for form in small for at in range(len(form) - size + 1)} if secret else set()
    )

    def hide(text: str) -> str:
        if not pieces:
            return text
        shown: list[str] = []
        text, at, end = text[:LOOKED_AT], 0, 0  # end: of the run of pieces that is left out
        small = _small(text)
        while at < len(text):
            if small[at : at + size] in pieces:
                if end < at or not shown or shown[-1] != "[key]":
                    shown.append("[key]")
                end = at + size
            elif at >= end:
                shown.append(text[at])
            at += 1
        return "".join(shown)

    return hide


def _inside(quoted: str) -> str:
    return quoted[1:-1]


def _small(text: str) -> str:
    """In small letters, as long as it was."""
    return "".join(one.lower() if len(one.lower()) == 1 else one for one in text)


def _encoded(secret: str, before: int) -> str:
    """What base64 shows of a key that stands behind so many bytes, such as `user:`, whatever they are."""
    whole = base64.b64encode(b"\0" * before + secret.encode()).decode()
    first, rest = -(-before * 8 // 6), (before + len(secret.encode())) * 8 // 6
    return whole[first:rest]

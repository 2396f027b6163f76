"""Places by key, for as many keys as there are rationales: a dict of bytes takes four times as much memory.

A key is a hash of 16 bytes (`key_of`), so the texts themselves need not be held. That two of a billion
texts have one key is as likely as 1 in 10^21.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable

KEY = 16
"""Bytes of a key."""


def key_of(*texts: str) -> bytes:
    """The key of one or more texts.

    >>> key_of("a", "bc") == key_of("ab", "c")
    False
    """
    whole = texts[0] if len(texts) == 1 else ":".join((",".join([str(len(text)) for text in texts]), *texts))
    return hashlib.blake2b(whole.encode("utf-8", "surrogatepass"), digest_size=KEY).digest()


class Places:
    """A number for each key: 30 to 40 bytes a key.

    Open addressing: `_slots` says which entry a key's slot has, `_keys` and `_numbers` hold the entries in
    the order in which they came.
    """

    def __init__(self) -> None:
        self._keys = bytearray()
        self._numbers = array("Q")
        self._slots = array("I", bytes(32))  # the entry + 1; 0: free

    def __len__(self) -> int:
        return len(self._numbers)

    def __contains__(self, key: bytes) -> bool:
        return bool(self._slots[self._slot(key)])

    def get(self, key: bytes) -> int | None:
        """The number of a key; None: it has none."""
        entry = self._slots[self._slot(key)]
        return self._numbers[entry - 1] if entry else None

    def put(self, key: bytes, number: int) -> None:
        """Give a key its number, 0 to 2^64 - 1, or another one."""
        slot = self._slot(key)
        if entry := self._slots[slot]:
            self._numbers[entry - 1] = number
            return
        self._keys += key
        self._numbers.append(number)
        self._slots[slot] = len(self._numbers)
        if 3 * len(self._numbers) > 2 * len(self._slots):
            self._widen()

    def number(self, key: bytes) -> int:
        """The number of a key; a new one is numbered by how many there were before."""
        slot = self._slot(key)
        if entry := self._slots[slot]:
            return self._numbers[entry - 1]
        new = len(self._numbers)
        self.put(key, new)
        return new

    def add(self, key: bytes) -> bool:
        """Give a key a number as `number` does; whether it is new, so of equal keys the first.

        >>> seen = Places()
        >>> [seen.add(key_of(text)) for text in ("a", "b", "a")]
        [True, True, False]
        """
        known = len(self)
        return self.number(key) == known

    def _slot(self, key: bytes) -> int:
        """Where a key is, or would be."""
        slots, keys, last = self._slots, self._keys, len(self._slots) - 1
        slot = int.from_bytes(key[:8], "little") & last
        while (entry := slots[slot]) and keys[KEY * (entry - 1) : KEY * entry] != key:
            slot = (slot + 1) & last
        return slot

    def _widen(self) -> None:
        self._slots = slots = array("I", bytes(self._slots.itemsize * 2 * len(self._slots)))
        keys, last = self._keys, len(slots) - 1
        for entry in range(len(self._numbers)):
            slot = int.from_bytes(keys[KEY * entry : KEY * entry + 8], "little") & last
            while slots[slot]:
                slot = (slot + 1) & last
            slots[slot] = entry + 1


def places_of(names: Iterable[str]) -> Places:
    """Where each name stands among the names; of one that comes again, where it was last.

    So fewer places than names: one came twice.
    """
    found = Places()
    for place, name in enumerate(names):
        found.put(key_of(name), place)
    return found

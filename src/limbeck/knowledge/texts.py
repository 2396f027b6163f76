"""Many texts in a file, one per line, of which any is read without the others.

NAME holds the lines in UTF-8, NAME.npy the byte at which each begins, and where the last one ends.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Self, overload

import numpy as np

from limbeck.files import whole_binary_file


class TextsWriter:
    """Writes such a file; it is complete once its block ended well."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stream: IO[bytes] = path.open("wb")
        self._ends = [0]

    def add(self, text: str) -> None:
        """Append a text without line ends."""
        self._ends.append(self._ends[-1] + self._stream.write(text.encode() + b"\n"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._stream.close()
        if kind is None:
            with whole_binary_file(self.path.with_name(f"{self.path.name}.npy")) as stream:
                np.save(stream, np.array(self._ends, np.int64))


class Texts(Sequence[str]):
    """The texts of such a file, memory-mapped."""

    def __init__(self, path: Path) -> None:
        self._places = np.asarray(np.load(path.with_name(f"{path.name}.npy"), mmap_mode="r"))
        with path.open("rb") as stream:
            empty = len(self._places) < 2  # nothing cannot be mapped
            self._bytes = b"" if empty else mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self._places) - 1

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        if not 0 <= place < len(self):
            raise IndexError(place)
        start, end = self._places[place : place + 2].tolist()
        return self._bytes[start : end - 1].decode()

    def __iter__(self) -> Iterator[str]:
        return (self[place] for place in range(len(self)))

    def sorted_place(self, text: str) -> int:
        """Where a text is, in a file whose texts are sorted; -1: nowhere."""
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            found = self[middle]
            if found == text:
                return middle
            low, high = (middle + 1, high) if found < text else (low, middle)
        return -1

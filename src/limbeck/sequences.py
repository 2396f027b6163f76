"""Sequences that hold no items: they are made, or read from a file, when they are looked at.

So as many as there are take no more memory than a few. An item that is looked at twice is made twice.
"""

from __future__ import annotations

import pickle
import tempfile
import weakref
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, chain
from pathlib import Path
from typing import Generic, Protocol, TypeVar, overload

from limbeck.errors import DiskError
from limbeck.places import key_of, places_of

S = TypeVar("S")
T = TypeVar("T")


class Made(Sequence[T]):
    """What a function makes of the items of another sequence."""

    def __init__(self, source: Sequence[S], make: Callable[[S], T]) -> None:
        self._source = source
        self._at: Callable[[int], T] = lambda place: make(source[place])
        self._all: Callable[[], Iterator[T]] = lambda: map(make, source)

    def __len__(self) -> int:
        return len(self._source)

    def __iter__(self) -> Iterator[T]:
        return self._all()

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[T]: ...
    def __getitem__(self, place: int | slice) -> T | Sequence[T]:
        return part(self, place) if isinstance(place, slice) else self._at(place)


class Part(Sequence[T]):
    """The items of another sequence at some places, in the order of the places."""

    def __init__(self, source: Sequence[T], places: Sequence[int]) -> None:
        self._source = source
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[T]:
        return (self._source[place] for place in self._places)

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[T]: ...
    def __getitem__(self, place: int | slice) -> T | Sequence[T]:
        return part(self, place) if isinstance(place, slice) else self._source[self._places[place]]


def part(source: Sequence[T], places: slice) -> Sequence[T]:
    """A slice of a sequence that holds no items."""
    return Part(source, range(len(source))[places])


class Joined(Sequence[T]):
    """The items of several sequences, one sequence behind the other."""

    def __init__(self, *sources: Sequence[T]) -> None:
        self._sources = sources
        self._ends = list(accumulate(map(len, sources)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[T]:
        return chain.from_iterable(self._sources)

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[T]: ...
    def __getitem__(self, place: int | slice) -> T | Sequence[T]:
        if isinstance(place, slice):
            return part(self, place)
        place = range(len(self))[place]  # of one from the end, or none
        number = bisect_right(self._ends, place)
        source = self._sources[number]
        return source[place - self._ends[number] + len(source)]


def where(source: Iterable[T], holds: Callable[[T], bool]) -> array[int]:
    """The places of the items for which this holds."""
    return array("Q", (place for place, item in enumerate(source) if holds(item)))


class Spool(Sequence[T]):
    """Items in a file without a name, which is gone when nobody holds the spool, or the process dies.

    Args:
        items: all there will be.
        folder: on the disk that takes the file; None: the system's for such files.

    Raises:
        DiskError: the file cannot be written, or not be read.
    """

    def __init__(self, items: Iterable[T], *, folder: Path | None = None) -> None:
        self._folder = Path(tempfile.gettempdir()) if folder is None else folder
        self._starts = array("Q", (0,))
        with self._explained():
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - lives as long as the spool
        weakref.finalize(self, self._file.close)
        for item in items:
            line = pickle.dumps(item, pickle.HIGHEST_PROTOCOL)
            with self._explained():
                self._file.write(line)
            self._starts.append(self._starts[-1] + len(line))

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __iter__(self) -> Iterator[T]:
        return (self[place] for place in range(len(self)))

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[T]: ...
    def __getitem__(self, place: int | slice) -> T | Sequence[T]:
        if isinstance(place, slice):
            return part(self, place)
        place = range(len(self))[place]  # of one from the end, or none
        start, end = self._starts[place], self._starts[place + 1]
        with self._explained():
            self._file.seek(start)
            line = self._file.read(end - start)
        item: T = pickle.loads(line)  # which this process wrote
        return item

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DiskError(self._folder, error) from error


class Identified(Protocol):
    """What has an id of its own."""

    @property
    def id(self) -> str: ...


D = TypeVar("D", bound=Identified)


class ById(Generic[D]):
    """Items found by their id; those of a sequence that holds none are read again for each look.

    Args:
        items: of two with one id the last is found.
    """

    def __init__(self, items: Sequence[D]) -> None:
        self._items = items
        self._places = places_of(item.id for item in items)
        self._last: tuple[str, D] | None = None  # what is about one item comes one after another

    def place(self, own: str) -> int | None:
        """Where the item with this id stands; None: there is none."""
        return self._places.get(key_of(own))

    def get(self, own: str) -> D | None:
        """The item with this id; None: there is none."""
        if self._last is None or self._last[0] != own:
            place = self.place(own)
            if place is None:
                return None
            self._last = own, self._items[place]
        return self._last[1]

    def __contains__(self, own: str) -> bool:
        return self.place(own) is not None

    def __getitem__(self, own: str) -> D:
        found = self.get(own)
        if found is None:
            raise KeyError(own)
        return found

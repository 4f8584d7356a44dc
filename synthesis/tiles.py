"""Tiles of a picture, overlapping, their grid laid anew each time: what is too large for memory goes piece by piece."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

MARGIN = 32  # pixels around a tile's own part, so that features at its edges see what is beyond them
ALIGNMENT = 32  # every tile starts at a multiple, so that layers of any stride up to this meet the same grid of pixels
SMALLEST = 128


@dataclass(frozen=True)
class Tile:
    """A rectangle that is looked at, and the part of it that counts: no pixel of the picture is in two parts.

    Args:
        seen: rows and columns of the picture.
        own: rows and columns of the picture, within those.
    """

    seen: tuple[slice, slice]
    own: tuple[slice, slice]

    @property
    def own_within(self) -> tuple[slice, slice]:
        """The part that counts, as rows and columns of the tile."""
        rows, columns = (slice(o.start - s.start, o.stop - s.start) for s, o in zip(self.seen, self.own, strict=True))
        return rows, columns

    @property
    def share(self) -> float:
        """Area of the part that counts over that of the tile."""
        (a, b), (c, d) = ((s.stop - s.start, o.stop - o.start) for s, o in zip(self.seen, self.own, strict=True))
        return b * d / (a * c)


def tiles(height: int, width: int, size: int, shift: tuple[int, int] = (0, 0)) -> Iterator[Tile]:
    """Tiles of at most ``size`` by ``size`` pixels that cover a picture.

    Args:
        size: a multiple of ``ALIGNMENT``, at least ``SMALLEST``.
        shift: of the grid, downwards and to the right, in units of ``ALIGNMENT`` pixels.

    Raises:
        ValueError: the size is none.
    """
    check(size)
    for row_seen, row_own in _spans(height, size, shift[0]):
        for column_seen, column_own in _spans(width, size, shift[1]):
            yield Tile((row_seen, column_seen), (row_own, column_own))


def check(size: int) -> None:
    """Refuse what is no size of tiles.

    Raises:
        ValueError: it is none.
    """
    if size < SMALLEST or size % ALIGNMENT:
        raise ValueError(f"tiles have a size that is a multiple of {ALIGNMENT} and at least {SMALLEST}, not {size}")


def shifts(size: int) -> int:
    """How many shifts of the grid there are in each direction."""
    return (size - 2 * MARGIN) // ALIGNMENT


def _spans(length: int, size: int, shift: int) -> Iterator[tuple[slice, slice]]:
    """What is seen and what counts of one axis."""
    own = size - 2 * MARGIN
    if length <= size:
        yield slice(0, length), slice(0, length)
        return
    edges = [0, *range(shift * ALIGNMENT or own, length, own), length]
    last = -(-(length - size) // ALIGNMENT) * ALIGNMENT
    for start, stop in pairwise(edges):
        begin = min(max(0, start - MARGIN), last)
        yield slice(begin, min(begin + size, length)), slice(start, stop)

"""Identifiers that sort by the time their series began: a B-tree takes them in where it took the last."""

from collections.abc import Iterator
from itertools import count

RANDOM_BYTES = 10

_VERSION, _VARIANT = 7 << 76, 2 << 62
_MIDDLE = 0xFFF << 64
_LOW = (1 << 61) - 1  # half of what the field holds, so that counting up never leaves it


def ordered_ids(milliseconds: int, random: bytes) -> Iterator[bytes]:
    """Yield UUIDs of version 7 as 16 bytes, each greater than the one before by one.

    RFC 9562, section 5.7, with a counter that begins at random (section 6.2): `milliseconds` since 1970,
    then the counter, from the RANDOM_BYTES of `random`. No secrets: each tells its neighbours.
    """
    start = int.from_bytes(random, "big")
    first = milliseconds << 80 | _VERSION | start & _MIDDLE | _VARIANT | start & _LOW
    for number in count(first):
        yield number.to_bytes(16, "big")

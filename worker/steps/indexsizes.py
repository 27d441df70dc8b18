"""How large an index is that was just built: from that follows what one has gathered since.

The layouts are PostgreSQL's (nbtree's README and `nbtsort.c`) and pgvector's (`hnsw.h`); a test compares them
with real indexes. What makes an index smaller still is left out, so that none is taken for larger than it is.
"""

import math

PAGE = 8192
_BTREE_LEAF = 7333  # of a page: nine tenths are filled
_BTREE_INNER = 1.01
_MOST_TOGETHER = 130  # rows of one key in an entry, when it is built
_POINTER, _HEADER, _PLACE = 4, 8, 6
_HNSW_PAGE = 8160
_ELEMENT, _NEIGHBOURS = 72, 4  # bytes before the vector, and before the places of neighbours


def btree_bytes(rows: float, key_bytes: float, distinct: float | None) -> int:
    """Give the bytes of a B-tree. `distinct`: how many keys differ, where equal ones share an entry."""
    together = min(max(rows / distinct, 1), _MOST_TOGETHER) if distinct else 1
    places = _PLACE * together if together >= 2 else 0  # noqa: PLR2004 -- two rows make it worth sharing
    entry = _POINTER + _aligned(_HEADER + key_bytes + places)
    entries = rows / together if places else rows
    return (math.ceil(entries * entry / _BTREE_LEAF * _BTREE_INNER) + 2) * PAGE


def hnsw_bytes(rows: float, vector_bytes: int, m: int) -> int:
    """Give the bytes of a graph: an element a row and its neighbours, on one page or, too large, on two."""
    levels = 1 / (m - 1)  # on average, above the ground
    element = _POINTER + _aligned(_ELEMENT + vector_bytes)
    neighbours = _POINTER + _aligned(_NEIGHBOURS + _PLACE * m * (2 + levels))
    together = _HNSW_PAGE // (element + neighbours) or 1 / 2
    return (math.ceil(rows / together) + 1) * PAGE


def _aligned(size: float) -> int:
    return math.ceil(size / 8) * 8

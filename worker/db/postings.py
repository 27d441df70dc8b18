"""`postings`: which chunks have which terms, one leaf a segment, written with the chunks.

A row lists chunks of one tenant that have a term, by number: block = number >> 16, and 5 bytes a chunk in
`entries` (steps/postings.py). Rows of one term and block are joined by joining their bytes, in any order.
What has become of a chunk since is not looked after here: a search looks for its candidates among the
chunks that live, and a merge leaves out what does not.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Row, text

from worker.db.copying import Readable, copy_in
from worker.db.leaves import postings_name
from worker.db.segments import Segment, in_list
from worker.steps.copyrows import HEADER, TRAILER, CopyStream
from worker.steps.postings import BLOCK, BLOCK_BITS, COLUMNS, copy_row, merged, numbers_of

# Every write of a tenant adds a row a term: a search reads them all.
_MANY_WRITES = 128
_ROWS_A_PART = 5_000


def copy_rows(connection: Connection, segment: int, data: Readable) -> int:
    """Stream a binary COPY of postings into a segment's leaf; gives the number of rows."""
    return copy_in(connection, postings_name(segment), COLUMNS, data)


def is_scattered(connection: Connection, segment: int) -> bool:
    """Tell whether a tenant's terms are spread over many rows, as many small writes leave them."""
    found = connection.execute(
        text(f"""
            SELECT 1 FROM {postings_name(segment)} WHERE starts_with(term, '#')
            GROUP BY tenant_id, term HAVING count(*) - count(DISTINCT block) >= :many LIMIT 1"""),
        {"many": _MANY_WRITES},
    )
    return found.first() is not None


def fold(connection: Connection, segment: int) -> int:
    """Join the rows of each term and block into one; gives how many there are then.

    One statement: a search sees the rows before it or those after it. Rows that are written meanwhile
    stay as they are.
    """
    leaf = postings_name(segment)
    folded = connection.execute(
        text(f"""
            WITH gone AS (DELETE FROM {leaf} RETURNING *)
            INSERT INTO {leaf} (tenant_id, term, block, chunks, occurrences, entries)
            SELECT tenant_id, term, block, sum(chunks), sum(occurrences), string_agg(entries, '')
            FROM gone GROUP BY tenant_id, term, block""")
    )
    return folded.rowcount


def merge(connection: Connection, sources: Sequence[Segment], target: Segment) -> int:
    """Copy the postings of merged segments into the target's leaf, without chunks that are nowhere any more.

    Gives how many rows. Chunks in the trash keep theirs: restored, they are found again. Call it in a
    transaction, after the chunks are copied.
    """
    dead = _by_block(_gone(connection, sources, target))
    found = connection.execution_options(stream_results=True).execute(
        text(f"""
            SELECT tenant_id, term, block, string_agg(entries, '') AS entries FROM postings
            WHERE segment IN ({in_list([source.segment for source in sources])})
            GROUP BY tenant_id, term, block ORDER BY tenant_id, term, block""")
    )
    return sum(
        copy_rows(connection, target.segment, CopyStream(_parts(rows, dead)))
        for rows in found.partitions(_ROWS_A_PART)
    )


def _parts(rows: Iterable[Row[Any]], dead: Mapping[int, Sequence[int]]) -> Iterator[bytes]:
    yield HEADER
    for row in rows:
        if left := merged(row.term, row.block, [row.entries], dead.get(row.block, ())):
            yield copy_row(left, row.tenant_id)
    yield TRAILER


def _by_block(numbers: NDArray[np.int64]) -> dict[int, list[int]]:
    blocks: dict[int, list[int]] = defaultdict(list)
    for number in numbers.tolist():
        blocks[number >> BLOCK_BITS].append(number & (BLOCK - 1))
    return blocks


def _gone(connection: Connection, sources: Sequence[Segment], target: Segment) -> NDArray[np.int64]:
    """Give the numbers in the postings of the sources that no chunk has any more."""
    listed = connection.execute(
        text(f"""
            SELECT block, entries FROM postings
            WHERE segment IN ({in_list([source.segment for source in sources])})
              AND starts_with(term, '#')""")
    )
    numbers = [numbers_of(row.block, row.entries) for row in listed]
    copied = connection.execution_options(stream_results=True).execute(
        text(f"SELECT number FROM {target.leaf}")
    )
    all_of_them = np.concatenate(numbers or [np.empty(0, np.int64)])
    left = np.setdiff1d(all_of_them, np.fromiter(copied.scalars(), np.int64))
    elsewhere = [
        connection.execute(
            text("SELECT number FROM chunks WHERE number = ANY(:numbers)"), {"numbers": part.tolist()}
        ).scalars()
        for part in np.array_split(left, range(_ROWS_A_PART, len(left), _ROWS_A_PART))
    ]
    return np.setdiff1d(left, np.fromiter(chain.from_iterable(elsewhere), np.int64))

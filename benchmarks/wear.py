"""What months of use leave behind, in a moment: deleted documents, old records, damage done by hand."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from uuid import UUID

from sqlalchemy import Connection, text

from benchmarks.ours import TENANT
from benchmarks.ready import CHUNKS, DOCUMENTS
from worker.db import deletions
from worker.db.submissions import ensure_scope
from worker.resources import Resources

SLICE = 500
OLD_RECORDS = 100_000


def delete_share(resources: Resources, share: float, leaves: Sequence[str]) -> int:
    """Delete this share of the documents whose chunks are in these leaves; gives how many rows went."""
    scope = resources.transact(partial(ensure_scope, tenant=TENANT, project=None))
    chosen = resources.transact(partial(_documents, share=share, leaves=leaves))
    for slice_ in _slices(chosen):
        resources.transact(partial(deletions.delete, scope=scope, document_ids=slice_))
    return len(chosen) * CHUNKS


def _documents(connection: Connection, share: float, leaves: Sequence[str]) -> list[UUID]:
    """Choose by the hash of the path: as good as dice, and the same each time."""
    among = " UNION ".join(f"SELECT DISTINCT document_id FROM {leaf}" for leaf in leaves)
    found = connection.execute(
        text(f"""
            SELECT d.document_id FROM documents d
            WHERE d.deleted_at IS NULL AND d.document_id IN ({among})
            ORDER BY d.source_key LIMIT (SELECT :share * count(*) FROM ({among}) held)"""),
        {"share": share},
    )
    return list(found.scalars())


def _slices(ids: Sequence[UUID]) -> Iterator[Sequence[UUID]]:
    for start in range(0, len(ids), SLICE):
        yield ids[start : start + SLICE]


def live_rows(resources: Resources, batches: int, name: str) -> list[int]:
    """Give the places of the rows whose documents are not deleted, of so many batches of a name."""
    gone = resources.transact(_deleted)
    documents = ((batch, number) for batch in range(batches) for number in range(DOCUMENTS))
    living = (
        batch * DOCUMENTS + number
        for batch, number in documents
        if f"{name}-{batch + 1}-{number}" not in gone
    )
    return [document * CHUNKS + chunk for document in living for chunk in range(CHUNKS)]


def _deleted(connection: Connection) -> set[str]:
    found = connection.execute(text("SELECT source_path FROM documents WHERE deleted_at IS NOT NULL"))
    return set(found.scalars())


def age_records(resources: Resources) -> None:
    """Leave records of runs that are to be purged."""
    resources.transact(
        lambda connection: connection.execute(
            text("""
                INSERT INTO maintenance_runs (chore, outcome, created_at, finished_at)
                SELECT 'of old', 'done', now() - interval '1 year', now() FROM generate_series(1, :many)"""),
            {"many": OLD_RECORDS},
        )
    )


# What somebody did by hand: (what, the statements, the chore that is to notice). A leaf's name is put in.
DAMAGE: Sequence[tuple[str, Sequence[str], str]] = (
    ("a vector index dropped", ("DROP INDEX {leaf}_embedding_idx",), "seal"),
    ("an index of a table dropped", ("DROP INDEX documents_created_at_idx",), "indexes"),
    ("chunks of documents deleted", ("DELETE FROM {leaf} WHERE chunk_index = 0",), "reconcile"),
)


def do_damage(resources: Resources, statements: Iterable[str], leaf: str) -> None:
    """Run statements as the owner."""

    def run(connection: Connection) -> None:
        for statement in statements:
            connection.execute(text(statement.format(leaf=leaf)))

    resources.transact(run)

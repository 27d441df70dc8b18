"""How large an index should be, against indexes that a real server has just built."""

import pytest
from sqlalchemy import Connection

from tests.integration.test_maintenance import tell, value
from worker.steps.indexsizes import btree_bytes, hnsw_bytes


@pytest.mark.parametrize(
    ("column", "rows", "key_bytes", "distinct"),
    [
        ("gen_random_uuid()", 20_000, 16, None),
        ("n::bigint", 20_000, 8, 20_000),
        ("(n % 8)::bigint", 20_000, 8, 8),
        ("(n / 5)::bigint", 20_000, 8, 4_000),
        ("repeat('x', 90) || lpad(n::text, 9, '0')", 5_000, 103, None),
    ],
)
def test_a_btree(
    column: str, rows: int, key_bytes: int, distinct: int | None, connection: Connection
) -> None:
    tell(connection, f"CREATE TABLE t AS SELECT {column} AS k FROM generate_series(1, {rows}) n")
    tell(connection, "CREATE INDEX i ON t (k)")
    real = value(connection, "SELECT pg_relation_size('i')")
    assert real / btree_bytes(rows, key_bytes, distinct) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize(
    ("kind", "dimension", "m", "rows", "vector_bytes"),
    [
        ("vector", 64, 16, 600, 264),
        ("vector", 1536, 8, 60, 6152),
        ("halfvec", 256, 4, 600, 520),
        ("vector", 2000, 16, 60, 8008),
    ],
)
def test_a_graph(
    kind: str, dimension: int, m: int, rows: int, vector_bytes: int, connection: Connection
) -> None:
    numbers = f"ARRAY(SELECT random() + 0 * n FROM generate_series(1, {dimension}))"
    tell(
        connection,
        f"CREATE TABLE t AS SELECT {numbers}::{kind}({dimension}) AS v FROM generate_series(1, {rows}) n",
    )
    tell(connection, f"CREATE INDEX i ON t USING hnsw (v {kind}_l2_ops) WITH (m = {m}, ef_construction = 32)")
    real = value(connection, "SELECT pg_relation_size('i')")
    assert real / hnsw_bytes(rows, vector_bytes, m) == pytest.approx(1, abs=0.1)

"""Vectors in half precision: sealed, merged and found like the others."""

from collections.abc import Callable

import pytest
from pydantic import SecretStr
from sqlalchemy import Connection, text

from tests.integration.test_maintenance import value
from tests.integration.test_sealing import Drain, document, found_by, ingested, seal, vectors
from worker import Document, GivenChunk, delete, submit
from worker.db.engine import driver_url
from worker.db.migrate import migrate
from worker.embedded import RunningValkey
from worker.maintenance.run import run_chore
from worker.resources import Resources
from worker.settings import read_settings

OPERATORS = """
    SELECT opcname FROM segments s JOIN pg_index i ON i.indexrelid = to_regclass(s.leaf || '_embedding_idx')
    JOIN pg_opclass o ON o.oid = ANY(i.indclass) WHERE s.state = 'sealed'"""


@pytest.fixture(scope="module")
def template(new_database: Callable[[str | None], str], valkey: RunningValkey) -> str:
    url = new_database(None)
    migrate(
        read_settings(
            database_url=url, broker_url=valkey.url, embedding_provider="none", embedding_type="halfvec"
        )
    )
    return driver_url(SecretStr(url)).database or ""


@pytest.fixture
def environment() -> dict[str, str]:
    return {
        "EMBEDDING_PROVIDER": "none",
        "EMBEDDING_TYPE": "halfvec",
        "SEGMENT_ROWS": "20",
        "MAX_UNSEALED_ROWS": "1000",
        "BUILD_WORKERS": "0",
    }


def test_half_precision_goes_all_the_way(resources: Resources, drain: Drain, connection: Connection) -> None:
    for name in "abcd":
        ingested(drain, document(name))
        seal(resources)
    assert run_chore(resources, "compact")["rows_copied"] == 100
    assert value(connection, OPERATORS) == "halfvec_cosine_ops"
    wanted = vectors(1)[0]
    exact = connection.execute(
        text("""SELECT text FROM chunks WHERE segment IN (SELECT segment FROM segments WHERE state = 'sealed')
                ORDER BY (embedding <=> CAST(:wanted AS halfvec)) + 0 LIMIT 5"""),
        {"wanted": str(wanted)},
    ).scalars()
    assert found_by(resources, wanted) == list(exact)
    delete(["a"])
    assert len(found_by(resources, wanted, k=100)) == 75


def test_what_half_precision_cannot_hold_is_refused_alone(resources: Resources, drain: Drain) -> None:

    large = Document.chunks([GivenChunk("too large", vector=[1e5] + [0.0] * 255)], source_path="large")
    submit([large, document("fine")])
    assert drain() == {"completed": 1, "failed": 1}
    assert len(found_by(resources, vectors(1)[0], k=100)) == 25

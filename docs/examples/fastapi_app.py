"""Documents over HTTP: submit one, follow it, search, rate the answer.

    pip install ingest-worker "fastapi[standard]"
    fastapi run fastapi_app.py

DATABASE_URL and BROKER_URL are those of the workers. The header X-Tenant stands for what your login knows: a
caller must not be able to choose it. The calls block, so the endpoints are plain `def`, which FastAPI runs in
threads.
"""

from collections.abc import Mapping
from typing import Annotated, Any
from uuid import UUID

from fastapi import FastAPI, Header, HTTPException, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from worker import Answer, Document, rate, search, submit
from worker.errors import BrokerUnavailableError, DatabaseUnavailableError, IngestError, NoAnswerError
from worker.producer import find
from worker.rating import UnknownRunError
from worker.types import Lane

STATUS_CODES: Mapping[type[IngestError], int] = {
    IngestError: 400,
    UnknownRunError: 404,
    BrokerUnavailableError: 503,
    DatabaseUnavailableError: 503,
    NoAnswerError: 504,
}

app = FastAPI(title="Documents")
Tenant = Annotated[str, Header(alias="X-Tenant", min_length=1, max_length=200)]


class Submission(BaseModel):
    """A text, by the name it is known by: the next text of this name replaces it."""

    source_path: str
    text: str
    language: str | None = None
    metadata: dict[str, Any] = {}


class Rating(BaseModel):
    """What a recorded search was worth; what is left out stays as it was."""

    thumbs: int | None = None
    quality_score: float | None = None
    comment: str | None = None


@app.exception_handler(IngestError)
def refuse(_request: Request, error: IngestError) -> JSONResponse:
    """Answer with the error's two lines: what is wrong, and what to do."""
    status_code = next(STATUS_CODES[kind] for kind in type(error).mro() if kind in STATUS_CODES)
    return JSONResponse({"error": error.message, "hint": error.hint}, status_code)


@app.post("/documents", status_code=202)
def submit_document(given: Submission, tenant: Tenant) -> dict[str, Any]:
    """Record a document: it is safe now, and searchable soon."""
    if not given.source_path.isprintable():
        raise HTTPException(400, "source_path has characters that cannot be printed")
    document = Document.text(
        given.text, source_path=given.source_path, language=given.language, metadata=given.metadata
    )
    receipt = submit([document], tenant=tenant, lane=Lane.INTERACTIVE)
    for _source_path, reason in receipt.refused:
        raise HTTPException(400, reason)
    return _document(given.source_path, tenant)


@app.get("/documents/{document_id}")
def document_status(document_id: UUID, tenant: Tenant) -> dict[str, Any]:
    """Say how far a document is, and why it failed if it did."""
    return _document(document_id, tenant)


def _document(name: str | UUID, tenant: str) -> dict[str, Any]:
    for row in find([name], tenant=tenant):
        if row.deleted_at is None and name in (row.source_path, row.document_id):
            shown = ("document_id", "source_path", "status", "searchable", "error_code", "error_message")
            return {field: getattr(row, field) for field in shown}
    raise HTTPException(404, f"there is no document {name}")


@app.post("/search")
def search_documents(query: dict[str, Any], tenant: Tenant) -> Answer:
    """Search; the body has the fields of a query (docs/search.md), but not whose documents, and no plans."""
    return search(**{**query, "tenant": tenant, "explain": False})


@app.post("/searches/{run_id}/rating", status_code=204)
def rate_search(run_id: UUID, given: Rating, tenant: Tenant) -> None:
    """Say what a search was worth that was asked with "record": true."""
    rate(run_id, tenant=tenant, **given.model_dump())

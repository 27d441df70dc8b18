"""From a document's bytes to what its chunk set should be. Pure: bytes in, records out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from worker.errors import DocumentError, SkipDocument
from worker.steps import given
from worker.steps.chunk import chunk
from worker.steps.decode import decode
from worker.steps.fingerprint import canonical_json, chunk_hash, content_hash, fingerprint
from worker.types import FileType, GivenChunk, Limits

NOTHING: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Text:
    """A document's decoded text and the hashes that decide whether there is work.

    `given`: the chunks the producer cut, of a document of type `chunks`.
    """

    text: str
    content_hash: bytes
    fingerprint: bytes
    cleaned: Mapping[str, int]
    given: Sequence[GivenChunk] = ()


class Piece(NamedTuple):
    """A chunk as it should be stored. `vector`: given by the producer."""

    text: str
    char_length: int
    content_hash: bytes
    heading_path: tuple[str, ...] = ()
    vector: Sequence[float] | None = None
    metadata_json: str = "{}"
    metadata: Mapping[str, object] = MappingProxyType({})


def read(
    data: bytes, filename: str, file_type: FileType, language: str, recipe: bytes, limits: Limits
) -> Text:
    """Decode and fingerprint. Raises SkipDocument where there is nothing to index.

    Raises DocumentError "too_many_characters", and for given chunks what `read_given` raises, and where
    they cannot be read: "bad_chunks", "vector_not_finite", "bad_metadata".
    """
    decoded = decode(data, filename=filename)
    if file_type is FileType.CHUNKS:
        chunks, replaced = given.parse(decoded.text)
        cleaned = {**decoded.cleaned, **({"chunks": replaced} if replaced else {})}
        return read_given(chunks, language, recipe, limits, cleaned)
    _refuse_long(len(decoded.text), limits)
    hashed = content_hash(decoded.text)
    return Text(decoded.text, hashed, fingerprint(hashed, recipe, file_type, language), decoded.cleaned)


def read_given(
    chunks: Sequence[GivenChunk],
    language: str,
    recipe: bytes,
    limits: Limits,
    cleaned: Mapping[str, int] = NOTHING,
) -> Text:
    """Fingerprint the chunks a producer cut. Raises DocumentError "too_many_characters", "chunk_too_long"."""
    _refuse_long(sum(len(item.text) for item in chunks), limits)
    for number, item in enumerate(chunks, 1):
        _refuse_long_chunk(f"chunk {number} has", len(item.text), limits)
        _refuse_long_chunk(f"the headings of chunk {number} have", sum(map(len, item.heading_path)), limits)
    hashed = given.content_hash(chunks)
    return Text("", hashed, fingerprint(hashed, recipe, FileType.CHUNKS, language), cleaned, chunks)


def _refuse_long(characters: int, limits: Limits) -> None:
    if characters > limits.characters:
        raise DocumentError(
            "too_many_characters",
            f"{characters:,} characters; MAX_DOCUMENT_CHARACTERS allows {limits.characters:,}",
        )


def _refuse_long_chunk(what: str, characters: int, limits: Limits) -> None:
    if characters > limits.chunk_characters:
        raise DocumentError(
            "chunk_too_long",
            f"{what} {characters:,} characters; MAX_CHUNK_CHARACTERS allows {limits.chunk_characters:,}",
        )


def split(
    text: Text, file_type: FileType, *, model: str, size: int, overlap: int, limits: Limits
) -> list[Piece]:
    """Cut a text into pieces, or take the pieces the producer cut.

    Raises SkipDocument "empty" and DocumentError "too_many_chunks".
    """
    if file_type is FileType.CHUNKS:
        return given_pieces(text.given, model=model, limits=limits)
    pieces = [
        Piece(span.text, span.end - span.start, chunk_hash(model, span.text), span.heading_path)
        for span in chunk(text.text, file_type, size=size, overlap=overlap)
    ]
    return _bounded(pieces, limits.chunks)


def given_pieces(chunks: Sequence[GivenChunk], *, model: str, limits: Limits) -> list[Piece]:
    """Take the pieces the producer cut; raises as `split` does. `model` embeds those without a vector."""
    return _bounded([_given(item, model) for item in chunks], limits.chunks)


def _bounded(pieces: list[Piece], most: int) -> list[Piece]:
    if not pieces:
        raise SkipDocument("empty", "it has no chunks")
    if len(pieces) > most:
        raise DocumentError("too_many_chunks", f"{len(pieces):,} chunks; MAX_DOCUMENT_CHUNKS allows {most:,}")
    return pieces


def _given(item: GivenChunk, model: str) -> Piece:
    return Piece(
        text=item.text,
        char_length=len(item.text),
        content_hash=given.given_hash(model, item),
        heading_path=tuple(item.heading_path),
        vector=item.vector,
        metadata_json=canonical_json(item.metadata),
        metadata=item.metadata,
    )

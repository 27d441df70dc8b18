"""A document as a producer hands it over, and the row it becomes."""

import os
from pathlib import Path
from typing import Any

import pytest

from worker.document import Document, submission
from worker.errors import DocumentError, SourceError
from worker.types import FileType, GivenChunk

LIMIT = 100


def code_of(document: Document) -> str:
    with pytest.raises(DocumentError) as caught:
        submission(document, LIMIT, "english")
    return caught.value.code


def test_file_is_named_with_what_tells_a_change(tmp_path: Path) -> None:
    file = tmp_path / "a.md"
    file.write_bytes(b"12345")
    os.utime(file, ns=(1, 1_700_000_000_123_456_789))
    document = Document.path(file, metadata={"a": 1})
    assert document == Document(
        str(file), "a.md", FileType.MARKDOWN, None, 5, 1_700_000_000_123_456, {"a": 1}
    )


def test_relative_path_is_made_absolute_and_a_link_stays_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real.txt").write_text("words")
    (tmp_path / "link.md").symlink_to("real.txt")
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    document = Document.path("../sub/../link.md")
    assert document.source_path == str(tmp_path / "link.md")
    assert (document.file_type, document.size_bytes) == (FileType.MARKDOWN, 5)


def test_name_that_is_not_utf8_is_kept_reversibly(tmp_path: Path) -> None:
    file = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.md"))
    file.write_text("words")
    document = Document.path(file)
    assert document.source_path.startswith("file:///")
    assert document.source_path.endswith("/caf%E9.md")
    assert (document.filename, document.file_type) == ("caf%E9.md", FileType.MARKDOWN)


@pytest.mark.parametrize("name", ["missing", "file/below", "a\0b", "\ud800", "x" * 300])
def test_path_that_is_no_file_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SourceError) as caught:
        Document.path(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seconds", [1 << 55, -(1 << 55), 1 << 62])
def test_time_that_no_timestamp_holds_counts_as_unknown(seconds: int) -> None:
    document = Document.found(Path("/a.txt"), 1, seconds * 10**9)
    assert (document.modified_us, document.size_bytes) == (None, 1)


def test_time_before_1970_is_kept() -> None:
    assert Document.found(Path("/a.txt"), 1, -1_500_000).modified_us == -1500


def test_text_is_kept_as_bytes() -> None:
    document = Document.text("é\ud800", source_path="notes/a.py")
    assert (document.content, document.size_bytes) == (b"\xc3\xa9\xed\xa0\x80", 5)
    assert (document.filename, document.file_type, document.modified_us) == ("a.py", FileType.CODE, None)
    assert Document.text(b"\xff\0", source_path="a").content == b"\xff\0"
    assert Document.text("", source_path="a", file_type=FileType.MARKDOWN).file_type is FileType.MARKDOWN


@pytest.mark.parametrize(
    ("uri", "filename", "file_type"),
    [
        ("s3://bucket/folder/a.md", "a.md", FileType.MARKDOWN),
        ("s3://bucket/folder/", "folder", FileType.TEXT),
        ("s3://bucket", "bucket", FileType.TEXT),
        ("s3://bucket/what?.md", "what?.md", FileType.MARKDOWN),
        ("HTTPS://host/folder/a.md?sign=x/y.py#part", "a.md", FileType.MARKDOWN),
        ("https://host/?page=1", "host", FileType.TEXT),
        ("///", "///", FileType.TEXT),
    ],
)
def test_uri_is_named_by_its_last_part(uri: str, filename: str, file_type: FileType) -> None:
    document = Document.uri(uri)
    assert (document.source_path, document.filename, document.file_type) == (uri, filename, file_type)
    assert (document.content, document.size_bytes) == (None, None)


def test_chunks_are_written_down_or_refused_at_once() -> None:
    document = Document.chunks([GivenChunk("a", [1.0])], source_path="mine.md")
    assert document.file_type is FileType.CHUNKS
    assert document.size_bytes == len(document.content or b"") > 0
    with pytest.raises(DocumentError, match="no text"):
        Document.chunks([GivenChunk(" ")], source_path="mine")


def test_row_is_storable() -> None:
    row = submission(
        Document.text("words", source_path="a\0\ud800/b\0.md", metadata={"k\0": "\udfff"}), LIMIT, "english"
    )
    assert (row.source_path, row.filename) == ("a\ufffd/b.md", "b.md")
    assert (row.content, row.size_bytes, row.metadata_json) == (b"words", 5, '{"k":"\ufffd"}')


def test_filename_that_has_nothing_left_is_the_path() -> None:
    assert submission(Document.text("words", source_path="a/\0"), LIMIT, "english").filename == "a/"


@pytest.mark.parametrize(
    ("document", "code"),
    [
        (Document.text("x" * 101, source_path="a"), "too_large"),
        (Document.text("x", source_path=""), "no_source_path"),
        (Document.text("x", source_path="\0"), "no_source_path"),
        (Document.text("x", source_path="a", metadata={"a": float("nan")}), "bad_metadata"),
        (Document.text("x", source_path="a", metadata={"a": object()}), "bad_metadata"),
        (Document.text("x", source_path="a", language="klingon"), "bad_language"),
    ],
)
def test_document_that_cannot_be_a_row_is_refused(document: Document, code: str) -> None:
    assert code_of(document) == code


@pytest.mark.parametrize("metadata", [["a"], "text", 5])
def test_metadata_that_is_no_object_is_refused_before_the_database_does(metadata: Any) -> None:
    assert code_of(Document.text("x", source_path="a", metadata=metadata)) == "bad_metadata"


def test_limit_itself_is_allowed_and_files_are_weighed_by_their_reader() -> None:
    assert submission(Document.text("x" * LIMIT, source_path="a"), LIMIT, "english").size_bytes == LIMIT
    assert submission(Document.found(Path("/a"), LIMIT + 1, 0), LIMIT, "english").size_bytes == LIMIT + 1

"""Judged collections, a folder each: docs.jsonl (id, title, text), queries.jsonl (id, text) and judgements.

These are in qrels_test.tsv, else in qrels.tsv (query, document, grade). `$CORPORA/ir/scifact` is one. Where
there is a meta.json, its `language` is the documents'.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks import corpus
from benchmarks.report import BenchmarkError
from worker.cli import judgements
from worker.steps.judged import by_query

SCIFACT = "ir/scifact"
QRELS = ("qrels_test.tsv", "qrels.tsv")
LANGUAGES = {
    "ar": "arabic", "da": "danish", "de": "german", "en": "english", "es": "spanish", "fi": "finnish",
    "fr": "french", "hi": "hindi", "hu": "hungarian", "it": "italian", "nl": "dutch", "no": "norwegian",
    "pt": "portuguese", "ro": "romanian", "ru": "russian", "sv": "swedish", "ta": "tamil", "tr": "turkish",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Collection:
    """One judged collection."""

    folder: Path

    @property
    def name(self) -> str:
        """Name it, without saying where it lies."""
        return self.folder.resolve().name

    @property
    def language(self) -> str | None:
        """Name the language of its documents as Snowball does; None where nobody says."""
        meta = self.folder / "meta.json"
        said = json.loads(meta.read_text()).get("language") if meta.exists() else None
        return LANGUAGES.get(said, "none") if said else None

    def documents(self) -> Iterator[tuple[str, str]]:
        """Give (id, title and text) of each document."""
        with (self.folder / "docs.jsonl").open() as lines:
            for line in lines:
                found = json.loads(line)
                text = found["text"]
                title = found.get("title")
                yield str(found.get("_id", found.get("id"))), f"{title}\n\n{text}" if title else text

    def queries(self) -> Iterator[tuple[str, str]]:
        """Give (id, text) of each query."""
        return judgements.queries(str(self.folder / "queries.jsonl"))

    def grades(self) -> Mapping[str, Mapping[str, int]]:
        """Give {query: {document: grade}}."""
        path = next((self.folder / name for name in QRELS if (self.folder / name).exists()), self.folder)
        return by_query(judgements.judgements(str(path)))


def scifact() -> Collection | None:
    """Find SciFact in `$CORPORA`."""
    folder = corpus.collection(SCIFACT)
    return None if folder is None else Collection(folder)


def given() -> Collection | None:
    """Give the collection that JUDGED names. Raises BenchmarkError for a folder that is none."""
    name = os.environ.get("JUDGED")
    if not name:
        return None
    missing = [file for file in ("docs.jsonl", "queries.jsonl") if not (Path(name) / file).is_file()]
    if not any((Path(name) / file).is_file() for file in QRELS):
        missing.append(" or ".join(QRELS))
    if missing:
        raise BenchmarkError(f"JUDGED={name} is no judged collection: it has no {', no '.join(missing)}")
    return Collection(Path(name))

"""What a producer does, from a seed: endless operations on documents of its own, and texts for them.

A document is a list of paragraphs, each a number from which its words are made: a journal of numbers is
small, and gives the same texts again.
"""

import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from worker import Document
from worker.types import Lane

TENANT, PROJECTS = "chaos", ("harbour", "library")
_MOST_PATHS = 1_500
_MOST_PARAGRAPHS = 14
_FILES, _URGENT = 0.2, 0.15
_WORDS = (
    "anchor", "beacon", "captain", "derrick", "estuary", "freight", "galley", "hawser", "islet", "jetty",
    "keel", "lantern", "mooring", "narrows", "oar", "pilot", "quay", "rudder", "sextant", "tide", "umiak",
    "vessel", "wharf", "yawl", "zephyr", "ballast", "cargo", "deck", "ebb", "fathom", "gale", "harbour",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of a producer's. `documents`: paths and paragraphs; of what is deleted, paths alone.

    An absolute path is a file, which the workers read; any other stands for a text that is handed over.
    """

    verb: str
    project: str
    documents: tuple[tuple[str, tuple[int, ...]], ...]
    lane: Lane = Lane.BULK

    def record(self) -> dict[str, Any]:
        """Give the form of the journal."""
        return asdict(self)

    @classmethod
    def read(cls, record: dict[str, Any]) -> "Operation":
        """Read one back."""
        documents = tuple((path, tuple(numbers)) for path, numbers in record["documents"])
        return cls(record["verb"], record["project"], documents, Lane(record["lane"]))

    def made(self) -> list[Document]:
        """Give the documents to submit; writes those that are files."""
        return [
            _written(Path(path), written(numbers))
            if Path(path).is_absolute()
            else Document.text(written(numbers), source_path=path)
            for path, numbers in self.documents
        ]


def _written(path: Path, content: str) -> Document:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(content)
    new.replace(path)
    return Document.path(path)


def written(numbers: tuple[int, ...]) -> str:
    """Write the text of a document."""
    return "\n\n".join(map(paragraph, numbers))


def paragraph(number: int) -> str:
    """Write a paragraph, never another number's. All together have a thousand words: processes keep those."""
    chance = random.Random(number)
    words = " ".join(chance.choices(_WORDS, k=chance.randint(40, 140)))
    return f"Log {number:,}: {words}.".replace(",", " ")


class Script:
    """The operations of one producer. Its paths are nobody else's; some contents are.

    `files`: the folder for those of its documents that are files.
    """

    def __init__(self, seed: int, name: str, files: Path) -> None:
        self._chance = random.Random(f"{seed} {name}")
        self._name, self._files = name, files
        self._contents: dict[tuple[str, str], tuple[int, ...]] = {}
        self._made = 0

    def operations(self) -> Iterator[Operation]:
        """Give one after the other, for ever."""
        verbs = {self._submit: 6, self._edit: 5, self._delete: 1, self._search: 2}
        while True:
            [verb] = self._chance.choices(list(verbs), list(verbs.values()))
            yield verb(self._chance.choice(PROJECTS))

    def _submit(self, project: str) -> Operation:
        new = [self._new(project) for _ in range(self._chance.choice((1, 8, 25, 60, 120)))]
        if len(self._contents) > _MOST_PATHS:
            return self._edit(project)
        return self._remember("submit", project, dict(new))

    def _new(self, project: str) -> tuple[str, tuple[int, ...]]:
        self._made += 1
        path = f"{self._name}/{project}/{self._made}.txt"
        is_file = self._chance.random() < _FILES
        return str(self._files / path) if is_file else path, self._content()

    def _content(self) -> tuple[int, ...]:
        kind = self._chance.random()
        if kind < 0.03:
            return ()
        if kind < 0.15:
            return (self._chance.randrange(200),) * 2
        return tuple(
            self._chance.randrange(1_000, 10**9) for _ in range(self._chance.randint(1, _MOST_PARAGRAPHS))
        )

    def _edit(self, project: str) -> Operation:
        mine = self._paths(project)
        chosen = self._chance.sample(mine, min(len(mine), self._chance.choice((1, 5, 15, 40))))
        return self._remember("submit", project, {path: self._edited(project, path) for path in chosen})

    def _edited(self, project: str, path: str) -> tuple[int, ...]:
        numbers = list(self._contents[project, path])
        if not numbers or self._chance.random() < 0.1:
            return self._content()
        numbers[self._chance.randrange(len(numbers))] = self._chance.randrange(1_000, 10**9)
        return tuple(numbers)

    def _delete(self, project: str) -> Operation:
        mine = self._paths(project)
        chosen = self._chance.sample(mine, min(len(mine), self._chance.choice((1, 2, 6))))
        for path in chosen:
            del self._contents[project, path]
        return Operation("delete", project, tuple((path, ()) for path in chosen))

    def _search(self, project: str) -> Operation:
        words = self._chance.sample(_WORDS, 3)
        return Operation("search", project, ((" ".join(words), ()),))

    def _paths(self, project: str) -> list[str]:
        return [path for of, path in self._contents if of == project]

    def _remember(self, verb: str, project: str, contents: dict[str, tuple[int, ...]]) -> Operation:
        self._contents |= {(project, path): numbers for path, numbers in contents.items()}
        lane = Lane.INTERACTIVE if self._chance.random() < _URGENT else Lane.BULK
        return Operation(verb, project, tuple(contents.items()), lane)

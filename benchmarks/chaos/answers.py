"""What searches found, held against what was ever submitted."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.chaos.script import Operation, written


def wrong_answers(folder: Path, names: Sequence[str]) -> list[str]:
    """Give the hits whose text was never submitted under their path, in the project that was searched.

    Each of these producers searches in one tenant; what others have there is in their journals as well.
    """
    submitted: dict[tuple[str, str], set[tuple[int, ...]]] = {}
    for name in names:
        for operation in map(Operation.read, _lines(folder / f"{name}.journal")):
            for path, numbers in operation.documents:
                submitted.setdefault((operation.project, path), set()).add(numbers)
    return [
        f"{path}: {text:.100}"
        for name in names
        for project, path, text in _lines(folder / f"{name}.answers")
        if not any(text in written(numbers) for numbers in submitted.get((project, path), ()))
    ]


def _lines(path: Path) -> Iterator[Any]:
    return map(json.loads, path.read_text().splitlines())

"""A process as `ingest` starts it, that writes down what it does and embeds, and whose clock may be wrong.

    python -m benchmarks.chaos.process worker ingest

CHAOS_FOLDER: the folder for what is embedded, a line a call: the batch, and a hash of each text; and for
the stage that each process of a pool is at, the last that it began.
CHAOS_CLOCK: the seconds by which its clock is wrong.
"""

import os
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timedelta, tzinfo
from hashlib import blake2b
from pathlib import Path
from typing import Any

from celery import current_task, signals

from worker import metrics
from worker.cli import main
from worker.embedding.wordllama import WordLlamaEmbedder
from worker.steps.vectors import Matrix

_SECONDS_A_CALL = 0.02  # as a provider takes: a batch has several stages, in which faults may come
_STAGE = 8  # characters of the longest
_MODULES = (
    "celery.worker.request",
    "celery.utils.time",
    "celery.app.base",
    "celery.beat",
    "worker.timetable",
)


def count_embeddings(folder: Path) -> None:
    """Have the built-in model write down what it is asked, once it has answered."""
    plain = WordLlamaEmbedder.embed

    def embed(self: WordLlamaEmbedder, texts: Sequence[str]) -> Matrix:
        vectors = plain(self, texts)
        time.sleep(_SECONDS_A_CALL)
        arguments = current_task.request.args if current_task else None
        if arguments:  # a batch: a search has none
            hashes = " ".join(blake2b(text.encode(), digest_size=8).hexdigest() for text in texts)
            with (folder / f"{os.getpid()}.embedded").open("a") as file:
                file.write(f"{arguments[0]} {hashes}\n")
        return vectors

    WordLlamaEmbedder.embed = embed  # type: ignore[method-assign] # the product has no seam, and needs none


def note_stages(folder: Path) -> None:
    """Have each process of a pool write down which stage of a batch it began last, while it has one."""
    plain = metrics.stage_seconds.labels

    def mine() -> Path:
        return folder / f"{os.getpid()}.stage"

    def begin(*_: object, name: str = "claim", **__: object) -> None:
        file = os.open(mine(), os.O_CREAT | os.O_WRONLY, 0o644)
        os.write(file, name.ljust(_STAGE).encode())  # at once: it may be killed here
        os.close(file)

    def end(**_: object) -> None:
        mine().unlink(missing_ok=True)

    def labels(name: str) -> Any:
        begin(name=name)
        return plain(name)

    signals.task_prerun.connect(begin, weak=False)
    signals.task_postrun.connect(end, weak=False)
    metrics.stage_seconds.labels = labels  # type: ignore[method-assign, assignment] # as above


def shift_clock(seconds: float) -> None:
    """Have this process, and what it forks, believe that it is later by so much."""
    now, now_ns, offset = time.time, time.time_ns, timedelta(seconds=seconds)

    class AnyDatetime(type(datetime)):  # type: ignore[misc] # its metaclass is `type`
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, datetime)

    class Shifted(datetime, metaclass=AnyDatetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override] # a plain one, to be pickled
            return datetime.now(tz) + offset

    time.time = lambda: now() + seconds
    time.time_ns = lambda: now_ns() + int(seconds * 1e9)
    for name in _MODULES:
        __import__(name)
        module = sys.modules[name]
        if getattr(module, "datetime", None) is datetime:
            module.datetime = Shifted  # type: ignore[attr-defined] # checked above


if __name__ == "__main__":
    folder = Path(os.environ["CHAOS_FOLDER"])
    count_embeddings(folder)
    note_stages(folder)
    if wrong := float(os.environ.get("CHAOS_CLOCK", "0")):
        shift_clock(wrong)
    main()

"""`ingest`, whose built-in model ends, stops or fails where a test wants it, and writes down its calls.

    python -m tests.workers.model worker ingest

A text that begins with a name of `DEEDS` has that done; where one begins with `full`, there is no memory for
the write of its batch. MODEL_AWAY: while this file is there the model fails,
whatever it is asked. MODEL_HELD: while this one is, it does not come back. MODEL_LOG: a line a call, whether
it was answered and the number of its texts.
"""

import ctypes
import os
import resource
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from worker.cli import main
from worker.db.documents import Settled
from worker.embedding.wordllama import WordLlamaEmbedder
from worker.encoding import Work
from worker.steps.vectors import Matrix
from worker.writing import Later, Writer

_ROOM = 64 << 20


def crash() -> None:
    ctypes.string_at(0)


def be_killed() -> None:
    """As the kernel does it where memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


def loop() -> None:
    while True:
        pass


def take_all_memory() -> None:
    """Allocate without end, where the system gives no more than a little."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    most = psutil.Process().memory_info().vms + _ROOM
    resource.setrlimit(resource.RLIMIT_AS, (most, limits[1]))
    taken = []
    try:
        while True:
            taken.append(bytearray(_ROOM // 8))
    finally:
        taken.clear()
        resource.setrlimit(resource.RLIMIT_AS, limits)


# in this order, where texts of several are embedded at once
DEEDS: Mapping[str, Callable[[], None]] = {
    "crash": crash,
    "kill": be_killed,
    "loop": loop,
    "memory": take_all_memory,
}


def is_there(variable: str) -> bool:
    return variable in os.environ and Path(os.environ[variable]).exists()


def write_down(answered: str, texts: Sequence[str]) -> None:
    if "MODEL_LOG" in os.environ:
        with Path(os.environ["MODEL_LOG"]).open("a") as file:
            file.write(f"{answered} {len(texts)}\n")


def install() -> None:
    """Put it in the place of the built-in model's."""
    plain = WordLlamaEmbedder.embed

    def embed(self: WordLlamaEmbedder, texts: Sequence[str]) -> Matrix:
        for name, deed in DEEDS.items():
            if any(text.startswith(name) for text in texts):
                deed()
        if is_there("MODEL_AWAY"):
            write_down("away", texts)
            raise ConnectionRefusedError("nobody listens at the model's port")
        while is_there("MODEL_HELD"):
            time.sleep(0.02)
        vectors = plain(self, texts)
        write_down("embedded", texts)
        return vectors

    WordLlamaEmbedder.embed = embed  # type: ignore[method-assign] # the product has no seam, and needs none
    plain_write = Writer.write

    def write(
        self: Writer, works: Sequence[Work], settled: Sequence[Settled], later: Sequence[Later]
    ) -> None:
        if any(work.text.text.startswith("full") for work in works):
            take_all_memory()
        plain_write(self, works, settled, later)

    Writer.write = write  # type: ignore[method-assign]


if __name__ == "__main__":
    install()
    main()

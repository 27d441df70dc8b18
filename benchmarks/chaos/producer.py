"""A producer in a process of its own: does what a script says with pauses, or what a journal says without.

    python -m benchmarks.chaos.producer script SEED NAME JOURNAL       until SIGTERM, its files beside JOURNAL
    python -m benchmarks.chaos.producer replay JOURNAL

An operation is written down before its first try and tried until it is accepted: submitting and deleting
again what is there already changes nothing. What is found is written down beside the journal, to be checked
when all is over. What came of it all is printed as JSON at the end.
"""

import json
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from benchmarks.chaos.script import TENANT, Operation, Script
from worker import delete, search, submit

_AGAIN_SECONDS = 0.5
_LONGEST_PAUSE = 1.2

over = threading.Event()


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    mode, *arguments = sys.argv[1:]
    counts = run_script(*arguments) if mode == "script" else replay(Path(arguments[0]))
    print(json.dumps(counts))


def run_script(seed: str, name: str, journal: str) -> Counter[str]:
    counts: Counter[str] = Counter()
    pauses = random.Random(f"{seed} {name} pauses")
    where = Path(journal)
    with where.open("a") as file, where.with_suffix(".answers").open("a") as answers:
        for operation in Script(int(seed), name, where.parent / "files").operations():
            if over.wait(pauses.uniform(0, _LONGEST_PAUSE)):
                break
            if operation.verb == "search":
                counts.update(searched(operation, answers))
                continue
            file.write(json.dumps(operation.record()) + "\n")
            file.flush()
            counts.update(accepted(operation))
    return counts


def replay(journal: Path) -> Counter[str]:
    counts: Counter[str] = Counter()
    for line in journal.read_text().splitlines():
        counts.update(accepted(Operation.read(json.loads(line))))
    return counts


def accepted(operation: Operation) -> Counter[str]:
    """Do an operation until it is accepted; gives what it was and how often it was refused."""
    counts = Counter(operations=1, documents=len(operation.documents))
    while True:
        try:
            done(operation)
        except Exception as error:  # noqa: BLE001 -- counted by kind, and shown
            print(f"{operation.verb}: {type(error).__name__}: {error}"[:300], file=sys.stderr, flush=True)
            counts[f"refused: {type(error).__name__}"] += 1
            time.sleep(_AGAIN_SECONDS)
        else:
            return counts


def done(operation: Operation) -> None:
    verbs: dict[str, Callable[[Operation], object]] = {
        "submit": lambda one: submit(one.made(), tenant=TENANT, project=one.project, lane=one.lane),
        "delete": lambda one: delete([path for path, _ in one.documents], tenant=TENANT, project=one.project),
    }
    if operation.documents:
        verbs[operation.verb](operation)


def searched(operation: Operation, answers: TextIO) -> Counter[str]:
    """Search once, and write down what is found: an error is counted, nothing is tried again."""
    try:
        answer = search(operation.documents[0][0], tenant=TENANT, project=operation.project, k=5)
    except Exception as error:  # noqa: BLE001 -- counted by kind, and shown
        print(f"search: {type(error).__name__}: {error}"[:300], file=sys.stderr, flush=True)
        return Counter(searches=1, **{f"search: {type(error).__name__}": 1})
    found = [[operation.project, hit.source_path, hit.text] for hit in answer.hits]
    answers.writelines(json.dumps(hit) + "\n" for hit in found)
    return Counter(searches=1, answered=1, hits=len(found))


if __name__ == "__main__":
    main()

"""Faults by the hundred, while documents are submitted, edited, deleted and searched for.

    producers ─ journal ─▶ proxies ─▶ servers ◀─ proxies ─ two of everything      disturbed
        faults, a seeded deck of them ┘ │ each with a probe; invariants asked meanwhile
    all settled → what is in the database                                            ┐
    the journal again, on an empty database, nobody disturbing                       ┴ the same, by content

SEED, MINUTES and FAULTS (whatever is over first) say how much; SCALE has no part in it.
"""

from benchmarks.chaos.run import run

__all__ = ["run"]

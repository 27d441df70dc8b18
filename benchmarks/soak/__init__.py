"""Hours of service, or ten minutes of them: what everything takes, and whether it takes more and more.

    a fixed rate ─ submit, edit, delete, search ─▶ servers ◀─ the processes of `ingest up`, but Flower
        every few seconds: memory, descriptors, connections, Redis, throughput ─▶ blocks ─▶ slopes

MINUTES says how long, after a warm-up of as many, at most ten; without it, ten, by SCALE. Chores that are due
once an hour or a day are due every minute or two.
"""

from benchmarks.soak.run import run

__all__ = ["run"]

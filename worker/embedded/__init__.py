"""PostgreSQL + pgvector and a Redis server for one machine, from wheels, tuned to its memory."""

from worker.embedded.postgres import RunningPostgres, start_postgres
from worker.embedded.valkey import RunningValkey, start_valkey

__all__ = ["RunningPostgres", "RunningValkey", "start_postgres", "start_valkey"]

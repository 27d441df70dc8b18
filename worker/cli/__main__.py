"""`python -m worker.cli`, the same as `ingest`."""

from worker.cli import main

main()

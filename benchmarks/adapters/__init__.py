"""The peers, each used as its own documentation says, in an environment of their own (`.venv-peers`).

Their pins do not fit ours, so they run as processes: `python -m benchmarks.adapters NAME` reads a job as
JSON from its standard input and prints what it found as JSON. Nothing here knows our schema.
"""

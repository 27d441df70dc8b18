"""One chore a module: bounded, locked, idempotent; returns what it did."""

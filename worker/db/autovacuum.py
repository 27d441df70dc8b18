"""When the server's own autovacuum visits a table, where its defaults do not fit.

docs/database/ gives the reasons to people. The chore `vacuum` comes earlier than these: they count where the
schedule does not run.
"""

from collections.abc import Mapping

Options = Mapping[str, int | float]

# Three or four versions of a row come of each document, eleven indexes lead to them, and the partial ones
# that dispatch reads are small only while the dead are taken out.
_DOCUMENTS: Options = {
    "autovacuum_vacuum_scale_factor": 0.05,
    "autovacuum_analyze_scale_factor": 0.02,
    "toast.autovacuum_vacuum_scale_factor": 0.05,
}
# The unfinished ones, which everybody counts, are a handful among all that are kept for a month.
_BATCHES: Options = {"autovacuum_vacuum_scale_factor": 0.01, "autovacuum_analyze_scale_factor": 0.02}
# Rows are updated in place and pages prune themselves: a visit each minute, as by default, finds nothing.
_HEARTBEATS: Options = {"autovacuum_vacuum_threshold": 1000, "autovacuum_analyze_threshold": 1000}
# A day's worth is purged of ninety: the default waits for eighteen days of dead rows.
_EVALUATION_RUNS: Options = {
    "autovacuum_vacuum_scale_factor": 0.02,
    "toast.autovacuum_vacuum_scale_factor": 0.02,
}

TABLES: Mapping[str, Options] = {
    "documents": _DOCUMENTS,
    "batches": _BATCHES,
    "heartbeats": _HEARTBEATS,
    "evaluation_runs": _EVALUATION_RUNS,
}
# An open leaf takes rows and a sealed one only loses them, so that one set serves both. What is dead in a
# sealed one is the chore's, which builds the graph anew where autovacuum would repair it, at any hour and for
# longer (docs/decisions/0015); at 30 % the chore `compact` rewrites the leaf. Beyond both, autovacuum comes
# after all, and is not to sleep five times as long as it works.
CHUNKS_LEAF: Options = {"autovacuum_vacuum_scale_factor": 0.4, "autovacuum_vacuum_cost_limit": 10_000}
# Nobody reads them by the index alone, and sealing vacuums them: no visits for rows that are only added.
POSTINGS_LEAF: Options = {"autovacuum_vacuum_scale_factor": 0.05, "autovacuum_vacuum_insert_threshold": -1}


def rendered(options: Options) -> str:
    """Write options as ALTER TABLE … SET (…) takes them."""
    return ", ".join(f"{name} = {value}" for name, value in options.items())

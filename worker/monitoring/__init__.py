"""What tells Prometheus and orchestrators how the system is; none of it changes anything.

/metrics                exposition ─┬─ value files of the workers of this machine   worker/metricfiles.py
                                    ├─ sampler ─ the database, as monitor           worker/db/monitoring.py
                                    └─ sampler ─ the lengths of the broker's queues
/health/live, /ready    sampler ─── health: named checks with reasons               worker/db/liveness.py

`ingest health` makes the same checks.
"""

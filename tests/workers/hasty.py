"""`ingest`, whose limits on waiting for the broker are a tenth of the usual, so that a test sees them end.

python -m tests.workers.hasty worker ingest
"""

from worker.app import app
from worker.cli import main

_LIMITS = ("socket_timeout", "health_check_interval")

if __name__ == "__main__":
    options = app.conf.broker_transport_options
    options.update({name: options[name] / 10 for name in _LIMITS if name in options})
    main()

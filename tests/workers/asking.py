"""Ask each line of standard input, and say in a line what came of it; a lost link is given up in a second.

python -m tests.workers.asking
"""

import sys

from worker import search
from worker.app import app
from worker.errors import IngestError

if __name__ == "__main__":
    app.conf.redis_socket_timeout = 1
    for line in sys.stdin:
        try:
            said = f"{len(search(line.strip()).hits)} hits"
        except IngestError as error:
            said = type(error).__name__
        sys.stdout.write(f"{said}\n")
        sys.stdout.flush()

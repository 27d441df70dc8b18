"""Do one job with one peer: python -m benchmarks.adapters NAME, the job on standard input."""

import json
import sys
from importlib import import_module


def main() -> None:
    peer = import_module(f"benchmarks.adapters.{sys.argv[1]}")
    print(json.dumps(peer.run(json.loads(sys.stdin.read()))))


if __name__ == "__main__":
    main()

"""Take the pictures of Flower in docs/images, by Chromium, from a stack of its own: `make screenshots`."""

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs/images"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
# No profile, nothing fetched from anywhere, and five seconds of the page's own time to load its tables.
QUIETLY = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--virtual-time-budget=5000",
)  # fmt: skip
LOGIN = "docs:pictures"
MOST_BYTES = 150_000
# The chores of a day within a minute, so that there is something to see.
SCHEDULE = {
    "VACUUM_SCHEDULE": "11",
    "INDEXES_SCHEDULE": "13",
    "RESCUE_SCHEDULE": "17",
    "SEGMENT_ROWS": "1000",
}


class Stack:
    """A running `ingest up`, its commands, and its Flower."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        settings = {"DATA_DIR": str(folder), "FLOWER_PORT": str(self.port), "FLOWER_BASIC_AUTH": LOGIN}
        self.environment = {**os.environ, **SCHEDULE, **settings}
        for name in ("DATABASE_URL", "BROKER_URL"):
            self.environment.pop(name, None)

    @contextmanager
    def running(self, log: Path) -> Iterator[None]:
        """Run it; its log goes into a file."""
        command = [sys.executable, "-m", "worker.cli", "up"]
        with log.open("wb") as output:
            process = subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=output, stderr=output)
        try:
            self.await_tasks("maintain.dispatch")
            yield
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)

    def ingest(self, *arguments: str) -> None:
        """Run a command of `ingest`."""
        command = [sys.executable, "-m", "worker.cli", *arguments]
        subprocess.run(command, cwd=ROOT, env=self.environment, stdout=subprocess.DEVNULL, check=False)

    def await_tasks(self, name: str) -> list[str]:
        """Wait until tasks of this name have succeeded; give their ids."""
        patience = Retrying(
            retry=retry_if_exception_type((OSError, AssertionError)),
            stop=stop_after_delay(120),
            wait=wait_fixed(0.5),
            reraise=True,
        )
        return patience(self._succeeded, name)

    def _succeeded(self, name: str) -> list[str]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/api/tasks?taskname={name}")
        request.add_header("Authorization", f"Basic {base64.b64encode(LOGIN.encode()).decode()}")
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 -- http, to ourselves
            tasks: dict[str, dict[str, Any]] = json.load(answer)
        found = [task_id for task_id, task in tasks.items() if task["state"] == "SUCCESS"]
        assert found, f"no {name} has succeeded"
        return found


def take(browser: str, address: str, name: str, height: int) -> None:
    """Take a picture of a page."""
    picture = IMAGES / f"{name}.png"
    picture.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as profile:
        place = (f"--user-data-dir={profile}", f"--window-size=1500,{height}", f"--screenshot={picture}")
        command = [browser, *QUIETLY, *place, address]
        subprocess.run(command, capture_output=True, timeout=120, check=False)
    size = picture.stat().st_size if picture.exists() else 0
    if not 0 < size <= MOST_BYTES:
        raise SystemExit(f"error: {picture.name} has {size:,} bytes, between 1 and {MOST_BYTES:,} are wanted")
    sys.stdout.write(f"{picture.relative_to(ROOT)}  {size:,} bytes\n")


def main() -> None:
    """Start a stack, have it work, take the pictures."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise SystemExit(
            f"error: there is no browser for the pictures → install one of {', '.join(BROWSERS)}"
        )
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder) / "data")
        with stack.running(Path(folder) / "up.log"):
            for name in ("maintain.vacuum", "maintain.indexes"):
                stack.await_tasks(name)
            stack.ingest("add", "docs", "tests", "worker", "README.md", "--wait", "--tenant", "handbook")
            batch = stack.await_tasks("ingest.batch")[0]
            for question in ("what happens when a worker dies", "how many connections"):
                stack.ingest("search", question, "--tenant", "handbook")
            stack.await_tasks("search.query")
            flower = f"http://{LOGIN}@127.0.0.1:{stack.port}"
            take(browser, f"{flower}/tasks", "flower-tasks", 740)
            take(browser, f"{flower}/task/{batch}", "flower-batch", 820)
            take(browser, f"{flower}/workers", "flower-workers", 640)
            take(browser, f"{flower}/broker", "flower-queues", 520)


if __name__ == "__main__":
    main()

"""A Redis server that cannot write to its disk: it refuses all that writes, and PING."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed


@contextmanager
def disk_refused(client: Any) -> Iterator[None]:
    """Have the server fail to save, and refuse writes for that: where its file belongs is a folder."""
    folder, name, saves = (client.config_get(key)[key] for key in ("dir", "dbfilename", "save"))
    place = Path(folder) / name
    place.unlink(missing_ok=True)
    place.mkdir()
    client.config_set("save", "3600 1")
    client.set("written", 1)  # so that there is something to save
    try:
        save(client, "err")
        yield
    finally:
        place.rmdir()
        save(client, "ok")
        client.config_set("save", saves)


def save(client: Any, outcome: str) -> None:
    client.bgsave()
    until = Retrying(stop=stop_after_delay(30), wait=wait_fixed(0.05), retry=retry_if_result(bool))
    until(lambda: client.info("persistence")["rdb_last_bgsave_status"] != outcome)

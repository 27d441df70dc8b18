"""What a chore is given to do its work with."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from worker.db.engine import clock
from worker.resources import Resources
from worker.settings import Settings


@dataclass(frozen=True, slots=True)
class Turn:
    """One run of a chore, under its lock.

    `connection`: the direct one that holds the lock, in autocommit. `dry_run`: find what there is to do, and
    change nothing. `heavy`: work that searches and writers feel may be done now; outside of
    MAINTENANCE_WINDOW only what a person asks for may. `scheduled`: no person did. `halted` says yes once the
    run is to end: what it asks of `connection` is cancelled then, and it begins no further part.
    """

    resources: Resources
    connection: Connection
    dry_run: bool = False
    heavy: bool = True
    scheduled: bool = False
    halted: Callable[[], bool] = lambda: False

    @property
    def settings(self) -> Settings:
        """The settings of this process."""
        return self.resources.settings

    def may_be_heavy(self) -> bool:
        """Tell whether heavy work may be done still: a long run may have come to the end of the window."""
        return self.heavy and (not self.scheduled or self.settings.in_window(clock(self.connection)))


Chore = Callable[[Turn], dict[str, Any]]

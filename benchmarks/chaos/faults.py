"""The kinds of faults: what each does, what ends it, and how often it comes."""

import random
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

from benchmarks.chaos.fleet import Fleet
from benchmarks.chaos.recovery import Hit
from benchmarks.chaos.servers import Servers

LEASE_SECONDS = 4


@dataclass(frozen=True, slots=True)
class Scene:
    """Where faults happen, and the seeded chance that chooses among what may be hit."""

    servers: Servers
    fleet: Fleet
    chance: random.Random


@dataclass(frozen=True, slots=True)
class Struck:
    """What a fault did: the documents under way that it hit, and what ends it after so many seconds.

    `stages`: of a kill, those of the batches it struck.
    """

    hit: Hit = ()
    seconds: float = 0
    end: Callable[[], object] = lambda: None
    stages: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault.

    `often`: how many are in a deck. `on`: what it takes, of which only one fault at a time may. `alone`: it
    waits until all faults before are recovered from. `away`: until its end a server, or a right, is not
    there, and recovery begins with that end.
    """

    name: str
    strike: Callable[[Scene], Struck] = field(repr=False)
    often: int = 1
    on: str = ""
    alone: bool = False
    away: bool = False


def kinds() -> list[Kind]:
    """Give all kinds."""
    from benchmarks.chaos import ofdatabase, ofredis, ofworkers

    return [*ofworkers.KINDS, *ofdatabase.KINDS, *ofredis.KINDS]


def deck(chance: random.Random) -> list[Kind]:
    """Give every kind as often as it comes, shuffled."""
    cards = [kind for kind in kinds() for _ in range(kind.often)]
    chance.shuffle(cards)
    return cards


def signal_each(family: Sequence[psutil.Process], number: signal.Signals) -> None:
    """Signal those of them that still are."""
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)

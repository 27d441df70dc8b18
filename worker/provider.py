"""Asking the embedding provider: whose fault a failure is, and when it is asked again."""

import logging
import time
from collections.abc import Callable, Sequence

from worker import metrics
from worker.embedding import Embedder
from worker.errors import DocumentError, TransientError
from worker.patience import backoff
from worker.settings import Settings
from worker.steps.storable import storable
from worker.steps.vectors import Matrix

log = logging.getLogger(__name__)

# What every provider can embed. What it says of it can quote no document.
PROBE = "The lighthouse keeper counts ships at night."
AWAY = "the embedding provider does not answer"
POLL_SECONDS = 0.2
_LONGEST_REASON = 300
# A TransientError so often in a row may be one text's after all.
_BELIEVED = 3


class _AwayError(Exception):
    """The provider fails, whatever it is asked."""


class Provider:
    """The model of this process, asked again for as long as it fails for reasons of its own.

    DocumentError is the texts' fault, TransientError the provider's, three times in a row. After that, and of
    any other error, it is asked for a text of ours: where that fails as well, the fault is its own. Then all
    batches of this process leave it alone, RETRY_BASE_SECONDS at first and up to RETRY_MAX_SECONDS. `trouble`
    says why, meanwhile.
    """

    def __init__(self, embedder: Embedder, settings: Settings) -> None:
        self._embedder, self._settings = embedder, settings
        self._failures, self._again = 0, 0.0
        self._pauses = metrics.embedding_pauses.labels(embedder.model)
        self.trouble: str | None = None

    def embed(self, texts: Sequence[str], check: Callable[[], None]) -> Matrix | None:
        """Embed, however long the provider is away. `check` is called while it waits, and raises to end it.

        Raises what is the texts' fault.
        """
        while True:
            while time.monotonic() < self._again:
                check()
                time.sleep(POLL_SECONDS)
            try:
                vectors = self._ask(texts)
            except _AwayError as away:
                self._leave_alone(str(away))
                check()
            else:
                self._is_back()
                return vectors

    def _ask(self, texts: Sequence[str], *, once_more: bool = True) -> Matrix | None:
        """Ask; where the provider is sound and fails, once more: it may have been a moment's trouble."""
        try:
            with metrics.stage("embed"):
                return self._embedder.embed(texts)
        except TransientError as error:
            if self._failures < _BELIEVED or self._fault():
                raise _AwayError(error.message) from error
            self.trouble = None
            raise
        except (DocumentError, MemoryError):
            raise
        except Exception:
            if fault := self._fault():
                raise _AwayError(fault) from None
            if not once_more:
                raise
        return self._ask(texts, once_more=False)

    def _fault(self) -> str:
        """Say what the provider has against a text of ours; nothing where it embeds it."""
        try:
            self._embedder.embed([PROBE])
        except Exception as error:  # noqa: BLE001 -- each provider has its own
            return f"{type(error).__name__}: {error}"
        return ""

    def _leave_alone(self, reason: str) -> None:
        self._failures += 1
        seconds = backoff(self._failures, self._settings)
        self._again = time.monotonic() + seconds
        said = " ".join(storable(reason).split())[:_LONGEST_REASON]
        self.trouble = f"{AWAY}: {said}"
        self._pauses.inc()
        log.warning(
            "provider.away", extra={"reason": said, "failures": self._failures, "again_s": round(seconds, 1)}
        )

    def _is_back(self) -> None:
        if self._failures:
            log.info("provider.back", extra={"failures": self._failures})
        self._failures, self.trouble = 0, None

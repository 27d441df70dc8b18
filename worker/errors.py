"""Errors that people read, and the exit code each command ends with.

Policy reads types: `DocumentError` is final for its document, `TransientError` is tried again,
`IngestError` and the rest end a command. All are picklable: their arguments are their fields.
"""

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of `ingest`. The table in docs/operations/exit-codes.md is checked against this one."""

    OK = 0
    FINDINGS = 1  # the command worked; some documents failed, or doctor found something
    USAGE = 2
    SETTINGS = 3
    DATABASE = 4
    SCHEMA = 5
    BROKER = 6
    SOURCE = 7
    TIMEOUT = 8
    STACK = 9
    INTERRUPTED = 130


class IngestError(Exception):
    """Something is wrong that a person can mend: one line saying what, one saying what to do."""

    exit_code = Exit.USAGE

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} → {self.hint}" if self.hint else self.message


class SettingsError(IngestError):
    """A setting is missing or invalid."""

    exit_code = Exit.SETTINGS


class DatabaseUnavailableError(IngestError):
    """PostgreSQL cannot be reached or refuses us."""

    exit_code = Exit.DATABASE


class SchemaError(IngestError):
    """The database is not migrated, lacks pgvector, or disagrees with the settings."""

    exit_code = Exit.SCHEMA


class BrokerUnavailableError(IngestError):
    """The Redis server cannot be reached or is unsafe to use."""

    exit_code = Exit.BROKER


class SourceError(IngestError):
    """A path given to a command cannot be ingested."""

    exit_code = Exit.SOURCE


class Interrupted(IngestError):  # noqa: N818 -- no error: a person ended it
    """A command was ended before its end: what it says is how far it came."""

    exit_code = Exit.INTERRUPTED


class NoAnswerError(IngestError):
    """Nobody answered in time."""

    exit_code = Exit.TIMEOUT


class StackError(IngestError):
    """The embedded servers or the Procfile's processes could not start."""

    exit_code = Exit.STACK


class DocumentError(Exception):
    """A document can never succeed as it is. `code` is a stable word, `message` is for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message


class TransientError(DocumentError):
    """Trying the same document later may succeed."""


class SkipDocument(DocumentError):  # noqa: N818 -- an outcome, not an error: there is nothing to index
    """There is nothing to index in this document."""


class LeaseLostError(Exception):
    """Another worker owns the batch now: whatever was computed must not be written."""

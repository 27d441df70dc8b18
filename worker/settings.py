"""Every setting, validated once at start. The only module that reads the environment.

Sources, later ones win: the file the embedded stack leaves in DATA_DIR, `.env`, the environment.
"""

import os
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import SettingsConfigDict

from worker.allowlist import SourceSettings
from worker.endpoint import EndpointSettings
from worker.envfile import dot_env, expanded, settings_files
from worker.errors import SettingsError
from worker.jsononly import require_plain_environment
from worker.retention import RetentionSettings
from worker.scheduling import ScheduleSettings
from worker.types import LANGUAGES, EmbeddingType, Limits, LogFormat, Metric
from worker.urls import broker_fault, postgres_fault
from worker.urls import masked as masked  # noqa: PLC0414 -- whoever has settings shows where they point

STACK_ENV = "stack.env"
# pgvector stores at most this many dimensions a type and indexes at most 2,000 / 4,000 with HNSW
# (pgvector README, "HNSW"). A column that cannot be indexed is refused.
_INDEXABLE = {EmbeddingType.VECTOR: 2000, EmbeddingType.HALFVEC: 4000}
_WORDLLAMA_DIMENSION = 256

Seconds = Annotated[int, Field(gt=0, le=86_400)]


def _number(value: Any) -> Any:
    """Read digits as a number: the environment has only text, and a Literal takes it as it is."""
    return int(value) if isinstance(value, str) and value.isdigit() else value


def _known_language(value: str) -> str:
    if value in LANGUAGES:
        return value
    raise ValueError(f"must be one of {', '.join(sorted(LANGUAGES))}")


# What is not sealed is read by every search: this much takes 10 ms or so (`make bench NAME=sealing`).
_SCANNED_BYTES = 32 << 20
_NUMBER_BYTES = {EmbeddingType.VECTOR: 4, EmbeddingType.HALFVEC: 2}
_OTHER_URLS = tuple(f"{who}_database_url" for who in ("direct", "maintenance", "monitor", "search"))


class Settings(EndpointSettings, RetentionSettings, ScheduleSettings, SourceSettings):
    """The settings. Attribute names are the environment's, in lower case; `.env.example` explains each."""

    model_config = SettingsConfigDict(
        frozen=True, extra="ignore", env_ignore_empty=True, hide_input_in_errors=True
    )

    data_dir: Path = Path(".ingest")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: LogFormat = LogFormat.CONSOLE

    database_url: SecretStr
    direct_database_url: SecretStr | None = None
    search_database_url: SecretStr | None = None
    maintenance_database_url: SecretStr | None = None
    database_pool_size: Annotated[int, Field(ge=1, le=100)] = 2
    database_max_overflow: Annotated[int, Field(ge=0, le=100)] = 1
    database_pool_timeout: Seconds = 10
    database_pool_recycle: Seconds = 1800
    database_echo: bool = False
    broker_url: SecretStr

    embedding_provider: Literal["wordllama", "none"] = "wordllama"
    embedding_dimension: Annotated[int, Field(ge=1, le=4000)] = _WORDLLAMA_DIMENSION
    embedding_type: EmbeddingType = EmbeddingType.VECTOR
    embedding_metric: Metric = Metric.COSINE
    embedding_batch_size: Annotated[int, Field(ge=1, le=10_000)] = 256

    language: Annotated[str, AfterValidator(_known_language)] = "english"
    chunk_size: Annotated[int, Field(ge=50, le=8_000)] = 1000
    chunk_overlap: Annotated[int, Field(ge=0, le=4_000)] = 0

    max_document_bytes: Annotated[int, Field(ge=1, le=1 << 30)] = 64 << 20
    max_document_characters: Annotated[int, Field(ge=1, le=1 << 30)] = 64 << 20
    max_document_seconds: Seconds = 120
    max_document_memory_bytes: Annotated[int, Field(ge=16 << 20, le=1 << 40)] = 1 << 30
    batch_documents: Annotated[int, Field(ge=1, le=1000)] = 256
    batch_bytes: Annotated[int, Field(ge=1, le=1 << 30)] = 4 << 20
    max_backlog_documents: Annotated[int, Field(ge=0, le=1_000_000_000)] = 1_000_000
    max_tenant_backlog_documents: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0
    max_document_chunks: Annotated[int, Field(ge=1, le=10_000_000)] = 2_000_000
    max_chunk_characters: Annotated[int, Field(ge=1, le=1 << 30)] = 32_768
    write_buffer_bytes: Annotated[int, Field(ge=0, le=1 << 30)] = 32 << 20

    ingest_concurrency: Annotated[int, Field(ge=1, le=256)] = 2
    interactive_concurrency: Annotated[int, Field(ge=1, le=256)] = 1
    process_memory_bytes: Annotated[int, Field(ge=1 << 20, le=1 << 40)] = 1 << 30
    lease_seconds: Seconds = 90
    heartbeat_seconds: Seconds = 15
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 5
    retry_base_seconds: Seconds = 10
    retry_max_seconds: Seconds = 600
    republish_seconds: Seconds = 30
    task_soft_time_limit: Seconds = 540
    task_time_limit: Seconds = 600
    visibility_timeout: Seconds = 1800
    startup_patience_seconds: Seconds = 60
    segment_rows: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    segment_bytes: Annotated[int, Field(ge=1 << 20, le=1 << 40)] = 128 << 20
    segment_seconds: Seconds = 21_600
    max_segment_rows: Annotated[int, Field(ge=1, le=1_000_000_000)] = 1_000_000
    max_unsealed_rows: Annotated[int, Field(ge=2, le=100_000_000)] | None = None
    build_memory_bytes: Annotated[int, Field(ge=1 << 20, le=1 << 40)] | None = None
    build_workers: Annotated[int, Field(ge=0, le=64)] | None = None
    recall_sample: Annotated[int, Field(ge=1, le=10_000)] = 50
    recall_rows: Annotated[int, Field(ge=1)] = 50_000_000
    recall_alert: Annotated[float, Field(ge=0, le=1)] = 0.95
    reindex_blind_bytes: Annotated[int, Field(ge=0, le=1 << 50)] = 1 << 30

    hnsw_m: Annotated[int, Field(ge=2, le=100)] = 16
    hnsw_ef_construction: Annotated[int, Field(ge=4, le=1000)] = 64
    hnsw_ef_search: Annotated[int, Field(ge=1, le=1000)] = 100
    search_timeout_seconds: Seconds = 10
    query_cache_size: Annotated[int, Field(ge=0, le=100_000)] = 1_000
    search_record_all: bool = False
    postgres_version: Annotated[Literal[16, 18], BeforeValidator(_number)] = 18

    @field_validator("database_url", *_OTHER_URLS)
    @classmethod
    def _postgres_url(cls, value: SecretStr | None) -> SecretStr | None:
        return None if value is None else _sound(value, postgres_fault)

    @field_validator("broker_url")
    @classmethod
    def _redis_url(cls, value: SecretStr) -> SecretStr:
        return _sound(value, broker_fault)

    @field_validator("data_dir")
    @classmethod
    def _real_folder(cls, value: Path) -> Path:
        return expanded(value)

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.chunk_overlap * 2 > self.chunk_size:
            raise ValueError("CHUNK_OVERLAP must be at most half of CHUNK_SIZE")
        if self.heartbeat_seconds * 3 > self.lease_seconds:
            raise ValueError("LEASE_SECONDS must be at least three times HEARTBEAT_SECONDS")
        if self.task_soft_time_limit >= self.task_time_limit:
            raise ValueError("TASK_SOFT_TIME_LIMIT must be below TASK_TIME_LIMIT")
        if self.visibility_timeout < 2 * self.task_time_limit:
            # A shorter one delivers a running task a second time (Celery on Redis).
            raise ValueError("VISIBILITY_TIMEOUT must be at least twice TASK_TIME_LIMIT")
        if self.hnsw_ef_construction < 2 * self.hnsw_m:
            raise ValueError("HNSW_EF_CONSTRUCTION must be at least twice HNSW_M")  # pgvector's own rule
        if self.most_unsealed_rows < 2 * self.rows_of_segment:
            # one segment is filled while the one before is built
            raise ValueError(f"MAX_UNSEALED_ROWS must be at least twice SEGMENT_ROWS, {self.rows_of_segment}")
        if self.retry_base_seconds > self.retry_max_seconds:
            raise ValueError("RETRY_BASE_SECONDS must not exceed RETRY_MAX_SECONDS")
        return self

    @model_validator(mode="after")
    def _space_is_possible(self) -> Self:
        if self.embedding_dimension > _INDEXABLE[self.embedding_type]:
            raise ValueError(
                f"EMBEDDING_DIMENSION {self.embedding_dimension} cannot be indexed as {self.embedding_type} "
                f"(at most {_INDEXABLE[self.embedding_type]}); EMBEDDING_TYPE=halfvec goes up to 4000"
            )
        if self.embedding_provider == "wordllama" and self.embedding_dimension != _WORDLLAMA_DIMENSION:
            raise ValueError(
                f"EMBEDDING_PROVIDER wordllama gives {_WORDLLAMA_DIMENSION} dimensions, "
                f"EMBEDDING_DIMENSION says {self.embedding_dimension}"
            )
        return self

    @property
    def limits(self) -> Limits:
        """What the steps hold a document to."""
        return Limits(self.max_document_characters, self.max_document_chunks, self.max_chunk_characters)

    @property
    def rows_of_segment(self) -> int:
        """How many rows fill a segment: SEGMENT_ROWS, or what is read fast by the size of a row."""
        row = self.embedding_dimension * _NUMBER_BYTES[self.embedding_type] + self.chunk_size
        return self.segment_rows or _SCANNED_BYTES // row

    @property
    def most_unsealed_rows(self) -> int:
        """How many rows may wait for an index: one segment is filled while the one before is built."""
        return self.max_unsealed_rows or 2 * self.rows_of_segment

    @property
    def direct_url(self) -> SecretStr:
        """The database without a transaction pooler between, as who may change its schema."""
        return self.direct_database_url or self.maintenance_database_url or self.database_url

    @property
    def maintenance_url(self) -> SecretStr:
        """The database without a transaction pooler between, as who does the chores."""
        return self.maintenance_database_url or self.direct_database_url or self.database_url

    @property
    def monitor_url(self) -> SecretStr:
        """The database, as who may read states and counts and nothing else."""
        return self.monitor_database_url or self.database_url

    @property
    def other_database_urls(self) -> dict[str, SecretStr]:
        """What is set beside DATABASE_URL, by the names of the settings."""
        found = {name.upper(): getattr(self, name) for name in _OTHER_URLS}
        return {name: url for name, url in found.items() if url is not None}

    def setting_of(self, url: SecretStr) -> str:
        """Name the setting that one of our database URLs comes from."""
        return next(
            (name for name, other in self.other_database_urls.items() if other is url), "DATABASE_URL"
        )


def read_settings(**overrides: Any) -> Settings:
    """Read and validate the settings; `overrides` win over every source.

    Raises SettingsError naming each setting that is missing or wrong, or a variable by which Celery would
    pass them over; values are never printed.
    """
    require_plain_environment(os.environ)
    try:
        data_dir = Path(os.environ.get("DATA_DIR") or dot_env().get("DATA_DIR") or ".ingest")
        return Settings(
            _env_file=settings_files(data_dir, STACK_ENV),  # type: ignore[call-arg] # pydantic-settings' own
            **overrides,
        )
    except ValidationError as error:
        raise SettingsError(*_explain(error)) from None
    except OSError as error:
        raise SettingsError(
            f"{error.filename} cannot be read: {error.strerror}",
            "correct its permissions, or set DATA_DIR to a folder of yours",
        ) from None
    except UnicodeDecodeError:
        raise SettingsError("a settings file is not UTF-8 text", f"look at .env and {STACK_ENV}") from None


def configured(name: str) -> str | None:
    """Give what the user set for `name` in the environment or in `.env`: not what a running stack left."""
    for source in (os.environ, dot_env()):
        for key, value in source.items():
            if key.upper() == name and value:
                return value
    return None


def configured_urls() -> tuple[SecretStr | None, SecretStr | None]:
    """Give the DATABASE_URL and BROKER_URL of the user; where None, the stack starts a server."""
    database, broker = configured("DATABASE_URL"), configured("BROKER_URL")
    return SecretStr(database) if database else None, SecretStr(broker) if broker else None


def child_environment(**extra: str) -> dict[str, str]:
    """Copy the environment for a child process, with `extra` on top."""
    return {**os.environ, **extra}


def export(values: Mapping[str, str]) -> None:
    """Put values into our environment: for libraries that read it, and for the settings read after this."""
    os.environ.update(values)
    load_settings.cache_clear()


@cache
def load_settings() -> Settings:
    """Give the settings of this process, read once."""
    return read_settings()


def _sound(url: SecretStr, fault_of: Callable[[str], str | None]) -> SecretStr:
    fault = fault_of(url.get_secret_value())
    if fault:
        raise ValueError(fault)
    return url


def _explain(error: ValidationError) -> tuple[str, str]:
    problems = {
        str(item["loc"][0]).upper() if item["loc"] else "": item["msg"].removeprefix("Value error, ")
        for item in error.errors()
        if item["type"] != "missing"
    }
    missing = [str(item["loc"][0]).upper() for item in error.errors() if item["type"] == "missing"]
    if missing:
        problems[" and ".join(missing)] = "not set, and no embedded stack is running here"
    text = "; ".join(f"{name}: {what}" if name else what for name, what in problems.items())
    where = "in the environment or in .env (see .env.example)"
    hint = f"set them {where}, or start `ingest up`" if missing else f"correct them {where}"
    return f"settings are not usable: {text}", hint

"""The settings of the exporter: where it listens, and as whom it asks the database."""

from typing import Annotated

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings


class EndpointSettings(BaseSettings):
    """Attribute names are the environment's, in lower case; `.env.example` explains each."""

    monitor_database_url: SecretStr | None = None
    metrics_address: str = "127.0.0.1"
    metrics_port: Annotated[int, Field(ge=1, le=65_535)] = 9808

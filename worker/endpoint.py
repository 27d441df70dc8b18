"""The settings of what answers over HTTP: Flower and the exporter."""

from typing import Annotated

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings


class EndpointSettings(BaseSettings):
    """Attribute names are the environment's, in lower case; `.env.example` explains each."""

    monitor_database_url: SecretStr | None = None
    metrics_address: str = "127.0.0.1"
    metrics_port: Annotated[int, Field(ge=1, le=65_535)] = 9808
    flower_port: Annotated[int, Field(ge=1, le=65_535)] = 5555
    flower_address: str = "127.0.0.1"
    flower_url_prefix: str = ""
    flower_basic_auth: SecretStr | None = None
    flower_read_only: bool = False

    @field_validator("flower_url_prefix")
    @classmethod
    def _prefix(cls, value: str) -> str:
        return value.strip("/")

    @field_validator("flower_basic_auth")
    @classmethod
    def _logins(cls, value: SecretStr | None) -> SecretStr | None:
        """Flower compares the whole of a login; it takes several, separated by commas."""
        logins = [] if value is None else value.get_secret_value().split(",")
        if not all(user and password for user, _, password in (login.partition(":") for login in logins)):
            raise ValueError("must be user:password")
        return value

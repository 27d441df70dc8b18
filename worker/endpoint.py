"""The settings of what answers over HTTP: Flower and the exporter."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings

# A name of a host, IPv4 or IPv6. What else resolvers make of a longer label is an exception of their own.
_ADDRESS = re.compile(r"(?!.*[\w-]{64})[\w.:%-]{1,255}", re.ASCII)


def _sound_address(value: str) -> str:
    if not _ADDRESS.fullmatch(value):
        raise ValueError("must be an address of this machine, as 127.0.0.1")
    return value


Address = Annotated[str, AfterValidator(_sound_address)]
Port = Annotated[int, Field(ge=1, le=65_535)]


class EndpointSettings(BaseSettings):
    """Attribute names are the environment's, in lower case; `.env.example` explains each."""

    monitor_database_url: SecretStr | None = None
    metrics_address: Address = "127.0.0.1"
    metrics_port: Port = 9808
    flower_port: Port = 5555
    flower_address: Address = "127.0.0.1"
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
        """Flower compares the whole of a login, in ASCII alone; it takes several, separated by commas."""
        logins = [] if value is None else value.get_secret_value().split(",")
        if not all(user and password for user, _, password in (login.partition(":") for login in logins)):
            raise ValueError("must be user:password")
        if not all(login.isascii() and login.isprintable() and login.strip() == login for login in logins):
            raise ValueError("must be of ASCII characters, without spaces at the ends of a login")
        return value

"""The settings of where documents may be read from: folders, schemes of URIs, hosts. All else is refused."""

import os
import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode

from worker.envfile import resolved

# What we read ourselves, checking addresses; everything else is for fsspec's drivers.
WEB_PORTS = {"http": 80, "https": 443}
_ANY_HOST = "*"
_HIGHEST_PORT = 65_535
_LOCAL_SCHEMES = {"asynclocal", "file", "git", "local"}
# Drivers of fsspec's that connect to the host a URI names, whatever its address is.
_HOST_SCHEMES = {
    "arrow_hdfs", "dask", "dav", "davs", "dbfs", "ftp", "ftps", "hdfs", "jlab", "jupyter", "lakefs", "root",
    "sftp", "smb", "ssh", "webdav", "webdavs", "webhdfs",
}  # fmt: skip
# And those that read by another driver, or unpack.
_NESTED_SCHEMES = {
    "async_wrapper", "asyncwrapper", "blockcache", "cached", "dir", "dvc", "filecache", "generic",
    "libarchive", "reference", "simplecache", "tar", "zip",
}  # fmt: skip
_REFUSED_SCHEMES = {
    **dict.fromkeys(_LOCAL_SCHEMES, "files of this machine are read below ALLOWED_ROOTS, and nowhere else"),
    **dict.fromkeys(
        _HOST_SCHEMES,
        "its driver connects to the host of a URI without a look at the address; take http, https or a store"
        " of buckets, as s3",
    ),
    **dict.fromkeys(_NESTED_SCHEMES, "its driver reads by another one, or unpacks"),
}
_ENTRY = re.compile(
    r"(?P<name>\*|(?:\*\.)?[a-z0-9_.-]+)(?::(?P<port>[0-9]{1,5}))?(?:=(?P<network>[0-9a-f.:/]+))?"
)
# All that is handed out of IPv6 (RFC 4291), and what of it leads to an IPv4 address: Teredo, 6to4.
_UNICAST_V6 = IPv6Network("2000::/3")
_TUNNELS_V6 = (IPv6Network("2001::/32"), IPv6Network("2002::/16"))


@dataclass(frozen=True, slots=True)
class AllowedHost:
    """A host or bucket that URIs may name, `*.name` for those below it; `*` for each public one of the web.

    Without a `port` the scheme's own. Its addresses must be public; with a `network`, be in there.
    """

    name: str
    port: int | None = None
    network: IPv4Network | IPv6Network | None = None

    def covers(self, scheme: str, host: str, port: int | None) -> bool:
        """Tell whether this is about a host; `port`: of the URI, or the scheme's own."""
        if port != (self.port or WEB_PORTS.get(scheme)):
            return False
        if self.name == _ANY_HOST:
            return scheme in WEB_PORTS
        return host.endswith(self.name[1:]) if self.name.startswith("*.") else host == self.name

    def admits(self, address: str) -> bool:
        """Tell whether such a host may have this address."""
        found = _unmapped(ip_address(address))
        return _is_public(found) if self.network is None else found in self.network


def _unmapped(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Give the IPv4 address that an IPv6 socket would reach as ::ffff:…."""
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv6Address) and (
        address not in _UNICAST_V6 or any(address in tunnel for tunnel in _TUNNELS_V6)
    ):
        return False
    return address.is_global and not address.is_multicast


def _host(entry: str) -> AllowedHost:
    found = _ENTRY.fullmatch(entry)
    if found is None:
        raise ValueError(
            f"{entry!r} is not HOST, *.HOST, HOST:PORT or HOST=NETWORK, as files.internal=10.1.0.0/16"
        )
    if found["name"] == _ANY_HOST and found["network"]:
        raise ValueError("* stands for public hosts: name those of a network")
    try:
        network = ip_network(found["network"]) if found["network"] else None
    except ValueError:
        raise ValueError(f"{found['network']} is not a network, as 10.1.0.0/16") from None
    port = int(found["port"]) if found["port"] else None
    if port is not None and not 0 < port <= _HIGHEST_PORT:
        raise ValueError(f"{entry!r}: a port is a number from 1 to {_HIGHEST_PORT}")
    return AllowedHost(found["name"], port, network)


class SourceSettings(BaseSettings):
    """Attribute names are the environment's, in lower case; `.env.example` explains each."""

    allowed_roots: Annotated[tuple[Path, ...], NoDecode] = (Path(),)
    allowed_uri_schemes: Annotated[tuple[str, ...], NoDecode] = ()
    allowed_uri_hosts: Annotated[tuple[AllowedHost, ...], NoDecode] = ()
    uri_timeout_seconds: Annotated[int, Field(gt=0, le=3_600)] = 30

    @field_validator("allowed_roots", "allowed_uri_schemes", "allowed_uri_hosts", mode="before")
    @classmethod
    def _split(cls, value: Any, info: ValidationInfo) -> Any:
        """Folders are separated as in PATH, the others by commas."""
        if not isinstance(value, str):
            return value
        if info.field_name == "allowed_roots":
            return tuple(part for part in value.split(os.pathsep) if part)
        words = tuple(part.strip().lower() for part in value.split(",") if part.strip())
        return words if info.field_name == "allowed_uri_schemes" else tuple(map(_host, words))

    @field_validator("allowed_roots")
    @classmethod
    def _real_folders(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        return tuple(resolved(root) for root in value)

    @field_validator("allowed_uri_schemes")
    @classmethod
    def _web_or_buckets(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for scheme in value:
            if scheme in _REFUSED_SCHEMES:
                raise ValueError(f"{scheme}: {_REFUSED_SCHEMES[scheme]}")
        return value

    @model_validator(mode="after")
    def _hosts_are_named(self) -> Self:
        if self.allowed_uri_schemes and not self.allowed_uri_hosts:
            raise ValueError(
                "ALLOWED_URI_SCHEMES allows nothing without ALLOWED_URI_HOSTS: the hosts or buckets"
            )
        return self

"""Settings: where they come from, what is refused in which words, and that secrets stay secret."""

import os
import pickle
import sys
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from fsspec.registry import known_implementations
from hypothesis import example, given
from hypothesis import settings as limits
from hypothesis import strategies as st
from kombu.connection import Connection as BrokerConnection
from pydantic import SecretStr, ValidationError
from redis import Redis, RedisError
from sqlalchemy import make_url

from worker.allowlist import _REFUSED_SCHEMES, WEB_PORTS, AllowedHost
from worker.broker import _redis_url
from worker.errors import SettingsError
from worker.jsononly import require_json
from worker.settings import (
    STACK_ENV,
    Settings,
    child_environment,
    configured,
    configured_urls,
    export,
    load_settings,
    masked,
    read_settings,
)
from worker.types import EmbeddingType

DATABASE = "postgresql://user:hush@host:5432/name"
BROKER = "redis://:hush@host:6379/0"
URLS = ("DATABASE_URL", "DIRECT_DATABASE_URL", "SEARCH_DATABASE_URL", "MAINTENANCE_DATABASE_URL")


@pytest.fixture(autouse=True)
def _bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, and an environment with the two URLs only."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("DATABASE_URL", DATABASE)
    monkeypatch.setenv("BROKER_URL", BROKER)
    monkeypatch.chdir(tmp_path)


def refusal(**overrides: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        read_settings(**overrides)
    said = str(caught.value)
    assert "hush" not in said
    assert "\n" not in said
    assert "hush" not in repr(caught.value.__cause__) + repr(caught.value.__context__)
    return said


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", URLS)
@pytest.mark.parametrize(
    "url", ["mysql://u:hush@h/d", "u:hush@h/d", "sqlite:///hush", "postgresql+pg8000://u:hush@h/d"]
)
def test_database_url_must_be_one_of_postgresql(monkeypatch: pytest.MonkeyPatch, name: str, url: str) -> None:
    monkeypatch.setenv(name, url)
    assert f"{name}: must be a PostgreSQL URL, for example postgresql://" in refusal()


@pytest.mark.parametrize("url", ["amqp://u:hush@h", "hush", "http://:hush@h"])
def test_broker_url_must_be_one_of_redis(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("BROKER_URL", url)
    assert "BROKER_URL: must be a Redis URL, for example redis://" in refusal()


@pytest.mark.parametrize("name", URLS)
@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ("h/d?sslmode=require&schema=hush", "has an option PostgreSQL does not know: schema"),
        ("u:a?schema=b@h/d?pgbouncer=hush", "does not know: pgbouncer"),
        ("h/d?dsn=hush", "does not know: dsn"),
        ("h/d?schema=hush@hush", "does not know: schema"),
        ("h/d?a%0Ab=hush", r"does not know: 'a\nb'"),
        ("/d?host=h&port=hush", "has a port that is no number"),
        ("h:1,i:2/d", "written ?host=one:5432&host=two:5432"),
    ],
)
def test_option_of_a_database_url_that_its_library_refuses_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, rest: str, said: str
) -> None:
    monkeypatch.setenv(name, f"postgresql://{rest}")
    message = refusal()
    assert f"{name}: " in message
    assert said in message


def clients_take(url: str) -> bool:
    """Ask those who will connect: our client, Celery's broker, its result backend."""
    try:
        pool = Redis.from_url(_redis_url(SecretStr(url))).connection_pool
        pool.connection_class(**pool.connection_kwargs)
        BrokerConnection(url)  # type: ignore[no-untyped-call] # kombu's
        backend = Celery(broker=url, backend=url, set_as_current=False).backend
        kwargs = backend._create_client(**backend.connparams).connection_pool.connection_kwargs
        pool.connection_class(**kwargs)
    except (TypeError, ValueError, KeyError, AttributeError, RedisError):
        return False
    return True


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://h/0?foo=hush", "has an option that cannot be used with redis:// here: foo"),
        ("redis://h/0?ssl_cert_reqs=none", "redis:// here: ssl_cert_reqs"),
        ("redis://h/0?socket_timeout=abc", "redis:// here: socket_timeout"),
        ("redis://h/0?socket_timeout=5", "redis:// here: socket_timeout"),
        ("redis://h?db=1", "redis:// here: db"),
        ("redis://h/abc", "must end in the number of a database"),
        ("redis://:12/hush@h/0", "in a password, / ? # [ ] are written %2F"),
        ("redis://:hush#1@h/0", "in a password, / ? # [ ] are written %2F"),
        ("redis://:[hush@h/0", "in a password, / ? # [ ] are written %2F"),
        ("rediss://h", "?ssl_cert_reqs=required"),
        ("rediss://h?ssl_cert_reqs=CERT_NONE", "?ssl_cert_reqs=required"),
        ("redis+socket:///r.sock?foo=1", "redis+socket:// here: foo"),
        ("redis+socket:///r.sock?virtual_host=abc", "must have the number of a database"),
        ("redis+socket://", "must name the socket"),
    ],
)
def test_broker_url_that_one_of_its_clients_refuses_is_refused(
    monkeypatch: pytest.MonkeyPatch, url: str, said: str
) -> None:
    monkeypatch.setenv("BROKER_URL", url)
    message = refusal()
    assert "BROKER_URL: " in message
    assert said in message
    assert not clients_take(url)


@pytest.mark.parametrize("name", ["ALLOWED_ROOTS", "DATA_DIR"])
def test_home_of_nobody_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "~nouser/x")
    assert f"{name}: ~nouser is nobody's home folder here" in refusal()


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="taken as it stands; nothing is below it")
def test_root_that_leads_in_a_circle_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    monkeypatch.setenv("ALLOWED_ROOTS", "loop")
    assert "ALLOWED_ROOTS: loop is a loop of links" in refusal()


@pytest.mark.parametrize("value", ["hush", "hush:", ":hush", "user:password,hush"])
def test_login_without_user_or_password_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("FLOWER_BASIC_AUTH", value)
    assert "FLOWER_BASIC_AUTH: must be user:password" in refusal()


@pytest.mark.parametrize("value", ["user:pässword", "user:pass\nword", "one:a, two:b", "user:password "])
def test_login_that_flower_would_never_find_right_is_refused(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("FLOWER_BASIC_AUTH", value)
    said = refusal()
    assert "FLOWER_BASIC_AUTH: must be of ASCII characters" in said
    assert value.partition(":")[2] not in said


@pytest.mark.parametrize("name", ["FLOWER_ADDRESS", "METRICS_ADDRESS"])
@pytest.mark.parametrize("value", ["a b", "a\nb", "a" * 64, "http://here", "ä" * 64, "x" * 256])
def test_address_that_no_resolver_takes_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert f"{name}: must be an address of this machine" in refusal()


@pytest.mark.parametrize("value", ["0.0.0.0", "::", "fe80::1%eth0", "localhost", "flower", "a-b.example.com"])
def test_every_spelling_of_an_address_is_taken(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("METRICS_ADDRESS", value)
    assert read_settings().metrics_address == value


def test_several_logins_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWER_BASIC_AUTH", "one:a:b,two:c")
    assert read_settings().flower_basic_auth == SecretStr("one:a:b,two:c")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"chunk_overlap": 501}, "CHUNK_OVERLAP must be at most half of CHUNK_SIZE"),
        ({"heartbeat_seconds": 31}, "LEASE_SECONDS must be at least three times HEARTBEAT_SECONDS"),
        ({"task_soft_time_limit": 600}, "TASK_SOFT_TIME_LIMIT must be below TASK_TIME_LIMIT"),
        ({"visibility_timeout": 1199}, "VISIBILITY_TIMEOUT must be at least twice TASK_TIME_LIMIT"),
        ({"retry_base_seconds": 601}, "RETRY_BASE_SECONDS must not exceed RETRY_MAX_SECONDS"),
        ({"embedding_dimension": 2001, "embedding_provider": "none"}, "EMBEDDING_TYPE=halfvec goes up to"),
        ({"embedding_dimension": 300}, "EMBEDDING_PROVIDER wordllama gives 256 dimensions"),
    ],
)
def test_settings_that_do_not_fit_together_are_named(overrides: dict[str, Any], said: str) -> None:
    assert said in refusal(**overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        {"chunk_overlap": 500},
        {"heartbeat_seconds": 30},
        {"task_soft_time_limit": 599},
        {"visibility_timeout": 1200},
        {"retry_base_seconds": 600},
        {"embedding_provider": "none", "embedding_dimension": 2000},
        {"embedding_provider": "none", "embedding_dimension": 4000, "embedding_type": "halfvec"},
        {"embedding_type": "halfvec"},
    ],
)
def test_settings_that_just_fit_are_taken(overrides: dict[str, Any]) -> None:
    taken = read_settings(**overrides)
    assert {name: getattr(taken, name) for name in overrides} == overrides


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("LOG_LEVEL", "LOUD", "'DEBUG', 'INFO', 'WARNING' or 'ERROR'"),
        ("EMBEDDING_PROVIDER", "magic", "'wordllama' or 'none'"),
        ("EMBEDDING_TYPE", "bit", "'vector' or 'halfvec'"),
        ("POSTGRES_VERSION", "17", "16 or 18"),
        ("POSTGRES_VERSION", "new", "16 or 18"),
        ("CHUNK_SIZE", "many", "valid integer"),
        ("CHUNK_SIZE", "49", "greater than or equal to 50"),
        ("CHUNK_SIZE", "8001", "less than or equal to 8000"),
        ("FLOWER_PORT", "65536", "65535"),
        ("DATABASE_ECHO", "perhaps", "valid boolean"),
        ("HNSW_EF_SEARCH", "1001", "1000"),
        ("LEASE_SECONDS", "0", "greater than 0"),
        ("LEASE_SECONDS", "86401", "86400"),
    ],
)
def test_value_out_of_range_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    message = refusal()
    assert f"{name}: " in message
    assert said in message


def test_all_that_is_wrong_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BROKER_URL")
    monkeypatch.setenv("DATABASE_URL", "mysql://u:hush@h/d")
    monkeypatch.setenv("CHUNK_SIZE", "many")
    message = refusal()
    assert all(f"{name}: " in message for name in ("DATABASE_URL", "CHUNK_SIZE", "BROKER_URL"))


def test_what_is_missing_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.delenv("BROKER_URL")
    message = refusal()
    assert "DATABASE_URL and BROKER_URL: not set" in message
    assert "`ingest up`" in message


@pytest.mark.parametrize("port", ["abc", "99999999"])
def test_port_that_is_no_number_is_refused_here_and_not_where_it_is_used(
    monkeypatch: pytest.MonkeyPatch, port: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://u:hush@h:{port}/d")
    assert "DATABASE_URL: " in refusal()


def test_env_file_that_cannot_be_read_as_text_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"LOG_LEVEL=caf\xe9\n")
    assert ".env" in refusal()


@pytest.mark.parametrize("file", [".env", f"data/{STACK_ENV}"])
def test_quote_that_is_not_closed_is_named_with_its_file_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, file: str
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / file).write_text("LOG_LEVEL=INFO\nCHUNK_SIZE='hush\n")
    monkeypatch.setenv("DATA_DIR", "data")
    assert f"{file} cannot be read from line 2 on → " in refusal()
    assert caplog.text == ""


def test_quote_that_is_not_closed_is_said_to_who_asks_what_is_configured(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("BROKER_URL='abc\n")
    with pytest.raises(SettingsError, match="line 1"):
        configured("DATABASE_URL")


def test_settings_do_not_change() -> None:
    settings = read_settings()
    with pytest.raises(ValidationError):
        settings.chunk_size = 5


# -- secrets ---------------------------------------------------------------------------------------


def test_secrets_are_in_no_rendering_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in URLS:
        monkeypatch.setenv(name, DATABASE)
    monkeypatch.setenv("FLOWER_BASIC_AUTH", "user:hush")
    settings = read_settings()
    shown = [repr(settings), str(settings), f"{settings}", settings.model_dump_json()]
    shown += [
        str(settings.model_dump()),
        str(dict(settings)),
        str(settings.model_copy()),
        str(vars(settings)),
    ]
    assert not [text for text in shown if "hush" in text]
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_masked_shows_where_and_nothing_else() -> None:
    assert masked(DATABASE) == masked(SecretStr(DATABASE)) == "postgresql://host:5432/name"
    assert masked(BROKER) == "redis://host:6379/0"
    assert masked("postgresql://user:hush@host/name?password=hush") == "postgresql://host/name"
    assert masked("postgresql://user:hush@/name?host=/run/pg") == "postgresql://local socket/name"
    for hosts in ("host=one:5432&host=two:5432", "host=one:5432,two:5432"):
        assert masked(f"postgresql://u:hush@/name?{hosts}&x=hush") == "postgresql://one:5432,two:5432/name"
    assert "hush" not in masked("postgresql://u:a@b?host=hush&x=@/name")
    assert (
        masked("redis+socket:///run/redis.sock?password=hush") == "redis+socket://local socket/run/redis.sock"
    )
    assert masked("postgresql://u:hush@[::1]:5432/d").endswith("//[::1]:5432/d")


@limits(max_examples=100)
@given(st.text("ab1/?#:[]% é", max_size=8))
@example("12/34")
@example("p#w")
@example("p?w")
@example("p[w")
def test_masked_shows_no_part_of_a_password_the_driver_would_take(middle: str) -> None:
    url = f"postgresql://user:hush{middle}hush@host/name"
    assert make_url(url).host == "host", "SQLAlchemy takes the password up to the last @"
    assert "hush" not in masked(url)
    assert masked(url).endswith("host/name")


# -- URLs and lists --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "postgres://u:p@h/d",
        "postgresql://u:p@h/d",
        "postgresql+asyncpg://u:p@h/d",
        "postgresql+psycopg://u:p@h/d",
        "postgresql+psycopg2://u:p@h/d",
        "postgresql://u@/d?host=/run/postgresql",
        "postgresql:///d",
        "postgresql://h1,h2/d?sslmode=require&options=-csearch_path%3Da&target_session_attrs=read-write",
        "postgresql:///d?host=h1:1&host=h2:2",
        "postgresql:///d?host=h1,h2&port=1,2",
    ],
)
def test_every_spelling_of_a_postgresql_url_is_taken(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    assert read_settings().database_url.get_secret_value() == url


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "redis://h",
        "redis://h/",
        "redis://u:p%2F@h:1/2",
        "redis://:p@w@[::1]:1/2",
        "rediss://:p@h:1/2?ssl_cert_reqs=required",
        "rediss://h?ssl_cert_reqs=none&ssl_check_hostname=false",
        "rediss://h?ssl_cert_reqs=optional&ssl_ca_certs=a&ssl_certfile=b&ssl_keyfile=c&ssl_password=d",
        "rediss://h?ssl_cert_reqs=required&ssl_ca_path=a",
        "rediss://h?ssl_cert_reqs=required&ssl_ca_data=a",
        "redis+socket:///run/r.sock",
        "redis+socket:///run/r.sock?virtual_host=1",
    ],
)
def test_every_spelling_of_a_redis_url_is_taken(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("BROKER_URL", url)
    assert read_settings().broker_url.get_secret_value() == url
    assert clients_take(url)


def test_direct_url_is_the_nearest_that_is_set() -> None:
    direct, upkeep = SecretStr("postgresql://direct/d"), SecretStr("postgresql://upkeep/d")
    assert read_settings().direct_url.get_secret_value() == DATABASE
    assert read_settings(maintenance_database_url=upkeep).direct_url == upkeep
    both = read_settings(maintenance_database_url=upkeep, direct_database_url=direct)
    assert (both.direct_url, both.maintenance_url) == (direct, upkeep)
    assert read_settings().maintenance_url.get_secret_value() == DATABASE
    assert read_settings(direct_database_url=direct).maintenance_url == direct


def test_url_is_named_by_its_setting() -> None:
    direct, search = SecretStr("postgresql://direct/d"), SecretStr(DATABASE)
    settings = read_settings(direct_database_url=direct, search_database_url=search)
    assert settings.setting_of(settings.direct_url) == "DIRECT_DATABASE_URL"
    assert settings.setting_of(settings.database_url) == "DATABASE_URL"
    assert list(settings.other_database_urls) == ["DIRECT_DATABASE_URL", "SEARCH_DATABASE_URL"]


def test_data_folder_below_home_is_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / STACK_ENV).write_text("CHUNK_SIZE=100\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DATA_DIR", "~/data")
    settings = read_settings()
    assert (settings.data_dir, settings.chunk_size) == (tmp_path / "data", 100)


def test_roots_are_real_folders_separated_as_in_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("ALLOWED_ROOTS", f"link{os.pathsep}~/docs{os.pathsep}/a/../b")
    assert read_settings().allowed_roots == (tmp_path / "real", Path("/home/me/docs"), Path("/b"))
    monkeypatch.delenv("ALLOWED_ROOTS")
    assert read_settings().allowed_roots == (tmp_path,)


def test_folder_with_a_comma_in_its_name_is_one_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLOWED_ROOTS", "/data/Smith, John")
    assert read_settings().allowed_roots == (Path("/data/Smith, John"),)


@pytest.mark.parametrize("value", ["s3,gs", "s3, gs", "S3,gs,"])
def test_schemes_are_separated_by_commas_and_written_as_people_do(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("ALLOWED_URI_SCHEMES", value)
    monkeypatch.setenv("ALLOWED_URI_HOSTS", "bucket")
    assert read_settings().allowed_uri_schemes == ("s3", "gs")


def test_hosts_are_written_with_port_and_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "ALLOWED_URI_HOSTS", "Docs.Example.com, *.b.example:8080,files=10.1.0.0/16,six=fd00::/8,*,"
    )
    assert read_settings().allowed_uri_hosts == (
        AllowedHost("docs.example.com"),
        AllowedHost("*.b.example", 8080),
        AllowedHost("files", None, ip_network("10.1.0.0/16")),
        AllowedHost("six", None, ip_network("fd00::/8")),
        AllowedHost("*"),
    )


@pytest.mark.parametrize(
    ("hosts", "said"),
    [
        ("https://a", "ALLOWED_URI_HOSTS: 'https://a' is not HOST, *.HOST, HOST:PORT or HOST=NETWORK"),
        ("a.*", "'a.*' is not HOST"),
        ("*=10.0.0.0/8", "* stands for public hosts"),
        ("a=10.1.0.1/16", "10.1.0.1/16 is not a network"),
        ("a:0", "'a:0': a port is a number from 1 to 65535"),
        ("a:65536", "'a:65536': a port is a number from 1 to 65535"),
        ("", "ALLOWED_URI_SCHEMES allows nothing without ALLOWED_URI_HOSTS"),
    ],
)
def test_hosts_that_cannot_be_used_are_named(monkeypatch: pytest.MonkeyPatch, hosts: str, said: str) -> None:
    monkeypatch.setenv("ALLOWED_URI_SCHEMES", "https")
    monkeypatch.setenv("ALLOWED_URI_HOSTS", hosts)
    assert said in refusal()


@pytest.mark.parametrize(
    ("scheme", "said"),
    [
        ("file", "file: files of this machine are read below ALLOWED_ROOTS"),
        ("LOCAL", "local: files of this machine are read below ALLOWED_ROOTS"),
        *(
            (
                scheme,
                f"{scheme.lower()}: its driver connects to the host of a URI without a look at the address",
            )
            for scheme in ("ftp", "sftp", "ssh", "smb", "webHDFS", "hdfs", "webdav")
        ),
        ("zip", "zip: its driver reads by another one, or unpacks"),
        ("reference", "reference: its driver reads by another one, or unpacks"),
    ],
)
def test_scheme_that_is_neither_the_web_nor_buckets_is_refused(
    monkeypatch: pytest.MonkeyPatch, scheme: str, said: str
) -> None:
    monkeypatch.setenv("ALLOWED_URI_SCHEMES", f"s3,{scheme}")
    monkeypatch.setenv("ALLOWED_URI_HOSTS", "bucket")
    assert said in refusal()


def test_each_scheme_that_comes_with_fsspec_is_the_web_buckets_or_refused() -> None:
    accounts = {
        "box",
        "dropbox",
        "gdrive",
        "gist",
        "github",
        "hf",
        "wandb",
    }  # a service, at a host of its own
    buckets = {
        "abfs", "adl", "az", "gcs", "gs", "oci", "ocilake", "oss", "s3", "s3a", "tos", "tosfs"
    }  # fmt: skip
    inside = {"data", "memory", "pyscript"}
    known = {scheme.lower() for scheme in known_implementations} - _REFUSED_SCHEMES.keys()
    assert known - WEB_PORTS.keys() <= accounts | buckets | inside


# -- what Celery must not be told beside them -----------------------------------------------------------


@pytest.mark.parametrize("name", ["BROKER_URL", "BROKER_READ_URL", "BROKER_WRITE_URL", "RESULT_BACKEND"])
def test_variable_that_celery_would_follow_past_the_settings_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(f"CELERY_{name}", "redis://:hush@elsewhere")
    conf = Celery(broker=BROKER, backend=BROKER, set_as_current=False).conf
    assert getattr(conf, name.lower()) == "redis://:hush@elsewhere", (
        "Celery follows it no more: drop the refusal"
    )
    assert refusal().startswith(f"CELERY_{name} is set: Celery would follow it")


@pytest.mark.parametrize(
    ("name", "value", "others"),
    [
        ("CELERY_ACCEPT_CONTENT", "json, pickle", "pickle"),
        (
            "CELERY_RESULT_ACCEPT_CONTENT",
            '["yaml", "application/x-python-serialize"]',
            "application/x-python-serialize, yaml",
        ),
        ("CELERY_TASK_SERIALIZER", "PICKLE", "pickle"),
        ("CELERY_RESULT_SERIALIZER", "yaml", "yaml"),
        ("CELERY_EVENT_SERIALIZER", "msgpack", "msgpack"),
    ],
)
def test_variable_that_asks_for_another_content_than_json_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, others: str
) -> None:
    monkeypatch.setenv(name, value)
    assert refusal() == f"{name} names {others}: messages are JSON, and nothing else → unset {name}"
    monkeypatch.setenv(name, "json")
    assert read_settings()


@pytest.mark.parametrize(
    ("option", "given"),
    [
        ("accept_content", ["json", "pickle"]),
        ("result_accept_content", {"yaml"}),
        ("task_serializer", "pickle"),
        ("result_serializer", "yaml"),
        ("event_serializer", "pickle"),
    ],
)
def test_configuration_of_celery_that_is_not_json_alone_is_refused(option: str, given: Any) -> None:
    ours: dict[str, Any] = dict.fromkeys(("task_serializer", "result_serializer", "event_serializer"), "json")
    ours |= {"accept_content": ["json"], "result_accept_content": ["json"]}
    require_json(ours)
    require_json({**ours, "result_accept_content": None})  # then it is that of the tasks
    with pytest.raises(SettingsError, match=f"Celery's {option} names (pickle|yaml): messages are JSON"):
        require_json({**ours, option: given})


# -- where they come from --------------------------------------------------------------------------


def test_environment_wins_over_env_file_and_that_over_the_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / STACK_ENV).write_text("CHUNK_SIZE=100\nBATCH_DOCUMENTS=1\nMAX_ATTEMPTS=1\n")
    (tmp_path / ".env").write_text("DATA_DIR=data\nBATCH_DOCUMENTS=2\nMAX_ATTEMPTS=2\n")
    monkeypatch.setenv("MAX_ATTEMPTS", "3")
    settings = read_settings()
    assert (settings.chunk_size, settings.batch_documents, settings.max_attempts) == (100, 2, 3)
    assert settings.data_dir == Path("data")
    assert read_settings(max_attempts=4).max_attempts == 4


def test_stack_is_found_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("one", 100), ("two", 200)):
        (tmp_path / name).mkdir()
        (tmp_path / name / STACK_ENV).write_text(f"CHUNK_SIZE={size}\n")
    (tmp_path / ".env").write_text("DATA_DIR=one\n")
    assert read_settings().chunk_size == 100
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "two"))
    assert read_settings().chunk_size == 200


def test_empty_values_stand_for_not_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("CHUNK_SIZE=\nMAX_ATTEMPTS=7\nSEARCH_DATABASE_URL=\n")
    monkeypatch.setenv("MAX_ATTEMPTS", "")
    monkeypatch.setenv("ALLOWED_ROOTS", "")
    settings = read_settings()
    assert (settings.chunk_size, settings.max_attempts, settings.search_database_url) == (1000, 7, None)
    assert settings.allowed_roots == (tmp_path,)


def test_unknown_variables_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("COMPOSE_PROJECT_NAME=x\nPOSTGRES_PASSWORD=hush\n")
    monkeypatch.setenv("CHUNK_SIZES", "5")
    assert read_settings().chunk_size == 1000


def test_types_are_those_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDDING_TYPE", "halfvec")
    monkeypatch.setenv("POSTGRES_VERSION", "16")
    monkeypatch.setenv("database_echo", "yes")
    settings = read_settings()
    assert settings.embedding_type is EmbeddingType.HALFVEC
    assert (settings.postgres_version, settings.database_echo) == (16, True)


def test_what_the_user_set_is_told_from_what_a_stack_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.delenv("BROKER_URL")
    (tmp_path / ".ingest").mkdir()
    (tmp_path / ".ingest" / STACK_ENV).write_text(f"DATABASE_URL={DATABASE}\nBROKER_URL={BROKER}\n")
    assert read_settings().broker_url.get_secret_value() == BROKER
    assert configured_urls() == (None, None)
    (tmp_path / ".env").write_text("database_url=postgresql://mine/d\nBROKER_URL=\n")
    assert configured("DATABASE_URL") == "postgresql://mine/d"
    assert configured_urls() == (SecretStr("postgresql://mine/d"), None)


def test_children_get_our_environment_with_more() -> None:
    assert child_environment(EXTRA="1") == {**os.environ, "EXTRA": "1"}
    assert "EXTRA" not in os.environ


def test_exported_values_are_read_at_once(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    forget: Callable[[], None] = load_settings.cache_clear
    forget()
    request.addfinalizer(forget)
    monkeypatch.setenv("CHUNK_SIZE", "700")
    assert load_settings() is load_settings()
    assert load_settings().chunk_size == 700
    export({"CHUNK_SIZE": "800"})
    assert load_settings().chunk_size == 800

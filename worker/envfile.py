"""The files that settings come from and the folders they name: what is wrong with one is said in a line."""

import os
from collections.abc import Mapping
from pathlib import Path

from dotenv import dotenv_values
from dotenv.parser import parse_stream

from worker.errors import SettingsError

_DOT_ENV = Path(".env")


def settings_files(data_dir: Path, name: str) -> tuple[Path, Path]:
    """Give the stack's file of this name and `.env`, which wins. Raises SettingsError and OSError."""
    try:
        left = expanded(data_dir) / name
    except ValueError:  # the validation of DATA_DIR says so, beside whatever else is wrong
        left = Path(name)
    for file in (left, _DOT_ENV):
        _require_readable(file)
    return left, _DOT_ENV


def dot_env() -> Mapping[str, str | None]:
    """Give what `.env` says. Raises SettingsError."""
    try:
        _require_readable(_DOT_ENV)
        return dotenv_values(_DOT_ENV)
    except OSError as error:
        raise SettingsError(f".env cannot be read: {error.strerror}", "correct its permissions") from None


def _require_readable(file: Path) -> None:
    """Refuse a file with a line that is no setting: dotenv passes it over. Raises SettingsError."""
    if not file.is_file():  # nothing is there, or a pipe, which can be read once
        return
    try:
        with file.open(encoding="utf-8") as lines:
            wrong = next((found.original.line for found in parse_stream(lines) if found.error), None)
    except UnicodeDecodeError:
        raise SettingsError(f"{file} is not UTF-8 text", "save it as UTF-8") from None
    if wrong is not None:
        raise SettingsError(
            f"{file} cannot be read from line {wrong} on", "write NAME=value there, and close every quote"
        )


def expanded(folder: Path) -> Path:
    """Write ~ as the folder it stands for. Raises ValueError."""
    try:
        return folder.expanduser()
    except RuntimeError:
        raise ValueError(f"{folder.parts[0]} is nobody's home folder here") from None


def resolved(folder: Path) -> Path:
    """Follow every link of a folder. Raises ValueError."""
    try:
        return expanded(folder).resolve()
    except (OSError, RuntimeError):
        raise ValueError(f"{folder} is a loop of links, or too long") from None


def write_private(path: Path, values: Mapping[str, str]) -> None:
    """Write a file of settings that only its owner can read, in place of what was there. Raises OSError."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(
        os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8"
    ) as file:
        file.writelines(f"{name}={_quoted(value)}\n" for name, value in values.items())
    fresh.replace(path)


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"

"""Walking folders: what is found, what is passed over, what is reported."""

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker.cli.walk import Walk, gone, walk


def names(found: Walk, folder: Path) -> list[str]:
    return [os.path.relpath(file.path, folder) for file in found.files]


def test_files_come_sorted_by_path_with_size_and_time(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("z.txt", "b/y.txt", "a.txt"):
        (tmp_path / name).write_text(name)
    found = walk(str(tmp_path))
    assert names(found, tmp_path) == ["a.txt", "b/y.txt", "z.txt"]
    info = (tmp_path / "a.txt").stat()
    assert (found.files[0].size, found.files[0].modified_ns) == (info.st_size, info.st_mtime_ns)


def test_hidden_names_are_taken_only_when_asked_for(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    for name in (".git/config", ".env", "seen"):
        (tmp_path / name).touch()
    assert names(walk(str(tmp_path)), tmp_path) == ["seen"]
    assert names(walk(str(tmp_path), hidden=True), tmp_path) == [".env", ".git/config", "seen"]


def test_hidden_folder_named_itself_is_walked(tmp_path: Path) -> None:
    (tmp_path / ".notes").mkdir()
    (tmp_path / ".notes" / "a").touch()
    assert names(walk(str(tmp_path / ".notes")), tmp_path) == [".notes/a"]


def test_links_to_files_are_followed_and_links_to_folders_are_not(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_text("four")
    (tmp_path / "real" / "up").symlink_to(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "file")
    found = walk(str(tmp_path))
    assert names(found, tmp_path) == ["link", "real/file"]
    assert found.files[0].size == 4
    assert found.linked_folders == 1


def test_broken_link_is_found_so_that_the_worker_reports_it(tmp_path: Path) -> None:
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    assert names(walk(str(tmp_path)), tmp_path) == ["broken"]


def test_special_files_are_counted_and_passed_over(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/null")
    with socket.socket(socket.AF_UNIX) as listener:
        folder = os.open(tmp_path, os.O_RDONLY)
        try:
            listener.bind(f"/proc/self/fd/{folder}/socket")  # a path of ours may be too long for a socket
        finally:
            os.close(folder)
        found = walk(str(tmp_path))
    assert found.files == []
    assert found.special == 3


@pytest.mark.parametrize(
    "name", [b"caf\xe9.txt", b"two\nlines.txt", b"tab\t\x1b[31m.txt", "grün 🌱.txt".encode()]
)
def test_every_name_a_file_system_allows_is_found(tmp_path: Path, name: bytes) -> None:
    path = tmp_path / os.fsdecode(name)
    path.write_bytes(b"text")
    assert [os.fsencode(file.path) for file in walk(str(tmp_path)).files] == [os.fsencode(path)]


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """A folder that is taken away by a program without a recursion limit: pytest's own cleaning has one."""
    (tmp_path / "deep").mkdir()
    yield tmp_path / "deep"
    subprocess.run(["rm", "-rf", str(tmp_path / "deep")], check=True)


def test_tree_deeper_than_the_recursion_limit_is_walked(deep: Path) -> None:
    here = os.open(deep, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("file", os.O_CREAT, dir_fd=here))
    os.close(here)
    found = walk(str(deep))
    assert len(found.files) == 1
    assert found.unreadable == []


def test_path_longer_than_the_system_takes_is_reported(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=here)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    (tmp_path / "file").touch()
    found = walk(str(tmp_path))
    assert names(found, tmp_path) == ["file"]
    assert [reason for _, reason in found.unreadable] == ["File name too long"]


def test_folder_that_is_not_there_is_reported(tmp_path: Path) -> None:
    assert walk(str(tmp_path / "gone")).unreadable == [(str(tmp_path / "gone"), "No such file or directory")]


def test_gone_means_certainly_not_there(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    assert gone(str(tmp_path / "missing"))
    assert gone(str(tmp_path / "file" / "below"))
    assert not gone(str(tmp_path / "file"))
    assert not gone(str(tmp_path / "broken"))
    assert not gone(str(tmp_path / ("n" * 300)))

"""What is written where users say: in place of files, through links, into devices and pipes."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

import pytest
from lrpilot.schedule.output_file import output_file

FULL = (1, 7)
"""The numbers of the device whose disk is always full."""


def written(path: Path, content: bytes = b"new") -> None:
    with output_file(path) as file:
        file.write(content)


def test_a_file_is_replaced_when_the_new_one_is_whole_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o640)
    with path.open("rb") as reader, output_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == reader.read() == b"old"
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_what_fails_on_the_way_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(TypeError), output_file(path) as file:
        file.writelines([b"half", "no bytes"])  # type: ignore[list-item]
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_and_leads_to_the_new_file(exists: bool, tmp_path: Path) -> None:
    target, link = tmp_path / "there" / "file", tmp_path / "link"
    target.parent.mkdir()
    if exists:
        target.write_bytes(b"old")
    link.symlink_to(Path("there") / "file")
    written(link)
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert list(target.parent.iterdir()) == [target]


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    path, read = tmp_path / "pipe", []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: read.append(path.read_bytes()))
    reader.start()
    written(path, b"x" * 100_000)
    reader.join()
    assert read == [b"x" * 100_000]
    assert stat.S_ISFIFO(path.lstat().st_mode)


def test_the_errors_of_a_device_are_told_and_it_stays(tmp_path: Path) -> None:
    path = tmp_path / "full"
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(*FULL))
        path.open("wb").close()
    except PermissionError:
        pytest.skip("devices can't be made, or used, here")
    with pytest.raises(OSError, match="No space left") as caught:
        written(path)
    assert caught.value.errno == errno.ENOSPC
    assert stat.S_ISCHR(path.lstat().st_mode)


@pytest.mark.parametrize("path", [Path(""), Path("/"), Path("..")])
def test_a_directory_is_no_file(path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        written(path)

"""Folders that were entered are kept, and entered anew where their path leads elsewhere by then."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from exo_dl.errors import StorageError
from exo_dl.store.folder import Folder

MOST = 8


def test_a_folder_is_walked_to_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(tmp_path)
    folder.write("a/b/one", b"1")
    opened: list[object] = []
    os_open = os.open

    def noted(path: str, flags: int, *args: int, **more: int) -> int:
        if flags & os.O_DIRECTORY:
            opened.append(path)
        return os_open(path, flags, *args, **more)

    monkeypatch.setattr(os, "open", noted)
    folder.write("a/b/two", b"2")
    assert folder.read("a/b/one", limit=1) == b"1"
    assert not opened
    folder.write("a/c/three", b"3")
    assert opened[:3] == [str(tmp_path), "a", "c"]


def test_a_folder_that_was_removed_is_made_again(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "root")
    folder.write("a/one", b"1")
    (tmp_path / "root" / "a" / "one").unlink()
    (tmp_path / "root" / "a").rmdir()
    folder.write("a/two", b"2")
    assert (tmp_path / "root" / "a" / "two").read_bytes() == b"2"


def test_another_folder_of_that_name_is_the_one_that_counts(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.write("a/one", b"1")
    (tmp_path / "a").rename(tmp_path / "b")
    folder.write("a/two", b"2")
    assert [p.name for p in (tmp_path / "b").iterdir()] == ["one"]
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["two"]


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "root")
    folder.write("a/one", b"1")
    (tmp_path / "root" / "a").rename(tmp_path / "root" / "b")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "root" / "a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="symbolic link"):
        folder.write("a/two", b"2")
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("name", ["/one", "a//one", "../one", "a/../one", "./one"])
def test_a_name_that_is_no_plain_relative_path_is_refused(tmp_path: Path, name: str) -> None:
    folder = Folder(tmp_path / "root")
    folder.write("a/zero", b"0")
    with pytest.raises(StorageError):
        folder.write(name, b"1")
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["zero"]


def test_few_are_kept_and_none_when_the_folder_is_gone(tmp_path: Path) -> None:
    def kept() -> list[str]:
        links = [os.path.join("/proc/self/fd", fd) for fd in os.listdir("/proc/self/fd")]
        return [to for link in links if os.path.islink(link) and (to := os.readlink(link)).startswith(str(tmp_path))]

    folder = Folder(tmp_path)
    for number in range(5 * MOST):
        folder.write(f"{number}/file", b"")
    assert len(kept()) == MOST
    del folder
    gc.collect()
    assert not kept()

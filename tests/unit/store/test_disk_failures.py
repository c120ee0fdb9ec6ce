"""Disks that are full, read-only, or go away."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from exo_dl.errors import ExoDlError, StorageError
from exo_dl.store import room
from exo_dl.store.publish import DirLayout, HFLayout, Layout
from exo_dl.store.pullstore import StoreFailed
from tests.unit.store.conftest import MakeNode
from tests.unit.store.stores import BIG, MIB, by_digest, leftovers, manifest_of, random_bytes

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no disk can be mounted: {made.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@needs_root
@pytest.mark.parametrize("layout", [HFLayout, DirLayout])
def test_too_little_room_is_said_at_once_with_figures(
    small_disk: Path, make_node: MakeNode, layout: type[HFLayout] | type[DirLayout]
) -> None:
    made: Layout = layout(small_disk / "target")
    with pytest.raises(StorageError, match=r"9\.4 MB needed, 8\.4 MB free") as caught:
        make_node(manifest_of(BIG), made).begin()
    assert "1.0 MB more room" in caught.value.hint
    assert list(small_disk.rglob("*")) == []


@needs_root
def test_room_that_vanishes_while_it_is_reserved(
    small_disk: Path, make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HFLayout, "check_room", lambda *_: None)
    with pytest.raises(StorageError, match="The disk is full"):
        make_node(manifest_of(BIG), HFLayout(small_disk)).begin()
    assert list(small_disk.rglob("*")) == []


SMALL = {"a.safetensors": random_bytes(2 * MIB + 17, 6), "sub/b.json": b"{}", "c.json": b"[]"}


def fill_up(disk: Path) -> None:
    """Somebody else takes all room that is left, to the last block."""
    with (disk / "filler").open("wb", buffering=0) as taken, contextlib.suppress(OSError):
        while taken.write(bytes(4096)):
            pass
    assert os.statvfs(disk).f_bavail == 0


@needs_root
@pytest.mark.parametrize("layout", [HFLayout, DirLayout])
def test_a_disk_that_others_fill_meanwhile_has_room_for_the_last_words(
    small_disk: Path, make_node: MakeNode, layout: type[HFLayout] | type[DirLayout]
) -> None:
    target = small_disk / "target"
    killed = make_node(manifest_of(SMALL), layout(target)).begin()
    (kept,) = target.rglob("*.room")
    killed.store.close(keep=True)
    assert not kept.exists()
    kept.parent.mkdir(parents=True)
    kept.write_bytes(bytes(MIB))  # as a killed daemon leaves it
    node = make_node(manifest_of(SMALL), layout(target)).begin()
    fill_up(small_disk)
    node.fill(SMALL)
    path = node.store.finish("main")
    assert {name: (path / name).read_bytes() for name in SMALL} == SMALL
    node.store.close(keep=True)
    assert leftovers(target) == []


@needs_root
def test_where_no_room_can_be_kept_the_folder_is_named_and_what_to_do(
    small_disk: Path, make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "preallocate", lambda *_: None)  # as on a file system that cannot
    node = make_node(manifest_of(SMALL), HFLayout(small_disk)).begin()
    fill_up(small_disk)
    node.fill(SMALL)
    with pytest.raises(StorageError, match=rf"The disk is full \(.* free\): {re.escape(str(small_disk))}/.*") as caught:
        node.store.finish("main")
    assert caught.value.hint == "Make room, then pull again."


@needs_root
def test_a_read_only_disk_is_named(small_disk: Path, make_node: MakeNode) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StorageError, match="read-only file system") as caught:
        make_node(manifest_of({"a.json": b"{}"}), HFLayout(small_disk)).begin()
    assert str(small_disk) in caught.value.what


@needs_root
def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    child = os.fork()
    if child == 0:
        # As somebody else: root may write everywhere.
        code = 1
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            HFLayout(folder).folder.write("x", b"")
        except StorageError as error:
            code = 0 if "may not be written by this user" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_target_that_is_a_file_is_named(tmp_path: Path, make_node: MakeNode) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=r"no folder|exists"):
        make_node(manifest_of(BIG), DirLayout(tmp_path / "file" / "x")).begin()


def test_a_folder_that_goes_away_fails_the_pull_once(tmp_path: Path, make_node: MakeNode) -> None:
    node = make_node(manifest_of(BIG), HFLayout(tmp_path / "hub")).begin()
    os.rename(tmp_path / "hub", tmp_path / "away")
    node.write(by_digest(BIG), range(9))
    with pytest.raises(ExoDlError):
        node.fill(BIG)
    node.events.wait(StoreFailed)
    assert len(node.events.of(StoreFailed)) == 1

"""Disks that are full, read-only, or go away."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from exo_dl.errors import ExoDlError, StorageError
from exo_dl.store.publish import DirLayout, HFLayout, Layout
from exo_dl.store.pullstore import StoreFailed
from tests.unit.store.conftest import MakeNode
from tests.unit.store.stores import BIG, by_digest, manifest_of

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

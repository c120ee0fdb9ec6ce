"""Files made of runs of others: many at once, each synced before the with statement ends, no descriptor left open."""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path

import pytest

from exo_dl.errors import StorageError
from exo_dl.store.filling import Filled, Filling
from exo_dl.store.folder import Folder

COUNT = 150


def descriptors() -> set[str]:
    return set(os.listdir("/dev/fd"))


def test_many_files_are_filled_and_synced_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    fsync = os.fsync

    def noted(fd: int) -> None:
        fsync(fd)
        synced.append(os.stat(fd).st_ino)

    monkeypatch.setattr(os, "fsync", noted)
    (tmp_path / "source").write_bytes(bytes(range(256)))
    folder = Folder(tmp_path)
    folder.lstat(f"{folder.make('out').name}/0")  # that folder's own descriptor is kept
    gc.collect()  # those of folders of other tests are not
    before = descriptors()
    with (tmp_path / "source").open("rb") as source, Filled(folder, threading.Event()) as filled:
        for number in range(COUNT):
            filled.fill(f"out/{number}", source.fileno(), Filling(4, b"h", ((number, 1, 3),)))
        most = len(descriptors() - before)
    assert most < 80, "a placement with thousands of files must not hold them all open"
    assert descriptors() == before
    paths = [tmp_path / "out" / str(number) for number in range(COUNT)]
    assert [path.read_bytes() for path in paths] == [b"h" + bytes(range(n, n + 3)) for n in range(COUNT)]
    assert synced == [path.stat().st_ino for path in paths]


def test_a_pull_that_ends_meanwhile_leaves_no_descriptor(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(bytes(8))
    folder = Folder(tmp_path)
    assert folder.lstat("one") is None  # the folder's own descriptor is kept
    gc.collect()
    before, stop = descriptors(), threading.Event()
    with (
        pytest.raises(StorageError),
        (tmp_path / "source").open("rb") as source,
        Filled(folder, stop) as filled,
    ):
        filled.fill("one", source.fileno(), Filling(8, b"", ((0, 0, 8),)))
        stop.set()
        filled.fill("two", source.fileno(), Filling(8, b"", ((0, 0, 8),)))
    assert descriptors() == before

"""Digests that run along, and the small parts that they stand on."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path

import pytest

from exo_dl.core.manifest import Blob, piece_size_for
from exo_dl.store.osfile import Graveyard, copy_range
from exo_dl.store.slots import piece_set
from exo_dl.store.verify import BlobHasher, VerifyPool
from tests.unit.store.stores import MIB, WAIT_S, git_sha1, random_bytes


def make_blob(index: int, data: bytes, first_piece: int = 0) -> Blob:
    size = piece_size_for(len(data))
    return Blob(index, hashlib.sha256(data).digest(), len(data), size, first_piece, -(-len(data) // size), ("x",))


class Results:
    def __init__(self) -> None:
        self.found: dict[int, bool] = {}
        self.errors: list[Exception] = []
        self._changed = threading.Condition()

    def result(self, index: int, right: bool) -> None:
        with self._changed:
            self.found[index] = right
            self._changed.notify_all()

    def error(self, error: Exception) -> None:
        with self._changed:
            self.errors.append(error)
            self._changed.notify_all()

    def wait(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.found) + len(self.errors) >= count, WAIT_S)


@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_both_kinds_of_digest(size: int) -> None:
    data = random_bytes(size)
    for digest in (hashlib.sha256(data).digest(), git_sha1(data)):
        hasher = BlobHasher(digest, size)
        hasher.update(data)
        twin = hasher.copy()
        twin.update(b"more")
        assert hasher.matches() and not twin.matches()


def test_blobs_in_any_order_of_pieces_end_with_their_digest(tmp_path: Path) -> None:
    contents = [random_bytes(5 * MIB + 3, 1), random_bytes(3 * MIB, 2), b"", random_bytes(7, 3)]
    blobs, first = [], 0
    for index, data in enumerate(contents):
        blobs.append(make_blob(index, data, first))
        first = blobs[-1].end_piece
    files = [os.open(tmp_path / str(index), os.O_RDWR | os.O_CREAT) for index in range(len(contents))]
    held, results = set[int](), Results()
    pool = VerifyPool(
        threads=2, held=held.__contains__, fd=files.__getitem__, on_result=results.result, on_error=results.error
    )
    for blob in blobs:
        pool.follow(blob)
    for piece in reversed(range(first)):
        blob = next(b for b in blobs if b.first_piece <= piece < b.end_piece)
        at = (piece - blob.first_piece) * blob.piece_size
        data = contents[blob.index][at : at + blob.piece_size]
        os.pwrite(files[blob.index], data if piece else bytes(len(data)), at)
        held.add(piece)
        pool.advance(blob, piece - blob.first_piece)
    results.wait(4)
    assert results.found == {0: False, 1: True, 2: True, 3: True} and results.errors == []
    os.pwrite(files[0], contents[0], 0)
    results.found.clear()
    pool.follow(blobs[0])
    results.wait(1)
    assert results.found == {0: True}
    pool.close()
    for fd in files:
        os.close(fd)


def test_a_read_that_fails_is_told(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"short")
    fd, results = os.open(tmp_path / "short", os.O_RDONLY), Results()
    pool = VerifyPool(threads=1, held=lambda _: True, fd=lambda _: fd, on_result=results.result, on_error=results.error)
    pool.follow(make_blob(0, random_bytes(2 * MIB)))
    results.wait(1)
    assert isinstance(results.errors[0], OSError) and not results.found
    pool.close()
    os.close(fd)


def test_the_digest_follows_so_closely_that_the_last_piece_ends_it_soon(tmp_path: Path) -> None:
    data = random_bytes(64 * MIB)
    blob, results, held = make_blob(0, data), Results(), set[int]()
    fd = os.open(tmp_path / "x", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, data, 0)
    pool = VerifyPool(
        threads=1, held=held.__contains__, fd=lambda _: fd, on_result=results.result, on_error=results.error
    )
    pool.follow(blob)
    for piece in range(blob.piece_count - 1):
        held.add(piece)
        pool.advance(blob, piece)
    follow = pool._follows[0]
    end = time.monotonic() + WAIT_S
    while follow.next < blob.piece_count - 1 or follow.busy:
        assert time.monotonic() < end
        os.sched_yield()
    start = time.perf_counter()
    held.add(blob.piece_count - 1)
    pool.advance(blob, blob.piece_count - 1)
    results.wait(1)
    # One MiB to hash: about a millisecond; the whole file would need fifty.
    assert results.found == {0: True} and time.perf_counter() - start < 0.2
    pool.close()
    os.close(fd)


def test_a_buried_descriptor_keeps_its_number_for_a_while(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    yard = Graveyard(grace_s=0.0)
    first = os.open(tmp_path / "a", os.O_RDWR)
    second = os.open(tmp_path / "a", os.O_RDWR)
    long = Graveyard(grace_s=600.0)
    long.bury(first, blind=True)
    assert os.pread(first, 1, 0) == b"" and os.pwrite(first, b"x", 0) == 1
    assert (tmp_path / "a").read_bytes() == b"a"
    yard.bury(second, blind=False)
    with pytest.raises(OSError):
        os.fstat(second)
    os.close(first)


@pytest.mark.parametrize("by_kernel", [True, False])
def test_copies(tmp_path: Path, by_kernel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not by_kernel:
        monkeypatch.delattr(os, "copy_file_range", raising=False)
    data = random_bytes(9 * MIB)
    (tmp_path / "a").write_bytes(data)
    a, b = os.open(tmp_path / "a", os.O_RDONLY), os.open(tmp_path / "b", os.O_RDWR | os.O_CREAT)
    assert copy_range(a, b, len(data), threading.Event())
    assert (tmp_path / "b").read_bytes() == data
    stopped = threading.Event()
    stopped.set()
    assert not copy_range(a, b, len(data), stopped)
    with pytest.raises(OSError, match="shorter"):
        copy_range(a, b, len(data) + 1, threading.Event())
    os.close(a)
    os.close(b)


def test_sets_of_many_pieces() -> None:
    assert piece_set([]) == 0
    assert piece_set([0, 9, 3, 9]) == 1 | 1 << 9 | 1 << 3
    assert piece_set(range(100_000)) == (1 << 100_000) - 1

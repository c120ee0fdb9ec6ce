"""Digests of whole files that run along as their pieces arrive, and of files that are there already.

A file's sha256 can only be computed from its start on. `VerifyPool` follows each file's contiguous prefix while those
bytes are still in the page cache, so that at the end little is left to read. `pread` and not `mmap`: mapped reading
needs about a tenth less CPU, but a file that somebody truncates meanwhile would end the process (SIGBUS).
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from blake3 import blake3

from exo_dl.core.manifest import Blob
from exo_dl.store.osfile import start_writeback
from exo_dl.store.threads import Threads

__all__ = ["BlobHasher", "VerifyPool", "WriteBack", "is_content", "read_chunks", "scan_pieces"]

_CHUNK_BYTES = 256 << 10
_STEP_BYTES = 64 << 20
_GATHER_S = 0.25


class BlobHasher:
    """The digest that the hub lists: sha256 (32 bytes), or git's sha1 of a blob (20 bytes)."""

    def __init__(self, digest: bytes, size: int) -> None:
        self._digest = digest
        if len(digest) == 32:
            self._hash = hashlib.sha256()
        else:
            self._hash = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)

    def update(self, data: memoryview | bytes) -> None:
        """Adds the next bytes."""
        self._hash.update(data)

    def copy(self) -> BlobHasher:
        """A second one that has seen the same bytes."""
        twin = BlobHasher.__new__(BlobHasher)
        twin._digest, twin._hash = self._digest, self._hash.copy()
        return twin

    def matches(self) -> bool:
        """True when the bytes so far are the whole content."""
        return self._hash.digest() == self._digest


def read_chunks(fd: int, offset: int, size: int, buffer: memoryview) -> Iterator[memoryview]:
    """The bytes of a range, in pieces of at most the buffer, which is used again each time.

    Raises:
        OSError: of the disk; EIO when the file is shorter.
    """
    end = offset + size
    while offset < end:
        done = os.preadv(fd, [buffer[: end - offset]], offset)
        if done == 0:
            raise OSError(errno.EIO, "the file is shorter than it was")
        yield buffer[:done]
        offset += done


def is_content(fd: int, blob: Blob) -> bool:
    """Reads a file of the blob's size, and tells whether it has the blob's digest.

    Raises:
        OSError: of the disk.
    """
    hasher = BlobHasher(blob.digest, blob.size)
    for chunk in read_chunks(fd, 0, blob.size, memoryview(bytearray(_CHUNK_BYTES))):
        hasher.update(chunk)
    return hasher.matches()


def piece_range(blob: Blob, piece: int) -> tuple[int, int]:
    """Offset and size of a piece, numbered within its blob."""
    offset = piece * blob.piece_size
    return offset, min(blob.piece_size, blob.size - offset)


def scan_pieces(
    fd: int, blob: Blob, pieces: Iterable[int], stop: threading.Event, *, hasher: BlobHasher | None = None
) -> Iterator[tuple[int, bytes, BlobHasher | None]]:
    """Reads pieces (numbered within the blob) and yields each with its BLAKE3 digest.

    Args:
        fd: the file.
        blob: its content.
        pieces: which, in order.
        stop: ends the reading within milliseconds.
        hasher: one that has seen the bytes before the first of ``pieces``. As long as pieces follow one another without
            a gap, the third value is a hasher that has seen this piece too; else None. One read serves both digests.
    """
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    expected = -1
    for piece in pieces:
        whole = hasher.copy() if hasher is not None and expected in (-1, piece) else None
        digest = blake3()
        for chunk in read_chunks(fd, *piece_range(blob, piece), buffer):
            if stop.is_set():
                return
            digest.update(chunk)
            if whole is not None:
                whole.update(chunk)
        hasher, expected = whole, piece + 1
        yield piece, digest.digest(), whole


@dataclass(slots=True)
class _Follow:
    """How far the digest of one blob has come. ``next`` is numbered within the blob."""

    blob: Blob
    hasher: BlobHasher
    next: int
    busy: bool = False


class VerifyPool:
    """Threads that follow blobs. All callbacks are called from them.

    Args:
        threads: digests at once.
        held: whether a piece (numbered in the manifest) is written; asked often.
        fd: the descriptor to read a blob from.
        on_result: the digest of a blob that is all there: (blob index, whether it is the hub's).
        on_error: a read failed (OSError or StorageError).
    """

    def __init__(
        self,
        *,
        threads: int,
        held: Callable[[int], bool],
        fd: Callable[[int], int],
        on_result: Callable[[int, bool], None],
        on_error: Callable[[Exception], None],
    ) -> None:
        self._held = held
        self._fd = fd
        self._on_result = on_result
        self._lock = threading.Lock()
        self._follows: dict[int, _Follow] = {}
        self._stop = threading.Event()
        self._threads = Threads("digest", threads, on_error)
        self._local = threading.local()

    def follow(self, blob: Blob, *, hasher: BlobHasher | None = None, start: int = 0) -> None:
        """Begins with a blob, or begins it anew.

        Args:
            blob: which.
            hasher: one that has seen the pieces before ``start``.
            start: the first piece to read, numbered within the blob.
        """
        follow = _Follow(blob, hasher or BlobHasher(blob.digest, blob.size), start)
        with self._lock:
            self._follows[blob.index] = follow
        self._wake(follow)

    def drop(self, blob_index: int) -> None:
        """No longer follows a blob."""
        with self._lock:
            self._follows.pop(blob_index, None)

    def advance(self, blob: Blob, piece: int) -> None:
        """``piece`` (numbered within the blob) is held now. To be called after `held` says so. About a microsecond."""
        # Without the lock: a worker that moves ``next`` to this piece right now asks `held` after that, and sees it.
        follow = self._follows.get(blob.index)
        if follow is not None and follow.next == piece:
            self._wake(follow)

    def _wake(self, follow: _Follow) -> None:
        with self._lock:
            if follow.busy or self._stop.is_set() or not self._ready(follow):
                return
            follow.busy = True
            self._threads.run(self._step, follow)

    def _ready(self, follow: _Follow) -> bool:
        blob = follow.blob
        return follow.next == blob.piece_count or self._held(blob.first_piece + follow.next)

    def _step(self, follow: _Follow) -> None:
        """Reads on for at most 64 MiB, so that many files share few threads."""
        blob, buffer = follow.blob, self._buffer()
        budget = _STEP_BYTES
        while follow.next < blob.piece_count and budget > 0:
            with self._lock:
                if self._stop.is_set() or self._follows.get(blob.index) is not follow:
                    return
                if not self._ready(follow):
                    follow.busy = False
                    return
            offset, size = piece_range(blob, follow.next)
            for chunk in read_chunks(self._fd(blob.index), offset, size, buffer):
                if self._stop.is_set():
                    return
                follow.hasher.update(chunk)
            budget -= size
            follow.next += 1
        with self._lock:
            if self._stop.is_set() or self._follows.get(blob.index) is not follow:
                return
            if follow.next < blob.piece_count:
                self._threads.run(self._step, follow)
                return
            del self._follows[blob.index]
        self._on_result(blob.index, follow.hasher.matches())

    def _buffer(self) -> memoryview:
        buffer: memoryview | None = getattr(self._local, "buffer", None)
        if buffer is None:
            buffer = self._local.buffer = memoryview(bytearray(_CHUNK_BYTES))
        return buffer

    def close(self) -> None:
        """Ends all work within milliseconds."""
        with self._lock:
            self._stop.set()
        self._threads.close()


class WriteBack:
    """A thread that has the kernel write new pieces out soon, neighbours together: no file ends with seconds of it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._news: list[tuple[int, int, int]] = []
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def note(self, fd: int, offset: int, size: int) -> None:
        """These bytes were written."""
        with self._lock:
            self._news.append((fd, offset, size))
            if self._thread is None and not self._stop.is_set():
                self._thread = threading.Thread(target=self._run, name="write-back", daemon=True)
                self._thread.start()
        if not self._wake.is_set():
            self._wake.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.wait()
            # A short wait gathers neighbours into one call.
            self._stop.wait(_GATHER_S)
            self._wake.clear()
            with self._lock:
                news, self._news = sorted(self._news), []
            at_fd, start, end = -1, 0, 0
            for fd, offset, size in [*news, (-1, 0, 0)]:
                if fd == at_fd and offset == end:
                    end += size
                    continue
                if at_fd >= 0:
                    self._begin(at_fd, start, end - start)
                at_fd, start, end = fd, offset, offset + size

    def _begin(self, fd: int, offset: int, size: int) -> None:
        try:
            start_writeback(fd, offset, size)
        except OSError:
            # A disk that fails says so at the sync of the file, where it is told; this was only a head start.
            return

    def close(self) -> None:
        """Ends the thread."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

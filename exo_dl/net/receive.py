"""Bytes into place: what a thread does with what it has received.

A `Task` is one job under way: how far it shall go, and how another thread stops it. A `PieceSink` takes the job's bytes
in order: hashes them while they are in the processor's cache, writes them where they belong, and checks each piece.

Bytes are written before their digest is known, straight into the part file: a piece counts only once it is recorded, so
wrong bytes there are as good as none. Two jobs may bring the same piece near the end of a pull; the store notices that
(`PullStore.record`) and reads such a piece again.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from itertools import accumulate

from blake3 import blake3

from exo_dl.core.budget import BUFFER_BYTES
from exo_dl.core.swarm import FetchResult
from exo_dl.errors import StorageError
from exo_dl.net.gather import LONGEST_S
from exo_dl.net.jobs import FetchEvent, HubJob, PeerJob, PieceDone, Source

__all__ = [
    "BUFFER_BYTES",
    "PEER_FILL_BYTES",
    "SLOW_WRITE_S",
    "JobStopped",
    "PieceSink",
    "Task",
    "fill",
    "hub_fill_bytes",
    "write_all",
]

SLOW_WRITE_S = 0.01
"""A write that takes longer waits for the disk. One into the page cache takes 0.1 ms: `docs/adr/0019-slow-disks.md`."""

PEER_FILL_BYTES = BUFFER_BYTES
"""What is waited for at once from a peer."""

_HUB_FILL_BYTES = (64 << 10, 1 << 20)
_HUB_FILL_PART = 512
# The clock is read for one write in so many bytes: the small ones, from a hub, are sampled.
_CLOCK_BYTES = 256 << 10
_CLOCK_TIMES = 4.0  # what one may stand for: the least write, but for the ends of pieces, is a quarter of that


def hub_fill_bytes(pull_bytes: int) -> int:
    """What is waited for at once from a hub, in a pull of so many bytes.

    Lumps make the kernel grow a receive buffer to many times what the path needs, and all that is in it when a node
    stalls comes a second time: up to 10 % of a small model with large lumps, 3 % with small ones. So they follow the
    model. From 512 MiB on a piece of a MiB is waited for whole: each lump costs a third of a millisecond of CPU.
    """
    least, most = _HUB_FILL_BYTES
    return max(least, min(most, pull_bytes // _HUB_FILL_PART))


# So many threads at a time hash and write: one processor is left for the event loop. More would wait for a processor
# now and then with the interpreter in hand, and the loop with them: with as many as there are processors it was five
# times as often more than 50 ms late (daemons that want more than the machine has). Who gets no turn in time goes on
# without: others wait for a disk. (`threading.Semaphore` is written in Python, and costs ten times this.)
_turns: queue.SimpleQueue[None] = queue.SimpleQueue()
for _ in range(max(1, (os.cpu_count() or 1) - 1)):
    _turns.put(None)
_TURN_S = 0.05


class JobStopped(Exception):
    """A job ends with this result. ``detail`` is for a person."""

    def __init__(self, result: FetchResult, detail: str = "", *, retry_after_s: float = 0.0) -> None:
        super().__init__(detail)
        self.result = result
        self.detail = detail
        self.retry_after_s = retry_after_s


class Task:
    """A job under way.

    One thread works on it; `cancel` and `trim` come from any other. What has to be interrupted is attached: the lock
    makes sure that a connection is not shut down after its thread has let go of it.

    Args:
        job: what is to be done.
    """

    def __init__(self, job: PeerJob | HubJob) -> None:
        self.job = job
        self.starts = [0, *accumulate(target.size for target in job.pieces)]
        self.end = len(job.pieces)
        """One past the index of the last piece that is wanted; read by the thread at each piece."""
        self.cancelled = False
        self.index = 0
        """Of the piece that the next byte belongs to."""
        self.byte_count = 0
        """Bytes of body that arrived."""
        self.started_s = 0.0
        self.slow_writes_s = 0.0
        """What writes, and records of pieces, took that waited for the disk; set by the thread, read by any."""
        self.writing_since_s = 0.0
        """Since when (`time.monotonic`) the thread is in one of these; 0: it is in none that counts."""
        self._lock = threading.Lock()
        self._interrupt: Callable[[], None] | None = None
        self._limit: Callable[[int], object] | None = None

    def attach(self, interrupt: Callable[[], None], *, limit: Callable[[int], object] | None = None) -> None:
        """From now on `cancel` calls ``interrupt``, and `trim` may call ``limit`` with the new length of the body.

        Both must return at once and be harmless when there is nothing to interrupt.

        Raises:
            JobStopped: it was cancelled before, or there is nothing left to do.
        """
        with self._lock:
            if self.cancelled:
                raise JobStopped(FetchResult.CANCELLED)
            self._interrupt, self._limit = interrupt, limit
            if limit is not None and self.end < len(self.job.pieces):
                limit(self.starts[self.end])

    def detach(self) -> None:
        """Nothing is attached any more."""
        with self._lock:
            self._interrupt = self._limit = None

    def cancel(self) -> None:
        """Ends the job at once."""
        with self._lock:
            self.cancelled = True
            if self._interrupt is not None:
                self._interrupt()

    def trim(self, end_piece: int) -> None:
        """Only the pieces before ``end_piece`` are wanted any more. Never lengthens a job."""
        with self._lock:
            self.end = min(self.end, bisect_left(self.job.pieces, end_piece, key=lambda target: target.piece))
            if self._limit is not None:
                self._limit(self.starts[self.end])
            if self.finished and self._interrupt is not None:
                self._interrupt()

    @property
    def finished(self) -> bool:
        """All wanted pieces came."""
        return self.index >= self.end

    @property
    def bytes_left(self) -> int:
        """Wanted bytes that did not arrive yet."""
        return max(0, self.starts[self.end] - self.byte_count)

    def whole(self, most: int) -> int:
        """The largest part of the next ``most`` bytes that ends where a piece does; ``most`` where none ends there.

        Pieces that are received whole are hashed and written at one stroke.
        """
        end = self.starts[bisect_right(self.starts, self.byte_count + most) - 1]
        return end - self.byte_count if end > self.byte_count else most

    def elapsed_s(self) -> float:
        """Seconds since a thread began with it; 0 before."""
        return time.monotonic() - self.started_s if self.started_s else 0.0

    def wrote(self, *, times: float = 1.0) -> float:
        """What began at `writing_since_s` is through, and stands for so many of its kind. Returns the time now."""
        now = time.monotonic()
        took_s = now - self.writing_since_s
        if took_s > SLOW_WRITE_S:
            self.slow_writes_s += took_s * times
        self.writing_since_s = 0.0
        return now

    def waited_s(self) -> float:
        """`slow_writes_s`, with a write that is not through yet."""
        since = self.writing_since_s
        now_s = time.monotonic() - since if since else 0.0
        return self.slow_writes_s + (now_s if now_s > SLOW_WRITE_S else 0.0)


class PieceSink:
    """Takes the bytes of a task's pieces in order.

    Args:
        task: whose pieces.
        emit: told each piece that is done.
    """

    def __init__(self, task: Task, emit: Callable[[FetchEvent], None]) -> None:
        self._task = task
        self._emit = emit
        self._hasher: blake3 | None = None
        self._skip = False
        self._unclocked = 0

    def take(self, view: memoryview) -> None:
        """Hashes, writes, and records what is complete. Bytes behind the task's end are dropped.

        Raises:
            JobStopped: CORRUPT: a piece has another digest; nothing behind it was written. NO_ROOM: the disk refused.
                CANCELLED: the task was.
        """
        task = self._task
        starts, pieces = task.starts, task.job.pieces
        while view and not task.finished:
            if task.cancelled:
                raise JobStopped(FetchResult.CANCELLED)
            index, at = task.index, task.byte_count
            target = pieces[index]
            if at == starts[index]:
                self._skip = task.job.held is not None and task.job.held(target.piece)
                self._hasher = None if self._skip else blake3()
            chunk = view[: starts[index + 1] - at]
            if self._hasher is not None:
                has_turn = True
                try:
                    _turns.get(timeout=_TURN_S)
                except queue.Empty:
                    has_turn = False
                try:
                    self._hasher.update(chunk)
                    self._write(target.fd, chunk, target.offset + at - starts[index])
                finally:
                    if has_turn:
                        _turns.put(None)
            task.byte_count = at = at + len(chunk)
            if at == starts[index + 1]:
                if self._hasher is not None:
                    self._complete(self._hasher.digest())
                task.index = index + 1
            view = view[len(chunk) :]

    def _write(self, fd: int, chunk: memoryview, offset: int) -> None:
        self._unclocked += len(chunk)
        if self._unclocked < _CLOCK_BYTES:
            write_all(fd, chunk, offset)
            return
        task = self._task
        task.writing_since_s = time.monotonic()
        write_all(fd, chunk, offset)
        task.wrote(times=min(_CLOCK_TIMES, self._unclocked / len(chunk)))
        self._unclocked = 0

    def _complete(self, digest: bytes) -> None:
        job = self._task.job
        target = job.pieces[self._task.index]
        if target.digest is not None and digest != target.digest:
            raise JobStopped(FetchResult.CORRUPT, f"Piece {target.piece} has other bytes than its digest says.")
        self._task.writing_since_s = time.monotonic()
        try:
            job.record(target.piece, digest)
        except KeyError:  # the store is being closed, and takes nothing any more
            raise JobStopped(FetchResult.CANCELLED) from None
        except (StorageError, OSError) as error:
            raise JobStopped(FetchResult.NO_ROOM, f"Piece {target.piece} cannot be noted: {error}") from error
        self._emit(PieceDone(job.job_id, target.piece, digest, target.size, self._task.wrote()))


def write_all(fd: int, view: memoryview, offset: int) -> None:
    """Writes all of ``view`` at ``offset``.

    Raises:
        JobStopped: NO_ROOM, with what the system said.
    """
    try:
        written = os.pwrite(fd, view, offset)
        while written < len(view):  # a signal, or the last bytes of a full disk: the next call says which
            written += os.pwrite(fd, view[written:], offset + written)
    except OSError as error:
        raise JobStopped(FetchResult.NO_ROOM, f"The disk refused {len(view)} bytes: {error.strerror}.") from error


def fill(source: Source, view: memoryview, least: int) -> int:
    """Receives into ``view`` until there are ``least`` bytes, or it is full; 0 only at the end of the stream.

    A network gives a few KiB at a time (TLS never more than 16), and each wake-up, digest and write has its price.
    Waits for more for `LONGEST_S` at most, twice.
    """
    least = min(least, len(view))
    source.gather(least)
    count = source.readinto(view)
    if not 0 < count < least:
        return count
    until = time.monotonic() + LONGEST_S
    while count < least and time.monotonic() < until and source.gather(least - count):
        more = source.readinto(view[count:])
        if not more:
            break  # the next call says so again
        count += more
    return count

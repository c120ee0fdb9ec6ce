"""The fetch pool: pieces from peers and from the hub, straight from the socket into their place on disk.

Plain threads with blocking sockets: a receive, a digest and a write of up to a MiB all run outside of the interpreter
lock, so a few threads use the machine's cores, and what Python itself does for each is small: see `bench/hop.py`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from exo_dl.core.swarm import FetchResult
from exo_dl.errors import (
    AccessError,
    CancelledPullError,
    ExoDlError,
    HubBusyError,
    HubError,
    IntegrityError,
    NotFoundError,
)
from exo_dl.net.jobs import FetchEvent, HubJob, JobEnded, PeerJob, PieceDone, PieceTarget, Source, Timeouts
from exo_dl.net.lanes import Batcher, Lane
from exo_dl.net.limits import Limiter, RateLimit
from exo_dl.net.peer_connection import Answer, ConnectionLostError, PeerConnection, PeerConnections, connect
from exo_dl.net.piece_tls import PieceTls
from exo_dl.net.receive import PEER_FILL_BYTES, JobStopped, PieceSink, Task, fill
from exo_dl.net.tickets import TIME_HEADER
from exo_dl.net.uploads import STAY_HEADERS

__all__ = [
    "FetchEvent",
    "FetchPool",
    "HubJob",
    "JobEnded",
    "PeerJob",
    "PieceDone",
    "PieceTarget",
    "Received",
    "Timeouts",
    "Writing",
]

_log = logging.getLogger(__name__)
_CLOSE_S = 3.0
_STATUS_RESULTS = {
    404: FetchResult.MISSING,
    # It announced the piece: it holds it back while the digest of the whole file is in doubt, and is asked again.
    409: FetchResult.BUSY,
    416: FetchResult.MISSING,
    429: FetchResult.BUSY,
    503: FetchResult.BUSY,
}


@dataclass(frozen=True, slots=True)
class Received:
    """Bytes of the bodies of jobs that have ended, also those of pieces that came twice or were thrown away."""

    hub_bytes: int
    peer_bytes: int


@dataclass(frozen=True, slots=True)
class Writing:
    """What the threads have done since the pool began: seconds at jobs, and how many of these in writes that waited for
    the disk.
    """

    busy_s: float
    waited_s: float


class FetchPool:
    """Carries out `PeerJob`s and `HubJob`s. All methods are thread-safe and return at once, except `close`.

    Peer jobs share up to ``max_peer_threads`` threads and wait in order for them. Each hub reader has a thread of its
    own while it has jobs, so that the hub is never behind peers.

    Args:
        events: told what happens, in lists, from the pool's threads by one at a time; must return soon. For each job:
            any number of `PieceDone`, then one `JobEnded`. They come within 50 ms, `JobEnded` at once.
        max_peer_threads: most peer jobs at once.
        max_hub_threads: most hub readers at once; a job for one more ends with HUB_BUSY.
        timeouts: for peers; a hub reader has its own.
        hub_limiter: the limit on what is received from hubs; None: none.
        peer_limiter: the limit on what is received from peers; None: none.
        tls: for peer jobs whose bytes go over TLS; None: they fail.
    """

    def __init__(
        self,
        *,
        events: Callable[[list[FetchEvent]], None],
        max_peer_threads: int = 32,
        max_hub_threads: int = 32,
        timeouts: Timeouts | None = None,
        hub_limiter: Limiter | None = None,
        peer_limiter: Limiter | None = None,
        tls: PieceTls | None = None,
    ) -> None:
        self._tls = tls
        self._timeouts = timeouts or Timeouts()
        self._hub_limiter: Limiter = hub_limiter or RateLimit()
        self._peer_limiter: Limiter = peer_limiter or RateLimit()
        self._max_hub_threads = max_hub_threads
        self._events = Batcher(events)
        self._connections = PeerConnections()
        self._lock = threading.Lock()
        self._tasks: dict[int, tuple[Task, Lane]] = {}
        self._closed = False
        self._peers = Lane("fetch-peer", limit=max_peer_threads, run=self._run_task)
        self._hubs: dict[int, Lane] = {}
        self._hushed = False
        self._received = Received(0, 0)
        self._wrote = Writing(0.0, 0.0)

    def submit(self, job: PeerJob | HubJob) -> None:
        """Takes a job.

        Raises:
            ValueError: its id belongs to a job that has not ended.
            RuntimeError: the pool is closed.
        """
        task = Task(job)
        with self._lock:
            if self._closed:
                raise RuntimeError("The fetch pool is closed.")
            if job.job_id in self._tasks:
                raise ValueError(f"Job {job.job_id} has not ended yet.")
            lane = self._peers if isinstance(job, PeerJob) else self._hub_lane(job)
            if lane is not None:
                self._tasks[job.job_id] = (task, lane)
                lane.put(task)
        if lane is None:
            self._events.flush(JobEnded(job.job_id, FetchResult.HUB_BUSY, "Too many hub connections.", 1.0, 0, 0.0))

    def cancel(self, job_id: int) -> None:
        """Ends a job within 100 ms. Jobs that nobody knows, or that have ended, are ignored."""
        if (found := self._tasks.get(job_id)) is not None:
            task, lane = found
            task.cancel()
            if lane.drop(task):
                self._end(task, JobStopped(FetchResult.CANCELLED))

    def trim(self, job_id: int, end_piece: int) -> None:
        """A job ends DONE before piece ``end_piece``; at once where it has come that far."""
        if (found := self._tasks.get(job_id)) is not None:
            task, lane = found
            task.trim(end_piece)
            if task.finished and lane.drop(task):
                self._end(task, JobStopped(FetchResult.DONE))

    def progress(self, job_id: int) -> int:
        """Bytes of body that a job has received; 0 for one that has ended."""
        found = self._tasks.get(job_id)
        return found[0].byte_count if found is not None else 0

    @property
    def bytes_in_flight(self) -> int:
        """Bytes that the jobs of this moment still wait for."""
        with self._lock:
            return sum(task.bytes_left for task, _ in self._tasks.values())

    def received(self) -> Received:
        """What came so far (any thread)."""
        return self._received

    def writing(self) -> Writing:
        """How the disk keeps up (any thread). Differences between two calls say it for the time between."""
        with self._lock:
            tasks = [task for task, _ in self._tasks.values()]
            busy_s = self._wrote.busy_s + sum(task.elapsed_s() for task in tasks)
            return Writing(busy_s, self._wrote.waited_s + sum(task.waited_s() for task in tasks))

    def hub_window(self) -> int | None:
        """The most that one request to the hub should ask for now (any thread); None: all that is wanted."""
        return self._hub_limiter.window_bytes

    def close_broken(self) -> None:
        """Closes the idle connections that their peers have ended, or that were not used for long."""
        self._connections.prune()

    def hush(self, *, now: bool) -> None:
        """With ``now`` threads that have nothing to do end at once and give up their buffers: memory is short."""
        with self._lock:
            self._hushed = now
            for lane in (self._peers, *self._hubs.values()):
                lane.hush(now=now)

    def close(self) -> None:
        """Cancels all jobs; returns when their `JobEnded` were delivered and the threads have ended (3 s at most)."""
        with self._lock:
            self._closed = True
            tasks = list(self._tasks)
            lanes = [self._peers, *self._hubs.values()]
        for job_id in tasks:
            self.cancel(job_id)
        until = time.monotonic() + _CLOSE_S
        for lane in lanes:
            lane.close()
        for lane in lanes:
            lane.join(until)
        self._connections.close()
        self._events.close()

    # In the threads

    def _hub_lane(self, job: HubJob) -> Lane | None:
        """The lane of a job's reader; its jobs run one after the other. None when there are too many."""
        key = id(job.reader)
        if key not in self._hubs:
            if len(self._hubs) >= self._max_hub_threads:
                for old in [k for k, lane in self._hubs.items() if lane.retire()]:
                    del self._hubs[old]
            if len(self._hubs) >= self._max_hub_threads:
                return None
            self._hubs[key] = Lane(f"fetch-hub-{job.slot}", limit=1, run=self._run_task)
            self._hubs[key].hush(now=self._hushed)
        return self._hubs[key]

    def _run_task(self, task: Task, buffer: memoryview) -> None:
        task.started_s = time.monotonic()
        try:
            if isinstance(task.job, PeerJob):
                self._run_peer(task, task.job, buffer)
            else:
                self._run_hub(task, task.job, buffer)
            ended = JobStopped(FetchResult.DONE)
        except JobStopped as stopped:
            # What trimmed it may have ended a read in the middle.
            ended = JobStopped(FetchResult.DONE) if task.finished and not task.cancelled else stopped
        except Exception as error:  # the edge where whatever happened becomes an event
            _log.exception("Job %d failed in a way that nobody thought of.", task.job.job_id)
            ended = JobStopped(FetchResult.FAILED, f"{type(error).__name__}: {error}")
        self._end(task, ended)

    def _end(self, task: Task, ended: JobStopped) -> None:
        if task.cancelled and ended.result is not FetchResult.DONE:
            ended = JobStopped(FetchResult.CANCELLED)
        job_id = task.job.job_id
        with self._lock:
            self._tasks.pop(job_id, None)
            hub_bytes, peer_bytes = self._received.hub_bytes, self._received.peer_bytes
            if isinstance(task.job, PeerJob):
                peer_bytes += task.byte_count
            else:
                hub_bytes += task.byte_count
            self._received = Received(hub_bytes, peer_bytes)
            self._wrote = Writing(self._wrote.busy_s + task.elapsed_s(), self._wrote.waited_s + task.slow_writes_s)
        self._events.flush(
            JobEnded(job_id, ended.result, ended.detail, ended.retry_after_s, task.byte_count, task.elapsed_s())
        )

    def _pump(self, task: Task, source: Source, sink: PieceSink, buffer: memoryview) -> bool:
        """Receives until the task is finished; False when the stream ended before."""
        until = float("inf")
        job = task.job
        limiter, least = self._hub_limiter, PEER_FILL_BYTES
        if isinstance(job, HubJob):
            least = job.lump_bytes
        else:
            limiter = self._peer_limiter
            allowed_s = self._timeouts.stall_s + task.bytes_left / self._timeouts.slowest_bytes_per_s
            until = time.monotonic() + allowed_s

        def stopped() -> bool:
            return task.cancelled or task.finished

        while not task.finished:
            most = min(task.bytes_left or 1, limiter.chunk_bytes)
            count = fill(source, buffer[: task.whole(most)], least)
            if not count:
                return task.finished
            until += limiter.take(count, group=job.group, stopped=stopped)
            waited_s = task.slow_writes_s
            sink.take(buffer[:count])
            until += task.slow_writes_s - waited_s  # that is not the peer's fault
            if time.monotonic() > until:
                raise JobStopped(FetchResult.TIMEOUT, "The peer sends too slowly.")
        return True

    def _run_peer(self, task: Task, job: PeerJob, buffer: memoryview) -> None:
        sink = PieceSink(task, self._events.put)
        adjusted = False
        while True:
            connection = self._connections.take(job.address, job.tls_node)
            if connection is None:
                connection = connect(
                    job.address,
                    timeout_s=self._timeouts.connect_s,
                    stopped=lambda: task.cancelled or task.finished,
                    tls=self._tls,
                    node_id=job.tls_node,
                )
            used = connection.used
            keep = False
            try:
                task.attach(connection.shut)
                headers = job.headers() | (STAY_HEADERS if job.stays else {})
                answer = connection.ask(job.path, headers, buffer, timeout_s=self._timeouts.answer_s)
                if answer.status == 200:
                    keep = self._receive(task, connection, answer, sink, buffer)
                    return
                note = connection.read_note(answer)
                keep = note is not None and not _closes(answer)
                clock_s = answer.clock_s(TIME_HEADER)
                if answer.status != 401 or clock_s is None or job.adjust_clock is None or adjusted:
                    raise _refusal(answer, note)
                job.adjust_clock(clock_s)
                adjusted = True
            except ConnectionLostError as error:
                # The peer may close an idle connection at the moment that it is used: that is no failure of the peer.
                if not (error.fresh and used) or task.cancelled or task.finished:
                    raise JobStopped(FetchResult.FAILED, f"{job.address[0]}: {error}.") from error
            finally:
                task.detach()
                if keep and not task.cancelled:
                    self._connections.give(connection)
                else:
                    connection.close()

    def _receive(
        self, task: Task, connection: PeerConnection, answer: Answer, sink: PieceSink, buffer: memoryview
    ) -> bool:
        """Takes the body of a 200; returns whether the connection can be kept."""
        total = task.starts[-1]
        if answer.length != total:
            detail = f"The peer sends {answer.length} bytes where the pieces have {total}."
            raise JobStopped(FetchResult.FAILED, detail)
        connection.set_timeout(self._timeouts.stall_s)
        sink.take(answer.begun)
        if not self._pump(task, connection, sink, buffer):
            raise ConnectionLostError("the peer closed the connection in the middle of the answer")
        return task.byte_count == total and not _closes(answer)

    def _run_hub(self, task: Task, job: HubJob, buffer: memoryview) -> None:
        sink = PieceSink(task, self._events.put)
        try:
            while (index := task.index) < (end := task.end):
                task.attach(job.reader.abort)
                part = task.starts[job.parts.end(task.starts, index, end)]
                self._read_part(task, job, part, sink, buffer)
                job.parts.brought(task.byte_count, task.elapsed_s())
        except (ExoDlError, OSError) as error:
            raise _hub_failure(error) from error
        finally:
            task.detach()

    def _read_part(self, task: Task, job: HubJob, end: int, sink: PieceSink, buffer: memoryview) -> None:
        """One request: from where the job is to ``end`` of its bytes, or to where it is trimmed to."""
        body = job.reader.open_range(
            job.url,
            job.offset + task.byte_count,
            job.offset + end,
            etag=job.etag,
            stopped=lambda: task.cancelled or task.finished,
        )
        try:
            task.attach(body.abort, limit=lambda size: body.limit(job.offset + size))
            if body.is_whole_file:
                job.parts.ranges_ignored()
            if not self._pump(task, body, sink, buffer) and task.byte_count < end:
                raise JobStopped(FetchResult.HUB_UNREACHABLE, "The hub's answer ended too early.")
        finally:
            task.detach()
            body.close()


def _closes(answer: Answer) -> bool:
    return "close" in answer.headers.get("connection", "").lower()


def _refusal(answer: Answer, note: str | None) -> JobStopped:
    result = _STATUS_RESULTS.get(answer.status, FetchResult.FAILED)
    return JobStopped(result, f"{answer.status} {note or ''}".strip(), retry_after_s=answer.retry_after_s)


def _hub_failure(error: ExoDlError | OSError) -> JobStopped:
    """The result that an error of a hub reader stands for."""
    match error:
        case HubBusyError():
            return JobStopped(FetchResult.HUB_BUSY, str(error), retry_after_s=error.retry_after_s)
        case AccessError() | NotFoundError() | IntegrityError():
            return JobStopped(FetchResult.HUB_REFUSED, str(error))
        case CancelledPullError():
            return JobStopped(FetchResult.CANCELLED)
        case HubError() | OSError():
            return JobStopped(FetchResult.HUB_UNREACHABLE, str(error))
    return JobStopped(FetchResult.FAILED, str(error))

"""Threads for the fetch pool: they start on demand and end when idle; and the batching of what they tell."""

from __future__ import annotations

import mmap
import threading
import time
from collections import deque
from collections.abc import Callable

from exo_dl.net.jobs import FetchEvent
from exo_dl.net.receive import BUFFER_BYTES, Task
from exo_dl.store.threads import step_back

__all__ = ["Batcher", "Lane"]

_IDLE_S = 30.0


class Lane:
    """Tasks that wait, and up to ``limit`` threads for them, each with one buffer of 1 MiB.

    Args:
        name: of the threads.
        limit: most threads.
        run: carries out one task with the thread's buffer; must not raise.
    """

    def __init__(self, name: str, *, limit: int, run: Callable[[Task, memoryview], None]) -> None:
        self._name = name
        self._limit = limit
        self._run = run
        self._waiting: deque[Task] = deque()
        self._wake = threading.Condition()
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        self._closed = False
        self._numbers = 0
        self._idle_s = _IDLE_S

    def put(self, task: Task) -> None:
        """Queues a task; starts a thread for it where none is idle and the limit allows."""
        with self._wake:
            if self._closed:
                raise RuntimeError("The fetch pool is closed.")
            self._waiting.append(task)
            if self._idle >= len(self._waiting):
                self._wake.notify()
            elif len(self._threads) < self._limit:
                self._numbers += 1
                thread = threading.Thread(target=self._work, name=f"{self._name}-{self._numbers}", daemon=True)
                self._threads.add(thread)
                thread.start()

    def drop(self, task: Task) -> bool:
        """Takes back a task that no thread has begun; False when one has."""
        with self._wake:
            try:
                self._waiting.remove(task)
            except ValueError:
                return False
            return True

    def retire(self) -> bool:
        """Closes a lane that has nothing to do; False where it has."""
        with self._wake:
            if self._waiting or self._idle < len(self._threads):
                return False
            self._closed = True
            self._wake.notify_all()
            return True

    def hush(self, *, now: bool) -> None:
        """With ``now`` idle threads end at once, and give up their buffers; otherwise after 30 s again."""
        with self._wake:
            self._idle_s = 0.0 if now else _IDLE_S
            self._wake.notify_all()

    def close(self) -> None:
        """The threads end when they have carried out what they are at. Nothing is to wait any more."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()

    def join(self, until: float) -> None:
        """Waits for the threads, until ``until`` (`time.monotonic`)."""
        with self._wake:
            threads = list(self._threads)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, until - time.monotonic()))

    def _work(self) -> None:
        step_back()
        # Pages of its own: the allocator would keep those of many threads that came and went.
        buffer = memoryview(mmap.mmap(-1, BUFFER_BYTES))
        while (task := self._next()) is not None:
            self._run(task, buffer)
            del task  # else an idle thread would keep the last job, and what it refers to, alive

    def _next(self) -> Task | None:
        with self._wake:
            since = time.monotonic()
            while not self._waiting and not self._closed and (left := since + self._idle_s - time.monotonic()) > 0:
                self._idle += 1
                self._wake.wait(left)
                self._idle -= 1
            if self._waiting:
                return self._waiting.popleft()
            self._threads.discard(threading.current_thread())
            return None


class Batcher:
    """Gathers events of many threads into lists: one call for what happens within 50 ms, in order.

    Without it each piece would wake the event loop: 1,500 times a second at full speed.

    Args:
        sink: takes a list of events; called from any thread, by one at a time.
        every_s: shortest time between two calls, except that `flush` is at once.
    """

    def __init__(self, sink: Callable[[list[FetchEvent]], None], *, every_s: float = 0.05) -> None:
        self._sink = sink
        self._every_s = every_s
        self._pending: list[FetchEvent] = []
        self._lock = threading.Lock()
        # Held around taking the list and giving it on: two threads must not overtake each other there.
        self._giving = threading.Lock()
        self._work = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._flush_late, name="fetch-events", daemon=True)
        self._thread.start()

    def put(self, event: FetchEvent) -> None:
        """Gives an event on within 50 ms."""
        with self._lock:
            self._pending.append(event)
            first = len(self._pending) == 1
        if first:
            self._work.set()

    def flush(self, event: FetchEvent) -> None:
        """Gives an event on now, with all before it."""
        with self._lock:
            self._pending.append(event)
        self._give()

    def close(self) -> None:
        """Gives on what is left; events of threads that are still at work come at once from now on."""
        self._closed.set()
        self._work.set()
        if self._thread is not threading.current_thread():
            self._thread.join()
        self._give()

    def _give(self) -> None:
        with self._giving:
            with self._lock:
                events, self._pending = self._pending, []
            if events:
                self._sink(events)

    def _flush_late(self) -> None:
        while not self._closed.is_set():
            self._work.wait()
            self._work.clear()
            self._closed.wait(self._every_s)
            self._give()

"""The threads that move bytes leave the processor to the event loop first."""

from __future__ import annotations

import os
import queue
import sys
import threading

import pytest

from exo_dl.store.threads import Threads


@pytest.mark.skipif(sys.platform != "linux", reason="single threads have a priority of their own on Linux alone")
def test_they_step_back_and_their_maker_does_not() -> None:
    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    mine = niceness()
    found: queue.SimpleQueue[int] = queue.SimpleQueue()
    errors: list[Exception] = []
    threads = Threads("test", 1, errors.append)
    threads.run(lambda: found.put(niceness()))
    assert found.get(timeout=10) == min(19, mine + 5)
    threads.close()
    assert niceness() == mine
    assert not errors

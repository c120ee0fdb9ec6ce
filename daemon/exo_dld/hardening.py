"""What the daemon's process does to itself at its start: gives up what could betray its secrets, takes descriptors, and
keeps its memory together.
"""

from __future__ import annotations

import contextlib
import ctypes
import resource
import sys

__all__ = ["keep_memory_private", "keep_memory_together", "raise_file_limit"]

_PR_SET_DUMPABLE = 4
_M_ARENA_MAX, _ARENAS = -8, 2


def keep_memory_private() -> None:
    """No core dumps, and no other program of this user reads the memory (root still can).

    The limit alone does not hold where the kernel pipes core dumps to a program, as systemd has it; the flag does.
    """
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def keep_memory_together() -> None:
    """Has the C library take memory for all threads from two places, before threads are there.

    glibc gives each thread an arena of its own, up to eight for each processor, and gives little of them back: a daemon
    grew by 80 kB with each small pull, and by half of that with two. Other systems have none of this.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)


def raise_file_limit() -> None:
    """Part files stay open while a pull runs: hundreds of small files need more than the usual 1024 descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))

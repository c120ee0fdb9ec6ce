"""What the daemon's process gives up at its start, because its memory holds a secret and a token."""

from __future__ import annotations

import contextlib
import ctypes
import resource
import sys

__all__ = ["keep_memory_private"]

_PR_SET_DUMPABLE = 4


def keep_memory_private() -> None:
    """No core dumps, and no other program of this user reads the memory (root still can).

    The limit alone does not hold where the kernel pipes core dumps to a program, as systemd has it; the flag does.
    """
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)

"""Memory of a virtual machine: it pays for the first use of each page, and gives idle ones back to its host."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil

__all__ = ["settle_memory", "touch_memory"]

_TOUCH = "import sys, mmap; m = mmap.mmap(-1, int(sys.argv[1]))\nfor at in range(0, len(m), 4096): m[at] = 1"
_REPORTED = Path("/sys/module/page_reporting/parameters/reported_kib")
_LOOK_S = 0.25


def touch_memory(size_bytes: int) -> None:
    """Has the machine take up memory for the page cache of what is measured next: at most 3/4 of what is free."""
    size_bytes = min(size_bytes, psutil.virtual_memory().available * 3 // 4)
    subprocess.run([sys.executable, "-c", _TOUCH, str(size_bytes)], check=True)


def settle_memory(*, still_s: float = 2.0, timeout_s: float = 60.0) -> None:
    """Returns when a virtual machine has given no memory back to its host for ``still_s``.

    It does so for seconds after much was freed, as by removing what the last run left, and all programs stand still
    meanwhile for up to half a second. Returns at once where the kernel does not count it, and after ``timeout_s``.
    """
    until = since = time.monotonic()
    until += timeout_s
    last = _reported_kib()
    while last is not None and (now := time.monotonic()) - since < still_s and now < until:
        time.sleep(_LOOK_S)
        if (reported := _reported_kib()) != last:
            last, since = reported, time.monotonic()


def _reported_kib() -> int | None:
    try:
        return int(_REPORTED.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None

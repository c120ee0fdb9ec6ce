"""Memory that the machine has used before: a virtual one pays for the first use of each page, and loses idle ones."""

from __future__ import annotations

import subprocess
import sys

import psutil

__all__ = ["touch_memory"]

_TOUCH = "import sys, mmap; m = mmap.mmap(-1, int(sys.argv[1]))\nfor at in range(0, len(m), 4096): m[at] = 1"


def touch_memory(size_bytes: int) -> None:
    """Has the machine take up memory for the page cache of what is measured next: at most 3/4 of what is free."""
    size_bytes = min(size_bytes, psutil.virtual_memory().available * 3 // 4)
    subprocess.run([sys.executable, "-c", _TOUCH, str(size_bytes)], check=True)

"""Memory that a process held."""

from __future__ import annotations

import os
import re
from pathlib import Path

__all__ = ["peak_rss_bytes"]


def peak_rss_bytes(pid: int | None = None) -> int:
    """The most memory that a process (default: this one) held; 0 of one that has ended.

    Not ``ru_maxrss``: that begins with what the process was before its exec, which is what started it.
    """
    status = Path(f"/proc/{pid or os.getpid()}/status").read_text(encoding="ascii", errors="replace")
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0

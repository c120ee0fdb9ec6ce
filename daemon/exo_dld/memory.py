"""How much memory there is, and how much of it the daemon takes or leaves."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import psutil

__all__ = ["available_bytes", "budget_bytes", "reserve_bytes", "total_bytes"]

_LEAST_RESERVE_BYTES = 128 << 20
_LARGEST_RESERVE_BYTES = 1 << 30
_RESERVE_PART = 0.05
# The least is enough for two pulls at once. The largest is twice what the buffers of all transfer threads take.
_LEAST_BUDGET_BYTES = 64 << 20
_LARGEST_BUDGET_BYTES = 256 << 20
_BUDGET_PARTS = 16
_CGROUP = Path("/sys/fs/cgroup")


def available_bytes(cgroup: Path = _CGROUP) -> int:
    """Memory that programs can get without swapping: the machine's, or what the own control group leaves of it."""
    available = int(psutil.virtual_memory().available)
    with contextlib.suppress(OSError, ValueError):
        limit = int((cgroup / "memory.max").read_text(encoding="ascii"))  # "max" is no number: no limit
        used = int((cgroup / "memory.current").read_text(encoding="ascii"))
        stat = (cgroup / "memory.stat").read_text(encoding="ascii")
        cached = sum(int(line.split()[1]) for line in stat.splitlines() if line.startswith("inactive_file "))
        available = min(available, max(0, limit - used + cached))
    return available


def total_bytes() -> int:
    """Memory of the machine."""
    return int(psutil.virtual_memory().total)


def reserve_bytes(total: int) -> int:
    """What is to stay available on a machine with this much memory: a twentieth, from 128 MiB to 1 GiB."""
    return int(min(_LARGEST_RESERVE_BYTES, max(_LEAST_RESERVE_BYTES, total * _RESERVE_PART)))


def budget_bytes(available: Callable[[], int] = available_bytes) -> int:
    """What buffers of transfers may take where no setting says it: a sixteenth of what is available now, from 64 MiB
    to 256 MiB. Where the system does not say how much that is, the least.
    """
    try:
        part = available() // _BUDGET_PARTS
    except (OSError, ValueError, RuntimeError):
        part = 0
    return min(_LARGEST_BUDGET_BYTES, max(_LEAST_BUDGET_BYTES, part))

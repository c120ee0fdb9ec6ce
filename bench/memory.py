"""Memory of a virtual machine: the first use of each page is dear, and idle pages go back to the host.

Where a page has gone back, a plain loop of ``pwrite`` takes ten times the CPU for it, and so does all that writes.
A machine that has been in use for a day has no such pages: its memory is full of what was read from files. The benches
bring it into that state first.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import IO

import psutil

__all__ = ["fill_memory"]

_REPORTED = Path("/sys/module/page_reporting/parameters/reported_kib")
_FILLER_BYTES = 4 << 40
_STEP_BYTES = 256 << 20
_READ_BYTES = 1 << 20
_STILL_BYTES = 32 << 20
_STILL_STEPS = 3
_filler: list[IO[bytes]] = []


def fill_memory(*folders: Path) -> None:
    """Fills free memory with pages of a file without content, as the page cache of a machine in use is.

    What is written next takes the place of such pages, and the kernel has nothing to give back to the host. It takes
    2 s for each GiB that the machine has not used lately. Does nothing where the kernel gives nothing back. The file
    takes no room on the disk and is gone when this program ends.

    Args:
        folders: files in them are kept in memory, unless they would take a quarter of it.
    """
    if _reported_kib() is None:
        return
    if not _filler:
        file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # its pages live as long as this program
        file.truncate(_FILLER_BYTES)
        # Page by page: large ones would be whole again when they are let go, and those go back to the host.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        _filler.append(file)
    # On from where it was read last: pages that are read again would be held as such that are in use. Until the pages
    # of files become no more: free memory does not tell that, as what ended programs had may come back meanwhile.
    file, buffer = _filler[0], bytearray(_READ_BYTES)
    cached, still = _cached_bytes(), 0
    for _ in range(psutil.virtual_memory().total * 3 // 2 // _STEP_BYTES):
        for _ in range(0, _STEP_BYTES, _READ_BYTES):
            file.readinto(buffer)
        before, cached = cached, _cached_bytes()
        still = 0 if cached > before + _STILL_BYTES else still + 1
        if still >= _STILL_STEPS:
            break
    for folder in folders:
        _keep_in_memory(folder)


def _keep_in_memory(folder: Path) -> None:
    """Reads all files of a folder, twice: the kernel then holds them for such as are in use."""
    paths = sorted(each for each in folder.rglob("*") if each.is_file())
    if sum(path.stat().st_size for path in paths) > psutil.virtual_memory().total // 4:
        return
    buffer = bytearray(_READ_BYTES)
    for path in paths * 2:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def _cached_bytes() -> int:
    """Pages of files in memory."""
    return int(psutil.virtual_memory().cached)


def _reported_kib() -> int | None:
    """What the kernel has given back to the host since it started; None where it gives nothing back."""
    try:
        return int(_REPORTED.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None

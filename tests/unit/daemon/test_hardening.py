from __future__ import annotations

import platform
import subprocess
import sys

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_the_process_leaves_no_core_and_is_not_read_by_others() -> None:
    code = (
        "import ctypes, resource\n"
        "from exo_dld.hardening import keep_memory_private\n"
        "keep_memory_private()\n"
        "assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)\n"
        "assert ctypes.CDLL(None).prctl(3, 0, 0, 0, 0) == 0\n"  # PR_GET_DUMPABLE
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20)


_ARENAS = """
import ctypes, sys, threading
from exo_dld.hardening import keep_memory_together
if sys.argv[1:]:
    keep_memory_together()
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
barrier = threading.Barrier(8)
def take():
    barrier.wait()
    libc.malloc(100)
    barrier.wait()
threads = [threading.Thread(target=take) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
out = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, out)
libc.fflush(out)
"""


def arenas(*arguments: str) -> int:
    run = subprocess.run([sys.executable, "-c", _ARENAS, *arguments], capture_output=True, check=True, timeout=20)
    return run.stdout.count(b"<heap ")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="others have no arenas")
def test_threads_share_two_arenas() -> None:
    assert arenas() > 2
    assert arenas("together") <= 2

from __future__ import annotations

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

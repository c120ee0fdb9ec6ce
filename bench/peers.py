"""Other programs that do the same work, measured beside exo-dl."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.cluster import Node
from bench.rss import peak_rss_bytes

__all__ = ["Used", "hf_download"]

_LOOK_S = 0.02


@dataclass(frozen=True, slots=True)
class Used:
    """What a program took on all nodes together; ``rss_bytes`` is the largest process's peak."""

    wall_s: float
    cpu_s: float
    rss_bytes: int


def hf_download(nodes: Sequence[Node], repo: str) -> Used:
    """`hf download` on each node at the same time, into its own ``HF_HOME``, plain HTTP."""
    begin = time.monotonic()
    command = [str(Path(sys.executable).parent / "hf"), "download", repo, "--quiet"]
    processes = [node.spawn(command, env={"HF_HUB_DISABLE_XET": "1"}) for node in nodes]
    usages: list[tuple[int, float, int]] = []

    def reap(process: subprocess.Popen[bytes]) -> None:
        peak_bytes = ended = 0
        while not ended:
            peak_bytes = peak_rss_bytes(process.pid) or peak_bytes
            time.sleep(_LOOK_S)
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        process.returncode = os.waitstatus_to_exitcode(status)
        usages.append((process.returncode, usage.ru_utime + usage.ru_stime, peak_bytes))

    threads = [threading.Thread(target=reap, args=(process,)) for process in processes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall_s = time.monotonic() - begin
    if any(code for code, _, _ in usages):
        raise RuntimeError(f"hf download ended with exit codes {[code for code, _, _ in usages]}.")
    return Used(wall_s=wall_s, cpu_s=sum(cpu for _, cpu, _ in usages), rss_bytes=max(rss for _, _, rss in usages))

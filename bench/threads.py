"""``python -m bench.threads SCENARIO [MIB]``: which threads of the daemons a pull in the lab spends its CPU time in.

Needs py-spy (``pip install py-spy``), which knows the names of threads. One run; CPU of all nodes together by 10^9
bytes delivered. Other programs on the machine make it dearer: compare runs of a quiet machine.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from bench.cluster import wait_at_rest
from bench.lab import nginx_lab
from bench.memory import fill_memory
from bench.models import check_copy, make_lab_model
from bench.parts import check_parts
from bench.run import wants_of
from bench.scenarios import BALANCE, PARTS, SPEEDUP, least_time_s

__all__ = ["cpu_of_kinds", "main", "thread_times"]


def thread_times(pid: int) -> dict[int, tuple[float, int]]:
    """CPU seconds and number of waits of each thread so far."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            cpu_s = int((task / "schedstat").read_text().split()[0]) / 1e9
            waits = re.search(r"\nvoluntary_ctxt_switches:\s+(\d+)", (task / "status").read_text())
        except FileNotFoundError:
            continue
        found[int(task.name)] = (cpu_s, int(waits[1]) if waits else 0)
    return found


def _names(pid: int) -> dict[int, str]:
    spy = str(Path(sys.executable).parent / "py-spy")
    text = subprocess.run([spy, "dump", "--pid", str(pid)], capture_output=True, text=True, check=True).stdout
    rows = re.findall(r"Thread (\d+) \([a-z+]+\): \"([^\"]*)\"", text)
    return {int(number): re.sub(r"[-_]?\d+(-\d+)?$", "", name) for number, name in rows}


def cpu_of_kinds(pid: int, before: Mapping[int, tuple[float, int]]) -> dict[str, tuple[float, int]]:
    """What the threads spent since `thread_times` gave ``before``, by their names without numbers."""
    names = _names(pid) | {pid: "event loop"}
    kinds: dict[str, tuple[float, int]] = defaultdict(lambda: (0.0, 0))
    for thread, (spent_s, waits) in thread_times(pid).items():
        spent_before_s, waits_before = before.get(thread, (0.0, 0))
        name = names.get(thread, "native (gRPC)")
        kinds[name] = (kinds[name][0] + spent_s - spent_before_s, kinds[name][1] + waits - waits_before)
    return kinds


def main() -> int:
    """Runs one pull and prints a line for each kind of thread."""
    scenario = next(s for s in (*BALANCE, *PARTS, *SPEEDUP) if s.name == sys.argv[1])
    size_bytes = int(sys.argv[2] if len(sys.argv) > 2 else 512) << 20
    with tempfile.TemporaryDirectory(prefix="exo-dl-threads-") as scratch:
        model = make_lab_model(Path(scratch) / "hub", size_bytes=size_bytes)
        folder = Path(scratch) / "run"
        folder.mkdir()
        os.sync()
        fill_memory(Path(scratch) / "hub")
        with nginx_lab(scenario.nodes, model, folder=folder, shared_uplink_mbit=scenario.uplink_mbit) as lab:
            nodes = lab.start()
            wait_at_rest(nodes)
            before = {node.name: thread_times(node.process.pid) for node in nodes}
            cpu_s, begin = sum(node.cpu_s() for node in nodes), time.monotonic()
            nodes[0].json("pull", model.repo, *scenario.placement, timeout_s=900)
            wall_s, cpu_s = time.monotonic() - begin, sum(node.cpu_s() for node in nodes) - cpu_s
            kinds: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
            for node in nodes:
                for kind, spent in cpu_of_kinds(node.process.pid, before[node.name]).items():
                    kinds[kind] = [kinds[kind][0] + spent[0], kinds[kind][1] + spent[1]]
            wants = {node.name: model.size_bytes for node in nodes}
            if scenario.placement:
                check_parts(nodes, model)
                wants = wants_of(nodes[0], scenario, model)
            else:
                for node in nodes:
                    check_copy(model, node.home)
    gb = sum(wants.values()) / 1e9
    least_s = least_time_s(scenario, model.size_bytes, wants)
    print(f"{scenario.name}: {wall_s:.2f} s, {wall_s / least_s:.3f} of the least; {cpu_s / gb:.2f} CPU s/GB")
    for name, (spent_s, waits) in sorted(kinds.items(), key=lambda item: -item[1][0]):
        print(f"{name:28} {spent_s / gb:6.2f} CPU s/GB {waits:7.0f} waits")
    return 0


if __name__ == "__main__":
    sys.exit(main())

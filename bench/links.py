"""``python -m bench.links SCENARIO [MIB]``: when the links to the hub stand idle in a pull of the lab.

The quickest way to see what a ratio to the least time is made of. Each node's counter of received bytes is read every
few milliseconds; a link is idle by as much as it carries less than its rate. One run; for scenarios in which each node
has a link of its own.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from bench.cluster import wait_at_rest
from bench.lab import nginx_lab
from bench.labnet import payload_bytes_per_s
from bench.memory import fill_memory
from bench.models import check_copy, make_lab_model
from bench.scenarios import BALANCE, SPEEDUP, least_time_s

__all__ = ["Counters", "idle_s", "main"]

_APART_S = 0.02
_BIN_S = 0.25
_SHORT_S = 1.0


@dataclass(slots=True)
class Counters:
    """Received bytes of one link: ``(seconds, bytes)``, in order of time."""

    rate: float
    seen: list[tuple[float, int]] = field(default_factory=list)

    def at(self, seconds: float) -> float:
        """Bytes received until then."""
        for (before, low), (after, high) in pairwise(self.seen):
            if before <= seconds < after:
                return low + (high - low) * (seconds - before) / (after - before)
        return float(self.seen[0][1] if seconds < self.seen[0][0] else self.seen[-1][1])

    @property
    def last_s(self) -> float:
        """When the last larger lump of bytes had come."""
        lumps = [after for (_, low), (after, high) in pairwise(self.seen) if high - low > 0.2 * self.rate * _APART_S]
        return max(lumps, default=0.0)


def idle_s(link: Counters, first: float, end: float) -> float:
    """Seconds between ``first`` and ``end`` that the link stood idle."""
    return end - first - (link.at(end) - link.at(first)) / link.rate


class _Watch:
    """Reads the counters of all nodes, in a thread, for a with statement."""

    def __init__(self, pids: Mapping[str, int], rates: Mapping[str, float]) -> None:
        self._files = {name: Path(f"/proc/{pid}/net/dev") for name, pid in pids.items()}
        self.links = {name: Counters(rates[name]) for name in pids}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.begin = time.monotonic()

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(_APART_S):
            for name, path in self._files.items():
                found = re.search(r"wan0:\s*(\d+)\s+(\d+)", path.read_text(encoding="ascii"))
                if found is not None:
                    self.links[name].seen.append((time.monotonic() - self.begin, int(found[1])))


def main() -> int:
    """Runs one pull and prints how long links were idle at its start, between and at its end, and quarter seconds."""
    scenario = next(s for s in (*BALANCE, *SPEEDUP) if s.name == sys.argv[1] and s.uplink_mbit is None)
    size_bytes = int(sys.argv[2] if len(sys.argv) > 2 else 512) << 20
    with tempfile.TemporaryDirectory(prefix="exo-dl-links-") as scratch:
        model = make_lab_model(Path(scratch) / "hub", size_bytes=size_bytes)
        folder = Path(scratch) / "run"
        folder.mkdir()
        os.sync()
        fill_memory(Path(scratch) / "hub")
        with nginx_lab(scenario.nodes, model, folder=folder) as lab:
            nodes = lab.start()
            wait_at_rest(nodes)
            # Frames that were joined are counted with one header: by payload it is exact to a hundredth.
            rates = {plan.name: payload_bytes_per_s(plan.hub_mbit or 0.0) for plan in scenario.nodes}
            cpu_s = sum(node.cpu_s() for node in nodes)
            with _Watch({node.name: node.process.pid for node in nodes}, rates) as watch:
                nodes[0].json("pull", model.repo, timeout_s=900)
                wall_s = time.monotonic() - watch.begin
            cpu_s = sum(node.cpu_s() for node in nodes) - cpu_s
            for node in nodes:
                check_copy(model, node.home)
    least_s = least_time_s(scenario, model.size_bytes)
    gb = model.size_bytes * len(nodes) / 1e9
    print(f"{scenario.name}: {wall_s:.2f} s, {wall_s / least_s:.3f} of the least; {cpu_s / gb:.2f} CPU s/GB")
    links = list(watch.links.values())
    hub_end = max(link.last_s for link in links)
    total = sum(link.rate for link in links)

    def mean(first: float, end: float) -> float:
        return sum(idle_s(link, first, end) * link.rate for link in links) / total

    spread = ", ".join(f"{hub_end - link.last_s:.2f}" for link in links)
    print(f"idle, mean of the links by their rates: {mean(0, wall_s):.2f} s")
    print(f"  first {_SHORT_S:g} s {mean(0, _SHORT_S):.2f}, then {mean(_SHORT_S, hub_end - _SHORT_S):.2f}", end="")
    print(f", last {_SHORT_S:g} s of the hub {mean(hub_end - _SHORT_S, hub_end):.2f}, after it {wall_s - hub_end:.2f}")
    print(f"  a link's last byte, seconds before the last of all: {spread}")
    bins = [mean(at * _BIN_S, (at + 1) * _BIN_S) for at in range(int(wall_s / _BIN_S))]
    print(f"  ms idle in each {_BIN_S:g} s: {' '.join(f'{1000 * idle:.0f}' for idle in bins)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

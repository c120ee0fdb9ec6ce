"""``make bench``: the lab's scenarios, from the command's start to the last node's verified copy.

Each run starts daemons with empty folders, so nothing is known of the network, and lets them come to rest. Rates count
TCP payload: a link of 100 Mbit/s carries 11.96 MB/s of it. The machine's congestion control is used, and named in the
results.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.cluster import Node, wait_at_rest
from bench.killed import finish_without
from bench.lab import Lab, nginx_lab
from bench.labnet import unavailable_reason
from bench.memory import fill_memory
from bench.models import LabModel, check_copy, make_lab_model
from bench.parts import check_parts
from bench.peers import Used, hf_download
from bench.scenarios import BALANCE, FAULTS, PARTS, SPEEDUP, Scenario, least_time_s
from bench.served import summarize
from bench.torrent import torrent

__all__ = ["Row", "main", "measure", "misses", "wants_of"]

MIB = 1 << 20
GB = 10**9
RESULTS = Path(__file__).resolve().parent / "results"
_HUB_GOAL = 1.01
_SPEEDUP_GOALS = {2: 0.98, 4: 0.97, 8: 0.95}
_HEADER = ("program", "scenario", "nodes", "wall s", "least s", "ratio", "hub/model", "CPU s/GB", "peak RSS MB")


@dataclass(frozen=True, slots=True)
class Row:
    """One measured pull, or the medians of several.

    Attributes:
        wall_s: from the command's start to its end, when every node had a verified copy.
        least_s: what the network needs at least.
        ratio: wall over least.
        hub_ratio: bytes that the hub served per byte of the model.
        cpu_s_per_gb: CPU seconds of all daemons together per 10^9 bytes delivered to nodes.
        peak_rss_bytes: the largest daemon's peak.
    """

    program: str
    scenario: str
    nodes: int
    model_bytes: int
    wall_s: float
    least_s: float
    ratio: float
    hub_ratio: float
    cpu_s_per_gb: float
    peak_rss_bytes: int

    def cells(self) -> tuple[str, ...]:
        """The row for people, as `_HEADER` has it."""
        return (
            self.program,
            self.scenario,
            str(self.nodes),
            f"{self.wall_s:.2f}",
            f"{self.least_s:.2f}",
            f"{self.ratio:.3f}",
            f"{self.hub_ratio:.4f}",
            f"{self.cpu_s_per_gb:.2f}",
            f"{self.peak_rss_bytes / 1e6:.0f}",
        )


def measure(scenario: Scenario, model: LabModel, *, folder: Path) -> Row:
    """One pull with daemons that know nothing yet, started on the first node."""
    with nginx_lab(scenario.nodes, model, folder=folder, shared_uplink_mbit=scenario.uplink_mbit) as lab:
        nodes = lab.start()
        wait_at_rest(nodes)
        mark = lab.mark()
        cpu_before = sum(node.cpu_s() for node in nodes)
        if scenario.killed:
            wall_s, least_s = finish_without(lab, scenario, model)
            rss = max(node.peak_rss_bytes() for node in nodes if node.running)
            used = Used(wall_s=wall_s, cpu_s=0.0, rss_bytes=rss)
            return _row(lab, mark, "exo-dl", scenario, model, used, least_s=least_s)
        begin = time.monotonic()
        nodes[0].json("pull", model.repo, *scenario.placement, timeout_s=900)
        wall_s = time.monotonic() - begin
        cpu_s = sum(node.cpu_s() for node in nodes) - cpu_before
        rss = max(node.peak_rss_bytes() for node in nodes)
        used = Used(wall_s=wall_s, cpu_s=cpu_s, rss_bytes=rss)
        if scenario.placement:
            check_parts(nodes, model)
            return _row(lab, mark, "exo-dl", scenario, model, used, wants=wants_of(nodes[0], scenario, model))
        for node in nodes:
            check_copy(model, node.home)
        return _row(lab, mark, "exo-dl", scenario, model, used)


def wants_of(node: Node, scenario: Scenario, model: LabModel) -> dict[str, int]:
    """Bytes that the placement gives to each node, as `exo-dl plan` says."""
    plan = node.json("plan", model.repo, *scenario.placement)[-1]
    return {str(part["name"]): int(part["bytes"]) for part in plan["nodes"]}


def measure_hf(scenario: Scenario, model: LabModel, *, folder: Path) -> Row:
    """`hf download` on every node at once, for comparison."""
    with nginx_lab(scenario.nodes, model, folder=folder, shared_uplink_mbit=scenario.uplink_mbit) as lab:
        mark = lab.mark()
        used = hf_download(list(lab.nodes.values()), model.repo)
        return _row(lab, mark, "hf download", scenario, model, used)


def measure_torrent(scenario: Scenario, model: LabModel, *, folder: Path) -> Row:
    """The same model by libtorrent on every node, for comparison."""
    with nginx_lab(scenario.nodes, model, folder=folder, shared_uplink_mbit=scenario.uplink_mbit) as lab:
        mark = lab.mark()
        return _row(lab, mark, "libtorrent", scenario, model, torrent(lab, model))


def _row(
    lab: Lab,
    mark: int,
    program: str,
    scenario: Scenario,
    model: LabModel,
    used: Used,
    *,
    least_s: float | None = None,
    wants: Mapping[str, int] | None = None,
) -> Row:
    lab.stop_hub()  # its log is complete then
    served = summarize(lab.requests(since=mark))
    least_s = least_s or least_time_s(scenario, model.size_bytes, wants)
    delivered_bytes = sum(wants.values()) if wants else model.size_bytes * len(scenario.nodes)
    return Row(
        program=program,
        scenario=scenario.name,
        nodes=len(scenario.nodes),
        model_bytes=model.size_bytes,
        wall_s=used.wall_s,
        least_s=least_s,
        ratio=used.wall_s / least_s,
        hub_ratio=served.total_bytes / model.size_bytes,
        cpu_s_per_gb=used.cpu_s / (delivered_bytes / GB),
        peak_rss_bytes=used.rss_bytes,
    )


def median_row(rows: Sequence[Row]) -> Row:
    """The medians of several runs of one scenario."""
    first = rows[0]
    numbers = {
        name: statistics.median(getattr(row, name) for row in rows)
        for name in ("wall_s", "ratio", "hub_ratio", "cpu_s_per_gb", "peak_rss_bytes")
    }
    return Row(**(asdict(first) | numbers))


def print_table(rows: Sequence[Sequence[str]], header: Sequence[str]) -> None:
    """A Markdown table."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    print("| " + " | ".join(cell.ljust(width) for cell, width in zip(header, widths, strict=True)) + " |")
    print("| " + " | ".join("-" * width for width in widths) + " |")
    for row in rows:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")


def _speedups(medians: Sequence[Row]) -> list[tuple[str, ...]]:
    by_nodes = {row.nodes: row.wall_s for row in medians if row.scenario.startswith("speedup")}
    if 1 not in by_nodes:
        return []
    return [
        (str(count), f"{by_nodes[1] / wall_s:.2f}", f"{by_nodes[1] / wall_s / count:.3f}")
        for count, wall_s in sorted(by_nodes.items())
    ]


def misses(row: Row, scenario: Scenario) -> list[str]:
    """Which of a scenario's goals a row of exo-dl misses, for people."""
    told = []
    goal = scenario.ratio_at_most
    if goal is not None and row.ratio > goal:
        told.append(f"{row.scenario}: {row.ratio:.3f} of the least time, the goal is {goal}")
    if row.hub_ratio > _HUB_GOAL and not scenario.killed:
        told.append(f"{row.scenario}: the hub served {row.hub_ratio:.4f} of the model, the goal is {_HUB_GOAL}")
    return told


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the scenarios that the arguments name, prints tables, and appends every run to a file in bench/results.

    Returns 0, or 1 where a median misses a goal.
    """
    scenarios = {scenario.name: scenario for scenario in (*BALANCE, *PARTS, *FAULTS, *SPEEDUP)}
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("scenario", nargs="*", help=f"default: all of {', '.join(scenarios)}; 'speedup' is its four")
    parser.add_argument("--runs", type=int, default=3, help="runs of each scenario; the median is shown (default: 3)")
    parser.add_argument("--size-mib", type=int, default=512, help="size of the model (default: 512)")
    parser.add_argument("--hf", action="store_true", help="also `hf download` on each node at once, one run each")
    parser.add_argument("--torrent", action="store_true", help="also libtorrent (which must be installed), in turns")
    parser.add_argument("--folder", type=Path, help="where nodes and model are kept while it runs (default: temporary)")
    args = parser.parse_args(argv)
    names: list[str] = []
    for name in args.scenario or list(scenarios):
        names += [one.name for one in SPEEDUP] if name == "speedup" else [name]
    unknown = sorted(set(names) - set(scenarios))
    if unknown or args.runs < 1 or args.size_mib < 1:
        parser.error(f"no such scenario: {', '.join(unknown)}" if unknown else "--runs and --size-mib start at 1")

    if reason := unavailable_reason():
        parser.exit(2, f"No lab can be made here: {reason}\n")
    RESULTS.mkdir(exist_ok=True)
    results = RESULTS / time.strftime("%Y%m%d-%H%M%S.jsonl")
    medians: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="exo-dl-bench-", dir=args.folder) as scratch:
        model = make_lab_model(Path(scratch) / "hub", size_bytes=args.size_mib * MIB)
        for name in names:
            scenario = scenarios[name]
            jobs = [measure] * args.runs
            if args.torrent and not scenario.killed:
                jobs = [measure, measure_torrent] * args.runs
            if args.hf and not scenario.killed:
                jobs.append(measure_hf)
            rows: dict[str, list[Row]] = {}
            for job in jobs:
                with tempfile.TemporaryDirectory(dir=scratch) as folder:
                    os.sync()  # what the last run wrote must not be written out during this one
                    fill_memory(Path(scratch) / "hub")
                    row = job(scenario, model, folder=Path(folder))
                rows.setdefault(row.program, []).append(row)
                run = len(rows[row.program])
                print(f"{row.program}, {name}, run {run}: {' '.join(row.cells()[3:])}", file=sys.stderr, flush=True)
                _append(results, asdict(row) | {"run": run})
            for some in rows.values():
                medians.append(median_row(some))
                _append(results, asdict(medians[-1]) | {"run": "median"})
                print(json.dumps(asdict(medians[-1])), flush=True)
    print_table([row.cells() for row in medians], _HEADER)
    ours = [row for row in medians if row.program == "exo-dl"]
    speedups = _speedups(ours)
    if speedups:
        print_table(speedups, ("nodes", "speed-up", "of N"))
    missed = [text for row in ours for text in misses(row, scenarios[row.scenario])]
    missed += [
        f"{count} nodes: {part} of {count} times as fast, the goal is {goal}"
        for count, _, part in speedups
        if (goal := _SPEEDUP_GOALS.get(int(count))) is not None and float(part) < goal
    ]
    for text in missed:
        print(f"Missed: {text}", file=sys.stderr)
    print(f"Each run: {results}", file=sys.stderr)
    return 1 if missed else 0


def _append(results: Path, fields: dict[str, object]) -> None:
    congestion = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text(encoding="ascii").strip()
    with results.open("a", encoding="utf-8") as file:
        file.write(json.dumps(fields | {"congestion_control": congestion, "cpus": os.cpu_count()}) + "\n")


if __name__ == "__main__":
    sys.exit(main())

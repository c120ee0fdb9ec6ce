"""Many scenarios over several seeds: how near to the least time pulls come, as a table."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from exo_dl.sim.report import Report
from exo_dl.sim.scenarios import build

__all__ = ["HEADER", "ROWS", "Row", "row_of", "table"]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: a scenario, and the size of the model in MiB, in so many files.

    Pulls of many nodes need a large model: until each node has something that others lack, a few pieces' time passes,
    which the least time knows nothing of.
    """

    scenario: str
    nodes: int
    size_mib: int
    files: int = 4


ROWS = (
    Row("lab", 2, 512),
    Row("lab", 4, 512),
    Row("home", 4, 512),
    Row("mixed", 4, 512),
    Row("thin", 8, 512),
    Row("lab", 4, 2048),
    Row("mixed", 4, 2048),
    Row("thin", 8, 2048),
    Row("one-fast", 4, 2048),
    Row("equal-lan", 4, 1024),
    Row("slow-lan", 4, 4096),
    Row("uneven", 6, 2048),
    Row("uneven-lan", 6, 2048),
    Row("lab", 8, 2048),
    Row("home", 16, 1024),
    Row("mixed", 16, 4096),
    Row("one-fast", 16, 4096),
    Row("home", 64, 8192),
    Row("hall", 64, 32768, files=2),
    Row("thin", 64, 32768, files=8),
)
"""Two to 64 nodes, even and uneven, with a LAN that is faster and slower than the way to the hub."""

HEADER = (
    f"{'scenario':12} {'nodes':>5} {'MiB':>6} {'ratio':>7} {'worst':>7} {'once':>7} {'worst':>7}"
    f" {'hub':>7} {'worst':>7} {'req/64M':>7} {'messages':>9} {'fetches':>8} {'refused':>7} {'cpu_s':>6}"
)


def _pull(job: tuple[Row, int, float]) -> tuple[Report, float]:
    row, seed, quantum_s = job
    started = time.process_time()
    cluster = build(
        row.scenario,
        nodes=row.nodes,
        seed=seed,
        size_bytes=row.size_mib << 20,
        files=row.files,
        small_files=8,
        quantum_s=quantum_s,
    )
    report = cluster.run(until_s=100_000.0)
    return report, time.process_time() - started


def row_of(row: Row, pulls: Sequence[tuple[Report, float]]) -> str:
    """A line for a person: medians and worst of all pulls of a row."""
    reports = [report for report, _ in pulls]
    ratios = [r.ratio for r in reports]
    once = [r.ratio_once for r in reports]
    hub = [r.hub_ratio for r in reports]
    requests = [r.hub_requests / (r.hub_bytes / (64 << 20)) for r in reports]
    line = (
        f"{row.scenario:12} {row.nodes:5} {row.size_mib:6} {statistics.median(ratios):7.3f} {max(ratios):7.3f}"
        f" {statistics.median(once):7.3f} {max(once):7.3f} {statistics.median(hub):7.4f} {max(hub):7.4f}"
        f" {statistics.median(requests):7.2f} {statistics.median(r.messages for r in reports):9.0f}"
        f" {statistics.median(r.peer_requests for r in reports):8.0f}"
        f" {statistics.median(r.refused for r in reports):7.0f}"
        f" {statistics.median(cpu_s for _, cpu_s in pulls):6.1f}"
    )
    return line if all(r.complete for r in reports) else f"{line}  NOT COMPLETE"


def table(rows: Sequence[Row], *, seeds: int, quantum_s: float, jobs: int) -> Iterator[str]:
    """The lines of the table as they are known.

    Args:
        rows: what to run.
        seeds: of each row, from 1 on.
        quantum_s: see `Cluster`.
        jobs: processes to run side by side.
    """
    yield HEADER
    work = [(row, seed, quantum_s) for row in rows for seed in range(1, seeds + 1)]
    with ProcessPoolExecutor(jobs) as pool:
        results = pool.map(_pull, work)
        for row in rows:
            yield row_of(row, [next(results) for _ in range(seeds)])

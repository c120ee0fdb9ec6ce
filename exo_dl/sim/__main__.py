"""``python -m exo_dl.sim``: runs a pull in the simulator and prints what it came to."""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time

from exo_dl.sim.buffers import Buffers
from exo_dl.sim.conditions import with_radios, with_skew
from exo_dl.sim.faults import add_faults
from exo_dl.sim.scenarios import SCENARIOS, build
from exo_dl.sim.table import ROWS, table

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Runs one scenario, or a table of them. Returns 0 when every live node ended with all that it wants."""
    parser = argparse.ArgumentParser(prog="python -m exo_dl.sim", description="Simulates one pull of a cluster.")
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--size-mib", type=int, default=512)
    parser.add_argument("--files", type=int, default=4, help="large files that the model is made of")
    parser.add_argument("--small-files", type=int, default=8)
    parser.add_argument("--scenario", choices=sorted(SCENARIOS), default="lab")
    parser.add_argument("--faults", type=int, default=0, help="number of random faults")
    parser.add_argument("--faults-within-s", type=float, default=15.0, help="they begin in the first seconds")
    parser.add_argument("--skew", action="store_true", help="clocks that are up to 3 days and 1 %% off")
    parser.add_argument("--radios", action="store_true", help="some nodes are behind a radio, 5 to 50 ms one way")
    parser.add_argument("--memory-mib", type=int, default=64, help="each node's budget for the buffers of transfers")
    parser.add_argument("--quantum-ms", type=float, default=1.0)
    parser.add_argument("--until-s", type=float, default=100_000.0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--table", action="store_true", help="many scenarios over several seeds instead of one")
    parser.add_argument("--only", default="", help="of the table, the rows whose scenario, nodes and MiB begin so")
    parser.add_argument("--seeds", type=int, default=3, help="of each row of the table")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="rows of the table side by side")
    args = parser.parse_args(argv)
    if args.table:
        names = tuple(args.only.split(",")) if args.only else ("",)
        rows = [r for r in ROWS if f"{r.scenario}/{r.nodes}/{r.size_mib}".startswith(names)]
        for line in table(rows, seeds=args.seeds, quantum_s=args.quantum_ms / 1000, jobs=args.jobs):
            print(line, flush=True)
        return 0
    started = time.process_time()
    cluster = build(
        args.scenario,
        nodes=args.nodes,
        seed=args.seed,
        size_bytes=args.size_mib << 20,
        files=args.files,
        small_files=args.small_files,
        quantum_s=args.quantum_ms / 1000,
    )
    if args.faults:
        rng = random.Random(args.seed)  # noqa: S311 - a simulation
        add_faults(cluster, rng, count=args.faults, within_s=args.faults_within_s)
    for node in cluster.nodes.values():
        node.wire.buffers = Buffers(args.memory_mib << 20)
    if args.skew:
        with_skew(cluster.nodes.values(), args.seed)
    if args.radios:
        with_radios(cluster.nodes.values(), args.seed)
    report = cluster.run(until_s=args.until_s)
    figures = {
        "scenario": args.scenario,
        "nodes": args.nodes,
        "seed": args.seed,
        "complete": report.complete,
        "seconds": round(report.seconds, 3),
        "bound_s": round(report.bound_s, 3),
        "ratio": round(report.ratio, 4),
        "bound_once_s": round(report.bound_once_s, 3),
        "ratio_once": round(report.ratio_once, 4),
        "hub_bytes_per_model_byte": round(report.hub_ratio, 4),
        "hub_requests": report.hub_requests,
        "messages": report.messages,
        "announcements": report.announcements,
        "peer_requests": report.peer_requests,
        "refused": report.refused,
        "peak_buffer_mib": report.peak_buffer_bytes >> 20,
        "coordinator_cpu_ms_per_node": round(report.coordinator_cpu_s * 1000 / args.nodes, 3),
        "faults": len(report.faults),
        "cpu_s": round(time.process_time() - started, 2),
    }
    if args.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:26} {value}")
        for line in report.faults[-20:]:
            print(f"  {line}")
    return 0 if report.complete else 1


if __name__ == "__main__":
    sys.exit(main())

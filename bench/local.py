"""``make bench-local``: daemons on this machine's loopback, with nginx as the hub: what the machine itself can do.

    fanout     one node has the model, four get it from it and from each other
    exchange   four nodes have a quarter each, and get the rest from each other
    growth     two nodes pull models of several sizes from the hub
    digests    one node pulls: what it reads again to hash whole files, and what that costs (needs py-spy)

CPU is of all daemons together, by 10^9 bytes that nodes took in. The lag is that of all daemons' event loops: the bound
of the bucket that the percentile falls into. Bytes move as fast as the machine can: it is full.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.cluster import Node, wait_linked, wait_until
from bench.labnet import find_tool
from bench.make_model import make_model
from bench.memory import fill_memory
from bench.models import LabModel, check_copy, describe_model
from bench.nginx_hub import write_config
from bench.ports import free_port, listens
from bench.threads import cpu_of_kinds, thread_times
from exo_dl.net.identity import new_secret
from exo_dl.rpc.v1.cluster_pb2 import LoopLag

__all__ = ["Row", "lag_at", "main"]

_REPO = "lab/model"
_GB = 10**9
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Row:
    """One pull. ``lag``: (at most so many seconds, looks) of all nodes' event loops."""

    name: str
    mib: int
    wall_s: float
    gb_per_s: float
    cpu_s_per_gb: float
    peak_rss_mb: float
    lag_p50_s: float
    lag_p99_s: float
    lag_max_s: float
    lag: tuple[tuple[float, int], ...]


def lag_at(buckets: Sequence[tuple[float, int]], share: float) -> float:
    """The bound of the bucket in which the ``share`` quantile lies; the last bound is infinite."""
    total = sum(count for _, count in buckets)
    so_far = 0
    for bound_s, count in buckets:
        so_far += count
        if so_far >= share * total and so_far:
            return bound_s
    return 0.0


def _lag_between(before: LoopLag, after: LoopLag) -> list[tuple[float, int]]:
    bounds = [bucket.at_most_s for bucket in after.buckets] + [float("inf")]
    cumulative = [[*(bucket.count for bucket in each.buckets), each.count] for each in (before, after)]
    grown = [now - then for then, now in zip(*cumulative, strict=True)]
    return [(bound_s, count - below) for bound_s, count, below in zip(bounds, grown, [0, *grown], strict=False)]


@contextmanager
def _hub(folder: Path, root: Path) -> Iterator[str]:
    """Nginx on a free port, with the models in ``root``."""
    port = free_port()
    config = write_config(folder / "nginx", root, port=port, listen="127.0.0.1")
    command = [str(find_tool("nginx")), "-c", str(config), "-e", str(folder / "nginx" / "error.log")]
    with subprocess.Popen([*command, "-g", "master_process off;"]) as process:
        try:
            wait_until(lambda: listens(port), timeout_s=10, what="nginx listens")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


@contextmanager
def _nodes(folder: Path, url: str, count: int) -> Iterator[list[Node]]:
    secret = new_secret()
    nodes: list[Node] = []
    for number in range(1, count + 1):
        peers = [f"127.0.0.1:{nodes[0].port}"] if nodes else []
        settings = {"EXO_DL_MDNS": "false", "EXO_DL_HOST": "127.0.0.1"}
        port = 0 if nodes else free_port()
        name = f"n{number}"
        nodes.append(Node(name, folder / name, secret=secret, endpoint=url, peers=peers, port=port, settings=settings))
    try:
        for node in nodes:
            node.start()
        for node in nodes:
            node.wait_ready()
        wait_linked(nodes)
        yield nodes
    finally:
        for node in nodes:
            node.stop()


def _pull(name: str, model: LabModel, nodes: Sequence[Node]) -> Row:
    """Pulls the whole model to all nodes."""
    before = {node.name: (node.metrics(), node.cpu_s()) for node in nodes}
    begin = time.monotonic()
    nodes[0].json("pull", model.repo, timeout_s=900)
    wall_s = time.monotonic() - begin
    taken = cpu_s = 0.0
    lags = []
    for node in nodes:
        then, now = before[node.name][0], node.metrics()
        taken += now.bytes_from_hub + now.bytes_from_peers - then.bytes_from_hub - then.bytes_from_peers
        cpu_s += node.cpu_s() - before[node.name][1]
        lags.append(_lag_between(then.loop_lag, now.loop_lag))
    for node in nodes:
        check_copy(model, node.home)
    lag = [(same[0][0], sum(count for _, count in same)) for same in zip(*lags, strict=True)]
    return Row(
        name=name,
        mib=round(model.size_bytes / _MIB),
        wall_s=wall_s,
        gb_per_s=taken / _GB / wall_s,
        cpu_s_per_gb=cpu_s / (taken / _GB),
        peak_rss_mb=max(node.peak_rss_bytes() for node in nodes) / 1e6,
        lag_p50_s=lag_at(lag, 0.5),
        lag_p99_s=lag_at(lag, 0.99),
        lag_max_s=lag_at(lag, 1.0),
        lag=tuple((bound_s, count) for bound_s, count in lag if count),
    )


def _fanout(model: LabModel, folder: Path, url: str) -> Row:
    with _nodes(folder, url, 5) as nodes:
        nodes[0].json("pull", model.repo, "--nodes", "n1", timeout_s=300)
        return _pull("fan-out 1 -> 4", model, nodes)


def _exchange(model: LabModel, folder: Path, url: str) -> Row:
    with _nodes(folder, url, 4) as nodes:
        for number, node in enumerate(nodes, start=1):
            node.json("pull", model.repo, "--nodes", node.name, "--include", f"*-0000{number}-of-*", timeout_s=300)
        return _pull("exchange 4 -> 4", model, nodes)


def _growth(model: LabModel, folder: Path, url: str) -> Row:
    with _nodes(folder, url, 2) as nodes:
        return _pull("hub -> 2", model, nodes)


def _io(pid: int) -> dict[str, int]:
    lines = Path(f"/proc/{pid}/io").read_text(encoding="ascii").splitlines()
    return {key: int(value) for key, value in (line.split(": ") for line in lines)}


def _digests(model: LabModel, folder: Path, url: str) -> None:
    """Prints what whole-file digests read and cost in one pull."""
    with _nodes(folder, url, 1) as [node]:
        pid = node.process.pid
        io, threads = _io(pid), thread_times(pid)
        node.json("pull", model.repo, timeout_s=300)
        kinds = cpu_of_kinds(pid, threads)
        grown = {key: value - io[key] for key, value in _io(pid).items()}
        check_copy(model, node.home)
    gb = model.size_bytes / _GB
    print(f"digests, {model.size_bytes / _MIB:.0f} MiB received:")
    print(f"  read from the disk:              {grown['read_bytes'] / model.size_bytes:.3f} of it")
    print(f"  read from the page cache in all: {grown['rchar'] / model.size_bytes:.3f} of it")
    print(f"  CPU of the digest threads:       {kinds['digest'][0] / gb:.2f} s/GB")


def _table(rows: Sequence[Row]) -> None:
    print(
        f"{'':16} {'MiB':>6} {'wall s':>7} {'s/GB':>6} {'GB/s':>6} {'CPU s/GB':>9} {'RSS MB':>7}  lag ms, p50 p99 max"
    )
    for row in rows:
        lag = " ".join(f"{1000 * each:g}" for each in (row.lag_p50_s, row.lag_p99_s, row.lag_max_s))
        print(
            f"{row.name:16} {row.mib:6} {row.wall_s:7.2f} {1 / row.gb_per_s:6.2f} {row.gb_per_s:6.2f}"
            f" {row.cpu_s_per_gb:9.2f} {row.peak_rss_mb:7.0f}  {lag}"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what is named; prints a table, the histograms of lag, and each run as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.local", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", help="default: fanout exchange growth digests")
    parser.add_argument("--sizes-mib", default="256,1024", help="of the models for growth (default: 256,1024)")
    parser.add_argument("--size-mib", type=int, default=512, help="of the model for all else (default: 512)")
    parser.add_argument("--runs", type=int, default=1, help="of each row; the one with the median wall time is shown")
    parser.add_argument("--folder", type=Path, help="where nodes and models are kept while it runs")
    args = parser.parse_args(argv)
    scenarios: dict[str, Callable[[LabModel, Path, str], Row]] = {
        "fanout": _fanout,
        "exchange": _exchange,
        "growth": _growth,
    }
    names = args.what or [*scenarios, "digests"]
    if unknown := sorted(set(names) - {*scenarios, "digests"}):
        parser.error(f"no such thing: {', '.join(unknown)}")
    rows = []
    with tempfile.TemporaryDirectory(prefix="exo-dl-local-", dir=args.folder) as scratch:
        for name in names:
            sizes = args.sizes_mib.split(",") if name == "growth" else [args.size_mib]
            for size in map(int, sizes):
                root = Path(scratch) / f"hub-{size}"
                model = describe_model(root, _REPO, make_model(root, _REPO, total_mib=size, shards=4))
                runs = []
                for _ in range(args.runs if name != "digests" else 1):
                    with tempfile.TemporaryDirectory(dir=scratch) as run, _hub(Path(run), root) as url:
                        os.sync()
                        fill_memory(root)
                        if name == "digests":
                            _digests(model, Path(run), url)
                        else:
                            runs.append(scenarios[name](model, Path(run), url))
                            print(json.dumps(asdict(runs[-1])), file=sys.stderr, flush=True)
                if runs:
                    middle = statistics.median_low(run.wall_s for run in runs)
                    rows.append(next(run for run in runs if run.wall_s == middle))
    _table(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())

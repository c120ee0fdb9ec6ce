"""``make bench-local``: daemons on this machine's loopback, with nginx as the hub: what the machine itself can do.

    fanout     one node has the model, four get it from it and from each other
    exchange   four nodes have a quarter each, and get the rest from each other
    growth     two nodes pull models of several sizes from the hub; their daemons have had a small one before
    digests    one node pulls: what it reads again to hash whole files, and what that costs (needs py-spy)

CPU is of all daemons together, by 10^9 bytes that nodes took in. The lag is that of all daemons' event loops: the bound
of the bucket that the percentile falls into. Bytes move as fast as the machine can: it is full. With --torrent
libtorrent does the same in turns (``pip install libtorrent`` first).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bench.cluster import Node, wait_at_rest, wait_linked, wait_until
from bench.labnet import find_tool
from bench.make_model import make_model
from bench.memory import fill_memory
from bench.models import LabModel, check_copy, describe_model
from bench.nginx_hub import write_config
from bench.peers import Used
from bench.ports import free_port, listens
from bench.threads import cpu_of_kinds, thread_times
from bench.torrent import TorrentPeer, swarm
from exo_dl.net.identity import new_secret
from exo_dl.rpc.v1.cluster_pb2 import LoopLag

__all__ = ["Row", "lag_at", "main"]

_REPO = "lab/model"
_FIRST_REPO = "lab/first"
_FIRST_MIB = 8
_GB = 10**9
_MIB = 1 << 20
_LATE_S = 0.05


@dataclass(frozen=True, slots=True)
class Row:
    """One pull.

    Attributes:
        begin_s: of ``wall_s``, from the command's start until the pull has begun: the command's own, and the list of
            files. libtorrent has that list, and its programs run already.
        lag: (at most so many seconds, looks) of all nodes' event loops, exo-dl's alone.
    """

    name: str
    program: str
    mib: int
    wall_s: float
    begin_s: float
    gb_per_s: float
    cpu_s_per_gb: float
    peak_rss_mb: float
    lag: tuple[tuple[float, int], ...] = ()


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
        wait_at_rest(nodes)
        yield nodes
    finally:
        for node in nodes:
            node.stop()


def _pull(name: str, model: LabModel, nodes: Sequence[Node]) -> Row:
    """Pulls the whole model to all nodes."""
    before = {node.name: (node.metrics(), node.cpu_s()) for node in nodes}
    begin, begin_at_s = time.monotonic(), time.time()
    pull, *_ = nodes[0].json("pull", model.repo, timeout_s=900)
    wall_s, begin_s = time.monotonic() - begin, pull["started_at_s"] - begin_at_s
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
        program="exo-dl",
        mib=round(model.size_bytes / _MIB),
        wall_s=wall_s,
        begin_s=begin_s,
        gb_per_s=taken / _GB / wall_s,
        cpu_s_per_gb=cpu_s / (taken / _GB),
        peak_rss_mb=max(node.peak_rss_bytes() for node in nodes) / 1e6,
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
        nodes[0].json("pull", _FIRST_REPO)
        return _pull("hub -> 2", model, nodes)


def _of_torrent(name: str, model: LabModel, used: Used, shares: float) -> Row:
    taken_gb = shares * model.size_bytes / _GB
    return Row(
        name=name,
        program="libtorrent",
        mib=round(model.size_bytes / _MIB),
        wall_s=used.wall_s,
        begin_s=0.0,
        gb_per_s=taken_gb / used.wall_s,
        cpu_s_per_gb=used.cpu_s / taken_gb,
        peak_rss_mb=used.rss_bytes / 1e6,
    )


def _swarm(model: LabModel, folder: Path, url: str | None, has: Sequence[Sequence[str]]) -> Used:
    def spawn(command: Sequence[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL)

    peers = [
        TorrentPeer(f"n{number}", folder / f"n{number}", f"127.0.0.1:{free_port()}", spawn, paths)
        for number, paths in enumerate(has, start=1)
    ]
    return swarm(peers, model, folder=folder, hub_url=url)


def _torrent_fanout(model: LabModel, folder: Path, url: str) -> Row:
    del url
    has = [sorted(model.digests), [], [], [], []]
    return _of_torrent("fan-out 1 -> 4", model, _swarm(model, folder, None, has), 4)


def _torrent_exchange(model: LabModel, folder: Path, url: str) -> Row:
    del url
    large = [path for path in sorted(model.digests) if "-of-" in path]
    small = [path for path in sorted(model.digests) if "-of-" not in path]
    has = [[*small, path] if number == 0 else [path] for number, path in enumerate(large)]
    return _of_torrent("exchange 4 -> 4", model, _swarm(model, folder, None, has), 3)


def _torrent_growth(model: LabModel, folder: Path, url: str) -> Row:
    return _of_torrent("hub -> 2", model, _swarm(model, folder, url, [[], []]), 2)


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


def _model(root: Path, size_mib: int) -> LabModel:
    make_model(root, _FIRST_REPO, total_mib=_FIRST_MIB, shards=1, seed=2)
    return describe_model(root, _REPO, make_model(root, _REPO, total_mib=size_mib, shards=4))


def _median(runs: Sequence[Row]) -> Row:
    """The medians of several runs; the lag is that of all of them."""
    numbers = {
        name: statistics.median(getattr(run, name) for run in runs)
        for name in ("wall_s", "begin_s", "gb_per_s", "cpu_s_per_gb", "peak_rss_mb")
    }
    lag: Counter[float] = Counter()
    for run in runs:
        lag.update(dict(run.lag))
    return replace(runs[0], **numbers, lag=tuple(sorted(lag.items())))


def _table(rows: Sequence[Row]) -> None:
    print(
        f"{'':16} {'':10} {'MiB':>6} {'wall s':>7} {'begin':>6} {'s/GB':>6} {'GB/s':>6} {'CPU s/GB':>9} {'RSS MB':>7}"
        f"  lag ms, p50 p99 max; looks, of them over {_LATE_S * 1000:g} ms"
    )
    for row in rows:
        lag = " ".join(f"{1000 * lag_at(row.lag, share):g}" for share in (0.5, 0.99, 1.0))
        looks = f"{sum(count for _, count in row.lag)} {sum(count for bound_s, count in row.lag if bound_s > _LATE_S)}"
        used = f"{row.cpu_s_per_gb:9.2f} {row.peak_rss_mb:7.0f}"
        print(
            f"{row.name:16} {row.program:10} {row.mib:6} {row.wall_s:7.2f} {row.begin_s:6.2f} {1 / row.gb_per_s:6.2f}"
            f" {row.gb_per_s:6.2f} {used}  {f'{lag}; {looks}' if row.lag else ''}"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what is named; prints a table, and each run as JSON with its histogram of lag."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.local", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", help="default: fanout exchange growth digests")
    parser.add_argument("--sizes-mib", default="256,1024", help="of the models for growth (default: 256,1024)")
    parser.add_argument("--size-mib", type=int, default=512, help="of the model for all else (default: 512)")
    parser.add_argument("--runs", type=int, default=1, help="of each row; medians are shown (default: 1)")
    parser.add_argument("--torrent", action="store_true", help="also libtorrent (which must be installed), in turns")
    parser.add_argument("--folder", type=Path, help="where nodes and models are kept while it runs")
    args = parser.parse_args(argv)
    scenarios: dict[str, list[Callable[[LabModel, Path, str], Row]]] = {
        "fanout": [_fanout, _torrent_fanout],
        "exchange": [_exchange, _torrent_exchange],
        "growth": [_growth, _torrent_growth],
    }
    names = args.what or [*scenarios, "digests"]
    if unknown := sorted(set(names) - {*scenarios, "digests"}):
        parser.error(f"no such thing: {', '.join(unknown)}")
    rows = []
    with tempfile.TemporaryDirectory(prefix="exo-dl-local-", dir=args.folder) as scratch:
        for name in names:
            sizes = [int(size) for size in args.sizes_mib.split(",")] if name == "growth" else [args.size_mib]
            models = [_model(Path(scratch) / f"hub-{size}", size) for size in sizes]
            jobs = [_digests] if name == "digests" else scenarios[name][: 2 if args.torrent else 1]
            runs: dict[tuple[int, str], list[Row]] = {}
            # Sizes and programs in turns: the machine is faster at one time than at another.
            for _, model, job in itertools.product(range(args.runs if name != "digests" else 1), models, jobs):
                with tempfile.TemporaryDirectory(dir=scratch) as run, _hub(Path(run), model.root) as url:
                    os.sync()
                    fill_memory(model.root)
                    row = job(model, Path(run), url)
                if row is not None:
                    runs.setdefault((row.mib, row.program), []).append(row)
                    print(json.dumps(asdict(row)), file=sys.stderr, flush=True)
            rows += [_median(some) for some in runs.values()]
    _table(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())

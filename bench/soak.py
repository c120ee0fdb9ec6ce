"""``make soak``: pulls under random faults, on one machine, for as long as SOAK_MINUTES says (30).

Each round a new model is pulled to four daemons while some of them are killed, stopped or ended and the hub misbehaves.
When the faults are over every daemon must end with the model: where the pull ended without one, the same pull goes on.
Memory, descriptors, threads and files are counted after each round, on two daemons that are stopped but never killed.
A run is repeated by its seed, as far as clocks and the system allow.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from bench.cluster import CommandError, Node, wait_linked
from bench.hub import LocalHub
from bench.make_model import make_model
from bench.models import LabModel, check_copy, describe_model
from bench.ports import free_port
from exo_dl.net.identity import new_secret

__all__ = ["Soak", "Used", "grown", "main"]

MIB = 1 << 20
_NAMES = ("n1", "n2", "n3", "n4")
_STEADY = ("n1", "n2")
_MODEL_MIB = 24
_HUB_BYTES_PER_S = 8e6
_PULL_S = 90.0
# Ended pulls stay open to serve late nodes, the last eight of them: until then descriptors grow.
_SETTLED_AFTER = 10
_SAMPLE = 5
_MOST_GROWTH = {"rss_bytes": 32 * MIB, "descriptors": 24, "threads": 12}
_HUB_FAULTS: tuple[tuple[str, dict[str, object]], ...] = (
    ("429", {"count": 3, "retry_after_s": 1}),
    ("503", {"count": 4, "retry_after_s": 1}),
    ("500", {"count": 3}),
    ("close", {"count": 4, "after_bytes": 300_000}),
    ("stall", {"count": 1, "after_bytes": 300_000, "seconds": 8.0}),
    ("200-for-206", {"count": 2}),
    ("short", {"count": 3}),
    ("long", {"count": 3}),
    ("etag", {"count": 1}),
    ("wrong-bytes", {"count": 1, "after_bytes": 300_000}),
)


@dataclass(frozen=True, slots=True)
class Used:
    """What one daemon holds between two rounds."""

    round: int
    node: str
    rss_bytes: int
    descriptors: int
    threads: int


def grown(samples: Sequence[Used]) -> list[str]:
    """What has grown more than it may, from the first settled rounds to the last; a line for each."""
    found = []
    for name in sorted({used.node for used in samples}):
        own = [used for used in samples if used.node == name and used.round >= _SETTLED_AFTER]
        if len(own) < 2 * _SAMPLE:
            continue
        for key, most in _MOST_GROWTH.items():
            before = statistics.median(getattr(used, key) for used in own[:_SAMPLE])
            after = statistics.median(getattr(used, key) for used in own[-_SAMPLE:])
            if after - before > most:
                found.append(f"{name}: {key} grew from {before:.0f} to {after:.0f}")
    return found


class Soak:
    """The daemons, their hub, and what happens to them.

    Args:
        folder: an empty folder.
        seed: of the models and the faults.
    """

    def __init__(self, folder: Path, *, seed: int) -> None:
        self._folder = folder
        self._seed = seed
        self._rng = random.Random(seed)
        self._root = folder / "hub"
        self._root.mkdir()
        self._hub = LocalHub(self._root, rate=_HUB_BYTES_PER_S)
        self.nodes: list[Node] = []
        self.samples: list[Used] = []
        self.faults: Counter[str] = Counter()
        self.rounds = self.resumed = 0
        self.longest_s = 0.0
        self._undo: list[Callable[[], None]] = []

    def __enter__(self) -> Soak:
        """Starts hub and daemons."""
        self._hub.start()
        secret = new_secret()
        for name in _NAMES:
            peers = [f"127.0.0.1:{self.nodes[0].port}"] if self.nodes else []
            node = Node(
                name,
                self._folder / name,
                secret=secret,
                endpoint=self._hub.url,
                peers=peers,
                port=free_port(),
                settings={"EXO_DL_MDNS": "false"},
            )
            self.nodes.append(node)
            node.start()
        for node in self.nodes:
            node.wait_ready()
        wait_linked(self.nodes)
        return self

    def __exit__(self, *_: object) -> None:
        """Ends all."""
        for node in self.nodes:
            node.kill()
        self._hub.close()

    def round(self) -> None:
        """One pull under faults, and the checks after it.

        Raises:
            CopyError, CommandError, TimeoutError: a node does not have what it should.
        """
        number = self.rounds
        self.rounds += 1
        repo = f"soak/model-{number}"
        made = make_model(
            self._root, repo, total_mib=_MODEL_MIB, shards=2, small_files=4, seed=1000 * self._seed + number
        )
        model = describe_model(self._root, repo, made)
        begin = time.monotonic()
        pull = self.nodes[self._rng.randrange(2)].launch("pull", repo, "--json")
        ended = threading.Event()
        for _ in range(self._rng.randint(1, 3)):
            ended.wait(self._rng.uniform(0.2, 1.5))
            self._fault()
        ended.wait(self._rng.uniform(0.5, 2.0))
        self._heal()
        try:
            pull.wait(timeout_s=_PULL_S)
        except CommandError:
            self.resumed += 1
        wait_linked(self.nodes, timeout_s=60)
        self.nodes[0].json("pull", repo, timeout_s=_PULL_S)
        self.longest_s = max(self.longest_s, time.monotonic() - begin)
        self._check(model)

    def _check(self, model: LabModel) -> None:
        for node in self.nodes:
            check_copy(model, node.home)
            left = [path for path in node.home.rglob("*") if ".exo-dl" in path.name or path.suffix == ".pieces"]
            if left:
                raise RuntimeError(f"left behind on {node.name}: {left[:5]}")
            shutil.rmtree(node.home / "hub" / f"models--{model.repo.replace('/', '--')}")
            if node.name in _STEADY:
                process = psutil.Process(node.process.pid)
                self.samples.append(
                    Used(
                        self.rounds,
                        node.name,
                        process.memory_info().rss,
                        process.num_fds(),
                        process.num_threads(),
                    )
                )
        shutil.rmtree(model.folder)

    # -- faults

    def _fault(self) -> None:
        kind = self._rng.choice(("kill", "kill", "stop", "end", "hub", "hub"))
        if kind == "hub":
            name, given = self._rng.choice(_HUB_FAULTS)
            self._hub.fault(name, path="*.safetensors", **given)
            self.faults[name] += 1
            return
        node = self.nodes[self._rng.randrange(2, 4)] if kind != "stop" else self._rng.choice(self.nodes)
        if not node.running:
            return
        self.faults[kind] += 1
        if kind == "stop":
            node.pause()
            self._undo.append(node.resume)
            return
        if kind == "kill":
            node.process.kill()
            node.process.wait(20)
        else:
            node.stop()
        self._undo.append(lambda: _restart(node))

    def _heal(self) -> None:
        for undo in self._undo:
            undo()
        self._undo.clear()
        self._hub.faults.clear()


def _restart(node: Node) -> None:
    if not node.running:
        node.start()
        node.wait_ready()


def main(argv: Sequence[str] | None = None) -> int:
    """Soaks, and prints what it saw; exit code 1 when something was lost or has grown."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=float(os.environ.get("SOAK_MINUTES", "30")))
    parser.add_argument("--seed", type=int, default=int(time.time()), help="default: the time")
    parser.add_argument("--folder", type=Path, help="where its files go; kept when something fails")
    args = parser.parse_args(argv)
    folder = Path(tempfile.mkdtemp(prefix="exo-dl-soak-", dir=args.folder))
    print(f"seed {args.seed}, {args.minutes:g} minutes, files in {folder}", flush=True)
    until = time.monotonic() + 60 * args.minutes
    with Soak(folder, seed=args.seed) as soak:
        while time.monotonic() < until:
            try:
                soak.round()
            except Exception:
                print(f"Failed in round {soak.rounds}, seed {args.seed}; logs are in {folder}.", file=sys.stderr)
                raise
            newest = [used for used in soak.samples if used.round == soak.rounds]
            print(json.dumps([asdict(used) for used in newest]), flush=True)
        problems = grown(soak.samples)
    shutil.rmtree(folder)
    faults = ", ".join(f"{name} {count}" for name, count in sorted(soak.faults.items()))
    print(f"{soak.rounds} rounds, {soak.resumed} pulls given again, the longest {soak.longest_s:.1f} s; {faults}")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

"""Networks and models to simulate."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from typing import Any

from exo_dl.core.manifest import FileEntry, Manifest
from exo_dl.core.pieces import mask
from exo_dl.sim.cluster import Cluster
from exo_dl.sim.network import NodeSpec
from exo_dl.sim.node import SimNode

__all__ = ["MBIT", "SCENARIOS", "build", "model"]

MBIT = 125_000.0
_Rates = Callable[[int, random.Random], list[tuple[float, float, float]]]


def model(*, size_bytes: int, files: int, small_files: int = 0, seed: int = 0) -> Manifest:
    """A made-up model: equal large files, and small ones of 200 bytes to 2 MB."""
    rng = random.Random(seed)  # noqa: S311 - a simulation
    entries = []
    for index in range(files):
        path = f"model-{index:05}-of-{files:05}.safetensors"
        entries.append((path, max(1, size_bytes // files)))
    for index in range(small_files):
        entries.append((f"small/{index:04}.json", rng.choice((200, 1500, 20_000, 2_000_000))))
    return Manifest(
        hub="sim",
        repo_type="model",
        repo="org/sim",
        commit="0" * 40,
        files=tuple(FileEntry(path, size, hashlib.sha256(path.encode()).digest()) for path, size in sorted(entries)),
    )


def _even(hub: float, lan: float) -> _Rates:
    return lambda n, rng: [(hub * MBIT, lan * MBIT, lan * MBIT)] * n


def _mixed(n: int, rng: random.Random) -> list[tuple[float, float, float]]:
    rates = (200, 100, 50, 25)
    return [(rates[i % 4] * MBIT, 1000 * MBIT, 1000 * MBIT) for i in range(n)]


def _uneven(n: int, rng: random.Random) -> list[tuple[float, float, float]]:
    return [(10 ** rng.uniform(0.7, 2.7) * MBIT, 1000 * MBIT, 1000 * MBIT) for _ in range(n)]


def _uneven_lan(n: int, rng: random.Random) -> list[tuple[float, float, float]]:
    rates = []
    for _ in range(n):
        hub = 10 ** rng.uniform(0.7, 2.7)
        lan = hub * 10 ** rng.uniform(-1, 1)
        rates.append((hub * MBIT, lan * MBIT, lan * MBIT))
    return rates


def _one_fast(n: int, rng: random.Random) -> list[tuple[float, float, float]]:
    return [((1000 if i == 0 else 10) * MBIT, 1000 * MBIT, 1000 * MBIT) for i in range(n)]


# Name -> (rates of each node, rate of a shared uplink).
SCENARIOS: dict[str, tuple[_Rates, float | None]] = {
    "lab": (_even(100, 1000), None),
    "home": (_even(1000, 1000), 200 * MBIT),
    "mixed": (_mixed, None),
    "thin": (_even(25, 1000), None),
    "uneven": (_uneven, None),
    "uneven-lan": (_uneven_lan, None),
    "slow-lan": (_even(1000, 100), None),
    "equal-lan": (_even(100, 100), None),
    "one-fast": (_one_fast, None),
    "hall": (_even(1000, 10_000), 8000 * MBIT),
}


def build(
    scenario: str,
    *,
    nodes: int,
    seed: int,
    size_bytes: int,
    files: int = 4,
    small_files: int = 0,
    **options: Any,
) -> Cluster:
    """A cluster that is about to pull a model.

    Args:
        scenario: a key of `SCENARIOS`.
        nodes: number of nodes.
        seed: of everything that is random.
        size_bytes: of the large files together.
        files: number of large files.
        small_files: number of small ones.
        options: passed to `Cluster`.
    """
    rates, uplink = SCENARIOS[scenario]
    rng = random.Random(seed)  # noqa: S311 - a simulation
    manifest = model(size_bytes=size_bytes, files=files, small_files=small_files, seed=seed)
    cluster = Cluster(manifest, uplink=uplink, **options)
    want = mask(0, manifest.piece_count)
    for index, (hub, up, down) in enumerate(rates(nodes, rng)):
        spec = NodeSpec(f"n{index:03}", hub, up, down)
        cluster.add(SimNode(cluster, spec, manifest, want=want, seed=seed), at=index * 1e-6)
    return cluster

"""Random trouble for a simulated cluster: all of it drawn from a seed, so that any failure can be had again.

Faults end: what is cut is mended, what is stopped goes on, a hub that is down comes back. Nodes that are killed for
good are few enough that somebody who can reach the hub remains.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from exo_dl.core.pieces import mask
from exo_dl.core.swarm import FetchResult, PieceBad
from exo_dl.sim.cluster import Cluster
from exo_dl.sim.conditions import some_conditions
from exo_dl.sim.network import NodeSpec
from exo_dl.sim.node import SimNode
from exo_dl.sim.scenarios import MBIT, model
from exo_dl.sim.watched import WatchedCluster
from exo_dl.sim.world import Message

__all__ = ["add_faults", "random_cluster"]

_Fault = Callable[[Cluster, random.Random, list[SimNode], float], None]


def _kill_and_restart(cluster: Cluster, rng: random.Random, nodes: list[SimNode], at: float) -> None:
    node = rng.choice(nodes)
    cluster.call_at(at, cluster.kill, node.name)
    cluster.call_at(at + rng.uniform(0.05, 12.0), cluster.start_node, node.name)


def _kill_coordinator(cluster: Cluster, rng: random.Random, nodes: list[SimNode], at: float) -> None:
    back_s = rng.uniform(0.2, 15.0)

    def strike() -> None:
        for node in list(cluster.nodes.values()):
            if node.alive and node.table is not None:
                cluster.kill(node.name)
                cluster.call_in(back_s, cluster.start_node, node.name)

    cluster.call_at(at, strike)
    if rng.random() < 0.3:
        cluster.call_at(at + rng.uniform(0.1, 3.0), strike)


def _freeze(cluster: Cluster, rng: random.Random, nodes: list[SimNode], at: float) -> None:
    node = rng.choice(nodes)
    cluster.call_at(at, cluster.freeze, node.name)
    cluster.call_at(at + rng.uniform(0.2, 14.0), cluster.thaw, node.name)


def _cut_pair(cluster: Cluster, rng: random.Random, nodes: list[SimNode], at: float) -> None:
    if len(nodes) > 1:
        a, b = rng.sample(nodes, 2)
        cluster.call_at(at, cluster.cut, a.name, b.name)
        cluster.call_at(at + rng.uniform(0.5, 40.0), cluster.mend, a.name, b.name)


def _split(cluster: Cluster, rng: random.Random, nodes: list[SimNode], at: float) -> None:
    left = {n.name for n in nodes if rng.random() < 0.5}
    back = at + rng.uniform(1.0, 25.0)
    for a in nodes:
        for b in nodes:
            if a.name < b.name and (a.name in left) != (b.name in left):
                cluster.call_at(at, cluster.cut, a.name, b.name)
                cluster.call_at(back, cluster.mend, a.name, b.name)


def _hub_trouble(cluster: Cluster, rng: random.Random, nodes: list[SimNode], at: float) -> None:
    node = rng.choice(nodes)
    result = rng.choice(
        [FetchResult.HUB_UNREACHABLE, FetchResult.HUB_BUSY, FetchResult.HUB_REFUSED, FetchResult.FAILED]
    )

    def begin() -> None:
        cluster.trouble(node.name, "hub")
        node.wire.hub.result, node.wire.hub.retry_after_s = result, rng.uniform(0, 3)
        for transfer in list(node.wire.transfers.values()):
            if not transfer.peer:
                node.wire.end(transfer, result)

    def end() -> None:
        node.wire.hub.result = None
        cluster.recovered(node.name, "hub")

    cluster.call_at(at, begin)
    cluster.call_at(at + rng.uniform(0.2, 20.0), end)


def _hub_silent(cluster: Cluster, rng: random.Random, nodes: list[SimNode], at: float) -> None:
    node = rng.choice(nodes)

    def begin() -> None:
        cluster.trouble(node.name, "silent hub")
        node.wire.hub.silent = True
        for transfer in node.wire.transfers.values():
            if not transfer.peer and transfer.flow is not None:
                cluster.network.hold(transfer.flow)

    def end() -> None:
        node.wire.hub.silent = False
        cluster.recovered(node.name, "silent hub")

    cluster.call_at(at, begin)
    cluster.call_at(at + rng.uniform(0.5, 15.0), end)


def _rate(cluster: Cluster, rng: random.Random, nodes: list[SimNode], at: float) -> None:
    link = (rng.choice(["hub", "up", "down"]), rng.choice(nodes).name)
    cluster.call_at(at, cluster.network.scale_link, link, rng.choice([0.1, 0.3, 5.0]))


def _corrupt(cluster: Cluster, rng: random.Random, nodes: list[SimNode], at: float) -> None:
    node = rng.choice(nodes)

    def turn(on: bool) -> None:
        node.corrupt = on
        (cluster.trouble if on else cluster.recovered)(node.name, "corrupt")

    cluster.call_at(at, turn, True)
    cluster.call_at(at + rng.uniform(0.1, 10.0), turn, False)


def _full(cluster: Cluster, rng: random.Random, nodes: list[SimNode], at: float) -> None:
    node = rng.choice(nodes)

    def turn(on: bool) -> None:
        node.full = on
        (cluster.trouble if on else cluster.recovered)(node.name, "full")

    cluster.call_at(at, turn, True)
    cluster.call_at(at + rng.uniform(0.5, 10.0), turn, False)


def _bad_pieces(cluster: Cluster, rng: random.Random, nodes: list[SimNode], at: float) -> None:
    node = rng.choice(nodes)
    first = rng.randrange(max(1, cluster.manifest.piece_count))

    def strike() -> None:
        if node.alive and node.swarm is not None:
            bad = mask(first, first + rng.randint(1, 5)) & node.swarm.have
            cluster.lost(bad)
            node.feed(PieceBad(bad))
            if not node.frozen:
                node.join_coordinator()
                # As the daemon does: peers that believe it to hold these pieces have not told that they hold them.
                for peer in node.neighbours():
                    node.send(peer, Message("ask", node.name))

    cluster.call_at(at, strike)


def _late(cluster: Cluster, rng: random.Random, nodes: list[SimNode], at: float) -> None:
    manifest = cluster.manifest
    spec = NodeSpec(f"late{len(cluster.nodes)}", 50 * MBIT, 500 * MBIT, 500 * MBIT)
    held = mask(0, manifest.piece_count) if rng.random() < 0.3 else 0
    node = SimNode(
        cluster,
        spec,
        manifest,
        want=mask(0, manifest.piece_count),
        held=held,
        check_s=rng.uniform(0, 2),
        hub=rng.random() < 0.7,
        seed=rng.randrange(1 << 30),
    )
    cluster.add(node, at=at)


_FAULTS: tuple[_Fault, ...] = (
    _kill_and_restart,
    _kill_coordinator,
    _freeze,
    _cut_pair,
    _split,
    _hub_trouble,
    _hub_silent,
    _rate,
    _corrupt,
    _full,
    _bad_pieces,
    _late,
)


def add_faults(cluster: Cluster, rng: random.Random, *, count: int, within_s: float) -> list[str]:
    """Schedules ``count`` random faults in the first ``within_s`` seconds. Returns their names."""
    names = []
    for _ in range(count):
        fault = rng.choice(_FAULTS)
        at = rng.uniform(0.0, within_s)
        fault(cluster, rng, list(cluster.nodes.values()), at)
        names.append(f"{at:.2f}{fault.__name__}")
    # Some nodes die and stay dead: never the last one that can reach the hub.
    nodes = list(cluster.nodes.values())
    if len(nodes) > 2 and count and rng.random() < 0.4:
        victims = [n for n in nodes if n.hub_ok][1:]
        if victims:
            at = rng.uniform(0.0, within_s)
            cluster.call_at(at, cluster.kill, rng.choice(victims).name)
            names.append(f"{at:.2f}_kill")
    return names


def random_cluster(
    seed: int, *, faults: int | None = None, largest_mib: int = 48, within_s: float = 15.0
) -> tuple[WatchedCluster, list[str]]:
    """A small cluster with everything about it, and its faults, drawn from ``seed``.

    Args:
        seed: of all that is random.
        faults: their number; None: that is random too.
        largest_mib: the large files together, at most.
        within_s: the faults begin in the first so many seconds.
    """
    rng = random.Random(seed)  # noqa: S311 - a simulation
    manifest = model(
        size_bytes=rng.randint(1, largest_mib) << 20,
        files=rng.randint(1, 4),
        small_files=rng.choice([0, 0, 3, 40]),
        seed=seed,
    )
    cluster = WatchedCluster(
        manifest,
        latency_s=rng.choice([0.0003, 0.005, 0.05]),
        hub_rtt_s=rng.choice([0.01, 0.1, 0.4]),
        uplink=rng.choice([None, None, 100 * MBIT]),
        quantum_s=0.005,
    )
    every = mask(0, manifest.piece_count)
    count = rng.randint(1, 7)
    hub_nodes = {rng.randrange(count)} | {i for i in range(count) if rng.random() < 0.75}
    for index in range(count):
        spec = NodeSpec(
            f"n{index}",
            10 ** rng.uniform(0.7, 2.5) * MBIT,
            10 ** rng.uniform(1.0, 3.0) * MBIT,
            10 ** rng.uniform(1.0, 3.0) * MBIT,
            hub_connection=rng.choice([float("inf"), 20 * MBIT]),
        )
        want = every
        if rng.random() < 0.25:
            want = rng.getrandbits(max(1, manifest.piece_count)) & every
        held = 0
        if rng.random() < 0.3:
            held = rng.choice([every, rng.getrandbits(max(1, manifest.piece_count)) & every])
        node = SimNode(
            cluster,
            spec,
            manifest,
            want=want,
            held=held,
            check_s=rng.uniform(0, 2) if held else 0.0,
            hub=index in hub_nodes,
            seed=seed,
        )
        cluster.add(node, at=rng.choice([0.0, 0.0, rng.uniform(0, 5)]) if index else 0.0)
    names = add_faults(cluster, rng, count=rng.randint(0, 5) if faults is None else faults, within_s=within_s)
    some_conditions(cluster.nodes.values(), seed)
    return cluster, names

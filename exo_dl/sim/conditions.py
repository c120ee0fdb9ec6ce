"""What nodes differ in beside their links: clocks, radios, memory. Drawn from a seed; to be called before the run."""

from __future__ import annotations

import random
from collections.abc import Collection

from exo_dl.core.swarm import MAX_PEER_FETCHES
from exo_dl.sim.buffers import Buffers
from exo_dl.sim.clock import Clock
from exo_dl.sim.node import SimNode

__all__ = ["some_conditions", "with_budgets", "with_radios", "with_skew"]

_MOST_OFFSET_S = 3 * 86400.0
_LEAST_FAST, _MOST_FAST = 1e-4, 1e-2
_BUDGETS_MIB = (4, 4, 8, 12, 24, 64)
_SHORT_PART, _SHORT_WITHIN_S, _SHORT_S = 0.3, 5.0, 8.0
_RADIO_PART, _LEAST_RADIO_S, _MOST_RADIO_S = 0.4, 0.005, 0.05


def _rng(seed: int, what: str) -> random.Random:
    return random.Random(f"{seed}/{what}")  # noqa: S311 - a simulation


def with_skew(nodes: Collection[SimNode], seed: int) -> None:
    """Clocks that are up to three days apart, and run 100 ppm to 1 % too fast or too slow."""
    rng = _rng(seed, "clocks")
    for node in nodes:
        fast = rng.choice((-1, 1)) * _LEAST_FAST * (_MOST_FAST / _LEAST_FAST) ** rng.random()
        node.clock = Clock(rng.uniform(0.0, _MOST_OFFSET_S), fast)


def with_radios(nodes: Collection[SimNode], seed: int) -> None:
    """Some nodes are behind a radio, which takes 5 to 50 ms one way."""
    rng = _rng(seed, "radios")
    for node in nodes:
        if rng.random() < _RADIO_PART:
            node.latency_s = rng.uniform(_LEAST_RADIO_S, _MOST_RADIO_S)


def with_budgets(nodes: Collection[SimNode], seed: int) -> None:
    """Nodes have different budgets for buffers, some so small that a pull wants more threads than there are. Of some
    the memory is short for a while, as a daemon's governor sees it: their transfers are halved, up to three times.
    """
    rng = _rng(seed, "budgets")
    for node in nodes:
        node.wire.buffers = Buffers(rng.choice(_BUDGETS_MIB) << 20)
        if rng.random() < _SHORT_PART:
            halvings, at = rng.randint(1, 3), rng.uniform(0.0, _SHORT_WITHIN_S)
            limits = max(1, 4 >> halvings), max(1, MAX_PEER_FETCHES >> halvings)
            node.cluster.call_at(at, node.memory_short, limits)
            node.cluster.call_at(at + rng.uniform(0.5, _SHORT_S), node.memory_short, None)


def some_conditions(nodes: Collection[SimNode], seed: int) -> None:
    """Some of these, by the seed: all of them together in some, none in a few."""
    rng = _rng(seed, "conditions")
    skew, radios, budgets = rng.random() < 0.75, rng.random() < 0.5, rng.random() < 0.5
    if skew:
        with_skew(nodes, seed)
    if radios:
        with_radios(nodes, seed)
    if budgets:
        with_budgets(nodes, seed)

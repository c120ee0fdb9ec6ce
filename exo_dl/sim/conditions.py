"""What nodes differ in beside their links: clocks, radios. Drawn from a seed; to be called before the run."""

from __future__ import annotations

import random
from collections.abc import Collection

from exo_dl.sim.clock import Clock
from exo_dl.sim.node import SimNode

__all__ = ["some_conditions", "with_radios", "with_skew"]

_MOST_OFFSET_S = 3 * 86400.0
_LEAST_FAST, _MOST_FAST = 1e-4, 1e-2
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


def some_conditions(nodes: Collection[SimNode], seed: int) -> None:
    """Some of these, by the seed: all of them together in some, none in a few."""
    rng = _rng(seed, "conditions")
    skew, radios = rng.random() < 0.75, rng.random() < 0.5
    if skew:
        with_skew(nodes, seed)
    if radios:
        with_radios(nodes, seed)

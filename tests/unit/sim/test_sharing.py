from __future__ import annotations

import random

import numpy as np
import pytest

from exo_dl.sim.sharing import max_min


def filled(capacity: list[float], paths: list[tuple[int, int]], cap: list[float]) -> list[float]:
    """Progressive filling as the textbook has it: all rates rise together, until a link or a cap stops one."""
    rates, rising = [0.0] * len(paths), set(range(len(paths)))
    while rising:
        steps = [cap[f] - rates[f] for f in rising]
        for link, room in enumerate(capacity):
            users = [f for f in rising if link in paths[f]]
            if users:
                steps.append((room - sum(rates[f] for f, path in enumerate(paths) if link in path)) / len(users))
        step = min(steps)
        for flow in rising:
            rates[flow] += step
        full = {
            link
            for link, room in enumerate(capacity)
            if sum(rates[f] for f, path in enumerate(paths) if link in path) >= room * (1 - 1e-9)
        }
        rising -= {f for f in rising if rates[f] >= cap[f] * (1 - 1e-9) or full & set(paths[f])}
    return rates


@pytest.mark.parametrize("seed", range(40))
def test_links_are_shared_as_by_progressive_filling(seed: int) -> None:
    rng = random.Random(seed)
    links = rng.randint(2, 12)
    capacity = [float("inf"), *(10 ** rng.uniform(0, 2) for _ in range(links))]
    paths = [(rng.randint(1, links), rng.choice([0, rng.randint(1, links)])) for _ in range(rng.randint(1, 40))]
    paths = [(a, 0 if a == b else b) for a, b in paths]
    cap = [rng.choice([float("inf"), 10 ** rng.uniform(-1, 1.5)]) for _ in paths]
    first, second = np.array(paths, np.int64).T
    rates = max_min(np.array(capacity), first, second, np.array(cap))
    assert rates.tolist() == pytest.approx(filled(capacity, paths, cap), rel=0.1)
    for link, room in enumerate(capacity):
        assert sum(rate for rate, path in zip(rates, paths, strict=True) if link in path) <= room * (1 + 1e-9)

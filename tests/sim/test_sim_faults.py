"""Short pulls under random faults, by the hundred: every live node ends with everything that it wants."""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest

from exo_dl.sim.faults import random_cluster

BATCHES = 10
SEEDS_A_BATCH = 100


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def story_of_failure(seed: int) -> str:
    """What happened in the pull of that seed where not every live node ended with what it wants; "" where all did."""
    cluster, faults = random_cluster(seed)
    report = cluster.run(until_s=600, settle_s=16)
    return "" if report.complete else f"seed {seed} with {faults} did not end"


@pytest.mark.parametrize("batch", range(BATCHES))
def test_every_live_node_ends_with_all_that_it_wants(batch: int, processes: ProcessPoolExecutor) -> None:
    seeds = range(batch * SEEDS_A_BATCH, (batch + 1) * SEEDS_A_BATCH)
    assert [story for story in processes.map(story_of_failure, seeds, chunksize=5) if story] == []


def test_without_faults_and_rereading_each_byte_is_read_once() -> None:
    for seed in range(60):
        cluster, _ = random_cluster(seed, faults=0)
        cluster.swarm_options = {"reread_gain": math.inf}
        report = cluster.run(until_s=600)
        assert report.complete, f"seed {seed} did not end"
        # Requests that are cut short cost what is in buffers; the last pieces may be doubled up.
        allowed = 0.01 * report.model_bytes + len(cluster.nodes) * (1 << 20)
        assert report.hub_bytes <= report.model_bytes + allowed, f"seed {seed} read too much"

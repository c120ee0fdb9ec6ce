"""Short pulls under random faults, by the thousand: what must hold whatever befalls the nodes.

Every live node ends with everything that it wants; while they pull each piece is in one lease, or in two where it is
raced for; in the end no lease is left; and the hub sends nothing twice for which there is no reason.
"""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest

from exo_dl.sim.faults import random_cluster
from exo_dl.sim.report import Report
from exo_dl.sim.watched import WatchedCluster

SEEDS_A_BATCH = 100
LONG_BATCHES, SHORT_BATCHES = 7, 13


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def pull(seed: int, *, short: bool) -> tuple[WatchedCluster, list[str], Report]:
    """The pull of that seed to its end. Every other one knows no reading again of what peers hold."""
    cluster, faults = random_cluster(seed, largest_mib=12, within_s=4) if short else random_cluster(seed)
    if seed % 2:
        cluster.swarm_options = {"reread_gain": math.inf}
    return cluster, faults, cluster.run(until_s=600, settle_s=5 if short else 16)


def story_of_failure(seed: int, *, short: bool = False) -> str:
    """What was wrong in the pull of that seed; "" where nothing was."""
    cluster, faults, report = pull(seed, short=short)
    story = f"{'short' if short else 'long'} seed {seed} with {faults}"
    if not report.complete:
        return f"{story} did not end"
    if cluster.wrong:
        return f"{story}: {cluster.wrong[0]}"
    # A node that is stopped or cut off may not know yet.
    cluster.run(until_s=cluster.now + 100, settle_s=math.inf, stop=lambda: not cluster.standing)
    if cluster.standing:
        return f"{story}: {cluster.standing} stand for ever"
    again = cluster.again if seed % 2 else cluster.same_again
    if again > cluster.allowance:
        return f"{story}: {again:.0f} bytes came again, {cluster.allowance:.0f} were allowed"
    return ""


def story_of_short_failure(seed: int) -> str:
    return story_of_failure(seed, short=True)


@pytest.mark.parametrize("batch", range(LONG_BATCHES))
def test_every_live_node_ends_with_all_that_it_wants(batch: int, processes: ProcessPoolExecutor) -> None:
    seeds = range(batch * SEEDS_A_BATCH, (batch + 1) * SEEDS_A_BATCH)
    assert [story for story in processes.map(story_of_failure, seeds, chunksize=5) if story] == []


@pytest.mark.parametrize("batch", range(SHORT_BATCHES))
def test_every_live_node_ends_where_faults_strike_while_it_pulls(batch: int, processes: ProcessPoolExecutor) -> None:
    seeds = range(1000 + batch * SEEDS_A_BATCH, 1000 + (batch + 1) * SEEDS_A_BATCH)
    assert [story for story in processes.map(story_of_short_failure, seeds, chunksize=5) if story] == []


def test_the_same_seed_gives_the_same_run_with_its_faults() -> None:
    """What is measured in a lease table's processor time is no part of that."""
    for seed in range(12):
        one, other = pull(seed, short=True), pull(seed, short=True)
        assert one[1:] == other[1:]
        assert [n.complete_at for n in one[0].nodes.values()] == [n.complete_at for n in other[0].nodes.values()]
        assert [n.count.messages for n in one[0].nodes.values()] == [n.count.messages for n in other[0].nodes.values()]
        assert one[0].now == other[0].now and one[0].again == other[0].again


def test_without_faults_and_rereading_each_byte_is_read_once() -> None:
    for seed in range(60):
        cluster, _ = random_cluster(seed, faults=0)
        cluster.swarm_options = {"reread_gain": math.inf}
        report = cluster.run(until_s=600)
        assert report.complete, f"seed {seed} did not end"
        # Requests that are cut short cost what is in buffers; the last pieces may be doubled up.
        allowed = 0.01 * report.model_bytes + len(cluster.nodes) * (1 << 20)
        assert report.hub_bytes <= report.model_bytes + allowed, f"seed {seed} read too much"

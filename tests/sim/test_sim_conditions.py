"""What nodes differ in beside their rates: pulls where clocks disagree and some nodes are behind a radio."""

from __future__ import annotations

import json

import pytest

from exo_dl.sim.__main__ import main
from exo_dl.sim.buffers import Buffers
from exo_dl.sim.clock import Clock
from exo_dl.sim.cluster import Cluster
from exo_dl.sim.conditions import with_radios, with_skew
from exo_dl.sim.faults import random_cluster
from exo_dl.sim.scenarios import build


def cluster_of(scenario: str, nodes: int, *, seed: int = 1) -> Cluster:
    return build(scenario, nodes=nodes, seed=seed, size_bytes=256 << 20, files=2, small_files=8, quantum_s=0.005)


def test_a_clock_without_skew_is_the_worlds_to_the_last_bit() -> None:
    clock = Clock()
    for at in (0.0, 0.1, 1 / 3, 1e5 + 0.7):
        assert clock.read(at) == clock.when(at) == clock.span(at) == at


def test_a_clock_that_is_fast_is_ahead_more_and_more() -> None:
    clock = Clock(offset_s=100.0, fast=0.01)
    assert clock.read(0.0) == 100.0
    assert clock.read(50.0) == pytest.approx(150.5)
    assert clock.when(150.5) == pytest.approx(50.0)
    assert clock.span(1.01) == pytest.approx(1.0)


@pytest.mark.parametrize(("scenario", "nodes"), [("lab", 4), ("mixed", 6), ("home", 3)])
def test_a_pull_ends_the_same_way_where_clocks_disagree(scenario: str, nodes: int) -> None:
    """Clocks are off by up to 1 %, and so is what follows from them: no more than that."""
    plain, skewed = cluster_of(scenario, nodes), cluster_of(scenario, nodes)
    with_skew(skewed.nodes.values(), 1)
    offsets = [n.clock.offset_s for n in skewed.nodes.values()]
    assert max(offsets) - min(offsets) > 3600
    one, other = plain.run(until_s=1000), skewed.run(until_s=1000)
    assert one.complete and other.complete
    assert other.seconds == pytest.approx(one.seconds, rel=0.03)
    assert other.hub_ratio <= 1.01


def test_with_clocks_that_disagree_the_same_seed_gives_the_same_run() -> None:
    reports = []
    for _ in range(2):
        cluster = cluster_of("mixed", 4)
        with_skew(cluster.nodes.values(), 3)
        reports.append(cluster.run(until_s=1000))
    assert reports[0] == reports[1]


def test_what_a_radio_adds_is_on_every_path_of_its_node() -> None:
    cluster = cluster_of("lab", 3)
    wired = cluster.latency("n000", "n001")
    cluster.nodes["n001"].latency_s = 0.03
    assert cluster.latency("n000", "n001") == cluster.latency("n001", "n002") == pytest.approx(0.03 + wired / 2)
    assert cluster.latency("n000", "n002") == wired == cluster.latency_s
    assert cluster.hub_rtt("n000") == cluster.hub_rtt_s
    assert cluster.hub_rtt("n001") == pytest.approx(cluster.hub_rtt_s + 0.06 - wired)


def test_nodes_behind_radios_end_little_later() -> None:
    plain, far = cluster_of("mixed", 6), cluster_of("mixed", 6)
    with_radios(far.nodes.values(), 2)
    assert 0 < sum(n.latency_s is not None for n in far.nodes.values()) < 6
    one, other = plain.run(until_s=1000), far.run(until_s=1000)
    assert other.complete and other.hub_ratio <= 1.01
    assert one.seconds < other.seconds <= 1.3 * one.seconds


def test_clusters_of_seeds_differ_in_clocks_and_radios() -> None:
    skewed = slow = fast = radios = 0
    for seed in range(60):
        nodes = random_cluster(seed)[0].nodes.values()
        assert all(n.clock.offset_s >= 0 for n in nodes)
        skewed += len({n.clock for n in nodes}) > 1
        fast += any(n.clock.fast > 0.003 for n in nodes)
        slow += any(n.clock.fast < -0.003 for n in nodes)
        radios += 0 < sum(n.latency_s is not None for n in nodes) < len(nodes)
    assert min(skewed, fast, slow, radios) >= 10


def test_the_command_takes_skew_and_radios(capsys: pytest.CaptureFixture[str]) -> None:
    figures = []
    for options in ([], ["--skew"], ["--radios"]):
        assert main(["--nodes", "4", "--size-mib", "64", "--json", *options]) == 0
        figures.append(json.loads(capsys.readouterr().out))
    assert figures[0]["seconds"] != figures[1]["seconds"] and figures[0]["seconds"] < figures[2]["seconds"]


def test_nodes_with_little_memory_end_with_everything_within_their_budgets() -> None:
    """4 MiB are one transfer from the hub and one from a peer at once."""
    cluster = cluster_of("lab", 4)
    for node, mib in zip(cluster.nodes.values(), (4, 8, 16, 64), strict=True):
        node.wire.buffers = Buffers(mib << 20)
    report = cluster.run(until_s=1000)
    assert report.complete and report.hub_ratio <= 1.01
    peaks = {n.wire.buffers.budget_bytes >> 20: n.wire.buffers.peak_bytes >> 20 for n in cluster.nodes.values()}
    assert peaks[4] == 4 and peaks[8] == 8 and peaks[4] < peaks[16] <= 16
    assert report.peak_buffer_bytes == max(peaks.values()) << 20
    assert report.ratio <= 1.25


def test_budgets_of_seeds_differ_and_memory_becomes_short() -> None:
    differ, told = 0, 0
    for seed in range(12):
        cluster, _ = random_cluster(seed, largest_mib=12, within_s=4)
        differ += len({n.wire.buffers.budget_bytes for n in cluster.nodes.values()}) > 1
        cluster.run(until_s=600, settle_s=5)
        told += any(n.wire.limits is not None for n in cluster.nodes.values())
    assert differ >= 3 and told

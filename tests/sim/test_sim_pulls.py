"""Whole pulls on simulated networks: how near to the least time they come, and that bytes are read once."""

from __future__ import annotations

import json
import math
import sys

import pytest

from exo_dl.core.leases import LeaseAction, LeaseEvent, LeaseTable, Tick
from exo_dl.core.pieces import iter_bits, mask
from exo_dl.core.swarm import PiecesArrived
from exo_dl.sim.__main__ import main
from exo_dl.sim.cluster import Cluster
from exo_dl.sim.network import NodeSpec
from exo_dl.sim.node import SimNode
from exo_dl.sim.report import Report
from exo_dl.sim.scenarios import MBIT, build, model
from exo_dl.sim.table import HEADER, Row, table


def pull(scenario: str, nodes: int, size_mib: int, *, seed: int = 1, small_files: int = 8) -> Report:
    cluster = build(
        scenario, nodes=nodes, seed=seed, size_bytes=size_mib << 20, files=4, small_files=small_files, quantum_s=0.005
    )
    return cluster.run(until_s=10_000)


@pytest.mark.parametrize(
    ("scenario", "nodes", "size_mib"),
    [
        ("lab", 2, 512),
        ("lab", 4, 512),
        ("home", 4, 512),
        ("mixed", 4, 1024),
        ("thin", 8, 768),
        ("uneven", 5, 1024),
        ("lab", 1, 256),
    ],
)
def test_a_pull_is_near_the_least_time_and_reads_each_byte_once(scenario: str, nodes: int, size_mib: int) -> None:
    report = pull(scenario, nodes, size_mib)
    assert report.complete
    assert report.ratio <= 1.03
    assert report.hub_ratio <= 1.01


@pytest.mark.parametrize(("scenario", "nodes", "size_mib", "limit"), [("equal-lan", 4, 512, 1.05)])
def test_where_the_lan_is_the_bottleneck_it_is_kept_full(
    scenario: str, nodes: int, size_mib: int, limit: float
) -> None:
    report = pull(scenario, nodes, size_mib)
    assert report.ratio_once <= limit
    assert report.hub_ratio <= 1.01


def test_many_nodes_share_their_lan_evenly() -> None:
    report = pull("mixed", 16, 768)
    assert report.complete
    assert report.ratio <= 1.13
    assert report.hub_ratio <= 1.01


def test_announcements_of_a_node_do_not_grow_with_the_cluster() -> None:
    few, many = (
        build("lab", nodes=nodes, seed=1, size_bytes=64 << 20, files=1, quantum_s=0.02).run(until_s=1000)
        for nodes in (24, 72)
    )
    assert few.complete and many.complete
    assert many.announcements / 72 <= 1.25 * few.announcements / 24


def test_a_node_on_a_slow_lan_reads_from_the_hub_what_peers_would_bring_later() -> None:
    report = pull("slow-lan", 4, 4096)
    assert report.complete
    assert report.ratio <= 1.05
    assert report.seconds < 0.3 * report.bound_once_s


def test_on_average_there_is_at_most_one_request_for_64_mib() -> None:
    report = pull("lab", 4, 8192)
    assert report.complete
    assert report.hub_requests <= report.hub_bytes / (64 << 20)
    assert report.ratio <= 1.03
    assert report.hub_ratio <= 1.01


def test_the_same_seed_gives_the_same_run() -> None:
    assert pull("mixed", 4, 128, seed=5) == pull("mixed", 4, 128, seed=5)


def test_hundreds_of_small_files_are_read_once_and_side_by_side() -> None:
    report = pull("lab", 4, 1, small_files=300)
    assert report.complete
    assert report.hub_ratio <= 1.01
    assert report.hub_requests <= 320
    # Each request costs a round trip of 30 ms: 300 of them one after another would take 9 s.
    assert report.ratio < 1.3


def lab(
    count: int, size_mib: int = 96, *, lan: float = 1000 * MBIT, **options: object
) -> tuple[Cluster, list[SimNode]]:
    manifest = model(size_bytes=size_mib << 20, files=2, small_files=3)
    cluster = Cluster(manifest, quantum_s=0.005)
    nodes = []
    for index in range(count):
        spec = NodeSpec(f"n{index}", 100 * MBIT, lan, lan)
        nodes.append(SimNode(cluster, spec, manifest, want=mask(0, manifest.piece_count), **options))  # type: ignore[arg-type]
    return cluster, nodes


def test_a_hub_that_limits_each_connection_is_read_over_as_many_as_fill_the_link() -> None:
    """Five of them do, and it took 1.28 of the least time while they were tried one by one."""
    manifest = model(size_bytes=2048 << 20, files=4)
    cluster = Cluster(manifest)
    for name in ("n0", "n1"):
        spec = NodeSpec(name, 200 * MBIT, 10_000 * MBIT, 10_000 * MBIT, hub_connection=40 * MBIT)
        cluster.add(SimNode(cluster, spec, manifest, want=mask(0, manifest.piece_count), seed=1))
    report = cluster.run(until_s=100)
    assert report.complete
    assert report.hub_ratio <= 1.01
    assert report.ratio <= 1.10


def test_what_one_node_holds_is_not_read_from_the_hub() -> None:
    cluster, nodes = lab(3)
    nodes[2].disk = nodes[2].initially = mask(0, cluster.manifest.piece_count)
    nodes[2].check_s = 1.5
    for node in nodes:
        cluster.add(node)
    report = cluster.run(until_s=100)
    assert report.complete
    assert report.hub_requests == 0


def test_a_node_without_the_hub_ends_with_everything() -> None:
    cluster, nodes = lab(3)
    nodes[0].hub_ok = False
    for node in nodes:
        cluster.add(node)
    report = cluster.run(until_s=100)
    assert report.complete
    assert nodes[0].count.hub_requests == 0
    assert report.ratio <= 1.1


def test_a_node_that_joins_in_the_middle_takes_part() -> None:
    cluster, nodes = lab(3)
    cluster.add(nodes[0])
    cluster.add(nodes[1])
    cluster.add(nodes[2], at=1.0)
    report = cluster.run(until_s=100)
    assert report.complete
    assert nodes[2].count.hub_bytes > 5e6
    assert report.hub_ratio <= 1.02


@pytest.mark.parametrize("at", [0.4, 1.5, 2.2])
def test_when_the_coordinator_dies_the_next_goes_on(at: float) -> None:
    cluster, nodes = lab(4)
    for node in nodes:
        cluster.add(node)
    cluster.call_at(at, cluster.kill, "n0")
    report = cluster.run(until_s=100, settle_s=5.0)
    assert report.complete
    lost = nodes[0].count.hub_bytes
    assert report.hub_bytes <= cluster.manifest.total_bytes * 1.02 + lost + 4e6
    assert sum(n.table is not None for n in nodes) == 1
    # 2.1 s would be the least with all four, 2.8 s with three.
    assert max(n.complete_at or math.inf for n in nodes if n.alive) < 5


def test_the_coordinator_dies_twice_in_a_row() -> None:
    cluster, nodes = lab(5)
    for node in nodes:
        cluster.add(node)
    cluster.call_at(0.8, cluster.kill, "n0")

    def kill_next() -> None:
        for node in nodes:
            if node.alive and node.table is not None:
                cluster.kill(node.name)

    cluster.call_at(1.6, kill_next)
    report = cluster.run(until_s=100)
    assert report.complete
    assert sum(n.alive for n in nodes) == 3


@pytest.mark.parametrize("at_s", [0.4, 1.4, 2.0, 3.0, 4.0, 4.8, 5.6])
def test_work_moves_when_a_rate_falls_tenfold(at_s: float) -> None:
    """At any moment: also when the leases that stand are nearly the last, and a piece of a slow one takes 2 s."""
    cluster, nodes = lab(3, size_mib=256)
    for node in nodes:
        cluster.add(node)
    cluster.call_at(at_s, cluster.network.scale_link, ("hub", "n1"), 0.1)
    report = cluster.run(until_s=200)
    # At three links until then, the rest at 2.1 of them.
    rest = cluster.manifest.total_bytes - at_s * 3 * 100 * MBIT
    assert report.seconds <= 1.05 * (at_s + rest / (2.1 * 100 * MBIT))
    assert report.hub_ratio <= 1.01


@pytest.mark.parametrize("at_s", [0.4, 4, 12, 20, 26, 28])
def test_work_moves_when_a_rate_rises_tenfold(at_s: float) -> None:
    """Also when nearly all is leased: the LAN is fast enough for what one node reads to come to all in time."""
    cluster, nodes = lab(3, size_mib=1024, lan=10_000 * MBIT)
    for node in nodes:
        cluster.add(node)
    cluster.call_at(at_s, cluster.network.scale_link, ("hub", "n1"), 10)
    report = cluster.run(until_s=200)
    # At three links until then, the rest at twelve.
    rest = cluster.manifest.total_bytes - at_s * 3 * 100 * MBIT
    assert report.seconds <= 1.03 * (at_s + rest / (12 * 100 * MBIT))
    assert report.hub_ratio <= 1.01


def test_the_command_simulates_two_hundred_nodes(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--size-mib", "8", "--files", "1", "--small-files", "2", "--quantum-ms", "20"]
    assert main(["--nodes", "200", "--seed", "7", *small, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["nodes"], figures["complete"]) == (200, True)
    assert figures["hub_bytes_per_model_byte"] <= 1.01


def test_the_command_prints_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--nodes", "3", "--size-mib", "24", "--json", "--faults", "1", "--seed", "3"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["complete"] is True
    assert figures["ratio"] >= 1.0


def test_the_command_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--nodes", "2", "--size-mib", "8", "--scenario", "home"]) == 0
    assert "ratio" in capsys.readouterr().out


def test_a_table_has_one_line_for_each_row_over_its_seeds() -> None:
    lines = list(table([Row("lab", 2, 8), Row("home", 3, 8)], seeds=2, quantum_s=0.005, jobs=2))
    assert [line.split()[:3] for line in lines] == [HEADER.split()[:3], ["lab", "2", "8"], ["home", "3", "8"]]
    assert all(len(line.split()) == len(HEADER.split()) for line in lines)


@pytest.mark.parametrize(("scenario", "mib", "files"), [("lab", 512, 3), ("lab", 2048, 1), ("mixed", 4096, 1)])
def test_when_the_last_piece_comes_the_digests_of_files_are_nearly_done(
    scenario: str, mib: int, files: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file is hashed from its front, at 0.6 GB/s, while its pieces come."""
    cluster = build(scenario, nodes=4, seed=1, size_bytes=mib << 20, files=files, quantum_s=0.01)
    manifest = next(iter(cluster.nodes.values())).manifest
    came: dict[str, dict[int, float]] = {name: {} for name in cluster.nodes}
    dispatch = SimNode.dispatch

    def watch(node: SimNode, event: object) -> None:
        if isinstance(event, PiecesArrived):
            for piece in iter_bits(event.pieces):
                came[node.name].setdefault(piece, cluster.now)
        dispatch(node, event)

    monkeypatch.setattr(SimNode, "dispatch", watch)
    assert cluster.run(until_s=1000).complete
    for times in came.values():
        for blob in manifest.blobs:
            hashed = 0.0
            for piece in range(blob.first_piece, blob.end_piece):
                hashed = max(hashed, times[piece]) + manifest.piece_bytes(piece) / 0.6e9
            assert hashed <= max(times.values()) + 0.1


def test_what_a_node_costs_its_coordinator_does_not_grow_with_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in messages and in calls, which are the same on every machine."""
    handle = LeaseTable.handle
    calls = messages = 0

    def called(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    def counted(table: LeaseTable, event: LeaseEvent, now: float) -> list[LeaseAction]:
        nonlocal messages
        before = sys.getprofile()
        sys.setprofile(called)
        try:
            actions = handle(table, event, now)
        finally:
            sys.setprofile(before)
        messages += len(actions) + (not isinstance(event, Tick))
        return actions

    monkeypatch.setattr(LeaseTable, "handle", counted)
    per_node = []
    for nodes in (12, 48, 96):
        calls = messages = 0
        report = build("hall", nodes=nodes, seed=1, size_bytes=96 << 20, files=1, quantum_s=0.01).run(until_s=1000)
        assert report.complete
        per_node.append((messages / nodes, calls / nodes))
    few, more, many = per_node
    assert more[0] <= 1.1 * few[0] and many[0] <= 1.1 * few[0]
    assert more[1] <= 1.1 * few[1] and many[1] <= 1.1 * few[1]

"""Limits on bandwidth that change while a pull runs, and nodes that leave in good order. The hub counts the bytes."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from bench.cluster import Command, CommandError, Node, wait_until
from bench.hub import LocalHub
from bench.hub_state import Bucket
from bench.models import LabModel, check_copy
from bench.served import read_requests, summarize
from exo_dl.net.identity import NODE_SAN, Identity, new_node_id
from exo_dl.rpc.v1 import cluster_pb2, cluster_pb2_grpc
from tests.integration.conftest import MIB, MakeNodes, slowly, start_all

MB = 1_000_000
HUB_RATE = 12 * MB
fast = pytest.mark.parametrize("hub", [{"rate": float(HUB_RATE)}], indirect=True, ids=["12MB/s"])


class CountingBucket(Bucket):
    """The hub's rate, and what it has sent so far, while requests are still under way."""

    def __init__(self, bytes_per_s: float) -> None:
        super().__init__(bytes_per_s)
        self._count_lock = threading.Lock()
        self.byte_count = 0

    def wait(self, size: int) -> None:
        super().wait(size)
        with self._count_lock:
            self.byte_count += size

    def seconds_for(self, byte_count: int) -> float:
        """How long the hub now takes to send so many bytes more."""
        started, before = time.monotonic(), self.byte_count
        wait_until(
            lambda: self.byte_count - before >= byte_count, timeout_s=30, what=f"{byte_count} bytes from the hub"
        )
        return time.monotonic() - started


@pytest.fixture
def counter(hub: LocalHub) -> CountingBucket:
    bucket = CountingBucket(HUB_RATE)
    hub.bucket = bucket
    for server in hub._servers:
        # On loopback the system would take megabytes off the hub's hands for each connection, limit or not.
        server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 << 10)
    return bucket


def limits(node: Node, *args: str) -> dict[str, Any]:
    return node.json("limit", *args)[-1]


def get_limits(node: Node) -> cluster_pb2.ClusterLimits:
    """Without the time that a command takes to start."""
    with node.channel() as channel:
        stub = cluster_pb2_grpc.ClusterServiceStub(channel)
        return stub.GetLimits(cluster_pb2.GetLimitsRequest(), timeout=5).limits


def set_cluster_limit(node: Node, bytes_per_s: int) -> None:
    with node.channel() as channel:
        stub = cluster_pb2_grpc.ClusterServiceStub(channel)
        stub.SetLimits(cluster_pb2.SetLimitsRequest(cluster_hub_bytes_per_s=bytes_per_s), timeout=5)


def of(node: Node, shown: dict[str, Any]) -> dict[str, Any]:
    return next(each for each in shown["nodes"] if each["name"] == node.name)


def hub_bytes(hub: LocalHub, tmp_path: Path) -> int:
    hub.settle()
    return summarize(read_requests(tmp_path / "access.log")).total_bytes


@fast
def test_a_limit_on_the_cluster_set_in_the_middle_of_a_pull_is_obeyed_and_lifted_again(
    trio: list[Node], model: LabModel, counter: CountingBucket
) -> None:
    # Slow until the limit holds: on a busy machine that takes a while, and the pull must not be over by then.
    counter.rate = 3.0 * MB
    pull = trio[0].launch("pull", model.repo, "--json")
    try:
        wait_until(lambda: counter.byte_count > 1 * MB, timeout_s=20, what="the pull runs")
        set_cluster_limit(trio[1], 2 * MB)
        counter.rate = float(HUB_RATE)
        # What the sockets have room for at that moment still leaves the hub: after a second it has.
        settled = time.monotonic() + 1.0
        shares = []
        while time.monotonic() < settled:
            shares.append([node.hub_share_bytes_per_s for node in get_limits(trio[2]).nodes])
        # Each new request fills the buffers of its sockets at once, which blurs a short time.
        assert 2.8 < counter.seconds_for(8 * MB) < 10.0, "four seconds, on a machine that has time"
        shares.append([node.hub_share_bytes_per_s for node in get_limits(trio[2]).nodes])
        # What a node knows of the others is a beat old: it may see one share before it shrank and one after it grew.
        assert all(sum(each) <= 2 * 2 * MB for each in shares)
        set_cluster_limit(trio[2], 0)
        assert counter.seconds_for(5 * MB) < 2.3, "2 MB/s would take 2.5 seconds"
        assert pull.wait()[-1]["state"] == "done"
        assert counter.byte_count <= 1.01 * model.size_bytes + 4 * MIB, "a lease was given up for being slow"
    finally:
        pull.kill()


@fast
def test_a_limit_on_one_node_moves_the_work_to_the_others(
    trio: list[Node], model: LabModel, counter: CountingBucket
) -> None:
    shown = limits(trio[0], "--hub", "4Mbit", "--node", "two")
    assert [of(node, shown)["hub_bytes_per_s"] for node in trio] == [0, 500_000, 0]
    started = time.monotonic()
    summary = trio[0].json("pull", model.repo)[-1]
    seconds = time.monotonic() - started
    assert summary["state"] == "done"
    limited = next(node for node in summary["nodes"] if node["name"] == "two")
    assert limited["bytes_from_hub"] <= 500_000 * (seconds + 1) + MIB
    for node in trio:
        check_copy(model, node.home)


def test_a_limit_between_nodes_holds_for_the_node_that_has_it(make_nodes: MakeNodes, model: LabModel) -> None:
    nodes = make_nodes("one") + make_nodes("two", HTTP_PROXY="http://127.0.0.1:9", NO_PROXY="")
    start_all(nodes)
    shown = limits(nodes[0], "--lan", "64Mbit", "--node", "two")
    assert of(nodes[1], shown)["lan_down_bytes_per_s"] == of(nodes[1], shown)["lan_up_bytes_per_s"] == 8 * MB
    started = time.monotonic()
    summary = nodes[0].json("pull", model.repo)[-1]
    assert summary["state"] == "done"
    assert time.monotonic() - started >= 0.8 * model.size_bytes / (8 * MB)
    check_copy(model, nodes[1].home)


def test_a_limit_on_the_hub_does_not_hold_between_nodes(make_nodes: MakeNodes, model: LabModel) -> None:
    nodes = one, two = make_nodes("one", "two")
    start_all(nodes)
    one.json("pull", model.repo, "--nodes", "one")
    limits(one, "--hub", "1MB/s")
    limits(one, "--cluster-hub", "1MB/s")
    summary = two.json("pull", model.repo)[-1]
    assert summary["state"] == "done"
    assert summary["wall_s"] < model.size_bytes / (3 * MB), "the limit would take 25 seconds"
    moved = next(node for node in summary["nodes"] if node["name"] == "two")
    assert moved["bytes_from_peers"] >= 0.9 * model.size_bytes
    check_copy(model, two.home)


def test_limits_outlive_restarts_and_a_changed_setting_beats_them(make_nodes: MakeNodes) -> None:
    nodes = make_nodes("one", "two", EXO_DL_HUB_LIMIT="80Mbit", EXO_DL_LAN_LIMIT="50MB/s")
    start_all(nodes)
    one, two = nodes
    shown = limits(one)
    assert [of(node, shown)["hub_bytes_per_s"] for node in nodes] == [10 * MB, 10 * MB]
    assert of(two, shown)["lan_up_bytes_per_s"] == of(two, shown)["lan_down_bytes_per_s"] == 50 * MB
    limits(one, "--hub", "3MB/s", "--lan-up", "none", "--node", "two")
    limits(one, "--cluster-hub", "5MB/s")
    two.stop()
    limits(one, "--cluster-hub", "6MB/s")  # which node two hears of when it is back
    two.start()
    two.wait_ready()
    wait_until(lambda: limits(two)["cluster_hub_bytes_per_s"] == 6 * MB, timeout_s=20, what="two knows of it")
    mine = of(two, limits(two))
    assert (mine["hub_bytes_per_s"], mine["lan_up_bytes_per_s"], mine["lan_down_bytes_per_s"]) == (3 * MB, 0, 50 * MB)
    two.stop()
    two.env["EXO_DL_HUB_LIMIT"] = "7MB/s"
    two.start()
    two.wait_ready()
    mine = of(two, limits(two))
    assert (mine["hub_bytes_per_s"], mine["lan_up_bytes_per_s"]) == (7 * MB, 0)


@pytest.mark.parametrize(
    ("args", "exit_code", "word"),
    [
        (["--hub", "fast"], 2, "fast"),
        (["--hub", "1kB/s"], 2, "50kB/s"),
        (["--hub", "1MB/s", "--node", "nobody"], 3, "nobody"),
        (["--cluster-hub", "1MB/s", "--node", "one"], 2, "--node"),
        (["--lan", "1MB/s", "--lan-up", "1MB/s"], 2, "--lan"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_limit_that_cannot_be(make_nodes: MakeNodes, args: list[str], exit_code: int, word: str) -> None:
    nodes = make_nodes("one")
    start_all(nodes)
    with pytest.raises(CommandError) as caught:
        nodes[0].json("limit", *args)
    assert (caught.value.exit_code, word in caught.value.stderr) == (exit_code, True), caught.value


def check_left(pull: Command, stay: list[Node], model: LabModel) -> None:
    summary = pull.wait()[-1]
    assert summary["state"] == "done", summary
    assert sorted(node["name"] for node in summary["nodes"]) == sorted(node.name for node in stay)
    for node in stay:
        check_copy(model, node.home)


@slowly
@pytest.mark.parametrize("leaver", [1, 0], ids=["another node", "the coordinator"])
def test_leaving_in_the_middle_of_a_pull_costs_no_hub_bytes(
    trio: list[Node], model: LabModel, hub: LocalHub, tmp_path: Path, leaver: int
) -> None:
    leaving = trio[leaver]
    stay = [node for node in trio if node is not leaving]
    # The pull was started, and is coordinated, by node one; it is watched on node three.
    started = trio[0].json("pull", model.repo, "--no-wait")[-1]
    pull = trio[2].launch("status", started["pull_id"], "--watch", "--json")
    pull.wait_for_share(0.3)
    left = leaving.json("leave")[-1]
    assert left["pieces_left"] == 0
    assert left["seconds"] < 5
    assert leaving.process.wait(10) == 0
    check_left(pull, stay, model)
    # What the sockets held of the pieces in progress may be lost, and nothing else.
    assert hub_bytes(hub, tmp_path) <= 1.01 * model.size_bytes + 3 * MIB


@slowly
def test_sigterm_hands_over_too(trio: list[Node], model: LabModel, hub: LocalHub, tmp_path: Path) -> None:
    pull = trio[0].launch("pull", model.repo, "--json")
    pull.wait_for_share(0.3)
    assert trio[1].stop() == 0
    check_left(pull, [trio[0], trio[2]], model)
    assert hub_bytes(hub, tmp_path) <= 1.01 * model.size_bytes + 3 * MIB


@slowly
def test_a_node_that_comes_back_after_leaving_gets_the_model(trio: list[Node], model: LabModel) -> None:
    pull = trio[0].launch("pull", model.repo, "--json")
    pull.wait_for_share(0.2)
    trio[1].json("leave", "--within", "2")
    assert trio[1].process.wait(10) == 0
    trio[1].start()
    trio[1].wait_ready()
    summary = pull.wait()[-1]
    assert summary["state"] == "done"
    trio[1].json("pull", model.repo)
    for node in trio:
        check_copy(model, node.home)


def test_a_node_without_pulls_leaves_at_once_and_only_by_its_own_socket(make_nodes: MakeNodes) -> None:
    nodes = make_nodes("one", "two")
    start_all(nodes)
    member = Identity(nodes[0].env["EXO_DL_CLUSTER_SECRET"], new_node_id())
    options = [("grpc.ssl_target_name_override", NODE_SAN)]
    address = f"127.0.0.1:{nodes[0].port}"
    with grpc.secure_channel(address, member.channel_credentials(), options=options) as channel:
        stub = cluster_pb2_grpc.ClusterServiceStub(channel)
        assert stub.GetLimits(cluster_pb2.GetLimitsRequest(), timeout=5).limits.nodes
        with pytest.raises(grpc.RpcError) as caught:
            stub.Leave(cluster_pb2.LeaveRequest(), timeout=5)
    assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
    assert nodes[0].json("leave")[-1] == {"pieces_left": 0, "seconds": pytest.approx(0.0, abs=0.5)}
    assert nodes[0].process.wait(10) == 0
    wait_until(lambda: nodes[1].up_peers() == [], timeout_s=5, what="node two knows that node one left")

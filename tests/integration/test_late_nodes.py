"""Nodes that join the cluster after a pull for all nodes has ended get the model from the others, unasked."""

from __future__ import annotations

import shutil
from pathlib import Path

import grpc

from bench.cluster import Node, wait_linked, wait_until
from bench.hub import LocalHub
from bench.models import LabModel, check_copy
from bench.served import read_requests, summarize
from exo_dl.rpc.v1 import pull_pb2, pull_pb2_grpc
from tests.integration.conftest import MIB, MakeNodes, start_all


def hub_bytes(hub: LocalHub, tmp_path: Path) -> int:
    hub.settle()
    return summarize(read_requests(tmp_path / "access.log")).total_bytes


def pulls(node: Node) -> list[pull_pb2.Pull]:
    """What ``node`` shows, without the time that a command takes to start; nothing before it answers."""
    try:
        with node.channel() as channel:
            stub = pull_pb2_grpc.PullServiceStub(channel)
            return list(stub.ListPulls(pull_pb2.ListPullsRequest(), timeout=5).pulls)
    except grpc.RpcError:
        return []


def all_done(node: Node, *names: str) -> bool:
    """Whether ``node`` shows one pull, which is done, as is the part of each of ``names``."""
    shown = pulls(node)
    done = {each.name for pull in shown for each in pull.nodes if each.state == pull_pb2.NODE_PULL_STATE_DONE}
    return [pull.state for pull in shown] == [pull_pb2.PULL_STATE_DONE] and done >= set(names)


def wait_all_done(nodes: list[Node], *names: str) -> None:
    for node in nodes:
        wait_until(
            lambda node=node: all_done(node, *names),  # type: ignore[misc]
            timeout_s=30,
            what=f"{node.name} shows a pull that is done on {', '.join(names)}",
        )


def test_nodes_that_join_after_the_end_get_the_model_from_the_others(
    make_nodes: MakeNodes, model: LabModel, hub: LocalHub, tmp_path: Path
) -> None:
    # Node one is whom the others know; node two starts the pull and coordinates it.
    one, two, three, four = nodes = make_nodes("one", "two", "three", "four")
    start_all([one, two])
    two.json("pull", model.repo)
    before = hub_bytes(hub, tmp_path)
    three.start()
    wait_all_done([one, two, three], "one", "two", "three")
    check_copy(model, three.home)
    # Restarted, it knows nothing of the pull: another has to go on for it.
    two.stop()
    start_all([two])
    wait_linked(nodes[:3])
    four.start()
    wait_all_done([one, three, four], "one", "three", "four")
    check_copy(model, four.home)
    assert hub_bytes(hub, tmp_path) <= before + 2 * MIB


def test_one_that_was_restarted_is_not_given_again_what_it_had(make_nodes: MakeNodes, model: LabModel) -> None:
    """What its owner has deleted since stays deleted, also when another node goes on for the lost coordinator."""
    one, two, three, four = nodes = make_nodes("one", "two", "three", "four")
    start_all([one, two, three])
    two.json("pull", model.repo)
    three.stop()
    shutil.rmtree(three.home / "hub")
    start_all([three])
    wait_linked(nodes[:3])
    two.kill()
    four.start()
    wait_all_done([one, four], "one", "four")
    assert pulls(three) == []
    assert not (three.home / "hub").exists()

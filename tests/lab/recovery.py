"""What is measured and held while something goes wrong: what is done where, and how soon work is taken over."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from functools import partial

import grpc
import pytest

from bench.cluster import Command, CommandError, Node, wait_until
from bench.lab import Lab
from bench.models import LabModel
from bench.served import summarize
from exo_dl.rpc.v1 import pull_pb2, pull_pb2_grpc
from tests.one_view import Document, by_name

SILENCE_S = 4.0 + 0.3 + 1.0
"""When a coordinator that says nothing any more is replaced, as a command shows it: a link ends after 4 s without a
word; the next in order waits 0.3 s before it claims; a command prints once a second."""
SLACK_S = 2.0
"""For a machine that has other work."""


def done(view: Document, *names: str) -> bool:
    nodes = by_name(view)
    return all(name in nodes and nodes[name]["state"] == "done" for name in names)


def watch_on(nodes: Iterable[Node], pull_id: str) -> list[Command]:
    """Watches a pull on each node, from as soon as the node knows of it."""
    commands = []
    for node in nodes:
        wait_until(partial(knows, node, pull_id), timeout_s=10, what=f"{node.name} knows of the pull")
        commands.append(node.launch("status", pull_id, "--watch", "--json"))
    return commands


def others(lab: Lab, *names: str) -> list[Node]:
    """The lab's nodes but the named ones."""
    return [node for name, node in lab.nodes.items() if name not in names]


def all_done(lab: Lab, command: Command) -> None:
    """Waits until each node shows the pull as done everywhere, also where it had ended without a node before."""
    pull_id = command.documents()[-1]["pull_id"]
    for node in lab.nodes.values():
        wait_until(
            partial(shows_done, node, pull_id, len(lab.nodes)), timeout_s=40, what=f"{node.name} shows the pull as done"
        )
    with contextlib.suppress(CommandError):
        command.wait()


def hub_bytes(lab: Lab, model: LabModel) -> float:
    """What the hub served in all, as a multiple of the model."""
    lab.stop_hub()
    return summarize(lab.requests()).total_bytes / model.size_bytes


def failed_pull(command: Command) -> CommandError:
    """Waits for the end of a command that must fail; how it did."""
    with pytest.raises(CommandError) as caught:
        command.wait()
    return caught.value


def knows(node: Node, pull_id: str) -> bool:
    """Whether a node has heard of a pull."""
    with node.channel() as channel:
        try:
            answer = pull_pb2_grpc.PullServiceStub(channel).ListPulls(pull_pb2.ListPullsRequest(), timeout=5)
        except grpc.RpcError:
            return False
    return any(pull.pull_id == pull_id for pull in answer.pulls)


def shows_done(node: Node, pull_id: str, count: int) -> bool:
    """Whether a node shows a pull as done, on that many nodes."""
    for view in node.json("status", pull_id):
        if view.get("pull_id") == pull_id:
            return bool(view["state"] == "done" and [each["state"] for each in view["nodes"]] == ["done"] * count)
    return False


def coordinator_of(watcher: Command) -> str | None:
    """The name of the node that coordinates, as a watcher sees it now."""
    view = watcher.documents()[-1]
    return {node["id"]: node["name"] for node in view["nodes"]}.get(view["coordinator_id"])


def wait_for_other_coordinator(watcher: Command, *lost: str, timeout_s: float = 10) -> str:
    """Waits until a node that is not among ``lost`` coordinates; its name."""
    wait_until(
        lambda: coordinator_of(watcher) not in (None, *lost), timeout_s=timeout_s, what="another node coordinates"
    )
    return str(coordinator_of(watcher))


def coordinated_since(watcher: Command, *lost: str) -> float:
    """When a watcher first told that a node not among ``lost`` coordinates, `time.time`."""
    for view in watcher.documents():
        if {node["id"]: node["name"] for node in view["nodes"]}.get(view["coordinator_id"]) not in (None, *lost):
            return float(view["started_at_s"] + view["wall_s"])
    raise AssertionError(f"it told of no other coordinator than {lost}")

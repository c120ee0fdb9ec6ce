"""What is measured and held while something goes wrong: what is done where, and how soon work is taken over."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from functools import partial

import grpc

from bench.cluster import Command, Node, wait_until
from bench.lab import Lab
from exo_dl.rpc.v1 import pull_pb2, pull_pb2_grpc
from tests.one_view import Document, by_name

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


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


def takeover_s(lab: Lab, name: str, lost_at: float) -> float | None:
    """Seconds from ``lost_at`` (`time.time`) until another node asked the hub for what ``name`` was reading then.

    To be called when the hub's log is whole. None where nothing of it was left, infinite where nobody asked for it.
    """
    address = f"10.80.{[plan.name for plan in lab.net.nodes].index(name)}.2"
    rest: list[tuple[str, int]] = []
    first_asked: float | None = None
    lines = [json.loads(line) for line in lab.hub_log.read_text(encoding="utf-8").splitlines() if line]
    for line in lines:
        found = _RANGE.match(line["range"] or "")
        if found and line["client"] == address and line["time"] >= lost_at - 0.2:
            at = int(found[1]) + line["bytes"]
            if found[2] and at < int(found[2]):
                rest.append((line["path"].split("?")[0], at))
    for line in lines:
        found = _RANGE.match(line["range"] or "")
        asked = line["time"] - line["seconds"]
        if not found or line["client"] == address or asked < lost_at:
            continue
        first, end = int(found[1]), int(found[2] or 1 << 62)
        if any(line["path"].split("?")[0] == path and first <= at + (1 << 20) and at <= end for path, at in rest):
            first_asked = min(asked, first_asked or asked)
    if not rest:
        return None
    return first_asked - lost_at if first_asked is not None else math.inf

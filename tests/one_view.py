"""That all nodes show one thing of a pull: what watchers on several of them saw, compared."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from itertools import permutations
from typing import Any, Protocol

import grpc

from bench.cluster import Node, wait_until
from exo_dl.rpc.v1 import pull_pb2, pull_pb2_grpc
from exo_dl.types import Pull, as_dict, from_message

Document = dict[str, Any]

NEWS_S = 2.0
"""What a node says of itself is shown everywhere after this: it speaks twice a second; the rest is room for stalls."""


class Watcher(Protocol):
    """A command that watches, or a `Watch`."""

    def documents(self) -> list[Document]:
        """What was seen so far."""


class Watch:
    """All that one daemon tells of a pull, several times a second: commands print less."""

    def __init__(self, node: Node, pull_id: str) -> None:
        self._node = node
        self._pull_id = pull_id
        self._documents: list[Document] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        request = pull_pb2.WatchPullRequest(pull_id=self._pull_id)
        try:
            with self._node.channel() as channel:
                for answer in pull_pb2_grpc.PullServiceStub(channel).WatchPull(request):
                    self._documents.append(as_dict(from_message(Pull, answer.pull)))
        except grpc.RpcError:
            return  # the daemon has ended: the last document is of a pull that runs

    def documents(self) -> list[Document]:
        return list(self._documents)

    def wait(self) -> list[Document]:
        """Waits until the pull has ended."""
        self._thread.join(60)
        assert not self._thread.is_alive()
        assert self._documents[-1]["state"] != "running"
        return self.documents()


def by_name(view: Document) -> dict[str, Document]:
    return {node["name"]: node for node in view["nodes"]}


def check_progress(documents: Sequence[Document]) -> None:
    """Progress never goes back and never passes what is wanted, on any node and in sum."""
    best: dict[str, int] = {}
    total = 0
    for view in documents:
        assert total <= view["bytes_done"] <= view["bytes_wanted"], (total, view["bytes_done"], view["bytes_wanted"])
        total = view["bytes_done"]
        for node in view["nodes"]:
            assert best.get(node["id"], 0) <= node["bytes_done"] <= node["bytes_wanted"], node
            best[node["id"]] = node["bytes_done"]
            if node["state"] not in ("pulling", "checking"):
                assert node["hub_bytes_per_s"] == node["peer_bytes_per_s"] == 0, node
                assert not node.get("leases"), node  # a summary has none


def check_one_view(watchers: Sequence[Watcher]) -> None:
    """All watchers saw progress only, the same at about the same time, and the same end without dead nodes."""
    ends = []
    for watcher in watchers:
        documents = watcher.documents()
        check_progress(documents)
        last = documents[-1]
        rows = [
            {(node["name"], node["state"], node["bytes_done"], node["error"]) for node in last[part]}
            for part in ("nodes", "lost_nodes")
        ]
        assert all(node["state"] != "lost" for node in last["nodes"]), last
        ends.append((last["state"], last["epoch"], last["coordinator_id"], *rows))
    assert all(end == ends[0] for end in ends[1:]), ends
    compared = sum(_agree(one.documents(), other.documents()) for one, other in permutations(watchers, 2))
    assert compared > 0, "nothing was seen of the middle"


def _agree(before: Sequence[Document], after: Sequence[Document]) -> int:
    """What one watcher saw by `NEWS_S` earlier the other has seen too. Returns the number of rows compared."""
    compared = 0
    for early in before:
        for late in after:
            if late["state"] != "running" or _seen_at(late) < _seen_at(early) + NEWS_S:
                continue
            rows = by_name(late)
            for name, row in by_name(early).items():
                known = rows.get(name)
                assert known is not None, (name, early, late)
                if "lost" not in (known["state"], row["state"]):
                    compared += 1
                    assert row["bytes_done"] <= known["bytes_done"], (row, known)
                    assert row["state"] != "done" or known["state"] == "done", (row, known)
    return compared


def _seen_at(view: Document) -> float:
    return float(view["started_at_s"] + view["wall_s"])


def check_same_events(nodes: Sequence[Node], pull_id: str) -> set[str]:
    """All nodes tell the same faults of a pull that has ended; gives these, without their times."""
    told: list[set[str]] = []

    def same() -> bool:
        told[:] = [events_of(node, pull_id) for node in nodes]
        return all(each == told[0] for each in told)

    try:
        wait_until(same, timeout_s=5, what="the same events on every node")
    except TimeoutError:
        raise AssertionError(told) from None
    return told[0]


def events_of(node: Node, pull_id: str) -> set[str]:
    return {re.sub(r"^[\d.]+ s: ", "", event) for event in node.json("status", pull_id)[-1]["events"]}

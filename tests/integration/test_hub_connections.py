"""How many connections to the hub a node has is found out: more while more bring more, fewer when the hub says so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.cluster import Node, wait_until
from bench.hub import LocalHub
from exo_dl.rpc.v1 import pull_pb2, pull_pb2_grpc
from tests.integration.conftest import MIB, MakeNodes, start_all

LIMIT = 3
RATE = 8e6
"""Of each connection: pieces come often enough to compare, and the pull is too long to see its end here."""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LocalHub]:
    """A hub that caps each connection, and has a file that is large enough for trials to pay."""
    folder = tmp_path / "hub" / "lab" / "large"
    folder.mkdir(parents=True)
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(384 * MIB)
    with LocalHub(tmp_path / "hub") as hub:
        hub.fault("slow", rate=RATE)
        yield hub


class Seen:
    """What the view of the only pull, on its only node, has shown."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.connections: list[int] = []
        self.bytes_done = 0

    def look(self) -> int:
        """The connections now."""
        with self._node.channel() as channel:
            stub = pull_pb2_grpc.PullServiceStub(channel)
            pull = stub.ListPulls(pull_pb2.ListPullsRequest(), timeout=5).pulls[0]
        assert pull.state == pull_pb2.PULL_STATE_RUNNING, pull
        self.bytes_done = pull.bytes_done
        self.connections.append(pull.nodes[0].hub_connections)
        return self.connections[-1]

    def until_grown_by(self, byte_count: int) -> list[int]:
        """Looks on until so many bytes more have come; the connections meanwhile."""
        start, before = len(self.connections), self.bytes_done

        def grown() -> bool:
            self.look()
            return self.bytes_done >= before + byte_count

        wait_until(grown, timeout_s=30, what=f"{byte_count} bytes more")
        return self.connections[start:]


def test_connections_rise_while_more_bring_more_up_to_the_limit_and_fall_when_the_hub_refuses(
    make_nodes: MakeNodes, hub: LocalHub
) -> None:
    nodes = make_nodes("one", EXO_DL_MAX_HUB_CONNECTIONS=str(LIMIT))
    start_all(nodes)
    nodes[0].json("pull", "lab/large", "--no-wait")
    seen = Seen(nodes[0])
    wait_until(lambda: seen.look() == 2, timeout_s=30, what="it begins with two")
    wait_until(lambda: seen.look() > 2, timeout_s=30, what="a third one is tried")
    # As long as it took to try the third: a fourth would be tried by now.
    seen.until_grown_by(32 * MIB)
    assert max(seen.connections) == LIMIT
    hub.faults.clear()
    hub.fault("429", count=1, retry_after_s=1)
    hub.fault("slow", rate=RATE)
    wait_until(lambda: any(r["status"] == 429 for r in list(hub.records)), timeout_s=30, what="the hub refuses")
    wait_until(lambda: seen.look() < LIMIT, timeout_s=5, what="one connection fewer")
    # Twice as long as it was told to wait.
    assert max(seen.until_grown_by(28 * MIB)) < LIMIT

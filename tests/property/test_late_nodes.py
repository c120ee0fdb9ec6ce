"""Nodes that hear and answer late, for want of processor time: what their leases lose is not read twice for that."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo_dl.core.leases import (
    Cut,
    Grant,
    LeaseAction,
    LeaseAsked,
    LeaseEnded,
    LeaseEvent,
    LeaseProgressed,
    LeaseResult,
    LeaseTable,
    NodeJoined,
    Tick,
)
from exo_dl.core.pieces import mask
from exo_dl.sim.scenarios import model

MIB = 1 << 20
STEP_S = 0.01


class LateNode:
    """Reads its lease piece by piece at its rate; each message to it and from it takes ``late_s``."""

    def __init__(self, name: str, bytes_per_s: float, late_s: float) -> None:
        self.name = name
        self.bytes_per_s = bytes_per_s
        self.late_s = late_s
        self.lease: list[int] | None = None
        self.done_at = 0.0


class LateCluster:
    """A lease table and nodes with one hub connection each, on a clock of their own.

    Attributes:
        reads: how many times each piece was read.
        cuts: cuts that were sent.
    """

    def __init__(self, nodes: list[LateNode], *, size_mib: int) -> None:
        self.manifest = model(size_bytes=size_mib * MIB, files=1)
        self.table = LeaseTable(self.manifest, rng=random.Random(1), epoch=1)
        self.nodes = {node.name: node for node in nodes}
        self.reads: Counter[int] = Counter()
        self.cuts = 0
        self.now = 0.0
        self._queue: list[tuple[float, int, str, LeaseEvent | LeaseAction]] = []
        self._order = count()
        every = mask(0, self.manifest.piece_count)
        for node in nodes:
            self._handle(NodeJoined(node.name, 0, 0, every))
            self._say(node, LeaseAsked(node.name, 0, node.bytes_per_s))

    def run(self) -> None:
        while len(self.reads) < self.manifest.piece_count:
            self.now += STEP_S
            assert self.now < 1000, "the pull does not end"
            while self._queue and self._queue[0][0] <= self.now:
                _, _, name, message = heapq.heappop(self._queue)
                if isinstance(message, Grant | Cut):
                    self._heard(self.nodes[name], message)
                else:
                    self._handle(message)  # type: ignore[arg-type]
            for node in self.nodes.values():
                self._read(node)
            deadline = self.table.next_deadline()
            if deadline is not None and deadline <= self.now:
                self._handle(Tick())

    def _handle(self, event: LeaseEvent) -> None:
        for action in self.table.handle(event, self.now):
            if isinstance(action, Grant | Cut):
                self.cuts += isinstance(action, Cut)
                node = self.nodes[action.node]
                heapq.heappush(self._queue, (self.now + node.late_s, next(self._order), node.name, action))

    def _say(self, node: LateNode, event: LeaseEvent) -> None:
        heapq.heappush(self._queue, (self.now + node.late_s, next(self._order), node.name, event))

    def _heard(self, node: LateNode, message: Grant | Cut) -> None:
        if isinstance(message, Grant):
            assert node.lease is None
            node.lease = [message.lease_id, message.first, message.end]
            self._next_piece(node)
        elif node.lease is not None and node.lease[0] == message.lease_id:
            node.lease[2] = min(node.lease[2], max(message.end, node.lease[1]))
            self._tell(node)

    def _next_piece(self, node: LateNode) -> None:
        if node.lease is not None and node.lease[1] < node.lease[2]:
            node.done_at = self.now + self.manifest.piece_bytes(node.lease[1]) / node.bytes_per_s

    def _read(self, node: LateNode) -> None:
        if node.lease is None:
            return
        lease_id, position, end = node.lease
        if position < end and self.now >= node.done_at:
            self.reads[position] += 1
            node.lease[1] = position + 1
            self._next_piece(node)
            self._tell(node)
        if node.lease[1] >= end:
            node.lease = None
            self._say(node, LeaseEnded(node.name, lease_id, max(position, min(end, position + 1)), LeaseResult.DONE))
            self._say(node, LeaseAsked(node.name, 0, node.bytes_per_s))

    def _tell(self, node: LateNode) -> None:
        if node.lease is not None:
            lease_id, position, end = node.lease
            self._say(node, LeaseProgressed(node.name, lease_id, position, node.bytes_per_s, end))


@given(
    rates=st.lists(st.floats(2e6, 20e6), min_size=2, max_size=5),
    late_s=st.lists(st.sampled_from([0.0, 0.02, 0.3, 1.0]), min_size=5, max_size=5),
    size_mib=st.integers(50, 300),
)
def test_late_nodes_read_next_to_nothing_twice(rates: list[float], late_s: list[float], size_mib: int) -> None:
    cluster = LateCluster(
        [LateNode(f"n{i}", rate, late) for i, (rate, late) in enumerate(zip(rates, late_s, strict=False))],
        size_mib=size_mib,
    )
    cluster.run()
    twice = sum(times - 1 for times in cluster.reads.values())
    assert twice <= max(1, size_mib // 100)


@pytest.mark.parametrize("late_s", [0.0, 0.3])
def test_a_cut_alone_costs_no_piece(late_s: float) -> None:
    """One node is a seventh as fast as it said: others take its tail, however late it hears of that."""
    nodes = [LateNode("slow", 5e6, late_s), LateNode("a", 10e6, 0.0), LateNode("b", 10e6, 0.0)]
    cluster = LateCluster(nodes, size_mib=200)
    nodes[0].bytes_per_s = 0.7e6
    cluster.run()
    assert cluster.cuts
    assert set(cluster.reads.values()) == {1}

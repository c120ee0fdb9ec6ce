"""Any order of events leaves the lease table whole: pieces are leased once, none is forgotten, every ask can be met."""

from __future__ import annotations

import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from exo_dl.core.leases import (
    Cut,
    Grant,
    HeldLease,
    LeaseAction,
    LeaseAsked,
    LeaseEnded,
    LeaseEvent,
    LeaseProgressed,
    LeaseResult,
    LeaseTable,
    NodeJoined,
    NodeLost,
    QueryHave,
    Tick,
)
from exo_dl.core.pieces import mask
from exo_dl.sim.scenarios import model

NODES = ("a", "b", "c", "d")


class NodeModel:
    """What a real node would do with what it is told."""

    def __init__(self) -> None:
        self.have = 0
        self.want = 0
        self.leases: dict[int, list[int]] = {}
        self.slots: dict[int, int] = {}

    def held(self) -> tuple[HeldLease, ...]:
        return tuple(HeldLease(i, first, end, position) for i, (first, end, position, _) in self.leases.items())


class LeaseTableMachine(RuleBasedStateMachine):
    """Drives a table as four nodes would, well-behaved and late."""

    @initialize(small=st.integers(0, 12), size=st.integers(1, 40), files=st.integers(1, 3), epoch=st.integers(0, 3))
    def begin(self, small: int, size: int, files: int, epoch: int) -> None:
        self.manifest = model(size_bytes=size << 20, files=files, small_files=small)
        self.every = mask(0, self.manifest.piece_count)
        self.epoch = epoch
        self.table = LeaseTable(self.manifest, rng=random.Random(1), epoch=epoch)
        self.nodes: dict[str, NodeModel] = {}
        self.now = 0.0
        self.seen: set[int] = set()
        self.asked: set[tuple[str, int]] = set()

    def send(self, event: LeaseEvent) -> None:
        self.apply(self.table.handle(event, self.now))

    def apply(self, actions: list[LeaseAction]) -> None:
        for action in actions:
            match action:
                case Grant(name, slot, lease_id, first, end):
                    assert (name, slot) in self.asked, "granted without an ask"
                    self.asked.discard((name, slot))
                    assert lease_id not in self.seen
                    self.seen.add(lease_id)
                    assert 0 <= first < end <= self.manifest.piece_count
                    node = self.nodes[name]
                    node.leases[lease_id] = [first, end, first, slot]
                    node.slots[slot] = lease_id
                case Cut(name, lease_id, end):
                    lease = self.nodes[name].leases.get(lease_id) if name in self.nodes else None
                    if lease is not None:
                        lease[1] = min(lease[1], max(end, lease[2]))
                case QueryHave(names):
                    for name in names:
                        assert name in self.nodes

    def join_event(self, name: str, checking: int = 0) -> NodeJoined:
        node = self.nodes[name]
        return NodeJoined(name, node.have, checking, node.want, node.held(), 0.0)

    @rule(name=st.sampled_from(NODES), have=st.integers(0), want=st.integers(0), checking=st.integers(0))
    def join(self, name: str, have: int, want: int, checking: int) -> None:
        if name not in self.nodes:
            self.nodes[name] = NodeModel()
            self.nodes[name].have = have & self.every
            self.nodes[name].want = want & self.every if want % 3 else self.every
        self.send(self.join_event(name, checking if checking % 2 else 0))

    @precondition(lambda self: self.nodes)
    @rule(data=st.data(), ahead=st.integers(-2, 2), first=st.integers(0, 100), length=st.integers(1, 20))
    def tell_of_another_coordinator(self, data: st.DataObject, ahead: int, first: int, length: int) -> None:
        """A node reads what a coordinator of the same epoch gave it, which counted its leases from the same number."""
        name = data.draw(st.sampled_from(sorted(self.nodes)))
        lease_id = (self.epoch << 32) + max(1, len(self.seen) + ahead)
        first = min(first, self.manifest.piece_count - 1)
        end = min(first + length, self.manifest.piece_count)
        if all(lease_id not in node.leases for node in self.nodes.values()):
            self.nodes[name].leases[lease_id] = [first, end, first, -1]
        self.send(self.join_event(name))

    @precondition(lambda self: self.nodes)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.nodes)))
        del self.nodes[name]
        self.asked = {k for k in self.asked if k[0] != name}
        self.send(NodeLost(name))

    @precondition(lambda self: self.nodes)
    @rule(data=st.data(), slot=st.integers(0, 2), rate=st.sampled_from([0.0, 1e5, 3e6, 5e7]))
    def ask(self, data: st.DataObject, slot: int, rate: float) -> None:
        name = data.draw(st.sampled_from(sorted(self.nodes)))
        if slot not in self.nodes[name].slots:
            self.asked.add((name, slot))
            self.send(LeaseAsked(name, slot, rate))

    def all_leases(self) -> list[tuple[str, int]]:
        return [(name, i) for name, node in sorted(self.nodes.items()) for i in node.leases]

    @precondition(lambda self: self.all_leases())
    @rule(data=st.data(), by=st.integers(1, 8), rate=st.sampled_from([0.0, 1e5, 3e6, 5e7]))
    def progress(self, data: st.DataObject, by: int, rate: float) -> None:
        name, lease_id = data.draw(st.sampled_from(self.all_leases()))
        lease = self.nodes[name].leases[lease_id]
        position = min(lease[1], lease[2] + by)
        self.nodes[name].have |= mask(lease[2], position)
        lease[2] = position
        self.send(LeaseProgressed(name, lease_id, position, rate))

    @precondition(lambda self: self.all_leases())
    @rule(data=st.data(), result=st.sampled_from(LeaseResult), finish=st.booleans())
    def end(self, data: st.DataObject, result: LeaseResult, finish: bool) -> None:
        name, lease_id = data.draw(st.sampled_from(self.all_leases()))
        self.end_lease(name, lease_id, result, finish=finish)

    def end_lease(self, name: str, lease_id: int, result: LeaseResult, *, finish: bool) -> None:
        node = self.nodes[name]
        lease = node.leases.pop(lease_id)
        if node.slots.get(lease[3]) == lease_id:
            del node.slots[lease[3]]
        position = lease[1] if finish else lease[2]
        node.have |= mask(lease[2], position)
        self.send(LeaseEnded(name, lease_id, position, result, 0.5))

    @rule(name=st.sampled_from((*NODES, "stranger")), lease_id=st.integers(0, 1 << 34), at=st.integers(0, 100))
    def nonsense(self, name: str, lease_id: int, at: int) -> None:
        if lease_id in self.seen:
            return
        self.send(LeaseProgressed(name, lease_id, at, 1e6))
        self.send(LeaseEnded(name, lease_id, at, LeaseResult.RETURNED, 0.0))
        self.send(NodeLost("stranger"))

    @rule(seconds=st.sampled_from([0.0, 0.1, 0.5, 4.0, 70.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.send(Tick())

    @invariant()
    def leased_once(self) -> None:
        if not hasattr(self, "table"):
            return
        seen = 0
        for lease in self.table.leases():
            assert lease.first <= lease.position <= lease.end
            assert lease.node in self.nodes, "a lease of a lost node"
            rest = mask(lease.position, lease.end)
            if not lease.duplicate:
                assert not rest & seen, "leased twice"
                seen |= rest

    def teardown(self) -> None:
        """Whatever happened: one node that can read from the hub now ends it."""
        if not hasattr(self, "table"):
            return
        if "z" not in self.nodes:
            self.nodes["z"] = NodeModel()
        self.nodes["z"].want = self.every
        for name in list(self.nodes):
            if name != "z":
                self.nodes.pop(name)
                self.asked = {k for k in self.asked if k[0] != name}
                self.send(NodeLost(name))
        self.send(self.join_event("z"))
        for _ in range(400):
            self.now += 1.0
            for lease_id in list(self.nodes["z"].leases):
                self.end_lease("z", lease_id, LeaseResult.DONE, finish=True)
            if self.nodes["z"].have & self.every == self.every:
                break
            if 0 not in self.nodes["z"].slots:
                self.asked.add(("z", 0))
                self.send(LeaseAsked("z", 0, 1e6))
            self.send(Tick())
        assert self.nodes["z"].have & self.every == self.every, "pieces that nobody is given"
        assert self.table.outstanding_bytes == 0


TestLeaseTable = LeaseTableMachine.TestCase
TestLeaseTable.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)

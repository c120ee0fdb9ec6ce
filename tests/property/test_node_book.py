"""What a coordinator knows of its nodes together is what it knows of each, after any order of joining and leaving."""

from __future__ import annotations

from functools import reduce
from operator import or_

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from exo_dl.core.lease_nodes import NodeBook
from exo_dl.core.lease_types import NodeJoined
from exo_dl.core.pieces import mask

NAMES = st.sampled_from("abcd")
SETS = st.integers(min_value=0, max_value=mask(0, 12))
EVERY = mask(0, 10)


class NodeBookMachine(RuleBasedStateMachine):
    """Next to the book a plain model: have, checking and want of each node."""

    def __init__(self) -> None:
        super().__init__()
        self.book = NodeBook(None)
        self.nodes: dict[str, tuple[int, int, int]] = {}
        self.now = 0.0

    @rule(name=NAMES, have=SETS, checking=SETS, want=SETS, rate=st.sampled_from((0.0, 5e6)))
    def join(self, name: str, have: int, checking: int, want: int, rate: float) -> None:
        """A node comes, or tells anew what it has: the last word counts."""
        self.now += 1
        known = self.book.joined(NodeJoined(name, have, checking, want, (), rate), EVERY, self.now)
        assert known is (name in self.nodes)
        self.nodes[name] = have & EVERY, checking & EVERY & ~have, want & EVERY

    @precondition(lambda self: self.nodes)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        """A node goes: what it alone held is told."""
        name = data.draw(st.sampled_from(sorted(self.nodes)))
        have = self.nodes.pop(name)[0]
        assert self.book.lost(name) == have & ~self.united(0)

    @precondition(lambda self: self.nodes)
    @rule(data=st.data(), pieces=SETS)
    def add(self, data: st.DataObject, pieces: int) -> None:
        """A node has read something."""
        name = data.draw(st.sampled_from(sorted(self.nodes)))
        self.book.add(name, pieces & EVERY)
        have, checking, want = self.nodes[name]
        self.nodes[name] = have | pieces & EVERY, checking, want

    def united(self, which: int) -> int:
        """The model's union of one of the three."""
        return reduce(or_, (node[which] for node in self.nodes.values()), 0)

    @rule()
    def look(self) -> None:
        """The three unions, looked at now and then: they are made anew only when somebody does."""
        assert self.book.held == self.united(0)
        assert self.book.checking == self.united(1)
        assert self.book.needed == self.united(2)

    def teardown(self) -> None:
        """The last look."""
        self.look()


TestNodeBook = NodeBookMachine.TestCase

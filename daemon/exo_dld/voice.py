"""What one node says in one pull: what it holds, how far it is, and, to the coordinator, what it reads from the hub."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from exo_dl.core import swarm as core
from exo_dl.core.announcing import Announcing
from exo_dl.core.neighbours import Neighbourhood
from exo_dl.core.succession import Claim
from exo_dl.core.telling import PROGRESS_S, Telling
from exo_dl.net import wire
from exo_dl.rpc.v1 import swarm_pb2 as pb
from exo_dld import messages
from exo_dld.messages import PullSpec
from exo_dld.nodestate import NodeState
from exo_dld.worker import Worker

__all__ = ["Voice"]

# Rates fall also when nothing arrives: told at least this often.
_IDLE_S = 1.0
_MAP_EVERY_S = 0.4

Send = Callable[[str, pb.LinkMessage], object]


class Voice:
    """The words of this node's worker.

    Args:
        spec: the pull.
        worker: whose words they are.
        me: this node's id.
        claim: who coordinates now.
        send: puts a message on the way to a node, this one included.
        participants: linked nodes that take part.
        everyone: all linked nodes: any of them may show the pull.
        progressed: this node's own progress, for its own view.
    """

    def __init__(
        self,
        spec: PullSpec,
        worker: Worker,
        *,
        me: str,
        claim: Callable[[], Claim],
        send: Send,
        participants: Callable[[], Collection[str]],
        everyone: Callable[[], Collection[str]],
        progressed: Callable[[pb.NodeProgress], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._spec = spec
        self._worker = worker
        self._claim = claim
        self._send = send
        self._participants = participants
        self._everyone = everyone
        self._progressed = progressed
        self._timer: asyncio.TimerHandle | None = None
        self._last_state: NodeState | None = None
        self._telling = Telling()
        self._last_word: pb.LinkMessage | None = None
        self._newcomers: set[str] = set()
        self._near = Neighbourhood(spec.pull_id, me)
        self._told: set[str] = set()
        self._asked: dict[str, float] = {}
        self._askers: dict[str, asyncio.TimerHandle] = {}
        self._announcing = Announcing(worker.swarm)
        self._neighbourhood = Neighbourhood(spec.pull_id, me, alike=spec.placement is None)
        self._places = self._neighbourhood.places
        self._later_timer: asyncio.TimerHandle | None = None
        self._closed = False

    def close(self) -> None:
        """Says nothing more."""
        self._closed = True
        for timer in (self._timer, self._later_timer, *self._askers.values()):
            if timer is not None:
                timer.cancel()

    def join(self) -> None:
        """Tells the coordinator what this node holds and works on, and asks it for leases."""
        if self._closed:
            return
        claim = self._claim()
        self._send(claim.node, messages.join_message(self._spec, claim, self._worker))
        self._worker.feed(core.CoordinatorReady())  # asks for nothing where this node has failed

    def lease(self, action: core.AskLease | core.ReportLease | core.EndLease) -> None:
        """One of the swarm's words to the coordinator."""
        claim = self._claim()
        self._send(claim.node, messages.lease_message(self._spec.pull_id, claim.epoch, action))

    def announce(self, pieces: int) -> None:
        """Newly verified pieces: told at once to all neighbours, or gathered for those that lack them."""
        if (word := self._announcing.gained(pieces, self._listeners(), self._loop.time())) is not None:
            self._tell(word.pieces, word.nodes)
        due = self._announcing.due
        if self._later_timer is not None and due is not None and due < self._later_timer.when():
            self._later_timer.cancel()
            self._later_timer = None
        if self._later_timer is None and due is not None:
            self._later_timer = self._loop.call_at(due, self._tell_later)

    def _tell_later(self) -> None:
        if self._later_timer is not None:
            self._later_timer.cancel()
            self._later_timer = None
        for word in self._announcing.gathered(self._listeners()):
            self._tell(word.pieces, word.nodes)
        if self._timer is not None and self._timer.when() - self._loop.time() < PROGRESS_S / 2:
            self.progress()  # it goes along, as one message

    def _listeners(self) -> Collection[str]:
        """The neighbours, each of which has been told what this node holds."""
        nodes = self._neighbourhood.among(self._participants())
        if self._neighbourhood.places is not self._places:
            self._places = self._neighbourhood.places
            self._worker.feed(core.SharesDealt(self._places))
        for node in nodes:
            if node not in self._told:
                self.tell_map(node)
        return nodes

    def begin(self) -> None:
        """This node has opened its store, and takes part from now on."""
        self.tell_neighbours()
        if self._spec.generation > 1:
            self.ask_maps()  # peers may have told theirs to the pull that this one follows

    def tell_neighbours(self) -> None:
        """Everything that this node holds, to those neighbours that were not told yet."""
        self._listeners()

    def _tell(self, pieces: int, nodes: Collection[str]) -> None:
        readings = self._worker.readings.to_pb()
        for runs in wire.have_runs(pieces, self._worker.store.digest):
            message = pb.LinkMessage(have=pb.Have(pull_id=self._spec.pull_id, runs=runs, readings=readings))
            for node in nodes:
                self._send(node, message)

    def tell_map(self, node: str, *, again: bool = False) -> None:
        """Everything that this node holds: once when a link comes up, once (``again``) when the peer tells its own."""
        if node in self._told and not again:
            return
        self._told.add(node)
        for message in messages.map_messages(self._spec, self._worker):
            self._send(node, message)

    def ask_maps(self) -> None:
        """Asks all neighbours to tell again what they hold."""
        message = pb.LinkMessage(have_query=pb.HaveQuery(pull_id=self._spec.pull_id))
        for node in self._listeners():
            self._send(node, message)

    def suspect(self, blob: int, reading: int) -> None:
        """Tells all that take part that this reading of a blob is wrong."""
        body = pb.Suspect(pull_id=self._spec.pull_id, reading=pb.BlobReading(blob=blob, reading=reading))
        for node in self._participants():
            self._send(node, pb.LinkMessage(suspect=body))

    def asked_for_map(self, node: str) -> None:
        """A peer wants to hear again what this node holds: told now and then only, as a map can be large.

        One that asks again too soon is told later: it has dropped what it was told before.
        """
        at = self._asked.get(node, float("-inf")) + _MAP_EVERY_S
        if self._loop.time() >= at:
            self._tell_again(node)
        elif node not in self._askers and not self._closed:
            self._askers[node] = self._loop.call_at(at, self._tell_again, node)

    def _tell_again(self, node: str) -> None:
        self._askers.pop(node, None)
        self._asked[node] = self._loop.time()
        self.tell_map(node, again=True)

    def forget(self, node: str) -> None:
        """The link to ``node`` is gone: it is told everything again when it is back."""
        self._told.discard(node)
        self._newcomers.discard(node)
        self._asked.pop(node, None)
        if (timer := self._askers.pop(node, None)) is not None:
            timer.cancel()

    def met(self, node: str) -> None:
        """A link to ``node`` stands: a neighbour is told what this node holds, all what all others heard last."""
        self._newcomers.add(node)
        self.tell_neighbours()

    def changed(self) -> None:
        """Something of this node changed: tells the others soon, or at once when its state did.

        That it publishes is no hurry: most often it is through with that in a moment.
        """
        state = self._worker.state
        if state is not self._last_state and state is not NodeState.PUBLISHING:
            self.progress()
        elif self._timer is None and not self._closed:
            self._timer = self._loop.call_later(PROGRESS_S, self.progress)

    def progress(self) -> None:
        """Tells how far this one is, now: all nodes, or where these are many and heard lately its neighbours."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._closed:
            return
        if self._later_timer is not None and self._later_timer.when() - self._loop.time() < PROGRESS_S:
            self._tell_later()  # it goes along, as one message
        changed, self._last_state = self._worker.state is not self._last_state, self._worker.state
        everyone, now = self._everyone(), self._loop.time()
        if self._telling.to_all(len(everyone), now, at_once=changed):
            self._tell_all(everyone)
            again_s = _IDLE_S if self._worker.state is NodeState.PULLING else None
        else:
            self._tell_near()
            again_s = _IDLE_S if self._worker.state is NodeState.PULLING else self._telling.next_at - now
        if again_s is not None:
            self._timer = self._loop.call_later(again_s, self.progress)

    def _tell_all(self, everyone: Collection[str]) -> None:
        self._newcomers.clear()
        self._last_word = message = messages.progress_message(self._spec, self._worker)
        for node in everyone:
            self._send(node, message)
        self._progressed(message.node_progress)

    def _tell_near(self) -> None:
        """What all show is what all were told, at one moment: newcomers are told that as well, and nothing newer."""
        newcomers, self._newcomers = self._newcomers, set()
        if (word := self._last_word) is not None:
            for node in newcomers:
                self._send(node, word)
        message = messages.progress_message(self._spec, self._worker, brief=True)
        for node in self._near.among(self._participants()):
            self._send(node, message)

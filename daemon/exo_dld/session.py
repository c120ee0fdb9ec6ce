"""One pull as one node lives it: its own work, the coordinator's chair when it is this node's turn, and the view.

All nodes run the same code. Which of them coordinates is said by a claim (epoch, node); the better claim wins wherever
two meet. What is lost with a coordinator is only its table, and that is made anew from the nodes' own have maps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import replace

from exo_dl.core.succession import Claim
from exo_dl.errors import CancelledPullError, ProtocolError, StorageError
from exo_dl.rpc.v1 import swarm_pb2 as pb
from exo_dld import messages
from exo_dld.chair import Chair
from exo_dld.cluster import Cluster
from exo_dld.coordinator import Coordinator
from exo_dld.ears import Ears
from exo_dld.hearing import objection
from exo_dld.messages import PullSpec
from exo_dld.nodestate import NodeState, State
from exo_dld.ports import Ports
from exo_dld.view import LOST_GRACE_S, NodeView, PullView
from exo_dld.voice import Voice
from exo_dld.worker import Worker

__all__ = ["Session"]

_LATE_S = 0.05


class Session:
    """One pull on this node.

    Args:
        spec: the pull.
        claim: who coordinates it.
        age_s: seconds since it was started somewhere.
        cluster: the other nodes.
        make_worker: makes this node's worker; called only where this node is a target.
        on_change: called on the loop after anything in the view changed.
    """

    def __init__(
        self,
        spec: PullSpec,
        *,
        claim: Claim,
        age_s: float,
        cluster: Cluster,
        make_worker: Callable[[PullSpec, Ports], Worker],
        on_change: Callable[[Session], None],
    ) -> None:
        self.spec = spec
        self._cluster = cluster
        self._me = cluster.node_id
        self._loop = asyncio.get_running_loop()
        self._on_change = on_change
        self._chair = Chair(
            pull_id=spec.pull_id,
            me=self._me,
            claim=claim,
            make=self._make_coordinator,
            alive=self._heirs,
            after=self._after,
            taken=self._chair_taken,
        )
        self._timers: set[asyncio.TimerHandle] = set()
        self._closed = False
        self.view = PullView.of(spec, started=self._loop.time() - age_s)
        for node in spec.targets or {self._me, *cluster.up()}:
            self._add_node(node)
        self._ports = Ports(
            to_coordinator=lambda action: self._say(lambda voice: voice.lease(action)),
            rejoin=self._join,
            ask_maps=self.ask_maps,
            suspect=lambda blob, reading: self._say(lambda voice: voice.suspect(blob, reading)),
            announce=lambda pieces: self._say(lambda voice: voice.announce(pieces)),
            peer_address=cluster.address_of,
            signer=cluster.signer_for,
            changed=self._changed,
            fault=self._fault,
            banned=self._banned,
            participants=self._participants,
            name=cluster.name_of(self._me),
            dropped=cluster.dropped,
        )
        self._make_worker = make_worker
        self.worker: Worker | None = None
        self._voice: Voice | None = None
        self._ears: Ears | None = None

    # -- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Takes the chair where it is this node's, tells the others, and opens the store."""
        self._chair.sit()
        if self._chair.mine:
            self.offer_to(self._cluster.up())
        await self._take_part()

    async def _take_part(self) -> None:
        """Begins this node's own part, where it is a target and has not begun yet."""
        if self.worker is not None or not self.spec.wants(self._me):
            return
        self.worker = self._make_worker(self.spec, self._ports)
        self._voice = Voice(
            self.spec,
            self.worker,
            me=self._me,
            claim=lambda: self._chair.claim,
            send=self._send,
            participants=self._participants,
            everyone=self._cluster.up,
            progressed=self._progressed,
        )
        self._ears = Ears(self.spec.manifest, self.worker, self._voice, cluster=self._cluster, fault=self._fault)
        await self.worker.open()
        self._join()
        self._voice.begin()
        self._changed()

    async def close(self, *, keep: bool = True) -> None:
        """Ends everything of this pull on this node. With ``keep`` verified pieces stay on disk."""
        self._closed = True
        self._chair.leave()
        if self._voice is not None:
            self._voice.close()
        for timer in self._timers:
            timer.cancel()
        if self.worker is not None:
            await self.worker.close(keep=keep)

    @property
    def running(self) -> bool:
        """Whether the pull has not ended."""
        return self.view.state is State.RUNNING

    @property
    def me(self) -> str:
        """This node's id."""
        return self._me

    @property
    def claim(self) -> Claim:
        """Who coordinates."""
        return self._chair.claim

    # -- who takes part -----------------------------------------------------------------------------------------------

    def _add_node(self, node: str) -> NodeView:
        return self.view.add(node, self._cluster.name_of(node), expected=len(self.spec.targets))

    def _participants(self) -> list[str]:
        return [n for n in self._cluster.up() if self.spec.wants(n)]

    def _heirs(self) -> set[str]:
        """Who may coordinate."""
        nodes = {self._me, *self._participants()}
        return nodes if self.running else self.view.holders(nodes)

    def offer_to(self, nodes: Collection[str]) -> None:
        """Tells ``nodes`` of the pull; those that are no targets are left out."""
        message = messages.offer_message(self.spec, self._chair.claim, self._loop.time() - self.view.started)
        for node in nodes:
            if self.spec.wants(node):
                self._cluster.send(node, message)

    async def widen(self, targets: frozenset[str]) -> None:
        """The same pull was asked for with these targets too (empty: every node): those that are new are told of it."""
        if targets == self.spec.targets or not self.spec.targets or (targets and targets <= self.spec.targets):
            return
        self.spec = replace(self.spec, targets=self.spec.targets | targets if targets else frozenset())
        for node in self._participants():
            self._add_node(node)
        if self._chair.mine:
            self.offer_to(self._cluster.up())
        await self._take_part()

    def node_up(self, node: str) -> None:
        """A link to ``node`` stands, again or for the first time."""
        if not self.spec.wants(node):
            if self.spec.placement is not None and self.running:
                self._fault(f"{self._cluster.name_of(node)} has no part in this placement: it gets one by --replan.")
            return
        has_it = self.worker is not None and self.worker.state is NodeState.DONE
        if not self.running and not (has_it and self.view.is_late(node)):
            return
        view = self._add_node(node)
        if self.view.find(node):
            self._note(f"The link to {view.name} stands again.")
        if self._chair.mine:
            self.offer_to([node])
        if self._chair.claim.node == node:
            self._join()
        self._say(lambda voice: voice.met(node))
        self._changed()

    def node_down(self, node: str, *, left: bool = False) -> None:
        """The link to ``node`` is gone; ``left``: it said goodbye."""
        self._say(lambda voice: voice.forget(node))
        if self._ears is not None:
            self._ears.forget(node)
        if left and not self.spec.targets and self.running:
            self.view.leave(node, self._loop.time())
            self._after(0.0, self._check_end)
        if self.view.lose(node, self._loop.time()):
            # All nodes see this by themselves: told to nobody.
            self._note(f"The link to {self._cluster.name_of(node)} was lost; its share goes to the others.")
            self._after(LOST_GRACE_S + _LATE_S, self._check_end)
        if self.view.state in (State.RUNNING, State.DONE):
            self._chair.node_lost(node)
            if self._chair.mine:
                self._fault(self.view.unread(node))
        self._changed()

    # -- the chair ----------------------------------------------------------------------------------------------------

    def _make_coordinator(self, epoch: int) -> Coordinator:
        return Coordinator(
            pull_id=self.spec.pull_id,
            manifest=self.spec.manifest,
            epoch=epoch,
            expected=[n for n in (self._me, *self._cluster.up()) if self.spec.wants(n)],
            want_of=self.spec.pieces_of,
            send=self._send,
            on_fault=self._fault,
            on_hopeless=lambda why: self.finish(State.FAILED, why),
        )

    def _chair_taken(self, lost: str) -> None:
        if self.running:
            name = self._cluster.name_of
            self._fault(f"{name(lost)} coordinated and was lost: {name(self._me)} goes on.")
            self._fault(self.view.unread(lost))
        up = set(self._cluster.up())
        # After the end those that were restarted have the model on their disks, and know nothing of the pull any more.
        self.offer_to(up if self.running else self.view.holders(up) | {n for n in up if self.view.is_late(n)})
        self._join()
        self._check_end()
        self._changed()

    def consider(self, claim: Claim) -> None:
        """Another claim to coordinate was heard of: the better one holds."""
        if self._chair.consider(claim):
            self._join()
            self._changed()

    # -- messages -----------------------------------------------------------------------------------------------------

    def _send(self, node: str, message: pb.LinkMessage) -> None:
        if node == self._me:
            self._loop.call_soon(self.on_message, self._me, message)
        else:
            self._cluster.send(node, message)

    def on_message(self, node: str, message: pb.LinkMessage) -> None:
        """Takes a message about this pull.

        Raises:
            ProtocolError: the message breaks the protocol.
        """
        if self._closed:
            return
        why_not = objection(
            node, message, wants=self.spec.wants(node), banned=self._is_banned(node),
            me=self._me, claim=self._chair.claim, generation=self.spec.generation,
        )  # fmt: skip
        if why_not is not None:
            if node != self._me:
                self._cluster.dropped(node, why_not)
            return
        match message.WhichOneof("body"):
            case "pull_join" | "lease_ask" | "lease_progress" | "lease_end":
                self._chair.on_message(node, message)
            case "have_map" | "have" | "suspect" | "have_query" | "lease_grant" | "lease_cut":
                if self._ears is not None:
                    self._ears.hear(node, message)
            case "node_progress":
                self._on_progress(node, message.node_progress)
            case "pull_note":
                self._note(message.pull_note.text)
            case "pull_end":
                self.finish(State(message.pull_end.state), message.pull_end.reason[:1000], tell=False)
            case kind:
                raise ProtocolError(f"Unexpected message {kind} for pull {self.spec.pull_id}.")

    def _is_banned(self, node: str) -> bool:
        return self.worker is not None and self.worker.testimony.is_banned(node)

    def _banned(self, node: str) -> None:
        self._fault(f"{self._cluster.name_of(node)} sent wrong bytes again and again: it is not asked any more.")
        self._chair.expel(node)

    def _on_progress(self, node: str, word: pb.NodeProgress) -> None:
        if self._ears is not None and node != self._me:
            self._ears.progress(node, word)
        if word.brief:
            return
        view = self._add_node(node)
        view.update(word, messages.leases_told(word, self.spec.manifest))
        self._check_end()
        if self.view.heal():
            self._note(f"{view.name} came back: all nodes have the model.")
        if not self.running and self._chair.mine and node != self._me and view.state.ended:
            # A late node is through: nothing else would tell it that the pull has ended.
            self._cluster.send(node, messages.end_message(self.spec, self.view.state, self.view.error))
        self._on_change(self)

    # -- what this node says ------------------------------------------------------------------------------------------

    def _join(self) -> None:
        self._say(lambda voice: voice.join())

    def _say(self, word: Callable[[Voice], None]) -> None:
        if self._voice is not None:
            word(self._voice)

    def ask_maps(self) -> None:
        """Asks all peers of the pull to tell again what they hold."""
        self._say(lambda voice: voice.ask_maps())

    def _changed(self) -> None:
        if self._voice is not None:
            self._voice.changed()
        else:
            self._on_change(self)

    def _progressed(self, word: pb.NodeProgress) -> None:
        if self.worker is not None and self.worker.path is not None:
            self.view.path = str(self.worker.path)
        self._on_progress(self._me, word)

    def _note(self, text: str) -> bool:
        if not text or not self.view.note(text, self._loop.time()):
            return False
        self._on_change(self)
        return True

    def _fault(self, text: str) -> None:
        """Something went wrong here and was dealt with: all nodes show it."""
        if self._note(text):
            message = messages.note_message(self.spec, text)
            for node in self._cluster.up():
                self._cluster.send(node, message)

    # -- the end ------------------------------------------------------------------------------------------------------

    def _after(self, delay_s: float, call: Callable[[], None]) -> None:
        def run() -> None:
            self._timers.discard(handle)
            if not self._closed:
                call()

        handle = self._loop.call_later(delay_s, run)
        self._timers.add(handle)

    def _check_end(self) -> None:
        """The coordinator says when a pull has ended, so that all nodes see the same end."""
        if not self._chair.mine or not self.running or self._closed:
            return
        outcome = self.view.outcome(self._loop.time())
        if outcome is not None:
            self._fault(self.view.farewell())
            self.finish(outcome, "" if outcome is State.DONE else self.view.summary())
        elif waiting := self.view.waits_for():
            self._fault(f"All others are through: waiting up to {LOST_GRACE_S:.0f} s for {', '.join(waiting)}.")

    def finish(self, state: State, reason: str, *, tell: bool = True) -> None:
        """Ends the pull on this node and, with ``tell``, on the others."""
        if not self.running:
            return
        if tell:
            message = messages.end_message(self.spec, state, reason)
            for node in self._cluster.up():
                self._cluster.send(node, message)
        if (worker := self.worker) is not None:
            if not worker.state.ended:
                if state is State.CANCELLED:
                    worker.stop(NodeState.CANCELLED, CancelledPullError("The pull was cancelled."))
                elif state is State.FAILED:
                    worker.stop(NodeState.FAILED, StorageError(reason) if not reason else None)
                self._changed()
            worker.pull_ended(done=state is State.DONE)
        self.view.end(state, reason, self._loop.time())
        self._on_change(self)

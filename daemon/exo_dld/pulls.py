"""All pulls of this node: starts them, takes offers, and hands messages and changes of membership to their sessions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from weakref import WeakSet, WeakValueDictionary

from exo_dl.core.manifest import pull_id_for
from exo_dl.core.succession import Claim
from exo_dl.errors import AccessError, ExoDlError, NotFoundError, ProtocolError, UsageError
from exo_dl.hubs.base import Hub
from exo_dl.net import wire
from exo_dl.net.tickets import TicketSigner
from exo_dl.rpc.v1 import pull_pb2
from exo_dl.rpc.v1 import swarm_pb2 as pb
from exo_dld import messages
from exo_dld.cluster import Cluster
from exo_dld.dropped import Reason
from exo_dld.ended import EndedPulls
from exo_dld.hubcheck import Vouched
from exo_dld.intake import Intake
from exo_dld.membership import Membership
from exo_dld.messages import PullSpec
from exo_dld.nodestate import State
from exo_dld.planner import Planner
from exo_dld.ports import Ports
from exo_dld.session import Session
from exo_dld.targets import OfferRules
from exo_dld.worker import Worker

__all__ = ["Pulls"]

_log = logging.getLogger(__name__)

# Ended pulls that stay open to serve their pieces to late nodes, and those that are only remembered.
_MAX_OPEN_ENDED = 8
_MAX_REMEMBERED = 100
_MAX_RUNNING = 64


class Pulls:
    """The pulls that this node knows of, by id.

    Args:
        membership: the other nodes.
        name: this node's.
        hub_for: the hub behind an endpoint; empty: this node's own.
        make_planner: makes the planner, around what finds node ids for names, and names for ids.
        make_worker: makes the worker of a pull on this node.
        make_signer: makes the ticket signer for requests to a node.
        stop_serving: ends the uploads of a pull; blocks until its files may be closed.
        on_end: called once for each pull that has ended.
        rules: what other nodes may have this one do.
        vouched: told of each list of files that came from the hub.
        share_gated: pulls that start here give gated models to nodes too that may not read them themselves.
    """

    def __init__(
        self,
        *,
        membership: Membership,
        name: str,
        hub_for: Callable[[str], Hub],
        make_planner: Callable[[Callable[[Sequence[str]], frozenset[str]], Callable[[str], str]], Planner],
        make_worker: Callable[[PullSpec, Ports], Worker],
        make_signer: Callable[[str], TicketSigner],
        stop_serving: Callable[[str], object],
        on_end: Callable[[Session], None],
        rules: OfferRules,
        vouched: Vouched,
        share_gated: bool = False,
    ) -> None:
        self._membership = membership
        self._me = membership.node_id
        self._name = name
        self._intake = Intake(hub_for, make_planner(self._targets, self.name_of), self._targets, name=name)
        self._make_worker = make_worker
        self._make_signer = make_signer
        self._stop_serving = stop_serving
        self._on_end = on_end
        self._rules = rules
        self._vouched = vouched
        self._refused: set[str] = set()
        self._share_gated = share_gated
        self._signers: dict[str, TicketSigner] = {}
        self._sessions: dict[str, Session] = {}
        self._ended = EndedPulls()
        self._starting: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[None]] = set()
        self._told_end: WeakSet[Session] = WeakSet()
        self._version = 0
        self._changed = asyncio.Condition()
        self._wake_pending = False
        self._cluster = Cluster(
            node_id=self._me,
            name_of=self.name_of,
            up=membership.up,
            send=membership.send,
            address_of=membership.piece_address,
            signer_for=self._signer_for,
            dropped=membership.dropped.add,
        )
        membership.on_up.append(self._node_up)
        membership.on_down.append(self._node_down)
        membership.on_message += [self._on_message, self._intake.planner.placements.on_message]

    # -- for the services ---------------------------------------------------------------------------------------------

    def name_of(self, node: str) -> str:
        """A node's name for people; its id where it is not known."""
        if node == self._me:
            return self._name
        peer = self._membership.peer(node)
        return peer.name if peer is not None and peer.name else node

    def session(self, pull_id: str) -> Session | None:
        """The session of a pull that is open on this node (thread-safe)."""
        return self._sessions.get(pull_id)

    def running(self) -> list[Session]:
        """The pulls that have not ended."""
        return [s for s in self._sessions.values() if s.running]

    def list(self) -> list[pull_pb2.Pull]:
        """All pulls, those that run first, then the newest."""
        pulls = [self._to_pb(s) for s in self._sessions.values()] + self._ended.values()
        return sorted(pulls, key=lambda p: (p.state != pull_pb2.PULL_STATE_RUNNING, -p.started_at_s))

    def get(self, pull_id: str) -> pull_pb2.Pull:
        """One pull; an unambiguous beginning of its id is enough.

        Raises:
            NotFoundError: there is none.
            UsageError: there are several.
        """
        found = [i for i in (*self._sessions, *self._ended) if pull_id and i.startswith(pull_id)]
        if len(found) > 1:
            raise UsageError(f"Several pulls begin with {pull_id!r}.", hint="Give more of the id.")
        if not found:
            raise NotFoundError(f"There is no pull {pull_id[:40]!r}.", hint="See `exo-dl status` for those that are.")
        session = self._sessions.get(found[0])
        return self._to_pb(session) if session is not None else self._ended[found[0]]

    @property
    def version(self) -> int:
        """Grows with every change of any pull."""
        return self._version

    async def wait_changed(self, seen: int, *, timeout_s: float) -> int:
        """Returns `version` once it is above ``seen``, or after ``timeout_s``."""
        try:
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(lambda: self._version > seen)
        except TimeoutError:
            pass
        return self._version

    async def start(self, request: pull_pb2.StartPullRequest) -> tuple[pull_pb2.Pull, bool]:
        """Resolves the model and starts the pull, or joins it. Returns it and whether it was joined.

        Raises:
            ExoDlError: bad names, an unknown model, a hub that does not answer, too many pulls.
        """
        resolved, targets, planned = await self._intake.read(request)
        manifest, placement = resolved.manifest, planned.wants
        share_gated = request.share_gated or self._share_gated
        key = placement.key if placement is not None else ""
        pull_id = pull_id_for(manifest, layout := request.layout or "hf", key)
        self._vouched.add(pull_id)
        async with self._starting.setdefault(pull_id, asyncio.Lock()):
            old = self._sessions.get(pull_id)
            if old is not None and old.running:
                if share_gated and old.spec.gated and not old.spec.share_gated:
                    text = f"The pull {pull_id} of {manifest.repo} runs already, without --share-gated."
                    raise UsageError(text, hint=f"Wait for its end, or cancel it first: exo-dl cancel {pull_id}")
                await old.widen(targets)
                return self._to_pb(old), True
            if len(self.running()) >= _MAX_RUNNING:
                raise UsageError(f"{_MAX_RUNNING} pulls run already.", hint="Wait for one to end, or cancel one.")
            generation = 1 + (old.spec.generation if old is not None else self._ended.generation(pull_id))
            spec = PullSpec(
                pull_id=pull_id,
                manifest=manifest,
                targets=targets,
                layout=layout,
                endpoint=resolved.endpoint,
                revision=resolved.revision,
                generation=generation,
                gated=resolved.gated,
                share_gated=resolved.gated and share_gated,
                placement=placement,
            )
            session = await self._open(spec, Claim(1, self._me), age_s=0.0)
        return self._to_pb(session), False

    async def plan(self, request: pull_pb2.StartPullRequest) -> pull_pb2.PlanPullResponse:
        """What `start` would give to which node. Raises `ExoDlError` as `start` does."""
        resolved, _, planned = await self._intake.read(request)
        return self._intake.planner.answer(resolved, planned, request.placement)

    def cancel(self, pull_id: str) -> pull_pb2.Pull:
        """Ends a pull on every node.

        Raises:
            NotFoundError, UsageError: as `get`.
        """
        pull = self.get(pull_id)
        if (session := self._sessions.get(pull.pull_id)) is not None and session.running:
            session.finish(State.CANCELLED, f"cancelled on {self._name}")
            return self._to_pb(session)
        return pull

    async def stop(self) -> None:
        """Closes every session; verified pieces stay on disk."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(s.close() for s in self._sessions.values()))
        self._sessions.clear()

    # -- sessions -----------------------------------------------------------------------------------------------------

    def _targets(self, names: Sequence[str]) -> frozenset[str]:
        """Node ids for what a person called them; empty stays empty (every node)."""
        known: dict[str, str] = {self._me: self._me, self._name: self._me}
        for peer in self._membership.peers():
            if peer.id:
                known.setdefault(peer.name, peer.id)
                known[peer.id] = peer.id
        unknown = [n for n in names if n not in known]
        if unknown:
            people = ", ".join(sorted(n for n, i in known.items() if n != i))
            raise NotFoundError(f"No node is called {', '.join(map(repr, unknown))}.", hint=f"There are: {people}.")
        return frozenset(known[n] for n in names)

    async def _open(self, spec: PullSpec, claim: Claim, *, age_s: float) -> Session:
        old = self._sessions.pop(spec.pull_id, None)
        if old is not None:
            self._remember_ended(old)  # it is shown while it is being closed
            await self._close(old)
        await self._let_go(spec)
        if spec.placement is not None:
            self._intake.planner.placements.remember(spec.manifest, spec.placement)
        session = Session(
            spec,
            claim=claim,
            age_s=age_s,
            cluster=self._cluster,
            make_worker=self._make_worker,
            on_change=self._session_changed,
        )
        self._sessions[spec.pull_id] = session
        self._ended.reopened(spec.pull_id)
        _log.info(
            "pull %s of %s@%s starts: %d files, %d bytes",
            spec.pull_id, spec.manifest.repo, spec.manifest.commit[:12],
            len(spec.manifest.files), spec.manifest.total_bytes,
        )  # fmt: skip
        self._background(session.start())
        return session

    async def _let_go(self, spec: PullSpec) -> None:
        """Closes ended pulls of the same model: with a placement their part files are still theirs."""
        for old in [s for s in self._sessions.values() if not s.running and s.spec.placement is not None]:
            if (old.spec.manifest.repo, old.spec.manifest.commit) == (spec.manifest.repo, spec.manifest.commit):
                self._remember_ended(self._sessions.pop(old.spec.pull_id))
                await self._close(old)

    def _remember_ended(self, session: Session) -> None:
        at = session.view.ended if session.view.ended is not None else asyncio.get_running_loop().time()
        self._ended.add(self._to_pb(session), generation=session.spec.generation, at=at)

    async def _close(self, session: Session) -> None:
        await asyncio.to_thread(self._stop_serving, session.spec.pull_id)
        await session.close()

    def _background(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _signer_for(self, node: str) -> TicketSigner:
        # Kept for each peer: a signer learns how far the peer's clock is off.
        if node not in self._signers:
            self._signers[node] = self._make_signer(node)
        return self._signers[node]

    def _to_pb(self, session: Session) -> pull_pb2.Pull:
        claim = session.claim
        return session.view.to_pb(asyncio.get_running_loop().time(), coordinator=claim.node, epoch=claim.epoch)

    def _session_changed(self, session: Session) -> None:
        self._version += 1
        if not session.running and session not in self._told_end:
            self._told_end.add(session)
            self._background(self._after_end(session))
        if not self._wake_pending:
            self._wake_pending = True
            self._background(self._wake())

    async def _wake(self) -> None:
        self._wake_pending = False
        async with self._changed:
            self._changed.notify_all()

    async def _after_end(self, session: Session) -> None:
        self._on_end(session)
        view = session.view
        seconds = (view.ended or view.started) - view.started
        level = logging.INFO if view.state is State.DONE else logging.WARNING
        _log.log(
            level, "pull %s of %s: %s after %.1f s%s",
            view.pull_id, view.repo, view.state.name.lower(), seconds, f": {view.error}" if view.error else "",
        )  # fmt: skip
        ended = [s for s in self._sessions.values() if not s.running]
        for old in sorted(ended, key=lambda s: s.view.ended or 0.0)[:-_MAX_OPEN_ENDED]:
            self._sessions.pop(old.spec.pull_id, None)
            self._remember_ended(old)
            await self._close(old)

    # -- from the cluster ---------------------------------------------------------------------------------------------

    def _node_up(self, node: str) -> None:
        for session in list(self._sessions.values()):
            session.node_up(node)

    def _node_down(self, node: str, _reason: str) -> None:
        peer = self._membership.peer(node)
        for session in list(self._sessions.values()):
            session.node_down(node, left=peer is not None and (peer.left or peer.barred))

    def _on_message(self, node: str, message: pb.LinkMessage) -> None:
        kind = message.WhichOneof("body")
        if kind == "pull_offer":
            self._on_offer(node, message.pull_offer)
            return
        pull_id = getattr(getattr(message, kind), "pull_id", None) if kind else None
        if pull_id is not None and (session := self._sessions.get(pull_id)) is not None:
            session.on_message(node, message)
        elif pull_id is not None:
            self._membership.dropped.add(node, Reason.UNKNOWN_PULL)

    def _on_offer(self, node: str, offer: pb.PullOffer) -> None:
        wire.check_claim(offer)
        claim = Claim(offer.epoch, offer.coordinator_id)
        started = asyncio.get_running_loop().time() - max(0.0, offer.age_s)
        known = self._sessions.get(offer.pull_id)
        if known is not None and offer.generation <= known.spec.generation and known.running:
            self._background(known.widen(frozenset(offer.targets)))
            if offer.generation == known.spec.generation and claim.epoch < known.claim.epoch:
                self._membership.dropped.add(node, Reason.OTHER_EPOCH)
            elif offer.generation == known.spec.generation:
                known.consider(claim)
            else:  # started by a node that did not know of this one: it joins it
                known.offer_to([node])
            return
        if known is not None and offer.generation <= known.spec.generation and started <= (known.view.ended or 0.0):
            if offer.generation == known.spec.generation and known.claim.node == self._me:  # it missed the end
                self._membership.send(node, messages.end_message(known.spec, known.view.state, known.view.error))
            if offer.generation == known.spec.generation and known.view.state is State.DONE:
                known.consider(claim)  # it goes on for the one that coordinated, for nodes that come late
            return
        if self._ended.is_late(offer.pull_id, generation=offer.generation, started=started):
            return
        spec = messages.spec_from_offer(offer)
        if not spec.wants(self._me):
            raise ProtocolError(f"A pull was offered that is not for this node: {spec.pull_id}.")
        try:
            self._rules.check(spec)
        except AccessError as error:
            self._refuse(node, spec, error)
            return
        if len(self.running()) >= _MAX_RUNNING:
            _log.warning("an offer of pull %s is refused: %d pulls run already", spec.pull_id, _MAX_RUNNING)
            return
        self._background(self._join(spec, claim, max(0.0, offer.age_s)))

    def _refuse(self, node: str, spec: PullSpec, error: AccessError) -> None:
        """Takes no part in a pull, and says so to all: it is shown where the pull was started."""
        if spec.pull_id not in self._refused:
            if len(self._refused) >= _MAX_REMEMBERED:
                self._refused.clear()
            self._refused.add(spec.pull_id)
            _log.warning("pull %s, offered by %s, is refused: %s", spec.pull_id, self.name_of(node), error)
        self._membership.broadcast(messages.refusal_message(spec, str(error)))

    async def _join(self, spec: PullSpec, claim: Claim, age_s: float) -> None:
        async with self._starting.setdefault(spec.pull_id, asyncio.Lock()):
            known = self._sessions.get(spec.pull_id)
            if known is not None and known.running and known.spec.generation >= spec.generation:
                await known.widen(spec.targets)
                known.consider(claim)
                return
            try:
                await self._open(spec, claim, age_s=age_s)
            except ExoDlError as error:
                _log.error("pull %s cannot start here: %s", spec.pull_id, error)

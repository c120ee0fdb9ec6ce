"""One pull on this node: turns what happens into events of the swarm machine and carries its actions out.

The machine decides, the fetch pool moves bytes, the store keeps them. Nothing here waits: work that blocks runs in
threads and comes back as an event.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Coroutine
from pathlib import Path

from exo_dl.core import swarm as core
from exo_dl.core.manifest import Manifest
from exo_dl.errors import ExoDlError, StorageError
from exo_dl.hubs.base import Hub
from exo_dl.net.fetch import FetchPool
from exo_dl.store import events
from exo_dl.store.pullstore import PullStore, StoreEvent
from exo_dld.alarm import Alarm
from exo_dld.doubts import Doubts
from exo_dld.driving import Driver
from exo_dld.gated import OwnAccess
from exo_dld.helping import Eviction, Helping
from exo_dld.hubcheck import HubCheck
from exo_dld.hubside import HubSide
from exo_dld.jobs import Jobs
from exo_dld.nodestate import NodeState
from exo_dld.ports import Ports
from exo_dld.readings import Readings
from exo_dld.testimony import Testimony
from exo_dld.transfers import Transfers

__all__ = ["Worker"]

# The hub is asked again for what peers hold only where it clearly is faster than all of them together: measured rates
# waver, and each byte from the hub counts against somebody's limit.
_REREAD_GAIN = 3.0
# What a node asks the hub beside its transfers gives way to their beginning.
_CHECK_AFTER_S = 0.25


class Worker:
    """This node's part in one pull, from opening its store to serving what it holds.

    Args:
        pull_id: the pull.
        manifest: its files.
        want: pieces that this node is to end with.
        helping: what it does for the others.
        node_id: this node.
        make_store: makes the store, not opened yet, around the sink of its events.
        pool: moves the bytes.
        jobs: routes the pool's events.
        hub: where files are read from.
        make_hubside: makes the connections to it, around ``ready``, ``failed`` and ``check``.
        revision: the name to publish the commit under.
        max_hub_connections: the most that it opens to the hub at once.
        rate_guess: bytes/s from the hub, measured in earlier pulls; 0 when unknown.
        access: whether this node may have the model.
        ports: the rest of the daemon.
        check: whether the manifest is the hub's.
    """

    def __init__(
        self,
        *,
        pull_id: str,
        manifest: Manifest,
        want: int,
        helping: Helping,
        node_id: str,
        make_store: Callable[[Callable[[StoreEvent], None]], PullStore],
        pool: FetchPool,
        jobs: Jobs,
        hub: Hub,
        make_hubside: Callable[..., HubSide],
        revision: str,
        max_hub_connections: int,
        rate_guess: float,
        access: OwnAccess,
        ports: Ports,
        check: HubCheck,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._manifest, self._want, self._ports = manifest, want, ports
        self.check, self._revision, self._access, self._helping = check, revision, access, helping
        self.store = make_store(self._store_event)
        # To be read by others; only the driver hands it events.
        self.swarm = core.Swarm(
            manifest,
            node=node_id,
            want=want,
            rng=random.Random(node_id + manifest.commit),  # noqa: S311
            max_hub_slots=max_hub_connections,
            hub_bytes_per_s_guess=rate_guess,
            reread_gain=_REREAD_GAIN,
        )
        self._driver = Driver[core.SwarmEvent, core.SwarmAction](self.swarm, pull_id=pull_id, broken=self.fail)
        self._hubside: HubSide | None = None
        if manifest.piece_count:
            self._hubside = make_hubside(
                ready=lambda: self.feed(core.HubReady(ok=True)), failed=self._hub_failed, check=access.check
            )
        self.testimony = Testimony(self.store, banned=self._banned)
        self._transfers = Transfers(
            pull_id=pull_id,
            manifest=manifest,
            store=self.store,
            pool=pool,
            jobs=jobs,
            hub=hub,
            ports=ports,
            feed=self.feed,
            ended=self._fetch_ended,
            encrypted=access.needed,
            testimony=self.testimony,
        )
        self._alarm = Alarm(self._loop, lambda: self.feed(core.Tick()))
        self._tasks: set[asyncio.Task[None]] = set()
        self._disk = asyncio.Lock()
        self._complete = self._closed = False
        self._awaited, self._unpublished = self.store.awaited, self.store.awaited
        self.readings = Readings(manifest)
        self._doubts = Doubts(manifest, self, swarm=self.swarm, ports=ports, drop=self._drop)
        self._eviction = Eviction(helping, self, linked=ports.peer_address, start=self._start)
        # What peers and the coordinator say before the store is open, for it has no place for pieces yet.
        self._waiting: list[core.SwarmEvent] | None = []
        self.state = NodeState.CHECKING
        self.error: ExoDlError | None = None
        self.checking = self.bytes_held = self._stale = 0
        self.bytes_wanted = manifest.set_bytes(want)
        self.path: Path | None = None

    # -- life ---------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Opens the store: what is on disk already is checked in the background, room is reserved.

        An error is not raised: it becomes this node's state, and the other nodes go on.
        """
        try:
            await self._access.admit()
            self._probe_hub(at_once=True)
            self.check.start(told=self._ports.changed, refused=self.fail, after_s=_CHECK_AFTER_S)
            async with self._disk:
                if not self._closed:
                    self.checking = await asyncio.to_thread(self.store.candidates) & (self._want | self._helping.spare)
                    await asyncio.to_thread(self.store.open)
            if self._closed:
                return
            self.store.forget(self._stale)
        except ExoDlError as error:
            self.fail(error)
            return
        self._set_state(NodeState.CHECKING if self.checking else NodeState.PULLING)
        self.store.start_check()
        waiting, self._waiting = [core.Checking(self.checking), *(self._waiting or [])], None
        for event in waiting:
            self.feed(event)

    async def close(self, *, keep: bool) -> None:
        """Ends all transfers. With ``keep`` verified pieces stay on disk for the next pull."""
        if self._closed:
            return
        self._closed = True
        self._alarm.set(None)
        self._eviction.close()
        await self._transfers.close()
        await self.check.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._hubside is not None:
            await self._hubside.close()
        async with self._disk:  # a store that is being opened is closed after that, or nobody would
            await asyncio.to_thread(self.store.close, keep=keep)

    def stop(self, state: NodeState, error: ExoDlError | None = None) -> None:
        """No more transfers; what is held stays open to be served."""
        if self.state.ended:
            return
        self._transfers.cancel_all()
        self.error = error
        self._set_state(state)

    def pull_ended(self, *, done: bool) -> None:
        """The whole pull has ended: nothing more is done for others, and what was held for them alone goes."""
        if self._helping.active:
            self._helping.active = False
            self._transfers.cancel_all()
            if done or not self._want:
                self._eviction.evict(self._helping.spare)

    def give_back(self) -> None:
        """This node leaves: the leases that it still has go back to the coordinator."""
        self._end_leases(core.LeaseResult.RETURNED, "the node leaves")

    def _end_leases(self, result: core.LeaseResult, detail: str) -> None:
        for lease in self.swarm.held_leases():
            self._ports.to_coordinator(core.EndLease(lease.lease_id, lease.position, result, 0.0, detail))

    def slowed(self, bytes_per_s: float) -> None:
        """The hub may be read at this rate only: tells the coordinator, which would take the leases for stalled."""
        leases = self.swarm.held_leases()
        if self.swarm.hub_bytes_per_s > bytes_per_s:
            for lease in leases:
                rate = bytes_per_s / len(leases)
                self._ports.to_coordinator(core.ReportLease(lease.lease_id, lease.position, rate, lease.end))

    # -- what it knows ------------------------------------------------------------------------------------------------

    @property
    def bytes_done(self) -> int:
        """Verified bytes of what this node wants."""
        return self._manifest.set_bytes(self.swarm.have & self._want)

    # -- events from elsewhere ----------------------------------------------------------------------------------------

    def feed(self, event: core.SwarmEvent, *, more: bool = False) -> None:
        """One event for the machine, whose actions are carried out before this returns. ``more``: see `Swarm.take`."""
        if self._closed or (self._over and not isinstance(event, core.PeerJoined | core.PeerHas | core.PeerLost)):
            return
        if self._waiting is not None:
            self._waiting.append(event)
            return
        for action in self._driver.handle(event, self._loop.time(), by=self.swarm.take if more else None):
            self._apply(action)
        if not more:
            self._arm()
        if isinstance(event, core.PeerHas):
            self._eviction.peer_has()

    @property
    def _over(self) -> bool:
        """Nothing more is to be done; a node that has what it wants may still help."""
        return self.state.ended and not (self.state is NodeState.DONE and self._helping.active)

    def ask(self, ask: core.AskLease) -> None:
        """Asks the coordinator for a lease, where there is room for more."""
        self._apply(ask)

    def _arm(self) -> None:
        self._alarm.set(None if self._over else self.swarm.next_deadline())

    def _store_event(self, event: StoreEvent) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the daemon is stopping
            self._loop.call_soon_threadsafe(self._on_store, event)

    def _on_store(self, event: StoreEvent) -> None:
        if self._closed:
            return
        match event:
            case events.PiecesFound(pieces):
                self.checking &= ~pieces
                held = pieces & self.store.have  # some may have been dropped since, as of an older reading
                self.bytes_held += self._manifest.set_bytes(held & self._want)
                self.feed(core.Held(held))
                self._ports.rejoin()
                self._ports.changed()
            case events.CheckFinished():
                self.checking = 0
                self.feed(core.Checking(0))
                if self.state is NodeState.CHECKING:
                    self._set_state(NodeState.PULLING)
                self._ports.rejoin()
                self._try_finish()
            case events.BlobPublished(index):
                self._unpublished.discard(index)
                self._try_finish()
            case events.BlobCorrupt(index, bad_pieces):
                self._doubts.corrupt(index, bad_pieces)
            case events.PartsMended(paths):
                self._ports.fault(f"{self._ports.name} had wrong bytes of {', '.join(paths)}: its parts were mended.")
            case events.StoreFailed(error):
                self.fail(error)

    def _banned(self, peer: str) -> None:
        self.feed(core.PeerLost(peer))
        self._ports.banned(peer)

    def suspected(self, index: int, reading: int) -> None:
        """A peer found that this reading of a blob is wrong."""
        whole = self.readings.pieces(index)
        verified = index in self._awaited and index not in self._unpublished
        if verified or reading < self.readings.of(index) or self._over:
            return
        # Where all of it is here, and wanted, its own digest decides in a moment.
        if index not in self._awaited or whole & ~self.swarm.have:
            self.readings.begin(index, reading + 1)
            if self._waiting is None:
                self._drop(whole, everywhere=True)
            else:  # the store is being opened: what an earlier run left there is of the older reading
                self._stale |= whole

    def _drop(self, pieces: int, *, everywhere: bool = False) -> None:
        """These pieces are to be read again; what was known of their digests is not believed any more.

        ``everywhere``: with the reading that they are of ends what peers hold of it. A node that goes on to believe
        them reads the pieces anew for nodes that seem to have them, and lets go of them at once.
        """
        self._transfers.void(pieces)
        self.store.forget(pieces)
        self.testimony.forget(pieces)
        if pieces & self._want:
            self._complete = False
            self._unpublished.discard(-1)
            if not self._over:
                self._set_state(NodeState.PULLING)
        self.feed(core.PieceBad(pieces, everywhere))
        self._ports.rejoin()
        self._ports.ask_maps()

    def _fetch_ended(self, result: core.FetchResult, detail: str) -> None:
        if result is core.FetchResult.NO_ROOM:
            self.fail(StorageError(detail))
        elif result in (core.FetchResult.HUB_UNREACHABLE, core.FetchResult.HUB_REFUSED):
            self._loop.call_soon(self._hub_lost)
        self._ports.changed()

    def _hub_lost(self) -> None:
        self.feed(core.HubReady(ok=False))
        self._probe_hub(at_once=False)

    # -- actions ------------------------------------------------------------------------------------------------------

    def _apply(self, action: core.SwarmAction) -> None:
        match action:
            case core.FetchFromPeer():
                self._transfers.from_peer(action)
            case core.FetchFromHub():
                if self._hubside is not None:
                    self._transfers.from_hub(action, self._hubside)
            case core.TrimFetch(fetch_id, end):
                self._transfers.trim(fetch_id, end)
            case core.CancelFetch(fetch_id):
                self._transfers.cancel(fetch_id)
            case core.AskLease() if self._helping.parks(action, self.swarm.have):
                pass
            case core.AskLease() | core.ReportLease() | core.EndLease():
                self._ports.to_coordinator(action)
            case core.Announce(pieces):
                self._ports.announce(pieces)
            case core.Complete():
                self._complete = True
                if not self.state.ended:
                    self._set_state(NodeState.PUBLISHING)
                self._try_finish()
            case core.Fault(text):
                self._ports.fault(text)

    def _probe_hub(self, *, at_once: bool) -> None:
        needed = not self._complete or self._helping.active
        if self._hubside is not None and needed and not self._closed and not self._over:
            self._hubside.probe(at_once=at_once)

    def _hub_failed(self, result: core.LeaseResult, detail: str) -> None:
        # No lease has the number 0: this only tells the coordinator why this node asks for none.
        self._ports.to_coordinator(core.EndLease(0, 0, result, 0.0, detail))

    # -- the end ------------------------------------------------------------------------------------------------------

    def _try_finish(self) -> None:
        if self._complete and not self._unpublished and not self.checking and self.state is NodeState.PUBLISHING:
            self._unpublished.add(-1)  # finishing once is enough
            self._start(self._finish())

    async def _finish(self) -> None:
        try:
            if note := await self.check.settle(self._ports.participants):
                self._ports.fault(f"{self._ports.name} {note}")
            path = await asyncio.to_thread(self.store.finish, self._revision)
        except ExoDlError as error:
            self.fail(error)
            return
        if not self._complete:
            return  # a file turned out to be wrong meanwhile
        self.path = path if self._awaited or self._want else None
        if not self.state.ended:
            self._set_state(NodeState.DONE)

    def fail(self, error: ExoDlError) -> None:
        """This node's part has failed."""
        if self.state.ended:
            return
        self._end_leases(core.LeaseResult.NO_ROOM, str(error))
        self.stop(NodeState.FAILED, error)
        self._ports.rejoin()  # what it holds still counts, but it is given no more leases

    def _set_state(self, state: NodeState) -> None:
        if self.state is not state:
            self.state = state
            self._ports.changed()

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

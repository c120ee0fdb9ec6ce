"""A worker's transfers: from a fetch that the swarm machine wants to a job of the pool, and back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Protocol

from exo_dl.core import swarm as core
from exo_dl.core.manifest import Manifest
from exo_dl.core.pieces import iter_bits, iter_runs
from exo_dl.errors import StorageError
from exo_dl.hubs.base import Hub
from exo_dl.net.fetch import FetchEvent, FetchPool, HubJob, JobEnded, PeerJob, PieceDone, PieceTarget
from exo_dl.net.piece_server import piece_path
from exo_dl.net.receive import hub_fill_bytes
from exo_dl.store.pullstore import PullStore
from exo_dld.dropped import Reason
from exo_dld.hubside import HubSide
from exo_dld.jobs import Jobs
from exo_dld.ports import Ports
from exo_dld.testimony import Testimony

__all__ = ["Transfers"]

_DRAIN_S = 3.0
_FETCH_MASK = 0xFFFFFFFF
# A peer that brought nothing in this time was too slow, where its answer is given up.
_SLOW_S = 0.5
# A peer that drops a file and reads it again answers with the new bytes until others have heard of it.
_JUDGED_AFTER_S = 1.0
_NO_ANSWER = (core.FetchResult.FAILED, core.FetchResult.TIMEOUT, core.FetchResult.MISSING)


class Feed(Protocol):
    """`Worker.feed`."""

    def __call__(self, event: core.SwarmEvent, *, more: bool = ...) -> None: ...


class _Fetch:
    """One transfer under way: where its pieces go, and which of them the store has taken."""

    def __init__(self, store: PullStore, targets: tuple[PieceTarget, ...], *, peer: str, began: float) -> None:
        self._store = store
        self.peer = peer
        self.began = began
        self.given_up = False
        self._done: set[int] = set()
        self.targets = targets
        self._lock = threading.Lock()
        self._void = False

    def record(self, piece: int, digest: bytes) -> None:
        """Called in the pool's thread: the piece is written. KeyError where it is wanted no more."""
        with self._lock:
            if self._void:
                raise KeyError(piece)
            self._store.record(piece, digest)
        self._done.add(piece)

    def void(self) -> None:
        """Nothing more is recorded. A piece that is being recorded now is, when this returns."""
        with self._lock:
            self._void = True

    @property
    def is_void(self) -> bool:
        """Whether its pieces were dropped."""
        return self._void

    @property
    def brought(self) -> bool:
        """Whether any of its pieces came."""
        return bool(self._done)

    def let_go(self) -> None:
        """Nothing more is written: the claims on the other pieces end."""
        self._store.abandon([t.piece for t in self.targets if t.piece not in self._done])


class Transfers:
    """The fetches of one worker, by their id in the swarm machine.

    Args:
        pull_id: the pull.
        manifest: its files.
        store: where pieces go.
        pool: moves the bytes.
        jobs: routes the pool's events.
        hub: names the URLs.
        ports: the rest of the daemon.
        feed: takes the events for the machine.
        encrypted: pieces come from peers over TLS.
        ended: called before the machine hears of a fetch's end.
        testimony: the digests that each peer named; told who does not stand by its own.
    """

    def __init__(
        self,
        *,
        pull_id: str,
        manifest: Manifest,
        store: PullStore,
        pool: FetchPool,
        jobs: Jobs,
        hub: Hub,
        ports: Ports,
        feed: Feed,
        encrypted: bool,
        ended: Callable[[core.FetchResult, str], None],
        testimony: Testimony,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._pull_id = pull_id
        self._manifest = manifest
        self._store = store
        self._pool = pool
        self._jobs = jobs
        self._hub = hub
        self._ports = ports
        self._feed = feed
        self._encrypted = encrypted
        self._ended = ended
        self._testimony = testimony
        self._number = jobs.register(self._events)
        self._fetches: dict[int, _Fetch] = {}
        self._accused: dict[int, tuple[JobEnded, asyncio.TimerHandle]] = {}
        self._drained = asyncio.Event()

    def from_peer(self, action: core.FetchFromPeer) -> None:
        """Begins to read pieces from a peer."""
        address = self._ports.peer_address(action.peer)
        fetch = self._begin(action.fetch_id, iter_bits(action.pieces), peer=action.peer)
        if fetch is None:
            return
        if address is None:
            self._refuse(action.fetch_id, core.FetchResult.FAILED, "no link to this peer")
            return
        if any(t.digest is None for t in fetch.targets):
            self._refuse(action.fetch_id, core.FetchResult.MISSING, "no digest is known for a piece")
            return
        path = piece_path(self._pull_id, *chain.from_iterable(iter_runs(action.pieces)))
        signer = self._ports.signer(action.peer)
        self._pool.submit(
            PeerJob(
                job_id=self._job_id(action.fetch_id),
                address=address,
                path=path,
                headers=lambda: signer.headers("GET", path),
                pieces=fetch.targets,
                record=fetch.record,
                held=self._is_held,
                adjust_clock=signer.adjust,
                group=self._pull_id,
                tls_node=action.peer if self._encrypted else "",
                stays=action.stays,
            )
        )

    def from_hub(self, action: core.FetchFromHub, hubside: HubSide) -> None:
        """Begins to read a run of one file's pieces from the hub."""
        fetch = self._begin(action.fetch_id, range(action.first, action.end))
        if fetch is None:
            return
        blob = self._manifest.blob_of(action.first)
        self._pool.submit(
            HubJob(
                job_id=self._job_id(action.fetch_id),
                slot=action.slot,
                reader=hubside.reader(action.slot),
                url=self._hub.file_url(self._manifest, blob.paths[0]),
                etag=blob.etag,
                offset=(action.first - blob.first_piece) * blob.piece_size,
                pieces=fetch.targets,
                record=fetch.record,
                held=self._is_held,
                group=self._pull_id,
                parts=hubside.parts(action.slot),
                lump_bytes=hub_fill_bytes(self._manifest.total_bytes),
            )
        )

    def trim(self, fetch_id: int, end: int) -> None:
        """A fetch shall end at piece ``end``."""
        self._pool.trim(self._job_id(fetch_id), end)

    def cancel(self, fetch_id: int) -> None:
        """A fetch shall end now."""
        if (fetch := self._fetches.get(fetch_id)) is not None and self._loop.time() - fetch.began > _SLOW_S:
            fetch.given_up = True
        self._judge(fetch_id, core.FetchResult.CANCELLED)
        self._pool.cancel(self._job_id(fetch_id))

    def void(self, pieces: int) -> None:
        """The fetches of any of these pieces shall end now, and nothing more of them is taken."""
        for fetch_id, fetch in list(self._fetches.items()):
            if any(pieces >> target.piece & 1 for target in fetch.targets):
                fetch.void()
                self._judge(fetch_id, core.FetchResult.MISSING)
                self._pool.cancel(self._job_id(fetch_id))

    def cancel_all(self) -> None:
        """All fetches shall end now."""
        for fetch_id in list(self._fetches):
            self._judge(fetch_id, core.FetchResult.CANCELLED)
            self._pool.cancel(self._job_id(fetch_id))

    async def close(self) -> None:
        """Ends all fetches, and returns when no thread writes to the store's files any more."""
        self.cancel_all()
        try:
            async with asyncio.timeout(_DRAIN_S):
                while self._fetches:
                    self._drained.clear()
                    await self._drained.wait()
        except TimeoutError:  # the store's descriptors lead nowhere once it is closed, so a late thread does no harm
            pass
        self._jobs.unregister(self._number)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _job_id(self, fetch_id: int) -> int:
        return self._number << 32 | fetch_id

    def _is_held(self, piece: int) -> bool:
        return self._store.digest(piece) is not None

    def _begin(self, fetch_id: int, pieces: Iterable[int], *, peer: str = "") -> _Fetch | None:
        """Claims the pieces of a fetch at the store; None, and the fetch has failed, where it cannot."""
        targets: list[PieceTarget] = []
        try:
            for piece in pieces:
                extent = self._store.extent(piece)
                # What the hub sends is what a piece is: no peer's word about it counts against that.
                digest = self._testimony.digest(peer, piece) if peer else None
                targets.append(PieceTarget(piece, extent.fd, extent.offset, extent.size, digest))
        except StorageError as error:
            self._store.abandon([t.piece for t in targets])
            self._refuse(fetch_id, core.FetchResult.NO_ROOM, str(error))
            return None
        except KeyError:
            self._store.abandon([t.piece for t in targets])
            self._refuse(fetch_id, core.FetchResult.FAILED, "nobody wants this piece any more")
            return None
        fetch = self._fetches[fetch_id] = _Fetch(self._store, tuple(targets), peer=peer, began=self._loop.time())
        return fetch

    def _refuse(self, fetch_id: int, result: core.FetchResult, detail: str) -> None:
        """A fetch that could not begin ends, on a later turn of the loop: the machine is not entered twice at once."""
        self._loop.call_soon(self._end, fetch_id, core.FetchEnded(fetch_id, result, 0.0, detail))

    def _end(self, fetch_id: int, event: core.FetchEnded, *, more: bool = False) -> None:
        fetch = self._fetches.pop(fetch_id, None)
        if fetch is not None:
            fetch.let_go()
        self._drained.set()
        self._ended(event.result, event.detail)
        self._feed(event, more=more)
        if fetch is not None and fetch.peer and event.result is core.FetchResult.CORRUPT:
            self._testimony.broken(fetch.peer)

    def _count(self, fetch_id: int, result: core.FetchResult) -> None:
        """Counts answers of peers that were of no use."""
        fetch = self._fetches.get(fetch_id)
        if fetch is None or not fetch.peer:
            return
        if result is core.FetchResult.CORRUPT:
            self._ports.dropped(fetch.peer, Reason.WRONG_BYTES)
        elif result in _NO_ANSWER or (result is core.FetchResult.CANCELLED and fetch.given_up and not fetch.brought):
            self._ports.dropped(fetch.peer, Reason.NO_ANSWER)

    def _events(self, events: list[FetchEvent]) -> None:
        """A batch from the pool: the pieces of one job become one event of the machine."""
        arrived: dict[int, tuple[int, int, float]] = {}
        ended: list[JobEnded] = []
        for event in events:
            fetch_id = event.job_id & _FETCH_MASK
            match event:
                # What the store has dropped since is not told: the store and the machine must agree.
                case PieceDone(_, piece, _, size, at_s) if self._store.digest(piece) is not None:
                    pieces, count, _ = arrived.get(fetch_id, (0, 0, 0.0))
                    arrived[fetch_id] = (pieces | 1 << piece, count + size, at_s)
                case JobEnded():
                    ended.append(event)
        over: list[tuple[int, JobEnded, core.FetchResult]] = []
        for end in ended:
            fetch_id = end.job_id & _FETCH_MASK
            fetch = self._fetches.get(fetch_id)
            if fetch is None or not fetch.peer or end.result is not core.FetchResult.CORRUPT:
                over.append((fetch_id, end, end.result))
            elif fetch.is_void:
                over.append((fetch_id, end, core.FetchResult.MISSING))
            else:
                later = self._loop.call_later(_JUDGED_AFTER_S, self._judge, fetch_id, end.result)
                self._accused[fetch_id] = end, later
        left = len(arrived) + len(over)
        for fetch_id, (pieces, count, at_s) in arrived.items():
            left -= 1  # the loop's clock is `time.monotonic`
            self._feed(core.PiecesArrived(fetch_id, pieces, count, at_s), more=left > 0)
        for fetch_id, end, result in over:
            left -= 1
            self._over(fetch_id, end, result, more=left > 0)

    def _judge(self, fetch_id: int, result: core.FetchResult) -> None:
        """What becomes of a transfer whose bytes had not the digest which their sender named, if this is one.

        It is the sender's fault only where the file was not dropped just then.
        """
        if (accused := self._accused.pop(fetch_id, None)) is not None:
            end, later = accused
            later.cancel()
            self._loop.call_soon(self._over, fetch_id, end, result)

    def _over(self, fetch_id: int, end: JobEnded, result: core.FetchResult, *, more: bool = False) -> None:
        self._count(fetch_id, result)
        self._end(fetch_id, core.FetchEnded(fetch_id, result, end.retry_after_s, self._detail(end)), more=more)

    def _detail(self, end: JobEnded) -> str:
        """Why a job ended, for a person. The pool knows descriptors, and no folder: that is named here."""
        folder = str(self._store.folder)
        if end.result is not core.FetchResult.NO_ROOM or folder in end.detail:
            return end.detail
        return f"{end.detail} This is the disk of {folder}: make room there, or check it, then pull again."

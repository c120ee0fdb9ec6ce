"""A simulated cluster whose hub answers once with wrong bytes: the daemon's own doubts, on simulated nodes.

A piece is right or wrong, and its digest says which. A node that holds all of a file knows a moment later whether the
file is right, as the store does. What follows is as in the daemon: `Doubts`, `Readings` and `Testimony` are its own.
"""

from __future__ import annotations

import hashlib
import math
import random
from types import SimpleNamespace
from typing import Any

from exo_dl.core import swarm as sw
from exo_dl.core.manifest import Manifest
from exo_dl.core.pieces import iter_bits, iter_runs, mask
from exo_dl.errors import ExoDlError
from exo_dl.rpc.v1 import swarm_pb2 as pb
from exo_dl.sim.network import NodeSpec
from exo_dl.sim.node import SimNode
from exo_dl.sim.scenarios import MBIT, model
from exo_dl.sim.watched import WatchedCluster
from exo_dl.sim.world import Message
from exo_dl.store.slots import PieceTable
from exo_dld.doubts import Doubts
from exo_dld.readings import Readings
from exo_dld.testimony import Testimony

__all__ = ["DoubtingNode", "WrongCluster", "cluster_with_a_wrong_piece"]


def _digest(piece: int, *, wrong: bool) -> bytes:
    return hashlib.sha256(f"{piece} {wrong}".encode()).digest()


class DoubtingNode(SimNode):
    """A node that looks at its files' digests.

    Attributes:
        pieces: digests of those that it holds.
        readings: which reading of each file it works on.
        testimony: who said what.
        verified: pieces of files that have the hub's digest.
        spoilt: pieces that a late writer is about to spoil on its disk.
        error: why its part ended.
    """

    def __init__(self, cluster: WrongCluster, spec: NodeSpec, manifest: Manifest, *, seed: int) -> None:
        super().__init__(cluster, spec, manifest, want=mask(0, manifest.piece_count), seed=seed)
        self.world = cluster
        self.pieces = PieceTable(manifest.piece_count)
        self.readings = Readings(manifest)
        table: Any = self.pieces
        self.testimony = Testimony(table, banned=lambda peer: None)
        self.error: ExoDlError | None = None
        self.verified = self.spoilt = 0
        self._checks: dict[int, int] = {}
        self._void: set[int] = set()
        self._doubts: Doubts | None = None

    # -- doubts, as the daemon's worker has them

    def fail(self, error: ExoDlError) -> None:
        self.error = error

    def _suspect(self, index: int, reading: int) -> None:
        for peer in self.neighbours():
            self.send(peer, Message("suspect", (self.name, index, reading)))

    def _corrupt(self, index: int, pieces: int) -> None:
        if self._doubts is None:
            assert self.swarm is not None
            ports: Any = SimpleNamespace(suspect=self._suspect, fault=self.count.faults.append)
            self._doubts = Doubts(self.manifest, self, swarm=self.swarm, ports=ports, drop=self._drop)
        self._doubts.corrupt(index, pieces)

    def _drop(self, pieces: int, *, everywhere: bool = False) -> None:
        for transfer in list(self.wire.transfers.values()):
            if mask(transfer.first, transfer.end) & pieces:
                self._void.add(transfer.fetch_id)
                self.wire.cancel(transfer.fetch_id)
        for piece in iter_bits(pieces):
            self.pieces.drop(piece)
        for blob in self.manifest.blobs:
            if self.readings.pieces(blob.index) & pieces:
                self._checks[blob.index] = self._checks.get(blob.index, 0) + 1
        self.testimony.forget(pieces)
        self.feed(sw.PieceBad(pieces, everywhere))
        self.join_coordinator()
        for peer in self.neighbours():
            self.send(peer, Message("ask", self.name))

    def _suspected(self, peer: str, index: int, reading: int) -> None:
        assert self.swarm is not None
        if not self.testimony.may_suspect(peer, index, reading) or reading < self.readings.of(index):
            return
        whole = self.readings.pieces(index)
        if not self.verified & whole and whole & ~self.swarm.have:
            self.readings.begin(index, reading + 1)
            self._drop(whole, everywhere=True)

    # -- pieces

    def dispatch(self, event: object) -> None:
        if not isinstance(event, sw.PiecesArrived):
            super().dispatch(event)
            return
        if event.fetch_id in self._void:
            return
        transfer = self.wire.transfers[event.fetch_id]
        for piece in iter_bits(event.pieces):
            if self.pieces.is_held(piece):
                continue
            if transfer.peer:
                other = self.cluster.hosts[transfer.peer]
                assert isinstance(other, DoubtingNode)
                digest = other.pieces.digest(piece)
                if digest is None or digest != self.testimony.digest(transfer.peer, piece):
                    self.cluster.call_in(0.0, self.wire.end, transfer, sw.FetchResult.FAILED)
                    return
            else:
                digest = _digest(piece, wrong=self.world.is_wrong(piece))
            self.pieces.hold(piece, digest)
        super().dispatch(event)
        for index in {self.manifest.blob_of(piece).index for piece in iter_bits(event.pieces)}:
            self._look(index)

    def _look(self, index: int) -> None:
        blob = self.manifest.blobs[index]
        if self.pieces.all_held(blob.first_piece, blob.end_piece) and not self.verified & self.readings.pieces(index):
            self._checks[index] = check = self._checks.get(index, 0) + 1
            self.cluster.call_in(self.world.rng.uniform(*self.world.check_s), self._checked_file, index, check)

    def _checked_file(self, index: int, check: int) -> None:
        blob = self.manifest.blobs[index]
        if check != self._checks[index] or self.swarm is None:
            return
        pieces = range(blob.first_piece, blob.end_piece)
        if spoilt := self.spoilt & self.readings.pieces(index):
            self.spoilt &= ~spoilt
            self._corrupt(index, spoilt)
        elif any(self.pieces.digest(piece) != _digest(piece, wrong=False) for piece in pieces):
            self._corrupt(index, self.readings.pieces(index))
        else:
            self.verified |= self.readings.pieces(index)

    # -- words

    def send(self, node: str, message: Message) -> None:
        if message.kind == "have":
            assert isinstance(message.body, sw.PeerHas)
            runs = []
            for first, end in iter_runs(message.body.pieces):
                digests = [self.pieces.digest(piece) for piece in range(first, end)]
                assert None not in digests
                runs.append((first, b"".join(filter(None, digests))))
            message = Message("said", (self.name, runs, self.readings.to_pb()))
        super().send(node, message)

    def _received(self, message: Message) -> None:
        if message.kind == "suspect":
            body: Any = message.body
            self._suspected(*body)
        elif message.kind == "said":
            self._hear(*message.body)  # type: ignore[misc]
        else:
            super()._received(message)

    def _hear(self, peer: str, runs: list[tuple[int, bytes]], said: list[pb.BlobReading]) -> None:
        theirs = self.readings.check(said)
        for index, reading in self.readings.newer(theirs):
            self._suspected(peer, index, reading - 1)
        older, pieces = self.readings.older(theirs), 0
        for first, digests in runs:
            for piece in range(first, first + len(digests) // 32):
                if not older >> piece & 1:
                    at = 32 * (piece - first)
                    pieces |= self.testimony.hear(peer, piece, digests[at : at + 32])[0]
        if pieces:
            self.feed(sw.PeerHas(peer, pieces))


class WrongCluster(WatchedCluster):
    """A cluster in which the hub's first answer about one piece is wrong."""

    def __init__(self, manifest: Manifest, rng: random.Random, **options: Any) -> None:
        super().__init__(manifest, **options)
        self.rng = rng
        self.check_s = (0.001, rng.choice([0.005, 0.05, 0.3]))
        self.wrong_piece = rng.randrange(manifest.piece_count)
        self.was_wrong = False

    def is_wrong(self, piece: int) -> bool:
        """Whether the hub's answer about this piece is wrong: once."""
        wrong = piece == self.wrong_piece and not self.was_wrong
        self.was_wrong = self.was_wrong or wrong
        return wrong

    @property
    def wrong_file_bytes(self) -> int:
        """Size of the file that has to be read again."""
        return self.manifest.blob_of(self.wrong_piece).size

    @property
    def doubting(self) -> list[DoubtingNode]:
        """Its nodes."""
        return [node for node in self.nodes.values() if isinstance(node, DoubtingNode)]

    @property
    def done(self) -> bool:
        """Every node has verified all its files."""
        return all(node.verified == mask(0, self.manifest.piece_count) for node in self.doubting)


def cluster_with_a_wrong_piece(seed: int) -> WrongCluster:
    """A small cluster, drawn from ``seed``; one piece is wrong when the hub is asked for it first."""
    rng = random.Random(seed)
    manifest = model(size_bytes=rng.randint(6, 48) << 20, files=rng.randint(1, 4), seed=seed)
    options: dict[str, Any] = {
        "latency_s": rng.choice([0.0003, 0.005]),
        "hub_rtt_s": rng.choice([0.005, 0.05]),
        "quantum_s": 0.002,
    }
    # Nothing is read again of what others hold: all that the hub sends twice has to do with the wrong piece.
    cluster = WrongCluster(manifest, rng, swarm_options={"reread_gain": math.inf}, **options)
    for index in range(rng.randint(2, 5)):
        rates = (10 ** rng.uniform(*power) * MBIT for power in ((1.5, 2.7), (2.0, 3.5), (2.0, 3.5)))
        spec = NodeSpec(f"n{index}", *rates)
        cluster.add(DoubtingNode(cluster, spec, manifest, seed=seed))
    return cluster

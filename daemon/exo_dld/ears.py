"""What one node hears in one pull: what its peers hold, and what the coordinator wants it to read."""

from __future__ import annotations

from collections.abc import Callable

from exo_dl.core import swarm as core
from exo_dl.core.manifest import Manifest
from exo_dl.net import wire
from exo_dl.rpc.v1 import swarm_pb2 as pb
from exo_dld.cluster import Cluster
from exo_dld.dropped import Reason
from exo_dld.voice import Voice
from exo_dld.worker import Worker

__all__ = ["Ears"]


class Ears:
    """Hands the words of peers and coordinator to this node's worker. Every method raises `ProtocolError` on bad ones.

    Args:
        manifest: the pull's files.
        worker: who is told.
        voice: answers.
        name_of: a node's name for people.
        fault: one line for a person.
    """

    def __init__(
        self,
        manifest: Manifest,
        worker: Worker,
        voice: Voice,
        *,
        cluster: Cluster,
        fault: Callable[[str], None],
    ) -> None:
        self._manifest = manifest
        self._worker = worker
        self._voice = voice
        self._cluster = cluster
        self._fault = fault
        self._heard: set[str] = set()
        self._met: set[str] = set()
        self._differs: set[str] = set()

    def forget(self, node: str) -> None:
        """The link to ``node`` is gone."""
        self._heard.discard(node)
        self._met.discard(node)
        self._worker.testimony.lost(node)
        self._worker.feed(core.PeerLost(node))

    def progress(self, node: str, word: pb.NodeProgress) -> None:
        """How far a peer is."""
        if node not in self._met:
            self._met.add(node)
            if self._worker.state.ended:
                # When this node said its last word that one may have been linked and not yet known of the pull.
                self._voice.met(node)
                self._voice.changed()
        self._worker.check.heard(node, word.manifest)
        self._worker.feed(core.PeerLacks(node, max(0, word.bytes_wanted - word.bytes_done)))

    def hear(self, node: str, message: pb.LinkMessage) -> None:
        """A HaveMap, Have, Suspect or HaveQuery of a peer; a LeaseGrant, LeaseCut or HaveQuery of the coordinator."""
        match message.WhichOneof("body"):
            case "lease_grant":
                grant = message.lease_grant
                wire.check_run(grant.first, grant.end, self._manifest)
                self._worker.feed(core.LeaseGranted(grant.lease_id, grant.slot, grant.first, grant.end))
            case "lease_cut":
                self._worker.feed(core.LeaseTrimmed(message.lease_cut.lease_id, message.lease_cut.end))
            case "have_query" if message.have_query.epoch:
                self._voice.join()
            case "have_map":
                self._on_have(node, message.have_map, is_map=True)
            case "have":
                self._on_have(node, message.have, is_map=False)
            case "have_query":
                self._voice.asked_for_map(node)
            case "suspect":
                for blob, reading in self._worker.readings.check([message.suspect.reading]).items():
                    if not self._suspected(node, blob, reading):
                        self._cluster.dropped(node, Reason.TOO_MANY)

    def _suspected(self, node: str, blob: int, reading: int) -> bool:
        if may := self._worker.testimony.may_suspect(node, blob, reading):
            self._worker.suspected(blob, reading)
        return may

    def _on_have(self, node: str, said: pb.HaveMap | pb.Have, *, is_map: bool) -> None:
        worker = self._worker
        if node not in self._heard:
            self._heard.add(node)
            worker.feed(core.PeerJoined(node))
            if is_map:
                self._voice.tell_map(node, again=True)
        readings = worker.readings.check(said.readings)
        for blob, reading in worker.readings.newer(readings):
            self._suspected(node, blob, reading - 1)
        pieces = 0
        older = worker.readings.older(readings)
        for first, digests in wire.runs_from_pb(list(said.runs), self._manifest, without=older):
            asked, conflicts = worker.testimony.hear(node, first, digests)
            if conflicts and node not in self._differs:
                self._differs.add(node)
                self._fault(f"{self._cluster.name_of(node)} names other digests for {conflicts.bit_count()} pieces.")
            pieces |= asked
        if pieces:
            worker.feed(core.PeerHas(node, pieces))

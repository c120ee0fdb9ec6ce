"""What a pull says to other nodes: each function builds one message of swarm.proto."""

from __future__ import annotations

from dataclasses import dataclass

from exo_dl.core import swarm as core
from exo_dl.core.leases import HeldLease
from exo_dl.core.manifest import Manifest
from exo_dl.core.pieces import mask
from exo_dl.core.succession import Claim
from exo_dl.core.wants import Wants
from exo_dl.net import wire
from exo_dl.rpc.v1 import swarm_pb2 as pb
from exo_dl.store.selection import Selection
from exo_dld.nodestate import NodeState, State
from exo_dld.worker import Worker

__all__ = [
    "PullSpec",
    "end_message",
    "join_message",
    "lease_message",
    "leases_told",
    "map_messages",
    "note_message",
    "offer_message",
    "progress_message",
    "refusal_message",
    "select",
    "spec_from_offer",
]

_MAX_REASON = 1000


@dataclass(frozen=True, slots=True)
class PullSpec:
    """What a pull is, the same on every node.

    Attributes:
        pull_id: see `exo_dl.core.manifest.pull_id_for`.
        manifest: the files.
        targets: ids of the nodes that shall have them; empty: every node of the cluster.
        layout: "hf" or "dir:PATH".
        endpoint: the hub's base URL as the first node resolved it.
        revision: the name that was asked for.
        generation: grows when an ended pull is started again.
        gated: the bytes are not for everybody.
        share_gated: nodes get them too that may not read them at the hub themselves.
        placement: who wants what; None: every target everything.
    """

    pull_id: str
    manifest: Manifest
    targets: frozenset[str]
    layout: str
    endpoint: str
    revision: str
    generation: int
    gated: bool
    share_gated: bool = False
    placement: Wants | None = None

    def wants(self, node: str) -> bool:
        """Whether ``node`` is a target."""
        return not self.targets or node in self.targets

    def helps_only(self, node: str) -> bool:
        """Whether ``node`` is to end with nothing."""
        return self.placement is not None and not self.placement.of(node)

    def pieces_of(self, node: str) -> int:
        """The pieces that a target is to end with."""
        if self.placement is None:
            return mask(0, self.manifest.piece_count)
        return self.placement.of(node).pieces(self.manifest)


def select(spec: PullSpec, node: str) -> Selection:
    """What of a pull the store of ``node`` ends with."""
    pieces = spec.pieces_of(node)
    if spec.placement is None:
        return Selection.of_pieces(spec.manifest, pieces)
    wants = spec.placement.of(node)
    whole = frozenset(blob.index for blob in spec.manifest.blobs if wants.whole.intersection(blob.paths))
    divided = bool(wants) and any(key in wants.note for key in ("layers", "experts"))
    return Selection(pieces, whole, wants.parts, folder=divided, sparse=spec.layout == "sparse", note=wants.note)


def spec_from_offer(offer: pb.PullOffer) -> PullSpec:
    """The pull that a peer offers, checked.

    Raises:
        ProtocolError, UsageError: something in it is out of bounds.
    """
    manifest, placement = wire.check_offer(offer)
    return PullSpec(
        pull_id=offer.pull_id,
        manifest=manifest,
        placement=placement,
        targets=frozenset(offer.targets),
        layout=offer.layout,
        endpoint=offer.endpoint,
        revision=offer.revision,
        generation=offer.generation,
        gated=offer.gated,
        share_gated=offer.share_gated,
    )


def offer_message(spec: PullSpec, claim: Claim, age_s: float) -> pb.LinkMessage:
    """Tells a node of a pull and of who coordinates it."""
    return pb.LinkMessage(
        pull_offer=pb.PullOffer(
            pull_id=spec.pull_id,
            manifest=wire.manifest_to_pb(spec.manifest),
            targets=sorted(spec.targets),
            coordinator_id=claim.node,
            epoch=claim.epoch,
            layout=spec.layout,
            endpoint=spec.endpoint,
            revision=spec.revision,
            age_s=age_s,
            generation=spec.generation,
            gated=spec.gated,
            share_gated=spec.share_gated,
            placement=spec.placement.document() if spec.placement is not None else b"",
        )
    )


def join_message(spec: PullSpec, claim: Claim, worker: Worker) -> pb.LinkMessage:
    """Tells the coordinator what this node holds, reads, wants and works on; one that failed wants nothing."""
    swarm = worker.swarm
    failed = worker.state is NodeState.FAILED
    wanted = 0 if failed else swarm.want
    return pb.LinkMessage(
        pull_join=pb.PullJoin(
            pull_id=spec.pull_id,
            epoch=claim.epoch,
            have=wire.piece_set(swarm.have),
            checking=wire.piece_set(worker.checking & ~swarm.have),
            want=wire.piece_set(wanted),
            leases=wire.held_leases_to_pb(swarm.held_leases()),
            hub_bytes_per_s=swarm.hub_bytes_per_s,
            failed=failed,
        )
    )


def lease_message(pull_id: str, epoch: int, action: core.AskLease | core.ReportLease | core.EndLease) -> pb.LinkMessage:
    """One of the swarm's words to the coordinator."""
    match action:
        case core.AskLease(slot, rate):
            return pb.LinkMessage(lease_ask=pb.LeaseAsk(pull_id=pull_id, epoch=epoch, slot=slot, bytes_per_s=rate))
        case core.ReportLease(lease_id, position, rate, end_piece):
            where = pb.LeasePosition(lease_id=lease_id, position=position, bytes_per_s=rate, end=end_piece)
            return pb.LinkMessage(lease_progress=pb.LeaseProgress(pull_id=pull_id, epoch=epoch, leases=[where]))
        case core.EndLease(lease_id, position, result, retry_after_s, detail):
            end = pb.LeaseEnd(
                pull_id=pull_id,
                epoch=epoch,
                lease_id=lease_id,
                position=position,
                result=pb.LeaseResult.Name(result.value),
                retry_after_s=retry_after_s,
                detail=detail[:_MAX_REASON],
            )
            return pb.LinkMessage(lease_end=end)


def map_messages(spec: PullSpec, worker: Worker) -> list[pb.LinkMessage]:
    """Everything that this node holds; at least one message, so that a peer knows that this node takes part."""
    batches = list(wire.have_runs(worker.swarm.have, worker.store.digest)) or [[]]
    readings = worker.readings.to_pb()
    last = len(batches) - 1
    return [
        pb.LinkMessage(have_map=pb.HaveMap(pull_id=spec.pull_id, runs=runs, last=index == last, readings=readings))
        for index, runs in enumerate(batches)
    ]


def progress_message(spec: PullSpec, worker: Worker, *, brief: bool = False) -> pb.LinkMessage:
    """How far this node is; ``brief``: for neighbours alone, not to be shown."""
    swarm = worker.swarm
    return pb.LinkMessage(
        node_progress=pb.NodeProgress(
            pull_id=spec.pull_id,
            state=worker.state,
            bytes_wanted=worker.bytes_wanted,
            bytes_done=worker.bytes_done,
            bytes_from_hub=swarm.bytes_from_hub,
            bytes_from_peers=swarm.bytes_from_peers,
            hub_bytes_per_s=swarm.hub_bytes_per_s,
            peer_bytes_per_s=swarm.peer_bytes_per_s,
            error=str(worker.error)[:_MAX_REASON] if worker.error else "",
            bytes_held=worker.bytes_held,
            hub_connections=swarm.hub_connections,
            generation=spec.generation,
            manifest=worker.check.verdict,
            brief=brief,
            leases=() if brief else wire.held_leases_to_pb(_shown(swarm.held_leases())),
        )
    )


def _shown(leases: tuple[HeldLease, ...]) -> tuple[HeldLease, ...]:
    return tuple(lease for lease in leases if lease.position < lease.end)[: wire.MAX_SHOWN_LEASES]


def leases_told(word: pb.NodeProgress, manifest: Manifest) -> tuple[HeldLease, ...]:
    """What a node says that it reads from the hub now, checked.

    Raises:
        ProtocolError: there are too many, or one lies outside of the pull.
    """
    return wire.held_leases_from_pb(word.leases, manifest, most=wire.MAX_SHOWN_LEASES)


def note_message(spec: PullSpec, text: str) -> pb.LinkMessage:
    """Something went wrong here and was dealt with."""
    return pb.LinkMessage(
        pull_note=pb.PullNote(pull_id=spec.pull_id, generation=spec.generation, text=text[:_MAX_REASON])
    )


def refusal_message(spec: PullSpec, why: str) -> pb.LinkMessage:
    """This node takes no part in a pull, for a reason that the person who started it should know."""
    word = pb.NodeProgress(
        pull_id=spec.pull_id, state=NodeState.FAILED, error=why[:_MAX_REASON], generation=spec.generation
    )
    return pb.LinkMessage(node_progress=word)


def end_message(spec: PullSpec, state: State, reason: str) -> pb.LinkMessage:
    """The pull has ended."""
    end = pb.PullEnd(pull_id=spec.pull_id, generation=spec.generation, state=state, reason=reason[:_MAX_REASON])
    return pb.LinkMessage(pull_end=end)

"""What a pull needs of the other nodes."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from exo_dl.net.tickets import TicketSigner
from exo_dl.rpc.v1 import swarm_pb2 as pb
from exo_dld.dropped import Reason

__all__ = ["Cluster"]


@dataclass(frozen=True, slots=True)
class Cluster:
    """The other nodes, as one pull sees them.

    Attributes:
        node_id: this node.
        name_of: a node's name for people; its id where it has none.
        up: ids of the linked nodes.
        send: puts a message on the way; False where no link stands.
        address_of: host and piece port of a node; None while it is not linked.
        signer_for: makes the tickets for requests to a node.
        dropped: counts what a node said or sent and nobody heeds.
    """

    node_id: str
    name_of: Callable[[str], str]
    up: Callable[[], Collection[str]]
    send: Callable[[str, pb.LinkMessage], bool]
    address_of: Callable[[str], tuple[str, int] | None]
    signer_for: Callable[[str], TicketSigner]
    dropped: Callable[[str, Reason], None]

"""What a worker needs from the rest of the daemon."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from exo_dl.core import swarm as core
from exo_dl.net.tickets import TicketSigner
from exo_dld.dropped import Reason

__all__ = ["Ports"]


@dataclass(frozen=True, slots=True)
class Ports:
    """What a worker needs from the rest of the daemon.

    Attributes:
        to_coordinator: sends one of the swarm's lease actions to whoever coordinates.
        rejoin: tells the coordinator again what this node holds.
        ask_maps: asks all peers of the pull to tell again what they hold.
        suspect: tells all peers that this reading of a blob is wrong.
        announce: tells all peers of the pull of newly verified pieces.
        peer_address: host and piece port of a peer; None while it is not linked.
        signer: makes the tickets for a peer.
        changed: state or progress changed.
        fault: one line for a person.
        participants: the other linked nodes that take part.
        name: this node's, for people.
        banned: a peer sent wrong bytes too often: it is not asked in this pull any more.
        dropped: counts what a peer sent and nobody can use.
    """

    to_coordinator: Callable[[core.AskLease | core.ReportLease | core.EndLease], None]
    rejoin: Callable[[], None]
    ask_maps: Callable[[], None]
    suspect: Callable[[int, int], None]
    announce: Callable[[int], None]
    peer_address: Callable[[str], tuple[str, int] | None]
    signer: Callable[[str], TicketSigner]
    changed: Callable[[], None]
    fault: Callable[[str], None]
    banned: Callable[[str], None]
    participants: Callable[[], list[str]]
    name: str
    dropped: Callable[[str, Reason], None]

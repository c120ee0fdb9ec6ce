"""The async client for who belongs to a cluster, and who may watch it: tickets, and the cluster's secret."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from exo_dl.connection import Connection
from exo_dl.rpc.v1 import access_pb2
from exo_dl.types import from_message

__all__ = ["AccessClient", "LeftBehind", "ReaderTicket", "Rotation"]

_ACCESS = "/exo_dl.rpc.v1.AccessService/"


@dataclass(frozen=True, slots=True)
class ReaderTicket:
    """A read-only ticket. Times are Unix times in seconds."""

    id: str
    label: str
    made_by: str
    made_at_s: float
    ends_at_s: float
    revoked: bool


@dataclass(frozen=True, slots=True)
class LeftBehind:
    """A member that does not have the new secret, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Rotation:
    """How a cluster came to a new secret: who has it besides the node that made it, and who has not."""

    cluster_id: str
    moved: tuple[str, ...]
    left_behind: tuple[LeftBehind, ...]


class AccessClient(Connection):
    """Talks to one daemon, as `exo_dl.Client` does and with the same errors."""

    async def make_ticket(self, *, days: float, label: str = "") -> tuple[ReaderTicket, str]:
        """A new read-only ticket, and its text, which is a secret.

        Raises:
            UsageError: days or label are out of bounds.
            AccessError: asked with a ticket.
        """
        request = access_pb2.MakeTicketRequest(days=days, label=label)
        answer = await self._call(_ACCESS + "MakeTicket", request, access_pb2.MakeTicketResponse)
        return from_message(ReaderTicket, answer.ticket), answer.pem

    async def list_tickets(self) -> tuple[ReaderTicket, ...]:
        """All tickets that have not ended, the newest first."""
        request = access_pb2.ListTicketsRequest()
        answer = await self._call(_ACCESS + "ListTickets", request, access_pb2.ListTicketsResponse)
        return tuple(from_message(ReaderTicket, ticket) for ticket in answer.tickets)

    async def revoke_ticket(self, ticket_id: str) -> ReaderTicket:
        """Ends a ticket.

        Raises:
            NotFoundError: there is none of this id.
        """
        request = access_pb2.RevokeTicketRequest(id=ticket_id)
        answer = await self._call(_ACCESS + "RevokeTicket", request, access_pb2.RevokeTicketResponse)
        return from_message(ReaderTicket, answer.ticket)

    async def rotate_secret(self, *, without: Sequence[str] = (), alone: bool = False) -> Rotation:
        """Gives the cluster a new secret, and it to the linked members but those in ``without``; or ``alone`` to none.

        Raises:
            UsageError: the daemon's secret comes from a setting.
            NotFoundError: a name that no node has.
        """
        request = access_pb2.RotateSecretRequest(without=without, alone=alone)
        answer = await self._call(_ACCESS + "RotateSecret", request, access_pb2.RotateSecretResponse)
        left_behind = tuple(from_message(LeftBehind, node) for node in answer.left_behind)
        return Rotation(answer.cluster_id, tuple(answer.moved), left_behind)

    async def join_cluster(self, secret: str) -> bool:
        """Makes the daemon a member of another cluster; False where it was one already."""
        request = access_pb2.JoinClusterRequest(secret=secret)
        answer = await self._call(_ACCESS + "JoinCluster", request, access_pb2.JoinClusterResponse)
        return answer.changed

"""The service for members and for this machine's user: tickets, and the cluster's secret. Thin, as the others are."""

from __future__ import annotations

from typing import Any

from exo_dl.errors import AccessError
from exo_dl.rpc.v1 import access_pb2, access_pb2_grpc
from exo_dld.readers import Readers
from exo_dld.rekey import Rekey
from exo_dld.statuses import unary

__all__ = ["AccessServicer"]


class AccessServicer(access_pb2_grpc.AccessServiceServicer):
    """Who may belong, and who may watch.

    Args:
        readers: the tickets.
        rekey: the way to another secret.
    """

    def __init__(self, readers: Readers, rekey: Rekey) -> None:
        self._readers = readers
        self._rekey = rekey

    @unary
    async def MakeTicket(self, request: access_pb2.MakeTicketRequest, context: Any) -> access_pb2.MakeTicketResponse:
        """Makes a ticket."""
        ticket, pem = self._readers.make(days=request.days, label=request.label)
        return access_pb2.MakeTicketResponse(ticket=ticket, pem=pem)

    @unary
    async def ListTickets(self, request: access_pb2.ListTicketsRequest, context: Any) -> access_pb2.ListTicketsResponse:
        """The tickets that have not ended."""
        return access_pb2.ListTicketsResponse(tickets=self._readers.list())

    @unary
    async def RevokeTicket(
        self, request: access_pb2.RevokeTicketRequest, context: Any
    ) -> access_pb2.RevokeTicketResponse:
        """Ends one."""
        return access_pb2.RevokeTicketResponse(ticket=self._readers.revoke(request.id))

    @unary
    async def RotateSecret(
        self, request: access_pb2.RotateSecretRequest, context: Any
    ) -> access_pb2.RotateSecretResponse:
        """Another secret for the cluster."""
        _require_local(context, "exo-dl cluster rotate")
        return await self._rekey.rotate(without=request.without, alone=request.alone)

    @unary
    async def JoinCluster(self, request: access_pb2.JoinClusterRequest, context: Any) -> access_pb2.JoinClusterResponse:
        """Another cluster for this node."""
        _require_local(context, "exo-dl cluster join")
        return await self._rekey.join(request.secret)


def _require_local(context: Any, command: str) -> None:
    if not context.peer().startswith("unix:"):
        raise AccessError("The secret is changed on a machine of the cluster itself.", hint=f"Run there: {command}")

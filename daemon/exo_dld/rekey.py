"""Another secret for a running cluster: made on one node, handed to the linked members, taken without a pause.

A node that takes a secret stores it, and signs and checks with it from then on; links that stand go on. It then shows
on each link, by a MAC with a key of the new secret, that it has it. A few seconds later every node ends its links to
those that have not shown it. So no node depends on the one that began, and who was left out is out everywhere.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Callable, Collection, Sequence

from exo_dl.errors import NotFoundError, ProtocolError, StorageError, UsageError
from exo_dl.net.discovery import Discovery
from exo_dl.net.identity import Identity, new_secret, parse_secret
from exo_dl.net.tickets import TicketKey
from exo_dl.rpc.v1 import access_pb2
from exo_dl.rpc.v1 import swarm_pb2 as pb
from exo_dld.membership import Membership

__all__ = ["Rekey"]

_log = logging.getLogger(__name__)
_GRACE_S = 5.0
_MAX_REASON = 200
_LEFT_OUT = "it does not have the cluster's new secret"


class Rekey:
    """The way from one secret to another. Lives on the event loop.

    Args:
        membership: the other nodes.
        identity: this node's; takes the new secret.
        ticket_key: the same for piece tickets.
        discovery: announces the cluster; None: without.
        store: keeps a secret on disk; called in a thread.
        secret: the present one.
        fixed_by: the setting that the secret comes from, where it is not the state directory: then it is not changed.
        grace_s: how long other nodes have to take a secret.
    """

    def __init__(
        self,
        membership: Membership,
        *,
        identity: Identity,
        ticket_key: TicketKey,
        discovery: Discovery | None,
        store: Callable[[str], None],
        secret: str,
        fixed_by: str,
        grace_s: float = _GRACE_S,
    ) -> None:
        self._membership = membership
        self._identity = identity
        self._ticket_key = ticket_key
        self._discovery = discovery
        self._store = store
        self._raw = parse_secret(secret)
        self._fixed_by = fixed_by
        self._grace_s = grace_s
        self._busy = asyncio.Lock()
        self._proofs: dict[str, bytes] = {}
        self._refusals: dict[str, str] = {}
        self._heard = asyncio.Event()
        membership.on_message.append(self._on_message)
        membership.on_down.append(self._on_down)

    # -- for the services ---------------------------------------------------------------------------------------------

    async def rotate(self, *, without: Sequence[str] = (), alone: bool = False) -> access_pb2.RotateSecretResponse:
        """Makes a new secret and goes on with it and all linked members that take it.

        Args:
            without: names or ids of members that do not get it.
            alone: nobody gets it.

        Raises:
            UsageError: this node's secret comes from a setting, or another change runs.
            NotFoundError: a name that no node has.
            StorageError: it cannot be stored.
        """
        self._require_own()
        excluded = self._ids(without)
        async with self._busy:
            linked = {node: self._name(node) for node in self._membership.up()}
            asked = [] if alone else [node for node in linked if node not in excluded]
            text = new_secret()
            self._refusals.clear()
            await self._take(text)
            for node in asked:
                self._membership.send(node, pb.LinkMessage(secret_news=pb.SecretNews(secret=text)))
            await self._wait_for(asked)
            self._cut()
            moved = [node for node in asked if self._proven(node)]
        response = access_pb2.RotateSecretResponse(
            cluster_id=self._identity.cluster_id, moved=sorted(linked[node] for node in moved)
        )
        for node in sorted(linked.keys() - set(moved), key=linked.__getitem__):
            silent = "it did not answer in time" if node in asked else "it was left out"
            response.left_behind.add(name=linked[node], reason=self._refusals.get(node, silent))
        _log.info("the cluster has a new secret: %d members have it", len(moved) + 1)
        return response

    async def join(self, text: str) -> access_pb2.JoinClusterResponse:
        """Makes this node a member of the cluster of another secret; its links end.

        Raises:
            UsageError: no secret, or this node's comes from a setting.
            StorageError: it cannot be stored.
        """
        raw = parse_secret(text)
        if raw == self._raw:
            return access_pb2.JoinClusterResponse(cluster_id=self._identity.cluster_id, changed=False)
        self._require_own()
        async with self._busy:
            self._proofs.clear()
            await self._take(text)
            self._cut()
        _log.info("this node belongs to the cluster %s now", self._identity.cluster_id)
        return access_pb2.JoinClusterResponse(cluster_id=self._identity.cluster_id, changed=True)

    def _require_own(self) -> None:
        if self._fixed_by:
            raise UsageError(
                f"This node's secret comes from {self._fixed_by}, so it is changed there.",
                hint="Make one with `exo-dl cluster new-secret`, put it there on every machine, and start the daemons.",
            )
        if self._busy.locked():
            raise UsageError("The secret is being changed already.", hint="Try again in some seconds.")

    def _ids(self, names: Collection[str]) -> set[str]:
        known = {peer.name: peer.id for peer in self._membership.peers() if peer.id}
        ids = set(known.values())
        unknown = [name for name in names if name not in known and name not in ids]
        if unknown:
            raise NotFoundError(
                f"No node is called {', '.join(map(repr, unknown))}.", hint=f"There are: {', '.join(sorted(known))}."
            )
        return {known.get(name, name) for name in names}

    def _name(self, node: str) -> str:
        peer = self._membership.peer(node)
        return peer.name if peer is not None and peer.name else node

    # -- taking it ----------------------------------------------------------------------------------------------------

    async def _take(self, text: str) -> None:
        """Stores a secret and goes on with it. On disk first: who has shown that it has it must still have it later."""
        await asyncio.to_thread(self._store, text)
        self._raw = parse_secret(text)
        self._identity.adopt(text)
        self._ticket_key.adopt(self._identity.ticket_key(), now=time.time())
        if self._discovery is not None:
            self._membership.spawn(self._discovery.rekey(self._identity.cluster_id))
        for node in self._membership.up():
            self._prove(node)

    def _prove(self, node: str) -> None:
        proof = self._identity.proof(self._identity.node_id, node)
        self._membership.send(node, pb.LinkMessage(secret_answer=pb.SecretAnswer(proof=proof)))

    def _proven(self, node: str) -> bool:
        shown = self._proofs.get(node, b"")
        return hmac.compare_digest(shown, self._identity.proof(node, self._identity.node_id))

    async def _wait_for(self, nodes: Collection[str]) -> None:
        """Returns when each of ``nodes`` has taken the secret, refused it or gone, or when the time is over."""
        try:
            async with asyncio.timeout(self._grace_s):
                while any(not self._proven(n) and n not in self._refusals for n in nodes):
                    self._heard.clear()
                    await self._heard.wait()
        except TimeoutError:
            pass

    def _cut(self) -> None:
        for node in self._membership.up():
            if not self._proven(node):
                self._membership.drop(node, f"{_LEFT_OUT}.")

    # -- from the other nodes -----------------------------------------------------------------------------------------

    def _on_message(self, node: str, message: pb.LinkMessage) -> None:
        match message.WhichOneof("body"):
            case "secret_news":
                self._on_news(node, message.secret_news.secret)
            case "secret_answer":
                if len(message.secret_answer.proof) not in (0, 32):
                    raise ProtocolError("A proof has 32 bytes.")
                if message.secret_answer.proof:
                    self._proofs[node] = message.secret_answer.proof
                else:
                    self._refusals[node] = message.secret_answer.refused[:_MAX_REASON] or "it refused"
                self._heard.set()

    def _on_down(self, node: str, _reason: str) -> None:
        self._proofs.pop(node, None)
        self._refusals.setdefault(node, "its link was lost")
        self._heard.set()

    def _on_news(self, node: str, text: str) -> None:
        try:
            raw = parse_secret(text)
        except UsageError as error:
            raise ProtocolError("What came as a new secret is none.") from error
        if raw == self._raw:
            self._prove(node)
        elif self._fixed_by:
            self._refuse(node, f"its secret comes from {self._fixed_by}, and is changed there")
        elif self._busy.locked():
            self._refuse(node, "its secret is being changed by another node")
        else:
            self._membership.spawn(self._follow(node, text))

    async def _follow(self, node: str, text: str) -> None:
        async with self._busy:
            try:
                await self._take(text)
            except (StorageError, UsageError) as error:
                _log.error("the cluster's new secret cannot be stored, so this node stays behind: %s", error)
                self._refuse(node, error.what)
                return
            _log.info("%s has handed this node a new secret of the cluster", self._name(node))
            await self._wait_for(self._membership.up())
            self._cut()

    def _refuse(self, node: str, reason: str) -> None:
        _log.warning("%s hands this node a new secret of the cluster; it is not taken: %s", self._name(node), reason)
        answer = pb.SecretAnswer(refused=reason[:_MAX_REASON])
        self._membership.send(node, pb.LinkMessage(secret_answer=answer))

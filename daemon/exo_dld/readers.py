"""The read-only tickets of this cluster: made on any node, known to all, revoked on any.

Every node keeps the list and tells it to the others on each new link. A revocation is never taken back. A node that is
away learns of it when it is linked again.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace

from exo_dl.errors import NotFoundError, ProtocolError, UsageError
from exo_dl.net import readers
from exo_dl.net.identity import Identity
from exo_dl.rpc.v1 import access_pb2
from exo_dl.rpc.v1 import swarm_pb2 as pb
from exo_dl.store.library import Library
from exo_dld.membership import Membership

__all__ = ["Readers"]

_log = logging.getLogger(__name__)
_KEY = "reader_tickets"
_MAX_TICKETS = 1024
_MAX_TEXT = 64
# Clocks of members may differ by a day.
_KEPT_AFTER_END_S = 2 * 86_400.0
_LATEST_END_S = (readers.MAX_DAYS + 2) * 86_400.0


@dataclass(frozen=True, slots=True)
class _Entry:
    id: str
    label: str
    made_by: str
    made_at_s: float
    ends_at_s: float
    revoked: bool = False


class Readers:
    """The list of tickets. Lives on the event loop.

    Args:
        library: keeps it.
        identity: signs tickets.
        name: this node's.
        clock: Unix time in seconds.
    """

    def __init__(
        self, library: Library, identity: Identity, *, name: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._library = library
        self._identity = identity
        self._name = name
        self._clock = clock
        self._membership: Membership | None = None
        self._entries: dict[str, _Entry] = {}
        self._load()

    def join(self, membership: Membership) -> None:
        """Begins to talk with the other nodes."""
        self._membership = membership
        membership.on_up.append(lambda node: self._tell(self._entries.values(), node))
        membership.on_message.append(self._on_message)

    # -- for the services and the gate --------------------------------------------------------------------------------

    def revoked(self, ticket_id: str) -> bool:
        """Whether a ticket was revoked. One that this node has not heard of was not."""
        entry = self._entries.get(ticket_id)
        return entry is not None and entry.revoked

    def make(self, *, days: float, label: str) -> tuple[access_pb2.ReaderTicket, str]:
        """A new ticket, and its text.

        Raises:
            UsageError: days or label are out of bounds, or there are too many tickets.
        """
        if len(label) > _MAX_TEXT or (label and not label.isprintable()):
            raise UsageError(f"A label has at most {_MAX_TEXT} printable characters.")
        self._tidy()
        if len(self._entries) >= _MAX_TICKETS:
            raise UsageError(f"There are {_MAX_TICKETS} tickets already.", hint="Wait for some of them to end.")
        ticket = readers.issue(self._identity, days=days)
        entry = _Entry(ticket.id, label, self._name, self._clock(), ticket.ends_at_s)
        self._change(entry)
        _log.info("a read-only ticket was made, good for %g days", days, extra={"fields": {"ticket": ticket.id}})
        return _to_pb(entry), ticket.pem

    def list(self) -> list[access_pb2.ReaderTicket]:
        """All that have not ended, the newest first."""
        now = self._clock()
        known = sorted(self._entries.values(), key=lambda entry: (-entry.made_at_s, entry.id))
        return [_to_pb(entry) for entry in known if entry.ends_at_s > now]

    def revoke(self, ticket_id: str) -> access_pb2.ReaderTicket:
        """Ends a ticket.

        Raises:
            NotFoundError: there is none of this id.
        """
        entry = self._entries.get(ticket_id)
        if entry is None:
            raise NotFoundError(
                f"There is no ticket {ticket_id[:40]!r}.", hint="List them with: exo-dl cluster ticket --list"
            )
        if not entry.revoked:
            entry = replace(entry, revoked=True)
            self._change(entry)
            _log.info("a read-only ticket was revoked", extra={"fields": {"ticket": ticket_id}})
        return _to_pb(entry)

    # -- with the other nodes -----------------------------------------------------------------------------------------

    def _on_message(self, _node: str, message: pb.LinkMessage) -> None:
        if message.WhichOneof("body") != "ticket_news":
            return
        if len(message.ticket_news.tickets) > _MAX_TICKETS:
            raise ProtocolError(f"A message names {len(message.ticket_news.tickets)} tickets.")
        heard = [self._checked(entry) for entry in message.ticket_news.tickets]
        news = [entry for entry in heard if self._is_news(entry)]
        for entry in news:
            self._entries[entry.id] = entry
        if news:
            self._tidy()
            self._save()

    def _is_news(self, entry: _Entry) -> bool:
        known = self._entries.get(entry.id)
        if known is None:
            return entry.revoked or len(self._entries) < _MAX_TICKETS
        return entry.revoked and not known.revoked

    def _checked(self, entry: pb.TicketEntry) -> _Entry:
        texts = (entry.label, entry.made_by)
        good_texts = all(len(text) <= _MAX_TEXT and (not text or text.isprintable()) for text in texts)
        if not readers.is_reader_id(entry.id) or not good_texts:
            raise ProtocolError("A ticket has an id or a text that none has.")
        if not (entry.made_at_s >= 0 and 0 <= entry.ends_at_s <= self._clock() + _LATEST_END_S):
            raise ProtocolError("A ticket ends at a time that none has.")
        return _Entry(entry.id, entry.label, entry.made_by, entry.made_at_s, entry.ends_at_s, entry.revoked)

    def _change(self, entry: _Entry) -> None:
        self._entries[entry.id] = entry
        self._save()
        if self._membership is not None:
            for node in self._membership.up():
                self._tell([entry], node)

    def _tell(self, entries: Iterable[_Entry], node: str) -> None:
        news = [pb.TicketEntry(**asdict(entry)) for entry in entries]
        if news and self._membership is not None:
            self._membership.send(node, pb.LinkMessage(ticket_news=pb.TicketNews(tickets=news)))

    # -- keeping it ---------------------------------------------------------------------------------------------------

    def _tidy(self) -> None:
        oldest = self._clock() - _KEPT_AFTER_END_S
        kept = [entry for entry in self._entries.values() if entry.ends_at_s > oldest]
        # Revocations are kept before all others, and of those the ones that matter longest.
        kept.sort(key=lambda entry: (not entry.revoked, -entry.ends_at_s))
        self._entries = {entry.id: entry for entry in kept[:_MAX_TICKETS]}

    def _save(self) -> None:
        self._library.put(_KEY, json.dumps([asdict(entry) for entry in self._entries.values()]))

    def _load(self) -> None:
        text = self._library.get(_KEY)
        if text:
            self._entries = {entry["id"]: _Entry(**entry) for entry in json.loads(text)}
            self._tidy()


def _to_pb(entry: _Entry) -> access_pb2.ReaderTicket:
    return access_pb2.ReaderTicket(**asdict(entry))

"""What simulated nodes send each other, and what they need of the world around them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from exo_dl.core.leases import LeaseEvent
from exo_dl.core.succession import Claim
from exo_dl.sim.wire import WireWorld

__all__ = ["Message", "World"]


@dataclass(frozen=True, slots=True)
class Message:
    """Something sent over a link: what, from which coordinator's epoch where it matters, and its content."""

    kind: str
    body: object
    claim: Claim | None = None


class World(WireWorld, Protocol):
    """What a node needs of the world."""

    initiator: str
    measures_cpu: bool
    swarm_options: dict[str, Any]
    table_options: dict[str, Any]

    def call_at(self, at: float, call: Callable[..., None], *args: Any) -> None:
        """Calls at a time."""

    def send(self, source: str, target: str, message: Message) -> None:
        """Sends over the link of two nodes."""

    def linked(self, name: str) -> tuple[str, ...]:
        """Nodes that have a link with ``name``."""

    def is_linked(self, a: str, b: str) -> bool:
        """Whether two nodes have a link."""

    def leased(self, node: str, event: LeaseEvent) -> None:
        """The lease table of a node took an event."""

    def claim_of(self, name: str) -> Claim | None:
        """The claim to coordinate that a node believes."""

    def about_to_start(self) -> list[str]:
        """Nodes that are there from the beginning."""

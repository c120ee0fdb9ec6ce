"""The control streams between simulated nodes."""

from __future__ import annotations

from dataclasses import dataclass, field

from exo_dl.sim.world import Message

__all__ = ["Link", "Links"]


@dataclass(slots=True)
class Link:
    """The stream between two nodes: ``generation`` grows with each time that it is made anew.

    In the ``queue`` is what it could not carry: when each message would have come, for whom, and what it says.
    """

    cut: bool = False
    lost: bool = False
    generation: int = 0
    queue: list[tuple[float, str, Message]] = field(default_factory=list)


class Links:
    """The streams between all nodes, of which only those are kept to which something has happened."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], Link] = {}
        self._whole = Link()

    def look(self, a: str, b: str) -> Link:
        """The link of two nodes, not to be changed."""
        return self._kept.get((a, b) if a < b else (b, a), self._whole)

    def of(self, a: str, b: str) -> Link:
        """The link of two nodes, to be changed."""
        return self._kept.setdefault((a, b) if a < b else (b, a), Link())

    def renew(self, a: str, b: str) -> None:
        """The link is made anew: what was on its way is lost."""
        link = self.of(a, b)
        link.lost, link.queue = False, []
        link.generation += 1

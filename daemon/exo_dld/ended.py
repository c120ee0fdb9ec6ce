"""The pulls that have ended on this node and are closed: what is shown of them, and which offers are of such a pull.

A pull's id follows from what is pulled, so the same pull may be started again, by a node that took no part in the one
before and knows nothing of it. An offer of a pull that ended here is that pull again where it was started after the
end; otherwise it comes from a node that missed the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from exo_dl.rpc.v1 import pull_pb2

__all__ = ["EndedPulls"]

_MAX_REMEMBERED = 100


@dataclass(frozen=True, slots=True)
class _Ended:
    pull: pull_pb2.Pull
    generation: int
    at: float


class EndedPulls:
    """Remembers the last 100."""

    def __init__(self) -> None:
        self._pulls: dict[str, _Ended] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._pulls)

    def __getitem__(self, pull_id: str) -> pull_pb2.Pull:
        return self._pulls[pull_id].pull

    def values(self) -> list[pull_pb2.Pull]:
        """What is shown of them."""
        return [ended.pull for ended in self._pulls.values()]

    def add(self, pull: pull_pb2.Pull, *, generation: int, at: float) -> None:
        """A pull ended ``at`` this time, on the loop's clock, and is closed. The oldest is forgotten for it."""
        self._pulls.pop(pull.pull_id, None)
        self._pulls[pull.pull_id] = _Ended(pull, generation, at)
        for pull_id in list(self._pulls)[:-_MAX_REMEMBERED]:
            del self._pulls[pull_id]

    def reopened(self, pull_id: str) -> None:
        """A pull is open again."""
        self._pulls.pop(pull_id, None)

    def generation(self, pull_id: str) -> int:
        """Of a pull when it ended; 0 where it is not known."""
        return self._pulls[pull_id].generation if pull_id in self._pulls else 0

    def is_late(self, pull_id: str, *, generation: int, started: float) -> bool:
        """Whether an offer of this generation, of a pull that ``started`` then, is of one that ended here."""
        ended = self._pulls.get(pull_id)
        return ended is not None and generation <= ended.generation and started <= ended.at

"""A node's own clock: it began at another time than the world's, and runs a little faster or slower."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Clock"]


@dataclass(frozen=True, slots=True)
class Clock:
    """What a node takes for the time. Without arguments it is the world's clock, to the last bit.

    Attributes:
        offset_s: what it shows when the world's clock shows 0, at least 0: a monotonic clock is never negative.
        fast: by which part it runs faster than the world's clock; negative: slower.
    """

    offset_s: float = 0.0
    fast: float = 0.0

    def read(self, at: float) -> float:
        """What it shows at second ``at`` of the world."""
        return at * (1.0 + self.fast) + self.offset_s

    def when(self, reading: float) -> float:
        """At which second of the world it shows ``reading``."""
        return (reading - self.offset_s) / (1.0 + self.fast)

    def span(self, seconds: float) -> float:
        """Seconds of the world in which ``seconds`` of its own pass."""
        return seconds / (1.0 + self.fast)

"""What other nodes said or sent that was dropped: counted by reason, and told in the log now and then."""

from __future__ import annotations

import enum
import logging
import time
from collections import Counter
from collections.abc import Callable

from exo_dl.net.request_rate import RequestRate

__all__ = ["Dropped", "Reason"]

_log = logging.getLogger(__name__)
_LINE_EACH_S = 60.0
# However many peers and reasons: who says much must not fill a disk with lines.
_LINES_PER_S, _LINES_AT_ONCE = 0.2, 40.0


class Reason(enum.Enum):
    """Why something was dropped; `NodeMetrics` has a field ``dropped_...`` for each, and says more."""

    UNKNOWN_PULL = "unknown_pull"
    OTHER_EPOCH = "other_epoch"
    NO_SAY = "no_say"
    MALFORMED = "malformed"
    TOO_MANY = "too_many"
    OTHER_PROTOCOL = "other_protocol"
    WRONG_BYTES = "wrong_bytes"
    NO_ANSWER = "no_answer"


_TEXTS = {
    Reason.UNKNOWN_PULL: "it speaks of a pull that is not open here",
    Reason.OTHER_EPOCH: "it speaks for a coordinator or a run of a pull that is over, or not there yet",
    Reason.NO_SAY: "it has no part in that pull, does not coordinate it, or was banned from it",
    Reason.MALFORMED: "it broke the protocol",
    Reason.TOO_MANY: "it says more than it may",
    Reason.OTHER_PROTOCOL: "it speaks another version of the protocol",
    Reason.WRONG_BYTES: "it sent bytes that do not have the digest which it named",
    Reason.NO_ANSWER: "it did not send what it says it has, or too slowly",
}


class Dropped:
    """Counts since the daemon's start. Lives on one event loop.

    Args:
        name_of: a node's name for people.
    """

    def __init__(self, name_of: Callable[[str], str]) -> None:
        self._name_of = name_of
        self._counts: Counter[Reason] = Counter()
        self._lines = RequestRate(per_s=_LINES_PER_S, at_once=_LINES_AT_ONCE)
        self._lines_each = RequestRate(per_s=1 / _LINE_EACH_S, at_once=1)

    def __getitem__(self, reason: Reason) -> int:
        return self._counts[reason]

    def add(self, node: str, reason: Reason) -> None:
        """Something of ``node`` was dropped."""
        self._counts[reason] += 1
        now = time.monotonic()
        if self._lines_each.allow(f"{node} {reason.value}", now) and self._lines.allow("", now):
            text = "dropped what %s (%s) said or sent: %s (for a minute more of it is only counted)"
            _log.warning(text, self._name_of(node), node, _TEXTS[reason])

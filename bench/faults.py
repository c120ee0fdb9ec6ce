"""Faults that the local hub makes on order, so that what follows from them can be tested."""

from __future__ import annotations

import fnmatch
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

__all__ = ["KINDS", "Fault", "Faults"]

KINDS = {
    "status": "answers `status` (429, 500, 503, 403, ...), with `retry_after_s` where it is set",
    "close": "closes the connection after `after_bytes` of the body",
    "stall": "falls silent for `seconds` after `after_bytes` of the body",
    "slow": "sends `rate` bytes per second to each connection",
    "200-for-206": "ignores the range and sends the whole file",
    "short": "answers the first half of the range, correctly labelled",
    "long": "answers more than the range, correctly labelled",
    "etag": "names another digest",
    "wrong-bytes": "flips each bit of the byte `after_bytes` into the body",
    "403-signed": "refuses signed URLs until the hub was asked for a new one",
    "redirect": "redirects to `to`",
    "truncate": "leaves out the second half of a JSON answer",
    "json": "answers `body` instead of its JSON",
}
"""Each kind, and what the hub does."""


@dataclass(slots=True)
class Fault:
    """One fault.

    Attributes:
        kind: one of `KINDS`; a number as in "503" is short for "status".
        path: glob over the request's path, as in "*.safetensors".
        on: "file" (requests for bytes), "api" or "any".
        client: address of the client that it is for; "" for all.
        count: how many requests it hits before it is over; 0 for all.
        ratelimit: names the waiting time in a ``RateLimit`` header instead of ``Retry-After``.
    """

    kind: str
    path: str = "*"
    on: str = "file"
    client: str = ""
    count: int = 0
    status: int = 503
    after_bytes: int = 0
    seconds: float = 3600.0
    rate: float = 1e6
    retry_after_s: float | None = None
    ratelimit: bool = False
    to: str = ""
    body: str = ""
    code: str = ""

    def __post_init__(self) -> None:
        if self.kind.isdigit():
            self.status, self.kind = int(self.kind), "status"
        if self.kind not in KINDS:
            raise ValueError(f"{self.kind!r} is no kind of fault; there are {', '.join(KINDS)}")
        if self.on not in ("file", "api", "any"):
            raise ValueError("'on' is file, api or any")


class Faults:
    """The faults in force. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """Puts a fault in force."""
        with self._lock:
            self._faults.append(fault)

    def order(self, given: Mapping[str, Any]) -> None:
        """Puts a fault in force that came as JSON.

        Raises:
            ValueError: a name or kind that there is not.
        """
        unknown = set(given) - {field.name for field in fields(Fault)}
        if unknown or "kind" not in given:
            raise ValueError(f"a fault has a kind and no {sorted(unknown)}")
        self.add(Fault(**given))

    def clear(self) -> None:
        """Ends all faults."""
        with self._lock:
            self._faults.clear()

    def listed(self) -> list[dict[str, Any]]:
        """The faults in force, as JSON."""
        with self._lock:
            return [asdict(fault) for fault in self._faults]

    def take(self, path: str, client: str, *, on: str) -> Fault | None:
        """The fault for a request, if there is one; counts it."""
        with self._lock:
            for fault in self._faults:
                if fault.on not in (on, "any") or (fault.client and fault.client != client):
                    continue
                if not fnmatch.fnmatchcase(path, fault.path):
                    continue
                if fault.count:
                    fault.count -= 1
                    if fault.count == 0:
                        self._faults.remove(fault)
                return fault
        return None

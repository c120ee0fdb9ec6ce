"""What a machine was told lately and what it decided, to be asked for when something went wrong.

Each machine keeps its last events and actions as they are: nothing is formatted, or even looked at, before somebody
asks for the story of a piece, a lease, a node or a transfer. An event that cannot be, in the state in which the machine
is, is an error of this program and no fault of a peer: `IllegalTransitionError` tells the story of what is concerned.
(After `InvalidTransition` and `story` of dask/distributed, `worker_state_machine.py`.)
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from itertools import islice
from typing import Any, Generic, TypeVar

from exo_dl.core.pieces import iter_runs

__all__ = ["IllegalTransitionError", "Story"]

_MOST, _LEAST = 1000, 64
_BYTES = 2 << 20
_SET_BITS = 1 << 16
_NOT_KEPT = -1  # as a set it has every piece: such an event may be about any
_SETS = 2
_LINES = 40
_RUNS = 4
_VALUE_CHARS = 120
_LINE_CHARS = 400

_NAMES = ("node", "peer")
_HELD = ("pieces", "have", "checking")
_PIECES = (*_HELD, "want")

A = TypeVar("A")


class IllegalTransitionError(Exception):
    """An event, or a step of the machine itself, that its state does not allow: an error of this program.

    Args:
        what: one sentence.
        story: what the machine was told and did about what is concerned, a line each, the oldest first.
        whole: the event was refused before anything changed, so that the machine can go on without it.
    """

    def __init__(self, what: str, story: Sequence[str], *, whole: bool) -> None:
        super().__init__(what, tuple(story))
        self.what = what
        self.story = tuple(story)
        self.whole = whole

    def __str__(self) -> str:
        return "\n".join((self.what, "  Story:", *(f"    {line}" for line in self.story)))


@dataclass(slots=True)
class _Subject:
    """What is asked for, and the leases and transfers that turned out to belong to it."""

    piece: int | None
    node: str | None
    leases: set[int]
    transfers: set[int]

    def concerns(self, step: object) -> bool:
        """Whether an event or action is about it. Those that follow for the same lease or transfer then are, too."""
        lease, transfer = getattr(step, "lease_id", None), getattr(step, "fetch_id", None)
        if transfer in self.transfers:
            return True
        of_lease = lease in self.leases or any(h.lease_id in self.leases for h in getattr(step, "leases", ()))
        if not (of_lease or self._names(step) or self._covers(step)):
            return False
        if transfer is not None:
            self.transfers.add(transfer)
        elif lease is not None:
            self.leases.add(lease)
        return True

    def _names(self, step: object) -> bool:
        if self.node is None:
            return False
        named = any(getattr(step, name, None) == self.node for name in _NAMES)
        return named or self.node in getattr(step, "nodes", ()) or self.node in getattr(step, "places", ())

    def _covers(self, step: object) -> bool:
        if self.piece is None:
            return False
        if any(getattr(step, name, 0) >> self.piece & 1 for name in _HELD):
            return True
        runs = [step, *getattr(step, "leases", ())] if hasattr(step, "first") else getattr(step, "leases", ())
        return any(run.first <= self.piece < run.end for run in runs)


class Story(Generic[A]):
    """The last events of one machine and what it did at each: at most 1000, fewer where the sets of pieces are large.

    Sets of more than 8 KiB, which there are in models of 65,536 pieces or more, are not kept.

    Args:
        piece_count: pieces of the pull: that is how many bits a set of them may have.
    """

    def __init__(self, piece_count: int) -> None:
        length = max(_LEAST, min(_MOST, _BYTES // (_SETS * (min(piece_count, _SET_BITS) // 8 + 1))))
        self._large = piece_count > _SET_BITS
        self._entries: deque[tuple[float, Sequence[object], list[A]]] = deque(maxlen=length)
        self._now = float("-inf")

    def __len__(self) -> int:
        return len(self._entries)

    def begin(self, events: Sequence[object], now: float) -> list[A]:
        """Events of one moment came. Returns the list that is to take what is done about them.

        Raises:
            IllegalTransitionError: the clock went back.
        """
        if now < self._now:
            raise self.illegal(f"The clock of the machine went back from {self._now:.6f} to {now:.6f}.")
        self._now = now
        actions: list[A] = []
        if self._large:
            events = [_slim(event) for event in events]
            if self._entries:
                at, before, done = self._entries[-1]
                self._entries[-1] = (at, before, [_slim(action) for action in done])
        self._entries.append((now, events, actions))
        return actions

    def of(
        self,
        *,
        piece: int | None = None,
        lease: int | None = None,
        node: str | None = None,
        transfer: int | None = None,
    ) -> list[str]:
        """What is known of any of these, a line for each event, the oldest first; of everything where none is named.

        With a node come its leases and transfers; with a piece the leases and transfers that were to bring it.
        """
        everything = piece is None and lease is None and node is None and transfer is None
        subject = _Subject(piece, node, {lease} - {None}, {transfer} - {None})  # type: ignore[arg-type]
        lines: deque[str] = deque(maxlen=_LINES)
        for at, events, actions in self._entries:
            told = [e for e in events if everything or subject.concerns(e)]
            done = [a for a in actions if everything or subject.concerns(a)]
            if told or done:
                did = f" -> {', '.join(map(_text, done))}" if done else ""
                lines.append(_cut(f"{at:.3f} {', '.join(map(_text, told or events))}{did}", _LINE_CHARS))
        return list(lines)

    def illegal(self, what: str, *, whole: bool = True, **subject: Any) -> IllegalTransitionError:
        """The error for something that cannot be; ``subject`` as in `of` says what it is about."""
        return IllegalTransitionError(what, self.of(**subject), whole=whole)


def _slim(step: A) -> A:
    """The same without its sets of pieces that are too large to be kept."""
    large = [name for name in _PIECES if getattr(step, name, 0).bit_length() > _SET_BITS]
    return replace(step, **dict.fromkeys(large, _NOT_KEPT)) if large else step  # type: ignore[type-var]


def _text(step: object) -> str:
    """An event or action in one line: what has its default value is left out, sets of pieces are given as runs."""
    if not is_dataclass(step):
        return repr(step)
    values = ((f, getattr(step, f.name)) for f in fields(step))
    return f"{type(step).__name__}({', '.join(f'{f.name}={_value(f.name, v)}' for f, v in values if _told(f, v))})"


def _told(field: Field[Any], value: object) -> bool:
    return field.default is MISSING or value != field.default


def _value(name: str, value: object) -> str:
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, float):
        return f"{value:.3f}"
    if name in _PIECES and isinstance(value, int):
        return _set_text(value)
    if isinstance(value, tuple | Mapping):
        value = f"({', '.join(_items(value))})"
    return _cut(str(value), _VALUE_CHARS)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[:most] + "..."


def _items(values: tuple[object, ...] | Mapping[Any, object]) -> Iterator[str]:
    if isinstance(values, Mapping):
        return (f"{key}: {value}" for key, value in values.items())
    return (_text(value) if is_dataclass(value) else str(value) for value in values)


def _set_text(pieces: int) -> str:
    if pieces == _NOT_KEPT:
        return "[not kept]"
    runs = [f"{a}" if b - a == 1 else f"{a}-{b - 1}" for a, b in islice(iter_runs(pieces), _RUNS + 1)]
    more = runs[_RUNS:] and ["..."]
    return f"[{' '.join(runs[:_RUNS] + more)}]" + (f" ({pieces.bit_count()})" if more else "")

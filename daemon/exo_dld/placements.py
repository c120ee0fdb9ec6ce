"""The last placement of each model: the next one goes by it, whichever node makes that.

Nodes that took part in a placement remember it. A node that plans asks all others, since it may have joined later, or
have missed the last one; the newest is taken. What others say only decides how much has to move, and is checked as far
as a plan needs it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Sequence

from exo_dl.core.manifest import Manifest
from exo_dl.core.plan import NodePlan, Plan
from exo_dl.core.wants import Wants
from exo_dl.errors import ProtocolError
from exo_dl.rpc.v1 import swarm_pb2 as pb
from exo_dl.store.library import Library

__all__ = ["Placements", "read_notes"]

_PATIENCE_S = 1.0
_MAX_KEY = 500
_MAX_NOTES = 1 << 20
_MAX_COUNT = 10_000

Runs = tuple[tuple[int, int], ...]


def read_notes(place: str, text: str) -> Plan | None:
    """The plan that these notes are of; None where there is none, or it is not well formed."""
    try:
        notes = json.loads(text or "{}")
        nodes = {
            str(node): NodePlan(
                layers=_runs(note.get("layers", ())),
                experts={int(layer): _runs(runs) for layer, runs in note.get("experts", {}).items()},
            )
            for node, note in notes.items()
        }
        count = max((int(note.get("layer_count", 0)) for note in notes.values()), default=0)
    except (ValueError, TypeError, AttributeError, RecursionError, OverflowError):
        return None
    ends = [run[1] for plan in nodes.values() for run in plan.layers]
    if count > _MAX_COUNT or len(nodes) > _MAX_COUNT or any(end > count for end in ends):
        return None
    return Plan(place, nodes, count) if nodes else None


def _runs(found: Sequence[Sequence[int]]) -> Runs:
    runs, at = [], 0
    for first, end in found:
        if not at <= int(first) < int(end) <= _MAX_COUNT:
            raise ValueError("runs that are not in order")
        runs.append((int(first), int(end)))
        at = int(end)
    return tuple(runs)


class Placements:
    """What this node and the linked ones remember. Lives on the event loop.

    Args:
        library: keeps what this node remembers.
        up: the linked nodes.
        send: puts a message on the way to one; False where it is not linked.
    """

    def __init__(
        self, library: Library, *, up: Callable[[], Sequence[str]], send: Callable[[str, pb.LinkMessage], bool]
    ) -> None:
        self._library = library
        self._up = up
        self._send = send
        self._asking: dict[str, list[dict[str, tuple[float, str]]]] = {}
        self._news = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    def remember(self, manifest: Manifest, wants: Wants) -> None:
        """Keeps a placement that is carried out now."""
        if wants.place in ("layers", "experts"):
            notes = {node: dict(part.note) for node, part in wants.nodes.items() if part}
            key = _key(manifest, wants.place)
            self._library.put(f"placement/{key}", json.dumps(notes))
            self._library.put(f"placement-at/{key}", repr(time.time()))

    async def previous(self, manifest: Manifest, place: str) -> Plan | None:
        """The placement that was carried out last, as far as anybody says within a second."""
        key = _key(manifest, place)
        told: dict[str, tuple[float, str]] = {}
        self._asking.setdefault(key, []).append(told)
        asked = [n for n in self._up() if self._send(n, pb.LinkMessage(placement_asked=pb.PlacementAsked(key=key)))]
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE_S), self._news:
                    await self._news.wait_for(lambda: all(node in told for node in asked))
        finally:
            self._asking[key] = [other for other in self._asking[key] if other is not told]
            if not self._asking[key]:
                del self._asking[key]
        now = time.time()
        # Its own first: of two of the same time it is the one that needs no trust.
        known: list[tuple[float, str]] = [self._own(key), *((min(at, now), notes) for at, notes in told.values())]
        plans = [(at, plan) for at, notes in known if (plan := read_notes(place, notes)) is not None]
        return max(plans, key=lambda found: found[0])[1] if plans else None

    def on_message(self, node: str, message: pb.LinkMessage) -> None:
        """Takes a message of a peer; those of other kinds are left alone.

        Raises:
            ProtocolError: it breaks the protocol.
        """
        match message.WhichOneof("body"):
            case "placement_asked":
                key = message.placement_asked.key
                _require(len(key) <= _MAX_KEY)
                at_s, notes = self._own(key)
                notes = notes if len(notes) <= _MAX_NOTES else ""
                self._send(node, pb.LinkMessage(placement_told=pb.PlacementTold(key=key, notes=notes, at_s=at_s)))
            case "placement_told":
                word = message.placement_told
                _require(len(word.key) <= _MAX_KEY and len(word.notes) <= _MAX_NOTES and 0 <= word.at_s < float("inf"))
                for told in self._asking.get(word.key, ()):
                    told[node] = (word.at_s, word.notes)
                if word.key in self._asking:
                    task = asyncio.get_running_loop().create_task(self._tell())
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()

    def _own(self, key: str) -> tuple[float, str]:
        notes = self._library.get(f"placement/{key}")
        at = self._library.get(f"placement-at/{key}")
        return (float(at) if notes and at else 0.0), notes


def _key(manifest: Manifest, place: str) -> str:
    return f"{manifest.repo_type}/{manifest.repo}/{place}"


def _require(held: bool) -> None:
    if not held:
        raise ProtocolError("A message about placements is out of bounds.")

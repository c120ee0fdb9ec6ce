"""A pull as lines: for terminals that cannot redraw, for files, and (as JSON) for scripts."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from exo_dl.cli.text import clean, human_bytes, human_rate, human_time, percent, print_json
from exo_dl.types import NodePull, NodeState, Pull, PullState, as_dict

__all__ = [
    "JsonView",
    "PlainView",
    "PullView",
    "cluster_line",
    "ending",
    "node_line",
    "summary",
    "time_left_s",
]

_LINES_EVERY_S = 5.0
_JSON_EVERY_S = 1.0
# Above this many nodes the regular lines are for the cluster only; changes of state are always told.
_MAX_NODE_LINES = 16

_SUMMARY_FIELDS = (
    "pull_id",
    "repo",
    "commit",
    "state",
    "wall_s",
    "bound_s",
    "bytes_wanted",
    "bytes_from_hub",
    "bytes_from_peers",
)
_SUMMARY_NODE_FIELDS = (
    "id",
    "name",
    "state",
    "bytes_wanted",
    "bytes_done",
    "bytes_from_hub",
    "bytes_from_peers",
    "hub_bytes_per_s",
    "peer_bytes_per_s",
    "error",
)


class PullView(Protocol):
    """Shows one pull while it runs. ``close`` leaves the terminal as it was."""

    def update(self, pull: Pull) -> None:
        """Shows the newest state."""

    def close(self) -> None:
        """Ends the view; nothing is shown after this."""


def summary(pull: Pull) -> dict[str, Any]:
    """The last line of ``exo-dl pull --json``: these fields and no others."""
    document = {name: getattr(pull, name) for name in _SUMMARY_FIELDS}
    for part, nodes in (("nodes", pull.nodes), ("lost_nodes", pull.lost_nodes)):
        document[part] = [{name: getattr(node, name) for name in _SUMMARY_NODE_FIELDS} for node in nodes]
    return document


def time_left_s(node: NodePull) -> float:
    """Seconds that a node still needs at its present rates; negative when nothing moves."""
    left = node.bytes_wanted - node.bytes_done
    rate = node.hub_bytes_per_s + node.peer_bytes_per_s
    if left <= 0:
        return 0.0
    return left / rate if rate >= 1 else -1.0


def node_line(node: NodePull) -> str:
    """One node's state on one line."""
    parts = [f"{clean(node.name)}: {node.state}"]
    if node.bytes_wanted:
        done = f"{human_bytes(node.bytes_done)} of {human_bytes(node.bytes_wanted)}"
        parts.append(f"{percent(node.bytes_done, node.bytes_wanted)} ({done})")
    parts.append(f"{human_bytes(node.bytes_from_hub)} from the hub")
    parts.append(f"{human_bytes(node.bytes_from_peers)} from peers")
    if node.state is NodeState.PULLING:
        parts.append(f"now {human_rate(node.hub_bytes_per_s)} and {human_rate(node.peer_bytes_per_s)}")
        left_s = time_left_s(node)
        if left_s >= 0:
            parts.append(f"{human_time(left_s)} left")
        if files := sorted({clean(lease.path) for lease in node.leases}):
            parts.append(f"reading {files[0]}" + (f" and {len(files) - 1} more" if len(files) > 1 else ""))
    if node.error:
        parts.append(clean(node.error))
    return ", ".join(parts)


def cluster_line(pull: Pull) -> str:
    """The whole pull on one line."""
    hub = sum(node.hub_bytes_per_s for node in pull.nodes)
    peers = sum(node.peer_bytes_per_s for node in pull.nodes)
    done = sum(node.state is NodeState.DONE for node in pull.nodes)
    count = len(pull.nodes) + len(pull.lost_nodes)
    parts = [
        f"{percent(pull.bytes_done, pull.bytes_wanted) if pull.bytes_wanted else pull.state}",
        f"{human_bytes(pull.bytes_done)} of {human_bytes(pull.bytes_wanted)}",
        f"{done} of {count} nodes done",
    ]
    if not pull.state.ended:
        parts += [f"hub {human_rate(hub)}", f"peers {human_rate(peers)}"]
        if pull.remaining_s >= 0:
            parts.append(f"{human_time(pull.remaining_s)} left")
    if pull.bound_s > 0:
        parts.append(f"{human_time(pull.wall_s)} so far, least time for this network {human_time(pull.bound_s)}")
    else:
        parts.append(f"{human_time(pull.wall_s)} so far")
    return ", ".join(parts)


def ending(pull: Pull) -> str:
    """What a person wants to know of a pull that went well, in a few lines."""
    count = len(pull.nodes)
    bound = f" (least time for this network: {human_time(pull.bound_s)})" if pull.bound_s > 0 else ""
    lines = [
        f"Done: {clean(pull.repo)} at {pull.commit[:12]} on {count} node{'' if count == 1 else 's'}"
        f" in {human_time(pull.wall_s)}{bound}.",
        f"{human_bytes(pull.bytes_from_hub)} read from the hub for a model of {human_bytes(pull.model_bytes)};"
        f" {human_bytes(pull.bytes_from_peers)} exchanged between nodes.",
    ]
    if pull.lost_nodes:  # they only helped, or the pull had failed
        lines.append(f"Lost on the way: {', '.join(clean(node.name) for node in pull.lost_nodes)}.")
    if pull.path:
        lines.append(f"Here it is: {clean(pull.path)}")
    return "\n".join(lines)


class PlainView:
    """A line for each change of state and each fault, and the progress every few seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._states: dict[str, NodeState] = {}
        self._events: tuple[str, ...] = ()
        self._next_lines = 0.0

    def update(self, pull: Pull) -> None:
        """Prints what is new."""
        for event in _new_events(self._events, pull.events):
            self._print(clean(event))
        self._events = pull.events
        for node in pull.nodes:
            if self._states.get(node.id) is not node.state:
                self._states[node.id] = node.state
                self._print(node_line(node))
        now = self._clock()
        if pull.state is PullState.RUNNING and now >= self._next_lines:
            if self._next_lines and len(pull.nodes) <= _MAX_NODE_LINES:
                for node in pull.nodes:
                    if node.state is NodeState.PULLING:
                        self._print(node_line(node))
            self._print(cluster_line(pull))
            self._next_lines = now + _LINES_EVERY_S

    def close(self) -> None:
        """Nothing is left open."""

    @staticmethod
    def _print(line: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


class JsonView:
    """The pull as one document a line: at once when a state changes, otherwise once a second."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._states: object = None
        self._next = 0.0

    def update(self, pull: Pull) -> None:
        """Prints the document if it is time."""
        states = (pull.state, tuple((node.id, node.state) for node in pull.nodes))
        now = self._clock()
        if states != self._states or now >= self._next:
            self._states = states
            self._next = now + _JSON_EVERY_S
            print_json(as_dict(pull))

    def close(self) -> None:
        """Nothing is left open."""


def _new_events(before: tuple[str, ...], after: tuple[str, ...]) -> tuple[str, ...]:
    """What ``after`` adds to ``before``. Both are the newest entries of one growing list."""
    for start in range(len(before)):
        kept = len(before) - start
        if before[start:] == after[:kept]:
            return after[kept:]
    return after

"""A plan file: who keeps what, said by a person.

One table for each node, with any of: ``layers`` ("0-11, 20", or a list of numbers), ``tensors`` and ``files`` (lists of
globs; files are kept whole), ``first``, ``last`` (true: what comes with the first or the last layer), ``overlap``
(true: others may keep the same tensors), ``helper`` (true: it keeps nothing and helps). ``common`` at the top is a list
of globs of files that all but helpers keep; without it, they keep what is neither weights nor an index of weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from exo_dl.core.plan import LayerParts, Part, Runs, merge_runs
from exo_dl.errors import PlacementError

__all__ = ["FilePlan", "NodeChoice", "NodeLines", "chosen", "parse_plan"]

_MAX_NODES = 10_000
_MAX_GLOBS = 10_000
_MAX_TEXT = 1000
_MAX_LAYER = 100_000
_RUN = re.compile(r"\s*(\d{1,6})(?:\s*-\s*(\d{1,6}))?\s*")
_KEYS = {"layers", "tensors", "files", "first", "last", "overlap", "helper"}


@dataclass(frozen=True, slots=True)
class NodeLines:
    """What the file says of one node."""

    layers: tuple[int, ...] = ()
    tensors: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    first: bool = False
    last: bool = False
    overlap: bool = False
    helper: bool = False


@dataclass(frozen=True)
class FilePlan:
    """A plan file that was read. ``common`` is None where it says nothing of that."""

    nodes: Mapping[str, NodeLines]
    common: tuple[str, ...] | None = None

    @property
    def needs_layers(self) -> bool:
        """Whether it speaks of layers."""
        return any(node.layers or node.first or node.last for node in self.nodes.values())

    @property
    def needs_tensors(self) -> bool:
        """Whether it speaks of less than whole files."""
        return self.needs_layers or any(node.tensors for node in self.nodes.values())


@dataclass(frozen=True, slots=True)
class NodeChoice:
    """What one node keeps: tensors and whole files (for `exo_dl.core.placement.node_plan`), and its layers."""

    kept: tuple[tuple[Part, ...], Mapping[str, int]]
    layers: Runs


def parse_plan(document: Any) -> FilePlan:
    """A plan file as TOML or JSON gives it.

    Raises:
        PlacementError: with what is wrong in it.
    """
    if not isinstance(document, dict) or not isinstance(nodes := document.get("nodes"), dict) or not nodes:
        raise PlacementError("The plan file names no nodes.", hint="Give each a table: [nodes.NAME]")
    if unknown := sorted(set(document) - {"nodes", "common"}):
        raise PlacementError(f"The plan file has the unknown entry {str(unknown[0])[:80]!r}.")
    if len(nodes) > _MAX_NODES:
        raise PlacementError(f"The plan file names more than {_MAX_NODES} nodes.")
    common = _globs(document["common"], "common") if "common" in document else None
    return FilePlan({str(name): _lines(str(name), table) for name, table in nodes.items()}, common)


def _lines(name: str, table: Any) -> NodeLines:
    about = f"The plan file's entry for {name[:80]!r}"
    if not isinstance(table, dict):
        raise PlacementError(f"{about} is no table.")
    if unknown := sorted(set(table) - _KEYS):
        raise PlacementError(
            f"{about} has the unknown key {str(unknown[0])[:80]!r}.", hint=f"{', '.join(sorted(_KEYS))}"
        )
    flags = {key: table.get(key, False) for key in ("first", "last", "overlap", "helper")}
    if wrong := [key for key, value in flags.items() if not isinstance(value, bool)]:
        raise PlacementError(f"{about} has a {wrong[0]} that is neither true nor false.")
    lines = NodeLines(
        _layers(table.get("layers", ""), about),
        _globs(table.get("tensors", []), about),
        _globs(table.get("files", []), about),
        **flags,
    )
    if lines.helper and (lines.layers or lines.tensors or lines.files or lines.first or lines.last):
        raise PlacementError(f"{about} makes it a helper and gives it something to keep.")
    return lines


def _globs(value: Any, about: str) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [value]
    good = isinstance(value, list) and len(value) <= _MAX_GLOBS
    if not good or not all(isinstance(glob, str) and 0 < len(glob) <= _MAX_TEXT for glob in value):
        raise PlacementError(f"{about} has something that is no list of globs.")
    return tuple(value)


def _layers(value: Any, about: str) -> tuple[int, ...]:
    numbers: list[int] = []
    if not isinstance(value, str | list):
        raise PlacementError(f"{about} has layers that are no text and no list.")
    for item in value.split(",") if isinstance(value, str) and value.strip() else value or ():
        found = _RUN.fullmatch(item) if isinstance(item, str) else None
        if type(item) is int:
            first = last = item
        elif found is not None:
            first, last = int(found[1]), int(found[2] or found[1])
        else:
            raise PlacementError(f"{about} has layers that cannot be read: {str(value)[:80]!r}.", hint='As "0-11, 20".')
        if not 0 <= first <= last <= _MAX_LAYER:
            raise PlacementError(f"{about} has the layers {first} to {last}.")
        numbers += range(first, last + 1)
    return tuple(sorted(set(numbers)))


def chosen(
    plan: FilePlan,
    files: Mapping[str, int],
    parts: Mapping[str, Part],
    layers: Sequence[LayerParts],
    ends: Mapping[str, Sequence[Part]],
    common: Mapping[str, int],
) -> dict[str, NodeChoice]:
    """What each node keeps of a model.

    Args:
        plan: the file.
        files: all files of the pull, path -> bytes.
        parts: all tensors by name; empty where the structure is not known.
        layers: those of the model.
        ends: what belongs to no layer: "first", "last", "everywhere".
        common: what all nodes keep where the file does not say it.

    Raises:
        PlacementError: it names what there is not, or two nodes keep a tensor and neither says ``overlap``.
    """
    if plan.common is not None:
        common = {path: files[path] for path in _matching(plan.common, files, "common")}
    owners: dict[str, str] = {}
    found = {}
    for name, lines in plan.nodes.items():
        if lines.helper:
            found[name] = NodeChoice(((), {}), ())
            continue
        if lines.layers and lines.layers[-1] >= len(layers):
            raise PlacementError(f"The plan file gives {name!r} layer {lines.layers[-1]} of {len(layers)}.")
        kept = {part.name: part for number in lines.layers for part in layers[number].all_parts()}
        for end in ("first", "last"):
            if getattr(lines, end) and end not in ends:
                raise PlacementError(f"The plan file gives {name!r} the {end} tensors, and the layers are not known.")
            kept |= {part.name: part for part in ends.get(end, ()) if getattr(lines, end)}
        kept |= {path: parts[path] for path in _matching(lines.tensors, parts, name)}
        whole = {path: files[path] for path in _matching(lines.files, files, name)}
        for tensor in kept:
            other = owners.setdefault(tensor, name)
            if other != name and not (lines.overlap or plan.nodes[other].overlap):
                raise PlacementError(
                    f"The plan file gives the tensor {tensor!r} to {other!r} and to {name!r}.",
                    hint="Write overlap = true for one of them if that is meant.",
                )
        if lines.layers:
            kept |= {part.name: part for part in ends.get("everywhere", ())}
        found[name] = NodeChoice((tuple(kept.values()), {**common, **whole}), merge_runs(lines.layers))
    return found


def _matching(globs: Iterable[str], names: Iterable[str], about: str) -> list[str]:
    found: dict[str, None] = {}
    names = list(names)
    for glob in globs:
        matches = [name for name in names if fnmatchcase(name, glob)]
        if not matches:
            raise PlacementError(f"Nothing in the model matches {glob!r}, which the plan file has for {about!r}.")
        found |= dict.fromkeys(matches)
    return list(found)

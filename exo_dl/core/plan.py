"""What a placement is made of: the parts of a model, the room of the nodes, and who keeps what.

Byte ranges are ``(begin, end)`` in a file of the repository, ``end`` not included.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from exo_dl.core.manifest import Manifest
from exo_dl.core.pieces import mask
from exo_dl.errors import PlacementError

__all__ = [
    "ByteRanges",
    "LayerParts",
    "NodePlan",
    "NodeRoom",
    "Part",
    "Plan",
    "Runs",
    "Sliced",
    "merge_ranges",
    "merge_runs",
    "want_pieces",
]

ByteRanges = Mapping[str, tuple[tuple[int, int], ...]]
# Numbers of layers or experts: sorted runs (first, end), end not included.
Runs = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class NodeRoom:
    """What a node has room for.

    Attributes:
        node: its id.
        memory_bytes: its memory in all (not what is free now), or what the user declared.
        disk_bytes: what it may put on its disk, with what it holds of this model already; None when it is not known.
    """

    node: str
    memory_bytes: int
    disk_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """What is placed as a whole: a tensor, bytes ``begin .. end`` of a file."""

    name: str
    file: str
    begin: int
    end: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.begin


@dataclass(frozen=True, slots=True)
class LayerParts:
    """One layer: the parts that every user of the layer needs, and those of each expert."""

    parts: tuple[Part, ...]
    experts: Mapping[int, tuple[Part, ...]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes, experts included."""
        return sum(p.size for p in self.parts) + sum(p.size for parts in self.experts.values() for p in parts)

    def all_parts(self) -> tuple[Part, ...]:
        """Its parts, those of its experts included."""
        return (*self.parts, *(part for number in sorted(self.experts) for part in self.experts[number]))


@dataclass(frozen=True)
class Sliced:
    """A model cut into what a placement can move.

    Attributes:
        layers: in the order in which the model runs through them.
        first: needed by the node that has the first layer; last: by the one that has the last. A part may be in both.
        everywhere: needed by every node that has a layer.
        files: whole files that every node keeps (configurations, tokenizers), path -> bytes.
    """

    layers: tuple[LayerParts, ...]
    first: tuple[Part, ...] = ()
    last: tuple[Part, ...] = ()
    everywhere: tuple[Part, ...] = ()
    files: Mapping[str, int] = field(default_factory=dict)

    def all_parts(self) -> tuple[Part, ...]:
        """Every part once, layers first."""
        found = {part.name: part for layer in self.layers for part in layer.all_parts()}
        for part in (*self.first, *self.last, *self.everywhere):
            found.setdefault(part.name, part)
        return tuple(found.values())


@dataclass(frozen=True)
class NodePlan:
    """What one node keeps.

    Attributes:
        layers: its layers.
        experts: layer -> its experts there, where they are divided.
        tensors: names of the tensors that it keeps of files that it does not keep whole, sorted.
        ranges: their bytes: file -> sorted ranges that neither touch nor overlap.
        files: the files that it keeps whole, sorted.
        size: bytes of all that.
    """

    layers: Runs = ()
    experts: Mapping[int, Runs] = field(default_factory=dict)
    tensors: tuple[str, ...] = ()
    ranges: ByteRanges = field(default_factory=dict)
    files: tuple[str, ...] = ()
    size: int = 0

    @property
    def layer_count(self) -> int:
        """Number of its layers."""
        return sum(end - first for first, end in self.layers)


@dataclass(frozen=True)
class Plan:
    """Who keeps what of a model.

    Attributes:
        kind: "full", "layers", "experts", "files", "none" or "custom" (a plan file).
        nodes: for each target node what it keeps, in the order in which the model runs through them.
        layer_count: layers of the model; 0 where the placement does not look at them.
    """

    kind: str
    nodes: Mapping[str, NodePlan]
    layer_count: int = 0


def merge_ranges(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Sorts ranges and joins those that touch or overlap. Empty ones are left out."""
    merged: list[tuple[int, int]] = []
    for begin, end in sorted(ranges):
        if begin >= end:
            continue
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return tuple(merged)


def merge_runs(numbers: Iterable[int]) -> Runs:
    """Numbers as runs."""
    return merge_ranges((number, number + 1) for number in numbers)


def want_pieces(manifest: Manifest, ranges: ByteRanges) -> int:
    """The set of pieces that hold these bytes (see `exo_dl.core.pieces`), and no other.

    Raises:
        PlacementError: a range lies outside of its file, or the manifest does not have the file.
    """
    blobs = {path: blob for blob in manifest.blobs for path in blob.paths}
    wanted = 0
    for path, spans in ranges.items():
        blob = blobs.get(path)
        if blob is None:
            raise PlacementError(f"The plan names the file {path!r}, which is not among those that are pulled.")
        for begin, end in spans:
            if not 0 <= begin <= end <= blob.size:
                raise PlacementError(f"The plan names bytes {begin}..{end} of {path!r}, which has {blob.size}.")
            if begin < end:
                first = blob.first_piece + begin // blob.piece_size
                wanted |= mask(first, blob.first_piece + -(-end // blob.piece_size))
    return wanted

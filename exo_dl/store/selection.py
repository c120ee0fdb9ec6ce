"""What of a pull one node is to end with, as its store needs to know it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from exo_dl.core.manifest import Manifest
from exo_dl.core.pieces import mask

__all__ = ["PART_SUFFIX", "Selection"]

PART_SUFFIX = "-part"
"""Ends the name of a layout in the library where a model's folder holds parts of files."""


@dataclass(frozen=True, slots=True)
class Selection:
    """One node's part.

    Attributes:
        want: the pieces that it is to end with (a set of pieces as an int).
        whole: the blobs, by index, that are published whole.
        parts: path -> byte ranges (begin, end) of files of which only tensors in these ranges are wanted; their header
            is among the ranges.
        folder: the node gets a folder that is valid in itself, as where there are ``parts``. A share that happens to be
            whole files has one too, or a former share's folder would stay.
        spare: pieces that others want: this node may hold them while the pull runs.
        sparse: parts keep their place in a file of the original size, instead of moving into a smaller one.
        note: what `exo_dl.json` says of the placement.
    """

    want: int
    whole: frozenset[int]
    parts: Mapping[str, Sequence[tuple[int, int]]] = field(default_factory=dict)
    folder: bool = False
    spare: int = 0
    sparse: bool = False
    note: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def of_pieces(cls, manifest: Manifest, want: int) -> Selection:
        """These pieces; blobs of which all are among them are published."""
        whole = (b.index for b in manifest.blobs if not mask(b.first_piece, b.end_piece) & ~want)
        return cls(want, frozenset(whole))

    @property
    def copied_bytes(self) -> int:
        """Room that the folder of parts may take on top of the pieces."""
        if self.sparse:
            return 0
        return sum(end - begin for ranges in self.parts.values() for begin, end in ranges)

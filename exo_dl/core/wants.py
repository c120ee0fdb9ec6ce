"""Which node wants what of a pull: whole files, and byte ranges of others. The same on all nodes, with the offer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from exo_dl.core.manifest import Manifest
from exo_dl.core.plan import want_pieces
from exo_dl.errors import PlacementError, ProtocolError

__all__ = ["MAX_DOCUMENT_BYTES", "NodeWants", "Wants"]

MAX_DOCUMENT_BYTES = 8 << 20
_MAX_NODES = 10_000
_MAX_RANGES = 400_000
_PLACES = frozenset({"layers", "experts", "files", "none", "file"})

Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class NodeWants:
    """One node's part.

    Attributes:
        whole: paths of files.
        parts: path -> byte ranges (begin, end), ascending and apart, of files of which only these are wanted.
        note: what is told about it to people and written into its folder: plain JSON values.
    """

    whole: frozenset[str] = frozenset()
    parts: Mapping[str, Ranges] = field(default_factory=dict)
    note: Mapping[str, object] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """False where the node wants nothing and only helps."""
        return bool(self.whole or self.parts)

    def pieces(self, manifest: Manifest) -> int:
        """The pieces that cover it, as a set."""
        whole = {entry.path: ((0, entry.size),) for entry in manifest.files if entry.path in self.whole}
        return want_pieces(manifest, {**self.parts, **whole})


@dataclass(frozen=True)
class Wants:
    """The placement of one pull.

    Attributes:
        place: the kind of placement: "layers", "experts", "files", "none", or "file" (of a plan file).
        nodes: by node id; these nodes and no others take part.
    """

    place: str
    nodes: Mapping[str, NodeWants]

    def of(self, node: str) -> NodeWants:
        """What a node wants; nothing where the placement does not name it."""
        return self.nodes.get(node, NodeWants())

    def document(self) -> bytes:
        """Plain JSON; the same placement gives the same bytes. Files that all nodes want stand there once."""
        every = [node.whole for node in self.nodes.values() if node]
        common = frozenset.intersection(*every) if every else frozenset()
        nodes = {
            name: {
                "common": bool(node),
                "whole": sorted(node.whole - common if node else node.whole),
                "parts": {path: [list(r) for r in ranges] for path, ranges in sorted(node.parts.items())},
                "note": dict(node.note),
            }
            for name, node in sorted(self.nodes.items())
        }
        document = {"place": self.place, "common": sorted(common), "nodes": nodes}
        return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()

    @property
    def key(self) -> str:
        """A digest of the placement; part of the pull's id."""
        return hashlib.sha256(self.document()).hexdigest()[:16]

    def require_sendable(self) -> None:
        """Raises PlacementError where no other node would take the document."""
        ranges = sum(len(found) for node in self.nodes.values() for found in node.parts.values())
        if len(self.nodes) > _MAX_NODES or ranges > _MAX_RANGES or len(self.document()) > MAX_DOCUMENT_BYTES:
            raise PlacementError(
                f"The placement is too long: {ranges} ranges of files for {len(self.nodes)} nodes.",
                hint="Divide by whole layers, or name fewer nodes.",
            )

    @classmethod
    def from_document(cls, data: bytes, manifest: Manifest) -> Wants:
        """The placement that a peer sent, with every name and range checked against the manifest.

        Raises:
            ProtocolError: it is none.
        """
        if len(data) > MAX_DOCUMENT_BYTES:
            raise ProtocolError(f"A placement of {len(data)} bytes was sent; {MAX_DOCUMENT_BYTES} are the most.")
        sizes = {entry.path: entry.size for entry in manifest.files}
        try:
            document = json.loads(data)
            place, nodes = document["place"], document["nodes"]
            if place not in _PLACES or not 0 < len(nodes) <= _MAX_NODES:
                raise ProtocolError(f"A placement of the kind {str(place)[:40]!r} for {len(nodes)} nodes was sent.")
            common = _paths(document["common"], sizes)
            found = {}
            for name, entry in nodes.items():
                whole = _paths(entry["whole"], sizes) | (common if entry["common"] else frozenset())
                parts = {path: _ranges(path, ranges, sizes) for path, ranges in entry["parts"].items()}
                found[name] = NodeWants(whole, parts, dict(entry["note"]))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ProtocolError(f"A placement was sent that cannot be read ({type(error).__name__}).") from error
        if sum(len(r) for node in found.values() for r in node.parts.values()) > _MAX_RANGES:
            raise ProtocolError(f"A placement of more than {_MAX_RANGES} ranges was sent.")
        return cls(str(place), found)


def _paths(paths: Iterable[Any], sizes: Mapping[str, int]) -> frozenset[str]:
    found = frozenset(paths)
    unknown = [path for path in found if path not in sizes]
    if unknown:
        raise ProtocolError(f"A placement names {str(unknown[0])[:200]!r}, which the pull does not have.")
    return found


def _ranges(path: str, ranges: Sequence[Any], sizes: Mapping[str, int]) -> Ranges:
    _paths([path], sizes)
    at, checked = -1, []
    for begin, end in ranges:
        if type(begin) is not int or type(end) is not int or not at < begin < end <= sizes[path]:
            raise ProtocolError(f"A placement names a range of {path!r} that it does not have, or out of order.")
        at = end
        checked.append((begin, end))
    if not checked:
        raise ProtocolError(f"A placement names {path!r} and nothing of it.")
    return tuple(checked)

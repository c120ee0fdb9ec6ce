"""Which reading of each blob a node works on.

The digest of a whole file can fail: the hub, a proxy or a disk gave wrong bytes, and nobody can tell in which piece.
Then all of it is read again, and pieces of the two readings must not be mixed, or the second would fail as well. So
each blob has a number that grows with each failure, announcements name it, and older readings are not believed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from exo_dl.core.manifest import Manifest
from exo_dl.core.pieces import mask
from exo_dl.errors import ProtocolError
from exo_dl.rpc.v1 import swarm_pb2 as pb

__all__ = ["MAX_READINGS", "Readings"]

MAX_READINGS = 3
"""A file that was wrong this many times ends the pull on its node."""

ALONE_FROM = 2
"""From this reading on a node takes a file's pieces from the hub alone: what others said of them was wrong twice."""

_HIGHEST = 1000


class Readings:
    """The readings of one pull on one node.

    Args:
        manifest: the pull's files.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._numbers: dict[int, int] = {}

    def of(self, blob: int) -> int:
        """The reading of a blob that this node works on."""
        return self._numbers.get(blob, 0)

    def begin(self, blob: int, reading: int) -> None:
        """This node goes on with that reading."""
        self._numbers[blob] = reading

    def to_pb(self) -> list[pb.BlobReading]:
        """Those that are not the first."""
        return [pb.BlobReading(blob=blob, reading=number) for blob, number in self._numbers.items()]

    def check(self, said: Iterable[pb.BlobReading]) -> dict[int, int]:
        """What a peer says of its readings.

        Raises:
            ProtocolError: a blob that does not exist, or a number out of bounds.
        """
        result: dict[int, int] = {}
        for item in said:
            if item.blob >= len(self._manifest.blobs) or not item.reading <= _HIGHEST:
                raise ProtocolError(f"Reading {item.reading} of blob {item.blob} was named.")
            result[item.blob] = item.reading
        return result

    def older(self, theirs: Mapping[int, int]) -> int:
        """The pieces that a peer has of older readings than this node: not to be believed."""
        pieces = 0
        for index, number in self._numbers.items():
            if theirs.get(index, 0) < number:
                pieces |= self.pieces(index)
        return pieces

    def newer(self, theirs: Mapping[int, int]) -> list[tuple[int, int]]:
        """Blobs of which a peer works on a newer reading than this node, with its number."""
        return [(index, number) for index, number in theirs.items() if number > self.of(index)]

    def pieces(self, index: int) -> int:
        """All pieces of a blob."""
        blob = self._manifest.blobs[index]
        return mask(blob.first_piece, blob.end_piece)

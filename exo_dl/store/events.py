"""What a `PullStore` tells. All are called out from the store's own threads."""

from __future__ import annotations

from dataclasses import dataclass

from exo_dl.errors import ExoDlError

__all__ = ["BlobCorrupt", "BlobPublished", "CheckFinished", "PartsMended", "PiecesFound", "StoreEvent", "StoreFailed"]


@dataclass(frozen=True, slots=True)
class PiecesFound:
    """Pieces that were on this disk already; read and verified. ``pieces`` is a set of pieces as an int."""

    pieces: int


@dataclass(frozen=True, slots=True)
class CheckFinished:
    """Everything that `PullStore.candidates` named was read. Exactly one, also when there was nothing."""


@dataclass(frozen=True, slots=True)
class BlobPublished:
    """This content is whole, has the hub's digest, and is on disk for good. Once for each wholly wanted blob."""

    blob_index: int


@dataclass(frozen=True, slots=True)
class BlobCorrupt:
    """All pieces were there and the whole does not have the hub's digest.

    The store serves none of the blob until `PullStore.forget` was called.

    Attributes:
        blob_index: which.
        bad_pieces: the pieces (a set) whose bytes on disk are not those that were recorded: a write that was lost or
            overtaken. When all are as recorded, every piece of the blob, for then what was recorded is wrong. Empty for
            an empty file whose digest in the manifest is not that of nothing.
    """

    blob_index: int
    bad_pieces: int


@dataclass(frozen=True, slots=True)
class StoreFailed:
    """This node cannot go on storing (disk full, folder gone). What was recorded stays. At most one."""

    error: ExoDlError


@dataclass(frozen=True, slots=True)
class PartsMended:
    """An earlier pull had wrong bytes of these files in its folder of parts. It has the right ones now."""

    paths: tuple[str, ...]


StoreEvent = PiecesFound | CheckFinished | BlobPublished | BlobCorrupt | StoreFailed | PartsMended

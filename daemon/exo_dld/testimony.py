"""What each peer says of the pieces in one pull, and whether its words hold.

The first digest that anybody names for a piece is kept for it by the store. A peer that names another one is not
overruled by whoever came first: its bytes are held to its own word. So nobody can keep a piece from others by making a
digest up, and bytes that do not have the digest which their sender itself named are that sender's fault. After a few
such it is banned: it is asked no more in this pull, and what it says is not heard.

Which of two digests is right shows when the whole file is compared with the hub's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from exo_dl.core.pieces import iter_bits
from exo_dl.net.wire import DIGEST_BYTES, run_mask
from exo_dl.store.pullstore import PullStore

__all__ = ["STRIKES", "Testimony"]

STRIKES = 3
"""So many transfers of wrong bytes, and a peer is banned."""

_MAX_OTHERS = 65_536
_MAX_SUSPICIONS = 1


class Testimony:
    """The words of all peers in one pull.

    Args:
        store: keeps the first digest of each piece.
        banned: called once for each peer whose word is worth nothing any more.
    """

    def __init__(self, store: PullStore, *, banned: Callable[[str], None]) -> None:
        self._store = store
        self._banned = banned
        self._others: dict[tuple[int, str], bytes] = {}
        self._heard: dict[str, int] = {}
        self._strikes: dict[str, int] = {}
        self._suspicions: dict[tuple[str, int], int] = {}
        self._mistrusted = 0

    def is_banned(self, peer: str) -> bool:
        """Whether a peer is not heard any more."""
        return self._strikes.get(peer, 0) >= STRIKES

    def hear(self, peer: str, first: int, digests: bytes) -> tuple[int, int]:
        """A peer names the digests of the pieces from ``first`` on.

        Returns:
            The pieces (as a set) that may be asked of it, and those for which another digest is known.
        """
        said = run_mask(first, digests) & ~self._mistrusted
        conflicts = self._store.expect(first, digests) & said
        if self._others:
            for piece in iter_bits(said & ~conflicts):
                self._others.pop((piece, peer), None)
        for piece in iter_bits(conflicts):
            if self._store.digest(piece) is not None or len(self._others) >= _MAX_OTHERS:
                said &= ~(1 << piece)
            else:
                start = (piece - first) * DIGEST_BYTES
                self._others[piece, peer] = digests[start : start + DIGEST_BYTES]
        self._heard[peer] = self._heard.get(peer, 0) | said
        return said, conflicts

    def digest(self, peer: str, piece: int) -> bytes | None:
        """The digest that a piece must have when it comes from ``peer``; None where none is known."""
        return self._others.get((piece, peer)) or self._store.expected(piece)

    def broken(self, peer: str) -> None:
        """The bytes of a peer did not have the digest that it named."""
        self._strikes[peer] = self._strikes.get(peer, 0) + 1
        if self._strikes[peer] == STRIKES:
            self._banned(peer)

    def may_suspect(self, peer: str, blob: int, reading: int) -> bool:
        """Whether a peer's word that a reading of a file is wrong counts: once for each file, and the first reading.

        Honest nodes need no more, and nobody can have the others read a file again and again.
        """
        key = (peer, blob)
        if reading > 0 or self._suspicions.get(key, 0) >= _MAX_SUSPICIONS:
            return False
        self._suspicions[key] = self._suspicions.get(key, 0) + 1
        return True

    def mistrust(self, pieces: int, held_by: Callable[[str], int]) -> Iterator[tuple[str, int]]:
        """No peer is believed about these pieces any more. Yields each peer with what it may still be asked for."""
        self._mistrusted |= pieces
        for peer, said in list(self._heard.items()):
            if said & pieces:
                self._heard[peer] = said & ~pieces
                yield peer, held_by(peer) & ~pieces

    def forget(self, pieces: int) -> None:
        """What was said of these pieces is not believed any more."""
        for key in [key for key in self._others if pieces >> key[0] & 1]:
            del self._others[key]

    def lost(self, peer: str) -> None:
        """The link to a peer is gone. What it did stays known."""
        self._heard.pop(peer, None)
        for key in [key for key in self._others if key[1] == peer]:
            del self._others[key]

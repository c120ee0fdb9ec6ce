"""What one peer alone holds is dealt out among all that may ask it: each piece is the share of one of these."""

from __future__ import annotations

import pytest

from exo_dl.core.dealing import Dealing
from exo_dl.core.manifest import FileEntry, Manifest
from exo_dl.core.neighbours import ALL_UP_TO, Neighbourhood

MANIFEST = Manifest(
    hub="h", repo_type="model", repo="o/r", commit="0" * 40, files=(FileEntry("weights", 300 << 20, b"\1" * 32),)
)
EVERY = (1 << MANIFEST.piece_count) - 1


def assert_dealt(shares: list[int]) -> None:
    assert sum(share.bit_count() for share in shares) == MANIFEST.piece_count
    for share in shares[1:]:
        shares[0] |= share
    assert shares[0] == EVERY


@pytest.mark.parametrize("fine", [False, True])
@pytest.mark.parametrize("count", [2, 3, 8, ALL_UP_TO])
def test_each_piece_of_a_holder_is_the_share_of_one_other_node(count: int, fine: bool) -> None:
    nodes = [f"n{i:02}" for i in range(count)]
    for holder in nodes:
        shares = []
        for node in nodes:
            dealing = Dealing(MANIFEST, node)
            dealing.peers([n for n in nodes if n != node])
            if node != holder:
                shares.append(dealing.share(holder, fine=fine))
        assert_dealt(shares)


def test_among_many_it_is_the_share_of_one_of_the_holders_neighbours() -> None:
    nodes = [f"n{i:02}" for i in range(4 * ALL_UP_TO)]
    shares: dict[str, list[int]] = {}
    for node in nodes:
        neighbourhood, dealing = Neighbourhood("pull", node), Dealing(MANIFEST, node)
        dealing.peers(neighbourhood.among([n for n in nodes if n != node]))
        assert not dealing.among_neighbours
        dealing.dealt(neighbourhood.places)
        assert dealing.among_neighbours
        for holder in neighbourhood.places:
            shares.setdefault(holder, []).append(dealing.share(holder, fine=False))
    assert set(shares) == set(nodes)
    for each in shares.values():
        assert_dealt(each)


def test_all_is_the_share_of_who_does_not_know_the_holders_neighbours() -> None:
    dealing = Dealing(MANIFEST, "me")
    dealing.dealt({"near": (1, 3)})
    assert dealing.share("far", fine=True) == EVERY

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from exo_dl.core.pieces import iter_bits
from exo_dl.core.rarity import RarityMap

MAPS = st.lists(st.integers(0, (1 << 20) - 1), min_size=1, max_size=12)


@given(MAPS, st.integers(0, (1 << 20) - 1), st.data())
def test_counts_are_those_of_a_plain_dictionary(maps: list[int], among: int, data: st.DataObject) -> None:
    rarity = RarityMap()
    for bits in maps:
        rarity.add(bits)
    gone = data.draw(st.integers(0, len(maps)))
    for bits in maps[:gone]:
        rarity.remove(bits)
    left = maps[gone:]
    counts = {i: sum(bits >> i & 1 for bits in left) for i in range(20)}
    assert all(rarity.count(i) == counts[i] for i in range(20))
    assert set(iter_bits(rarity.available)) == {i for i in range(20) if counts[i]}
    assert set(iter_bits(rarity.single)) == {i for i in range(20) if counts[i] == 1}
    least = min((counts[i] for i in iter_bits(among)), default=0)
    assert set(iter_bits(rarity.rarest(among))) == {i for i in iter_bits(among) if counts[i] == least}

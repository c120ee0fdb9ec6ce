from __future__ import annotations

from exo_dl.net.request_rate import RequestRate


def test_so_many_at_once_and_then_so_many_a_second() -> None:
    rate = RequestRate(per_s=2, at_once=3)
    assert [rate.allow("a", 0.0) for _ in range(5)] == [True, True, True, False, False]
    assert [rate.allow("a", 0.5), rate.allow("a", 0.5)] == [True, False]
    assert [rate.allow("a", 100.0) for _ in range(4)] == [True, True, True, False]


def test_sources_do_not_share() -> None:
    rate = RequestRate(per_s=1, at_once=1)
    assert [rate.allow("a", 0.0), rate.allow("b", 0.0), rate.allow("a", 0.0)] == [True, True, False]


def test_a_bounded_number_of_sources_is_remembered() -> None:
    rate = RequestRate(per_s=1, at_once=1, max_sources=2)
    assert all(rate.allow(source, 0.0) for source in "abc")
    assert not rate.allow("c", 0.0)
    assert rate.allow("a", 0.0), "the one that was quiet longest was forgotten"

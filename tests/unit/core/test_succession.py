from __future__ import annotations

from exo_dl.core.succession import Claim, Succession, better, order, successor


def test_the_initiator_is_first_and_the_rest_is_the_same_everywhere() -> None:
    nodes = ["a", "b", "c", "d"]
    assert order("p", "c", nodes) == order("p", "c", reversed(nodes))
    assert order("p", "c", nodes)[0] == "c"
    assert sorted(order("p", "c", nodes)) == nodes
    assert len({order(f"p{i}", "x", nodes)[1] for i in range(40)}) == 4


def test_the_successor_is_the_first_that_lives() -> None:
    assert successor(("a", "b", "c"), {"b", "c"}) == "b"
    assert successor(("a",), set()) is None


def test_higher_epochs_stand_then_smaller_ids() -> None:
    assert better(Claim(2, "z"), Claim(1, "a"))
    assert better(Claim(1, "a"), Claim(1, "b"))
    assert not better(Claim(1, "a"), Claim(1, "a"))


def test_exactly_one_node_takes_over_when_all_see_the_same() -> None:
    nodes = ["a", "b", "c", "d"]
    views = [Succession("p", n, initiator="a", claim=Claim(1, "a")) for n in nodes]
    for view in views:
        for node in nodes:
            view.node_up(node)
    assert all(view.take_over() is None for view in views)
    for view in views[1:]:
        view.node_down("a")
    claims = [claim for view in views[1:] if (claim := view.take_over()) is not None]
    assert len(claims) == 1
    assert claims[0].epoch == 2
    for view in views[1:]:
        view.heard(claims[0])
    assert sum(view.coordinating for view in views[1:]) == 1


def test_after_a_split_the_higher_epoch_wins() -> None:
    left = Succession("p", "a", initiator="a", claim=Claim(1, "a"))
    assert left.coordinating
    assert left.heard(Claim(2, "b"))
    assert not left.coordinating
    assert not left.heard(Claim(1, "a"))
    assert not left.reachable
    left.node_up("b")
    assert left.reachable


def test_a_restarted_coordinator_claims_the_pull_anew() -> None:
    view = Succession("p", "a", initiator="a", claim=Claim(0, "a"))
    assert view.heard(Claim(3, "a"))
    assert view.claim == Claim(4, "a")
    assert view.coordinating


def test_a_node_does_not_lose_itself() -> None:
    view = Succession("p", "a", initiator="a", claim=Claim(1, "a"))
    view.node_down("a")
    assert view.reachable

"""Neighbours are all in a small cluster, and a bounded, connected, mutual set in a large one."""

from __future__ import annotations

import pytest

from exo_dl.core.neighbours import ALL_UP_TO, Neighbourhood

MOST = 12


def graph(nodes: list[str]) -> dict[str, set[str]]:
    return {node: set(Neighbourhood("pull", node).among([n for n in nodes if n != node])) for node in nodes}


def steps_to_all(links: dict[str, set[str]], start: str) -> int:
    reached, frontier, steps = {start}, {start}, 0
    while frontier:
        frontier = {n for node in frontier for n in links[node]} - reached
        reached |= frontier
        steps += bool(frontier)
    assert reached == set(links), "not connected"
    return steps


@pytest.mark.parametrize("count", [1, 2, 5, ALL_UP_TO])
def test_in_a_small_cluster_everyone_is_a_neighbour(count: int) -> None:
    nodes = [f"n{i}" for i in range(count)]
    assert all(links == set(nodes) - {node} for node, links in graph(nodes).items())


@pytest.mark.parametrize("count", [ALL_UP_TO + 1, 64, 200])
def test_in_a_large_one_they_are_few_and_mutual_and_reach_everybody(count: int) -> None:
    links = graph([f"n{i}" for i in range(count)])
    for node, neighbours in links.items():
        assert 2 <= len(neighbours) <= MOST
        assert node not in neighbours
        assert all(node in links[other] for other in neighbours)
    assert steps_to_all(links, "n0") <= 5


def test_who_comes_and_goes_changes_little() -> None:
    nodes = [f"n{i}" for i in range(100)]
    mine = Neighbourhood("pull", "me")
    before = set(mine.among(nodes))
    with_one_more = set(mine.among([*nodes, "new"]))
    assert len(before - with_one_more) <= 6
    gone = sorted(before)[0]
    without = set(mine.among([n for n in nodes if n != gone]))
    assert gone not in without
    assert before - {gone} <= without
    assert set(mine.among(nodes)) == before == set(Neighbourhood("pull", "me").among(nodes[::-1]))


def test_where_nodes_want_different_pieces_everyone_is_told() -> None:
    nodes = [f"n{i}" for i in range(4 * ALL_UP_TO)]
    assert set(Neighbourhood("pull", "n0", alike=False).among(nodes[1:])) == set(nodes[1:])


def test_a_node_knows_its_place_among_the_neighbours_of_each_neighbour() -> None:
    nodes = [f"n{i}" for i in range(2 * ALL_UP_TO)]
    links = graph(nodes)
    mine = Neighbourhood("pull", "n0")
    assert set(mine.among(nodes[1:])) == set(mine.places) == links["n0"]
    for peer, (place, count) in mine.places.items():
        assert sorted(links[peer])[place] == "n0" and len(links[peer]) == count
    before = mine.places
    mine.among(nodes[:0:-1])
    assert mine.places is before, "nothing changed"
    mine.among(nodes[1:ALL_UP_TO])
    assert not mine.places, "so few are all each other's neighbours"
    mine.among(nodes[1:])
    assert mine.places == before

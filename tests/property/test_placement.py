"""Placements: whatever the model and the cluster, all of it is somewhere, in proportion, and nothing moves in vain."""

from __future__ import annotations

from itertools import combinations, permutations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exo_dl.core.manifest import FileEntry, Manifest
from exo_dl.core.placement import NodeRoom, place_experts, place_files, place_full, place_layers, place_none
from exo_dl.core.plan import LayerParts, Part, Plan, Sliced, merge_ranges, want_pieces
from exo_dl.core.split import Claim, split, targets
from exo_dl.errors import NoRoomError, PlacementError

SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=24)
WEIGHTS = st.lists(st.integers(0, 64), min_size=1, max_size=6)


def model_of(sizes: list[int], experts: int = 0) -> Sliced:
    at = 0

    def part(name: str, size: int) -> Part:
        nonlocal at
        at += size
        return Part(name, "m.safetensors", at - size, at)

    first = (part("embed", 7),)
    layers = tuple(
        LayerParts((part(f"l{n}", size),), {e: (part(f"l{n}.e{e}", 5),) for e in range(experts)})
        for n, size in enumerate(sizes)
    )
    return Sliced(layers, first, (part("head", 9), *first), (part("rope", 1),), {"config.json": 3})


def rooms(weights: list[int]) -> list[NodeRoom]:
    return [NodeRoom(f"n{index}", 10_000 + 1000 * weight) for index, weight in enumerate(weights)]


@given(SIZES, WEIGHTS, st.randoms(use_true_random=False))
def test_layers_cover_the_model_once_in_proportion_and_the_order_of_nodes_does_not_matter(sizes, weights, rng) -> None:
    model, nodes = model_of(sizes), rooms(weights)
    if len(nodes) > len(sizes):
        with pytest.raises(PlacementError, match="at least one each"):
            place_layers(model, nodes)
        return
    plan = place_layers(model, nodes)
    rng.shuffle(nodes)
    assert plan == place_layers(model, nodes)
    at = 0
    for node in plan.nodes.values():
        ((first, end),) = node.layers
        assert first == at < end
        at = end
        wanted = {f"l{n}" for n in range(first, end)} | {"rope"}
        wanted |= {"embed"} if first == 0 else set()
        wanted |= {"head", "embed"} if end == len(sizes) else set()
        assert set(node.tensors) == wanted
        parts = [part for part in model.all_parts() if part.name in wanted]
        assert node.ranges == {"m.safetensors": merge_ranges((p.begin, p.end) for p in parts)}
        assert node.size == sum(p.size for p in parts) + 3
        assert node.files == ("config.json",)
    assert at == len(sizes)
    assert place_layers(model, nodes, previous=plan) == plan


@given(st.integers(1, 60), WEIGHTS)
def test_equal_layers_are_divided_by_largest_remainders(count: int, weights: list[int]) -> None:
    weights = [weight + 1 for weight in weights]
    if len(weights) > count or any(weight * count < sum(weights) for weight in weights):
        return  # there, at least one layer each decides
    cuts = split([100] * count, [Claim(str(i), w, 10**9) for i, w in enumerate(weights)])
    quotas = [(divmod(weight * count, sum(weights)), -index) for index, weight in enumerate(weights)]
    extra = count - sum(quota for (quota, _), _ in quotas)
    best = sorted(quotas, key=lambda q: (q[0][1], q[1]), reverse=True)[:extra]
    assert sorted(cut.end - cut.first for cut in cuts) == sorted(q[0][0] + (q in best) for q in quotas)


@given(SIZES, WEIGHTS)
def test_targets_are_proportional_and_sum_up_to_the_whole(sizes: list[int], weights: list[int]) -> None:
    if len(weights) > len(sizes):
        return
    total = sum(sizes)
    aims, scale = targets(weights, total, len(sizes))
    assert sum(aims) == total * scale
    assert min(aims) * len(sizes) >= total * scale
    above = [(aim, w) for aim, w in zip(aims, weights, strict=True) if aim * len(sizes) > total * scale and w]
    assert all(a * w2 == b * w1 for (a, w1), (b, w2) in combinations(above, 2))


def brute_force(sizes: list[int], claims: list[Claim]) -> tuple[int, int]:
    """The least (bytes that overflow, bytes that move) of all ways within one layer of the targets; all in a row."""
    aims, scale = targets([claim.weight for claim in claims], sum(sizes), len(sizes))
    ways = []
    for order in permutations(range(len(claims))):
        for bounds in combinations(range(1, len(sizes)), len(claims) - 1):
            over = moved = worst = 0
            for which, (first, end) in zip(order, zip((0, *bounds), (*bounds, len(sizes)), strict=True), strict=True):
                claim = claims[which]
                size = sum(sizes[first:end])
                held = set(range(*claim.held)) if claim.held else set()
                moved += sum(sizes[n] for n in range(first, end) if n not in held)
                over += max(0, size - claim.room)
                worst = max(worst, abs(size * scale - aims[which]))
            if worst <= max(sizes) * scale:
                ways.append((over, moved))
    return min(ways, default=(-1, -1))


@settings(max_examples=60)
@given(
    st.lists(st.integers(1, 9), min_size=4, max_size=9),
    st.lists(st.integers(1, 20), min_size=1, max_size=3),
    st.lists(st.integers(1, 20), max_size=1),
    st.booleans(),
    st.integers(5, 60),
)
def test_replan_moves_no_more_than_needed(sizes, weights, joining, leaving, room) -> None:
    cuts = split(sizes, [Claim(f"n{i}", weight, 10**9) for i, weight in enumerate(weights)])
    held = {cut.node: (cut.first, cut.end) for cut in cuts}
    claims = [Claim(f"n{i}", weight, room, held[f"n{i}"]) for i, weight in enumerate(weights)][leaving:]
    claims += [Claim(f"j{i}", weight, room) for i, weight in enumerate(joining)]
    if not claims:
        return
    new = {cut.node: cut for cut in split(sizes, claims, any_order=True)}
    over = moved = 0
    for claim in claims:
        mine = set(range(new[claim.node].first, new[claim.node].end))
        over += max(0, sum(sizes[n] for n in mine) - claim.room)
        moved += sum(sizes[n] for n in mine - (set(range(*claim.held)) if claim.held else set()))
    least = brute_force(sizes, claims)
    assert least == (-1, -1) or (over, moved) == least


@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.integers(1, 16), WEIGHTS)
def test_experts_are_on_one_node_each_and_the_rest_on_all(sizes: list[int], experts: int, weights: list[int]) -> None:
    model, nodes = model_of(sizes, experts), rooms(weights)
    if len(nodes) > experts:
        with pytest.raises(PlacementError, match="at least one each"):
            place_experts(model, nodes)
        return
    plan = place_experts(model, nodes)
    shared = {"embed", "head", "rope", *(f"l{n}" for n in range(len(sizes)))}
    held = [name for node in plan.nodes.values() for name in node.tensors if name not in shared]
    assert sorted(held) == sorted(f"l{n}.e{e}" for n, e in product(range(len(sizes)), range(experts)))
    assert all(shared <= set(node.tensors) for node in plan.nodes.values())
    assert place_experts(model, nodes, previous=plan) == plan


@given(st.integers(1, 40 << 20), st.lists(st.tuples(st.integers(0, 40 << 20), st.integers(0, 9 << 20)), max_size=6))
def test_wanted_pieces_are_those_that_hold_a_wanted_byte(size: int, wishes: list[tuple[int, int]]) -> None:
    files = (FileEntry("a", 5, bytes(32)), FileEntry("m", size, bytes([1] * 32)))
    manifest = Manifest("huggingface", "model", "o/n", "0" * 40, files)
    spans = merge_ranges((min(b, size), min(b + n, size)) for b, n in wishes)
    wanted = want_pieces(manifest, {"m": spans})
    for piece in range(manifest.piece_count):
        at = manifest.span(piece)
        touched = at.blob == 1 and any(b < at.offset + at.size and at.offset < e for b, e in spans)
        assert bool(wanted >> piece & 1) == touched
    with pytest.raises(PlacementError, match="which has"):
        want_pieces(manifest, {"m": ((0, size + 1),)})
    with pytest.raises(PlacementError, match="not among"):
        want_pieces(manifest, {"gone": ((0, 1),)})


def test_four_nodes_of_8_16_32_and_64_gib_and_a_fifth() -> None:
    gib, model = 1 << 30, model_of([1 << 28] * 30)
    nodes = [NodeRoom(f"n{size}", size * gib) for size in (8, 16, 32, 64)]
    plan = place_layers(model, nodes)
    assert {name: node.layer_count for name, node in plan.nodes.items()} == {"n64": 16, "n32": 8, "n16": 4, "n8": 2}
    more = [*nodes, NodeRoom("n32b", 32 * gib)]
    assert place_layers(model, more, previous=plan) == place_layers(model, more)
    moved = place_layers(model, more, previous=plan, replan=True)
    kept = {
        f"l{n}"
        for name in plan.nodes
        for n in range(30)
        if f"l{n}" in {*plan.nodes[name].tensors} & {*moved.nodes[name].tensors}
    }
    assert len(kept) == 30 - moved.nodes["n32b"].layer_count


def test_a_share_that_does_not_fit_says_whose_and_by_how_much() -> None:
    model = model_of([1000] * 4)
    with pytest.raises(NoRoomError, match=r"b: 2020 bytes, 520 more than the 1500 that its memory") as error:
        place_layers(model, [NodeRoom("a", 4000), NodeRoom("b", 2000)], fraction=0.75, previous=held(model))
    assert error.value.short == {"b": 520}
    with pytest.raises(NoRoomError, match="its disk has") as error:
        place_layers(model, [NodeRoom("a", 9000, 100), NodeRoom("b", 9000)])
    assert set(error.value.short) == {"a"}


def held(model: Sliced) -> Plan:
    return place_layers(model, [NodeRoom("a", 9000), NodeRoom("b", 9000)])


def test_files_by_globs_everything_and_nothing() -> None:
    files = {"a.gguf": 5, "text_encoder/m.safetensors": 7, "config.json": 1}
    plan = place_files(files, ["x", "y", "z"], {"x": ["*.gguf"], "y": ["text_encoder/*"]}, common=["*.json"])
    assert {name: node.files for name, node in plan.nodes.items()} == {
        "x": ("a.gguf", "config.json"),
        "y": ("config.json", "text_encoder/m.safetensors"),
        "z": ("config.json",),
    }
    with pytest.raises(PlacementError, match="No file"):
        place_files(files, ["x"], {"x": ["*.bin"]})
    with pytest.raises(PlacementError, match="no node of this pull"):
        place_files(files, ["x"], {"stranger": ["*"]})
    assert all(node.size == 13 for node in place_full(files, ["x", "y"]).nodes.values())
    assert all(node.size == 0 for node in place_none(["x", "y"]).nodes.values())
    for bad in ([], ["x", "x"]):
        with pytest.raises(PlacementError):
            place_full(files, bad)

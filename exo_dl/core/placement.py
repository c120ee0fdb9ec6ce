"""Which node keeps which parts of a model: the placements that a person can ask for.

Each function gives the same plan for the same arguments on every machine, whatever the order of the nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from fractions import Fraction
from itertools import pairwise

from exo_dl.core.plan import (
    LayerParts,
    NodePlan,
    NodeRoom,
    Part,
    Plan,
    Runs,
    Sliced,
    merge_ranges,
)
from exo_dl.core.split import Claim, Cut, split
from exo_dl.errors import NoRoomError, PlacementError

__all__ = [
    "DEFAULT_FRACTION",
    "NodeRoom",
    "Part",
    "Plan",
    "Sliced",
    "node_plan",
    "place_experts",
    "place_files",
    "place_full",
    "place_layers",
    "place_none",
]

# Of a node's memory, what weights may take: the rest is for the system, activations and the cache of keys and values.
DEFAULT_FRACTION = 0.75


def node_plan(
    parts: Iterable[Part],
    files: Mapping[str, int],
    *,
    layers: Runs = (),
    experts: Mapping[int, Runs] | None = None,
) -> NodePlan:
    """The plan of a node that keeps these parts and these whole files (path -> bytes)."""
    kept = {part.name: part for part in parts if part.file not in files}
    spans: dict[str, list[tuple[int, int]]] = {}
    for part in kept.values():
        spans.setdefault(part.file, []).append((part.begin, part.end))
    ranges = {path: merged for path in sorted(spans) if (merged := merge_ranges(spans[path]))}
    size = sum(end - begin for merged in ranges.values() for begin, end in merged) + sum(files.values())
    return NodePlan(layers, dict(experts or {}), tuple(sorted(kept)), ranges, tuple(sorted(files)), size)


def _ids(nodes: Iterable[str]) -> list[str]:
    ids = sorted(nodes)
    if not ids:
        raise PlacementError("No node is to have any of the model.")
    for one, two in pairwise(ids):
        if one == two:
            raise PlacementError(f"The node {one!r} is named twice.")
    return ids


def place_full(files: Mapping[str, int], nodes: Iterable[str]) -> Plan:
    """Every file (path -> bytes) on every node."""
    return Plan("full", {node: node_plan((), files) for node in _ids(nodes)})


def place_none(nodes: Iterable[str]) -> Plan:
    """Nothing on any of these nodes: they help to fetch and to serve."""
    return Plan("none", {node: NodePlan() for node in _ids(nodes)})


def place_files(
    files: Mapping[str, int], nodes: Iterable[str], globs: Mapping[str, Sequence[str]], *, common: Sequence[str] = ()
) -> Plan:
    """Whole files by name.

    Args:
        files: all files of the pull, path -> bytes.
        nodes: the cluster's nodes; those without globs keep nothing but ``common``.
        globs: node -> patterns (``*`` crosses folders, as in `hf download --include`).
        common: patterns of files that all nodes keep.

    Raises:
        PlacementError: a node that is not in the cluster, or a pattern that matches no file.
    """
    ids = _ids(nodes)
    _known(globs, ids)
    for pattern in {pattern for patterns in (*globs.values(), common) for pattern in patterns}:
        if not any(fnmatchcase(path, pattern) for path in files):
            raise PlacementError(f"No file of the model matches {pattern!r}.")
    plans = {}
    for node in ids:
        patterns = (*globs.get(node, ()), *common)
        kept = {path: size for path, size in files.items() if any(fnmatchcase(path, p) for p in patterns)}
        plans[node] = node_plan((), kept)
    return Plan("files", plans)


def _known(named: Iterable[str], nodes: Iterable[str]) -> None:
    unknown = sorted(set(named) - set(nodes))
    if unknown:
        raise PlacementError(
            f"The plan names {unknown[0]!r}, which is no node of this pull.",
            hint=f"Its nodes are {', '.join(sorted(nodes))}.",
        )


def _size(parts: Iterable[Part]) -> int:
    return sum(part.size for part in parts)


def _room(node: NodeRoom, fraction: float) -> int:
    memory = int(node.memory_bytes * Fraction(fraction).limit_denominator(10_000))
    return memory if node.disk_bytes is None else min(memory, node.disk_bytes)


def _check_nodes(nodes: Sequence[NodeRoom], fraction: float) -> list[NodeRoom]:
    _ids(node.node for node in nodes)
    if not 0 < fraction <= 1:
        raise PlacementError(f"The fraction of memory for weights is {fraction}; it lies above 0 and up to 1.")
    for node in nodes:
        if node.memory_bytes < 0 or (node.disk_bytes or 0) < 0:
            raise PlacementError(f"The node {node.node!r} has a negative size of memory or disk.")
    # Those with the most memory first: the embedding comes with the first layer.
    return sorted(nodes, key=lambda node: (-node.memory_bytes, node.node))


def _check_room(nodes: Sequence[NodeRoom], plan: Plan, fraction: float) -> Plan:
    short: dict[str, int] = {}
    texts = []
    for node in nodes:
        size = plan.nodes[node.node].size
        memory = _room(NodeRoom(node.node, node.memory_bytes), fraction)
        lacks = [(size - memory, "memory", memory)]
        if node.disk_bytes is not None:
            lacks.append((size - node.disk_bytes, "disk", node.disk_bytes))
        for lack, what, has in lacks:
            if lack > 0:
                short[node.node] = max(lack, short.get(node.node, 0))
                texts.append(f"{node.node}: {size} bytes, {lack} more than the {has} that its {what} has for weights")
    if short:
        raise NoRoomError(
            f"The shares of {len(short)} of {len(nodes)} nodes do not fit. {'; '.join(texts)}.",
            short=short,
            hint="Add a node, free disk space, or declare more memory (--memory NODE=SIZE, or a larger fraction).",
        )
    return plan


def _held(runs: Runs) -> tuple[int, int] | None:
    return (runs[0][0], runs[-1][1]) if runs else None


def _cuts(
    sizes: Sequence[int],
    nodes: list[NodeRoom],
    fraction: float,
    held: Mapping[str, tuple[int, int] | None] | None,
    *,
    replan: bool,
    common: int,
    head: int = 0,
    tail: int = 0,
) -> list[Cut]:
    """The runs of the nodes: those that they have had, where nobody has joined or left, else new ones.

    ``common`` is what each node holds besides its run.
    """
    if held is not None and not replan and held.keys() == {node.node for node in nodes}:
        kept = [Cut(node, *run) for node, run in held.items() if run is not None]
        kept.sort(key=lambda cut: cut.first)
        ends = [0, *(cut.end for cut in kept)]
        if [cut.first for cut in kept] == ends[:-1] and ends[-1] == len(sizes) and len(kept) == len(nodes):
            return kept
    claims = [
        Claim(
            node.node,
            node.memory_bytes,
            _room(node, fraction) - common,
            held.get(node.node) if held and replan else None,
        )
        for node in nodes
    ]
    return split(sizes, claims, head=head, tail=tail, any_order=replan and bool(held))


def place_layers(
    model: Sliced,
    nodes: Sequence[NodeRoom],
    *,
    fraction: float = DEFAULT_FRACTION,
    previous: Plan | None = None,
    replan: bool = False,
) -> Plan:
    """Contiguous runs of layers, their bytes in proportion to each node's memory, at least one layer each.

    Args:
        model: the model, cut up.
        nodes: where it is to go.
        fraction: of each node's memory, what weights may take; 0 to 1, 0 not included.
        previous: the plan that the nodes have carried out. It stays while they are the same and ``replan`` is not set.
        replan: divide anew for these nodes and their memory, in the way that moves the least bytes.

    Raises:
        PlacementError: there are more nodes than layers, or none.
        NoRoomError: a share does not fit; it says whose, and by how much.
    """
    rooms = _check_nodes(nodes, fraction)
    count = len(model.layers)
    if len(rooms) > count:
        raise PlacementError(
            f"The model has {count} layers and {len(rooms)} nodes are to have at least one each.",
            hint="Name fewer nodes.",
        )
    held = None
    if previous is not None and previous.kind == "layers" and previous.layer_count == count:
        held = {node: _held(plan.layers) for node, plan in previous.nodes.items()}
    cuts = _cuts(
        [layer.size for layer in model.layers],
        rooms,
        fraction,
        held,
        replan=replan,
        common=_size(model.everywhere) + sum(model.files.values()),
        head=_size(model.first),
        tail=_size(model.last),
    )
    plans = {}
    for cut in cuts:
        parts = [part for layer in model.layers[cut.first : cut.end] for part in layer.all_parts()]
        parts += model.everywhere
        parts += model.first if cut.first == 0 else ()
        parts += model.last if cut.end == count else ()
        plans[cut.node] = node_plan(parts, model.files, layers=((cut.first, cut.end),))
    return _check_room(rooms, Plan("layers", plans, count), fraction)


def _expert_row(layers: Sequence[LayerParts]) -> list[int]:
    """Bytes of expert 0, 1, ... over all layers."""
    count = max((max(layer.experts, default=-1) for layer in layers), default=-1) + 1
    row = [0] * count
    for layer in layers:
        for number, parts in layer.experts.items():
            row[number] += _size(parts)
    return row


def place_experts(
    model: Sliced,
    nodes: Sequence[NodeRoom],
    *,
    fraction: float = DEFAULT_FRACTION,
    previous: Plan | None = None,
    replan: bool = False,
) -> Plan:
    """The experts of each layer divided in runs over the nodes, by memory; everything else on each node.

    A node has the same experts in all layers. Arguments and errors are those of `place_layers`.

    Raises:
        PlacementError: the model has no experts that are tensors of their own, or fewer than there are nodes.
        NoRoomError: a share does not fit.
    """
    rooms = _check_nodes(nodes, fraction)
    row = _expert_row(model.layers)
    if not row:
        raise PlacementError(
            "The model has no experts, or they are not tensors of their own.", hint="Use --place layers."
        )
    if len(rooms) > len(row):
        raise PlacementError(
            f"The model has {len(row)} experts a layer and {len(rooms)} nodes are to have at least one each.",
            hint="Name fewer nodes.",
        )
    held = None
    if previous is not None and previous.kind == "experts" and previous.layer_count == len(model.layers):
        held = {
            node: _held(merge_ranges(run for runs in plan.experts.values() for run in runs))
            for node, plan in previous.nodes.items()
        }
    shared = [part for layer in model.layers for part in layer.parts]
    shared += (*model.first, *model.last, *model.everywhere)
    common = node_plan(shared, model.files).size
    cuts = _cuts(row, rooms, fraction, held, replan=replan, common=common)
    plans = {}
    for cut in cuts:
        parts = list(shared)
        experts: dict[int, Runs] = {}
        for index, layer in enumerate(model.layers):
            mine = [number for number in sorted(layer.experts) if cut.first <= number < cut.end]
            parts += (part for number in mine for part in layer.experts[number])
            if mine:
                experts[index] = merge_ranges((number, number + 1) for number in mine)
        plans[cut.node] = node_plan(parts, model.files, layers=((0, len(model.layers)),), experts=experts)
    return _check_room(rooms, Plan("experts", plans, len(model.layers)), fraction)

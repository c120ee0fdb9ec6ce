"""Plans as plain documents (what JSON and TOML hold): for messages between nodes, and the plan file of a person."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from exo_dl.core.paths import check_path
from exo_dl.core.placement import node_plan
from exo_dl.core.plan import NodePlan, Part, Plan, Runs, Sliced, merge_runs
from exo_dl.errors import PlacementError, UsageError

__all__ = ["MAX_NODES", "from_document", "plan_from_document", "to_document"]

MAX_NODES = 10_000
_MAX_ITEMS = 500_000
_MAX_TEXT = 1024
_MAX_NUMBER = 1 << 62
_KINDS = ("full", "layers", "experts", "files", "none", "custom")
_NODE_KEYS = {"layers", "experts", "tensors", "ranges", "files", "size"}
_WISHES = {"all", "layers", "experts", "tensors", "files", "first", "last"}


def _pairs(runs: Iterable[tuple[int, int]]) -> list[list[int]]:
    return [[first, end] for first, end in runs]


def to_document(plan: Plan) -> dict[str, Any]:
    """The plan as a document; equal plans give equal documents, in the same order."""
    return {
        "version": 1,
        "kind": plan.kind,
        "layer_count": plan.layer_count,
        "order": list(plan.nodes),
        "nodes": {
            name: {
                "layers": _pairs(node.layers),
                "experts": {str(layer): _pairs(runs) for layer, runs in sorted(node.experts.items())},
                "tensors": list(node.tensors),
                "ranges": {path: _pairs(node.ranges[path]) for path in sorted(node.ranges)},
                "files": list(node.files),
                "size": node.size,
            }
            for name, node in sorted(plan.nodes.items())
        },
    }


def _refuse(what: str) -> PlacementError:
    return PlacementError(f"The plan cannot be read: {what}.")


def _table(value: object, what: str, limit: int = _MAX_ITEMS) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) and len(key) <= _MAX_TEXT for key in value):
        raise _refuse(f"{what} is no table")
    if len(value) > limit:
        raise _refuse(f"{what} has more than {limit} entries")
    return value


def _texts(value: object, what: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) and len(item) <= _MAX_TEXT for item in value):
        raise _refuse(f"{what} is no list of short texts")
    if len(value) > _MAX_ITEMS:
        raise _refuse(f"{what} has more than {_MAX_ITEMS} entries")
    return value


def _number(value: object, what: str) -> int:
    if type(value) is not int or not 0 <= value < _MAX_NUMBER:
        raise _refuse(f"{what} is {str(value)[:40]!r} and not a whole number from 0 on")
    return value


def _runs(value: object, what: str, limit: int = _MAX_NUMBER) -> Runs:
    if not isinstance(value, list) or len(value) > _MAX_ITEMS:
        raise _refuse(f"{what} is no list of ranges")
    found = []
    at = -1
    for item in value:
        if not isinstance(item, list) or len(item) != 2:
            raise _refuse(f"{what} has something that is no pair of numbers")
        first, end = _number(item[0], what), _number(item[1], what)
        if not at < first < end <= limit:
            raise _refuse(f"{what} has the range {first}..{end}, empty, out of order, over another, or past {limit}")
        found.append((first, end))
        at = end
    return tuple(found)


def _path(path: str) -> str:
    try:
        return check_path(path)
    except UsageError as error:
        raise PlacementError(f"The plan cannot be read: {error}") from None


def _layer_key(text: str, count: int) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 6 or int(text) >= count:
        raise _refuse(f"{text[:40]!r} is no layer of the {count}")
    return int(text)


def _node(value: object, name: str, count: int) -> NodePlan:
    about = f"node {name!r}"
    table = _table(value, about)
    if table.keys() != _NODE_KEYS:
        raise _refuse(f"{about} has other entries than {', '.join(sorted(_NODE_KEYS))}")
    experts = _table(table["experts"], f"{about}, experts")
    tensors, files = _texts(table["tensors"], f"{about}, tensors"), _texts(table["files"], f"{about}, files")
    if tensors != sorted(set(tensors)) or files != sorted(set(files)):
        raise _refuse(f"{about} names a tensor or a file twice, or out of order")
    ranges = _table(table["ranges"], f"{about}, ranges")
    if set(ranges) & set(files):
        raise _refuse(f"{about} keeps a file whole and in parts")
    return NodePlan(
        _runs(table["layers"], f"{about}, layers", count),
        {_layer_key(layer, count): _runs(runs, f"{about}, experts") for layer, runs in experts.items()},
        tuple(tensors),
        {_path(path): _runs(runs, f"{about}, {path}") for path, runs in ranges.items()},
        tuple(_path(path) for path in files),
        _number(table["size"], f"{about}, size"),
    )


def from_document(document: object) -> Plan:
    """The inverse of `to_document`, for documents from outside.

    Raises:
        PlacementError: with what is wrong.
    """
    table = _table(document, "it")
    if table.get("version") != 1 or table.get("kind") not in _KINDS:
        raise _refuse("it has another version or kind than this program knows")
    count = _number(table.get("layer_count"), "layer_count")
    nodes = _table(table.get("nodes"), "nodes", MAX_NODES)
    order = _texts(table.get("order"), "order")
    if sorted(order) != sorted(nodes):
        raise _refuse("its order does not name each node once")
    return Plan(table["kind"], {name: _node(nodes[name], name, count) for name in order}, count)


def _chosen(value: object, what: str, count: int) -> set[int]:
    """Numbers as a person writes them: "0-15", "3", or a list of such."""
    texts = [value] if isinstance(value, (str, int)) else value
    if not isinstance(texts, list) or len(texts) > _MAX_ITEMS:
        raise _refuse(f'{what} is not of the form "0-15" or ["0-7", "12"]')
    found: set[int] = set()
    for text in texts:
        low, dash, high = str(text)[:40].replace(" ", "").partition("-")
        high = high if dash else low
        if not all(part.isascii() and part.isdigit() and len(part) <= 6 for part in (low, high)):
            raise _refuse(f'{what} has {str(text)[:40]!r}, which is not of the form "0-15" or "12"')
        if not int(low) <= int(high) < count:
            raise _refuse(f"{what} has {text!r}; there are {count}, from 0 to {count - 1}")
        found |= set(range(int(low), int(high) + 1))
    return found


def _matching(names: Iterable[str], globs: Sequence[str], about: str) -> set[str]:
    known = list(names)
    found: set[str] = set()
    for glob in globs:
        matches = {name for name in known if fnmatchcase(name, glob)}
        if not matches:
            raise PlacementError(f"{about}: nothing matches {glob!r}.")
        found |= matches
    return found


def _wish(table: Mapping[str, Any], name: str, model: Sliced, files: Mapping[str, int]) -> NodePlan:
    about = f"The plan for node {name!r}"
    if unknown := sorted(table.keys() - _WISHES):
        raise PlacementError(f"{about} has {unknown[0]!r}; known are {', '.join(sorted(_WISHES))}.")
    for key in ("all", "first", "last"):
        if not isinstance(table.get(key, False), bool):
            raise PlacementError(f"{about}: {key!r} is true or false.")
    if table.get("all"):
        return node_plan((), files, layers=merge_runs(range(len(model.layers))))
    count = len(model.layers)
    layers = _chosen(table["layers"], f"{about}, layers", count) if "layers" in table else set[int]()
    most = 1 + max((max(layer.experts, default=-1) for layer in model.layers), default=-1)
    only = _chosen(table["experts"], f"{about}, experts", most) if "experts" in table else None
    if only is not None and not layers:
        layers = set(range(count))
    parts: list[Part] = []
    experts: dict[int, Runs] = {}
    for index in sorted(layers):
        layer = model.layers[index]
        mine = sorted(set(layer.experts) if only is None else set(layer.experts) & only)
        parts += (*layer.parts, *(part for number in mine for part in layer.experts[number]))
        if only is not None and mine:
            experts[index] = merge_runs(mine)
    parts += model.everywhere if layers else ()
    parts += model.first if table.get("first", 0 in layers) else ()
    parts += model.last if table.get("last", count - 1 in layers) else ()
    every = {part.name: part for part in model.all_parts()}
    parts += (every[tensor] for tensor in _matching(every, _texts(table.get("tensors", []), about), about))
    whole = {path: files[path] for path in _matching(files, _texts(table.get("files", []), about), about)}
    return node_plan(parts, {**model.files, **whole}, layers=merge_runs(layers), experts=experts)


def _check_cover(model: Sliced, nodes: Mapping[str, NodePlan], *, once: bool, complete: bool) -> None:
    shared = {part.name for part in (*model.first, *model.last, *model.everywhere)}
    holders: dict[str, list[str]] = {}
    for name, node in nodes.items():
        names = set(node.tensors)
        for part in model.all_parts():
            if part.name in names or part.file in node.files:
                holders.setdefault(part.name, []).append(name)
    for part in model.all_parts():
        held = holders.get(part.name, [])
        if complete and not held:
            raise PlacementError(
                f"By the plan no node keeps the tensor {part.name!r}.",
                hint='Give it to a node, or say "complete = false".',
            )
        if once and len(held) > 1 and part.name not in shared:
            raise PlacementError(f"By the plan {held[0]!r} and {held[1]!r} keep the tensor {part.name!r}: once is set.")


def plan_from_document(
    document: object, model: Sliced, files: Mapping[str, int], nodes: Iterable[str] | None = None
) -> Plan:
    """The plan that a person has written: for each node its layers, experts, tensors and files.

    ::

        once = true               # no tensor of a layer on two nodes (default: false)
        complete = true           # every tensor on some node (the default)
        [nodes.studio]
        layers = ["0-19"]         # with the embeddings, for it has the first layer; `first = false` leaves them out
        [nodes.mini]
        layers = "20-31"
        files = ["*.txt"]         # whole files; also: experts = "0-63", tensors = ["lm_head.*"], all = true

    Args:
        document: what TOML or JSON gave.
        model: the model, cut up.
        files: all files of the pull, path -> bytes.
        nodes: the cluster's nodes; those that the plan does not name keep nothing. None: those of the plan.

    Raises:
        PlacementError: with what is wrong: unknown nodes or entries, layers that there are not, a tensor on no node, or
            on two where that must not be.
    """
    table = _table(document, "it")
    if unknown := sorted(table.keys() - {"once", "complete", "nodes"}):
        raise PlacementError(f"The plan has {unknown[0]!r}; known are complete, nodes, once.")
    once, complete = table.get("once", False), table.get("complete", True)
    if not isinstance(once, bool) or not isinstance(complete, bool):
        raise PlacementError("The plan's 'once' and 'complete' are true or false.")
    wishes = _table(table.get("nodes"), "nodes", MAX_NODES)
    known = sorted(set(wishes if nodes is None else nodes))
    if strangers := sorted(set(wishes) - set(known)):
        raise PlacementError(
            f"The plan names {strangers[0]!r}, which is no node of this pull.",
            hint=f"Its nodes are {', '.join(known)}.",
        )
    plans = {
        name: _wish(_table(wishes[name], f"node {name!r}"), name, model, files) if name in wishes else NodePlan()
        for name in known
    }
    _check_cover(model, plans, once=once, complete=complete)
    return Plan("custom", plans, len(model.layers))

"""From the structure of a model to a plan: by layers, by experts, or as a plan file says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from exo_dl.core.manifest import Manifest
from exo_dl.core.placement import DEFAULT_FRACTION, node_plan, place_experts, place_layers
from exo_dl.core.plan import LayerParts, NodePlan, NodeRoom, Part, Plan, Sliced, merge_ranges
from exo_dl.core.planfile import FilePlan, chosen
from exo_dl.core.wants import NodeWants
from exo_dl.formats.layers import classify
from exo_dl.formats.slicing import slice_model
from exo_dl.formats.weights import companions
from exo_dld.structure import Structure

__all__ = ["DEFAULT_FRACTION", "Division", "divide", "from_file", "wants_of"]


@dataclass(frozen=True, slots=True)
class Division:
    """How a model is to be divided.

    Attributes:
        place: "layers" or "experts".
        rooms: the nodes.
        fraction: of their memory, what weights may take.
        previous: the plan that they carried out last; None where there is none.
        replan: divide anew.
    """

    place: str
    rooms: Sequence[NodeRoom]
    fraction: float
    previous: Plan | None = None
    replan: bool = False


def divide(division: Division, structure: Structure) -> Plan:
    """A model divided by "layers" or "experts". Takes seconds where it has a hundred thousand tensors.

    Raises:
        UnknownStructureError: its parts cannot be told.
        PlacementError: there are more nodes than parts.
        NoRoomError: a share does not fit; it says whose, and by how much.
    """
    model = _sliced(structure)
    function = place_layers if division.place == "layers" else place_experts
    previous, rooms = division.previous, division.rooms
    if previous is not None:
        # What a node has of this model already takes no room again.
        held = {node: _bytes_held(model, part) for node, part in previous.nodes.items()}
        rooms = [_with_disk(room, held.get(room.node, 0)) for room in rooms]
    return function(model, rooms, fraction=division.fraction, previous=previous, replan=division.replan)


def from_file(plan: FilePlan, manifest: Manifest, structure: Structure | None) -> Plan:
    """What a plan file says, for the files and the tensors that there are.

    Raises:
        PlacementError: it names what there is not, or gives a tensor to two nodes without saying that it means to.
    """
    sizes = {f.path: f.size for f in manifest.files}
    layers: tuple[LayerParts, ...] = ()
    ends: dict[str, Sequence[Part]] = {}
    parts: dict[str, Part] = {}
    if structure is not None and plan.needs_tensors:
        parts = {t.name: Part(t.name, t.file, t.begin, t.end) for t in structure.model}
        if plan.needs_layers:
            model = _sliced(structure)
            layers = model.layers
            ends = {"first": model.first, "last": model.last, "everywhere": model.everywhere}
    found = chosen(plan, sizes, parts, layers, ends, companions(sizes))
    return Plan("custom", {n: node_plan(*c.kept, layers=c.layers) for n, c in found.items()}, len(layers))


def wants_of(
    place: str, manifest: Manifest, plan: Plan, headers: Mapping[str, int], name_of: Callable[[str], str]
) -> dict[str, NodeWants]:
    """What each node of a plan wants.

    Args:
        place: the kind of placement.
        manifest: the files.
        plan: who keeps what.
        headers: of each file that is divided, the bytes before its first tensor: whoever wants a part wants them too.
        name_of: a node's name, for the note in its folder.
    """
    sizes = {f.path: f.size for f in manifest.files}
    found = {}
    for node, part in plan.nodes.items():
        note: dict[str, object] = {"placement": place, "node": name_of(node)}
        if plan.layer_count:
            note |= {"layers": [list(run) for run in part.layers], "layer_count": plan.layer_count}
        if part.experts:
            note["experts"] = {str(layer): [list(run) for run in runs] for layer, runs in sorted(part.experts.items())}
        spans = {path: merge_ranges([(0, headers[path]), *ranges]) for path, ranges in part.ranges.items()}
        whole = {path for path, ranges in spans.items() if ranges == ((0, sizes[path]),)}
        parts = {path: ranges for path, ranges in spans.items() if path not in whole}
        found[node] = NodeWants(frozenset(whole.union(part.files)), parts, note)
    return found


def _sliced(structure: Structure) -> Sliced:
    return slice_model(structure.model, classify(structure.model, structure.config), structure.beside)


def _bytes_held(model: Sliced, part: NodePlan) -> int:
    """Bytes of the layers that a node had, and of the experts there where they were divided."""
    size = 0
    for number in (number for first, end in part.layers for number in range(first, min(end, len(model.layers)))):
        layer = model.layers[number]
        size += layer.size
        if part.experts:
            mine = {expert for first, end in part.experts.get(number, ()) for expert in range(first, end)}
            size -= sum(p.size for expert, parts in layer.experts.items() if expert not in mine for p in parts)
    return size


def _with_disk(room: NodeRoom, held: int) -> NodeRoom:
    return room if room.disk_bytes is None else NodeRoom(room.node, room.memory_bytes, room.disk_bytes + held)

"""From the structure of a model to a plan: by layers, by experts, or as a plan file says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from exo_dl.core.manifest import Manifest
from exo_dl.core.placement import DEFAULT_FRACTION, node_plan, place_experts, place_layers
from exo_dl.core.plan import LayerParts, NodePlan, NodeRoom, Part, Plan, Sliced
from exo_dl.core.planfile import FilePlan, chosen
from exo_dl.errors import NoRoomError
from exo_dl.formats.layers import classify
from exo_dl.formats.slicing import slice_model
from exo_dl.formats.weights import companions, weight_sets
from exo_dld.structure import Structure

__all__ = ["DEFAULT_FRACTION", "divide", "from_file"]


def divide(
    place: str,
    structure: Structure,
    manifest: Manifest,
    rooms: Sequence[NodeRoom],
    *,
    fraction: float,
    previous: Plan | None,
    replan: bool,
    name_of: Callable[[str], str],
) -> Plan:
    """A model divided by "layers" or "experts".

    Raises:
        UnknownStructureError: its parts cannot be told.
        PlacementError: there are more nodes than parts.
        NoRoomError: a share does not fit; it says whose, and by how much.
    """
    model = _sliced(structure, manifest)
    function = place_layers if place == "layers" else place_experts
    if previous is not None:
        # What a node has of this model already takes no room again.
        held = {node: _bytes_held(model, part) for node, part in previous.nodes.items()}
        rooms = [_with_disk(room, held.get(room.node, 0)) for room in rooms]
    try:
        return function(model, rooms, fraction=fraction, previous=previous, replan=replan)
    except NoRoomError as error:
        what = error.what
        for room in rooms:
            what = what.replace(f"{room.node}:", f"{name_of(room.node)}:")
        raise NoRoomError(what, short=error.short, hint=error.hint) from error


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
            model = _sliced(structure, manifest)
            layers = model.layers
            ends = {"first": model.first, "last": model.last, "everywhere": model.everywhere}
    found = chosen(plan, sizes, parts, layers, ends, companions(sizes))
    return Plan("custom", {n: node_plan(*c.kept, layers=c.layers) for n, c in found.items()}, len(layers))


def _sliced(structure: Structure, manifest: Manifest) -> Sliced:
    return slice_model(structure.model, classify(structure.model, structure.config), _everywhere(structure, manifest))


def _everywhere(structure: Structure, manifest: Manifest) -> Mapping[str, int]:
    """What every node keeps whole: configurations, tokenizers, and the models of other folders (VAE, encoders)."""
    sizes = {f.path: f.size for f in manifest.files}
    kept = dict(companions(sizes))
    folder = next(iter(structure.model.files)).rpartition("/")[0]
    seen = {folder}
    for weights in weight_sets(sizes):
        if weights.kind == "safetensors" and weights.folder not in seen and folder:
            seen.add(weights.folder)
            kept |= {path: sizes[path] for path in weights.files}
            if weights.index is not None:
                kept[weights.index] = sizes[weights.index]
    return kept


def _bytes_held(model: Sliced, part: NodePlan) -> int:
    return sum(layer.size for a, b in part.layers for layer in model.layers[a:b])


def _with_disk(room: NodeRoom, held: int) -> NodeRoom:
    return room if room.disk_bytes is None else NodeRoom(room.node, room.memory_bytes, room.disk_bytes + held)

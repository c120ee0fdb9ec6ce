"""From the layer map of a model to the neutral parts that `exo_dl.core.placement` divides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from exo_dl.core.plan import LayerParts, Part, Sliced
from exo_dl.formats.layers import LayerMap
from exo_dl.formats.tensors import ModelStructure, Tensor

__all__ = ["slice_model"]


def slice_model(structure: ModelStructure, layers: LayerMap, files: Mapping[str, int]) -> Sliced:
    """Cuts a model up.

    Args:
        structure: its tensors.
        layers: what they are.
        files: whole files that every node is to keep (configurations, tokenizers), path -> bytes.
    """

    def parts(names: Iterable[str]) -> tuple[Part, ...]:
        return tuple(_part(structure[name]) for name in names)

    rows = []
    for layer in layers.layers:
        of_experts = {name for names in layer.experts.values() for name in names}
        experts = {number: parts(names) for number, names in layer.experts.items()}
        rows.append(LayerParts(parts(name for name in layer.tensors if name not in of_experts), experts))
    return Sliced(tuple(rows), parts(layers.first), parts(layers.last), parts(layers.everywhere), dict(files))


def _part(tensor: Tensor) -> Part:
    return Part(tensor.name, tensor.file, tensor.begin, tensor.end)

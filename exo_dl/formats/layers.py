"""Which tensors make up which layer of a model, and what belongs to no layer: told from their names alone.

A model is one numbered stack of layers (``model.layers.0 .. model.layers.31``), or a few that it runs through one after
the other (encoder and decoder, double and single blocks, the three parts of a UNet). All else is placed by what it is
called, see `exo_dl.formats.stacks`. Where more than a twentieth of the bytes cannot be told, nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from exo_dl.errors import UnknownStructureError
from exo_dl.formats.stacks import SEQUENCES, STACK_WORDS, Where, expert_of, is_embedding, is_head, numbered, where
from exo_dl.formats.tensors import ModelStructure, Tensor

__all__ = ["Layer", "LayerMap", "classify"]

_UNKNOWN_PART = 0.05
_STACK_NAMES = STACK_WORDS | {word for words in SEQUENCES for word in words}
_SIDES = (("encoder", "decoder"), ("enc", "dec"))
_HAS_HEAD = re.compile(r"LM|ForPreTraining|ForConditionalGeneration")

_Stack = dict[int, list[Tensor]]


@dataclass(frozen=True)
class Layer:
    """One layer.

    Attributes:
        index: its place among all layers of the model, from 0.
        stack: the stack that it stands in, as its tensors are called: "model.layers".
        number: its number in that stack.
        tensors: the names of its tensors, those of its experts included.
        size: their bytes.
        experts: number of an expert -> the names of its tensors; empty where there are none or they are one tensor.
    """

    index: int
    stack: str
    number: int
    tensors: tuple[str, ...]
    size: int
    experts: Mapping[int, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class LayerMap:
    """The layers of a model and where a pipeline needs the other tensors.

    Attributes:
        layers: in the order in which the model runs through them.
        first: names needed with the first layer: embeddings, towers for images and sound.
        last: names needed with the last layer: norm, head, layers that predict further tokens; the embedding again
            where it serves as the head.
        everywhere: names needed with each layer: rotary tables, and the little that no rule knows.
        tied: the embedding serves as the head.
    """

    layers: tuple[Layer, ...]
    first: tuple[str, ...] = ()
    last: tuple[str, ...] = ()
    everywhere: tuple[str, ...] = ()
    tied: bool = False


@dataclass
class _Draft:
    """A layer map in the making: bounds of a stack that does not begin or end the model go to its own layers."""

    stacks: list[tuple[str, list[list[Tensor]]]]
    first: list[Tensor] = field(default_factory=list)
    last: list[Tensor] = field(default_factory=list)
    everywhere: list[Tensor] = field(default_factory=list)

    def _stack_around(self, name: str) -> int | None:
        """The stack beside which a tensor stands: ``model.encoder.layer_norm`` is the encoder's."""
        for index, (stack, _) in enumerate(self.stacks):
            parts = stack.split(".")
            side = next((at for at, part in enumerate(parts) if any(part in pair for pair in _SIDES)), None)
            if side is not None and name.startswith(".".join(parts[: side + 1]) + "."):
                return index
        return None

    def before(self, tensor: Tensor) -> None:
        index = self._stack_around(tensor.name) or 0
        (self.stacks[index][1][0] if index else self.first).append(tensor)

    def share_embedding(self) -> None:
        """An encoder and a decoder with one embedding (T5, BART): the decoder's first layer needs it as well."""
        if len(self.stacks) != 2 or "decoder" not in self.stacks[1][0].split("."):
            return
        start = self.stacks[1][1][0]
        if not any(is_embedding(tensor.name) for tensor in start):
            start += [t for t in self.first if is_embedding(t.name) and self._stack_around(t.name) is None]

    def after(self, tensor: Tensor) -> None:
        index = self._stack_around(tensor.name)
        inner = index is not None and index < len(self.stacks) - 1
        (self.stacks[index or 0][1][-1] if inner else self.last).append(tensor)


def _size(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.size for tensor in tensors)


def _is_stack(name: str, stack: _Stack) -> bool:
    return name.rpartition(".")[2] in _STACK_NAMES and min(stack) == 0 and max(stack) == len(stack) - 1


def _main_stacks(stacks: Mapping[str, _Stack]) -> list[str]:
    """The names of the stacks that the model runs through, in order; empty when there are none."""
    able = {name: stack for name, stack in stacks.items() if _is_stack(name, stack)}
    inner = {name: stack for name, stack in able.items() if where(name) is Where.UNKNOWN}
    able = inner or able
    if not able:
        return []
    main = max(sorted(able), key=lambda name: sum(map(_size, able[name].values())))
    parts = main.split(".")
    for at, part in enumerate(parts):
        for words in SEQUENCES:
            if part in words:
                siblings = [".".join((*parts[:at], word, *parts[at + 1 :])) for word in words]
                if len(found := [name for name in siblings if name in able]) > 1:
                    return found
    return [main]


def _setting(config: Mapping[str, object], key: str) -> object:
    """A setting of the model or of its text part; None where neither has it."""
    for place in (config, config.get("text_config"), config.get("language_config"), config.get("decoder")):
        if isinstance(place, Mapping) and key in place:
            return place[key]
    return None


def _further(layers: list[list[Tensor]], config: Mapping[str, object]) -> int:
    """How many of the last layers of a stack predict further tokens (MTP) and are no part of the pipeline."""
    count = 0
    while count < len(layers) - 1 and any(".eh_proj." in tensor.name for tensor in layers[-1 - count]):
        count += 1
    hidden, extra = _setting(config, "num_hidden_layers"), _setting(config, "num_nextn_predict_layers")
    if isinstance(hidden, int) and isinstance(extra, int) and 0 < hidden == len(layers) - extra:
        count = max(count, extra)
    return count


def _is_tied(draft: _Draft, config: Mapping[str, object]) -> bool:
    if _setting(config, "tie_word_embeddings") is True and not config.get("architectures"):
        return True
    kinds = config.get("architectures")
    if (
        isinstance(kinds, list)
        and kinds
        and not any(isinstance(kind, str) and _HAS_HEAD.search(kind) for kind in kinds)
    ):
        return False
    return _setting(config, "tie_word_embeddings") is True or not any(is_head(t.name) for t in draft.last)


def _layers(stacks: list[tuple[str, list[list[Tensor]]]]) -> tuple[Layer, ...]:
    found: list[Layer] = []
    for stack, layers in stacks:
        for number, tensors in enumerate(layers):
            experts: dict[int, list[str]] = {}
            for tensor in tensors:
                if (expert := expert_of(tensor.name.removeprefix(f"{stack}.{number}"))) is not None:
                    experts.setdefault(expert, []).append(tensor.name)
            divided = {expert: tuple(experts[expert]) for expert in sorted(experts)}
            names = tuple(tensor.name for tensor in tensors)
            found.append(Layer(len(found), stack, number, names, _size(tensors), divided))
    return tuple(found)


def classify(structure: ModelStructure, config: Mapping[str, object] | None = None) -> LayerMap:
    """Finds the layers of a model.

    Args:
        structure: its tensors.
        config: its ``config.json``, where there is one: it says whether the embedding serves as the head, and which
            layers predict further tokens. The names of the tensors say so too in most models.

    Raises:
        UnknownStructureError: there are no layers to be seen, or too much that belongs to none and has no known place.
    """
    config = config or {}
    stacks: dict[str, _Stack] = {}
    others: list[Tensor] = []
    for tensor in structure:
        if (at := numbered(tensor.name)) is None:
            others.append(tensor)
        else:
            stacks.setdefault(at.stack, {}).setdefault(at.number, []).append(tensor)
    main = _main_stacks(stacks)
    if not main:
        raise UnknownStructureError(
            f"No layers are to be seen in the names of the model's {len(structure)} tensors.",
            hint="Place whole files instead: --place full or --place files.",
        )
    draft = _Draft([(name, [stacks[name][number] for number in sorted(stacks[name])]) for name in main])
    for name in stacks.keys() - set(main):
        others += (tensor for tensors in stacks[name].values() for tensor in tensors)
    last_layers = draft.stacks[-1][1]
    for _ in range(_further(last_layers, config)):
        draft.last += last_layers.pop()
    unknown = 0
    for tensor in sorted(others, key=lambda tensor: tensor.name):
        match where(tensor.name):
            case Where.BEFORE:
                draft.before(tensor)
            case Where.AFTER:
                draft.after(tensor)
            case Where.EVERYWHERE:
                draft.everywhere.append(tensor)
            case Where.UNKNOWN:
                draft.everywhere.append(tensor)
                unknown += tensor.size
    if unknown > _UNKNOWN_PART * structure.size:
        odd = sorted((t for t in draft.everywhere if where(t.name) is Where.UNKNOWN), key=lambda t: -t.size)
        raise UnknownStructureError(
            f"{unknown} bytes of the model belong to no layer of {' or '.join(main)} and have no known place, such as "
            f"{odd[0].name!r}.",
            hint="Place whole files instead: --place full or --place files.",
        )
    draft.share_embedding()
    tied = _is_tied(draft, config)
    if tied:
        start = (*draft.first, *draft.stacks[-1][1][0])
        embeddings = list(dict.fromkeys(tensor for tensor in start if is_embedding(tensor.name)))
        draft.last += [t for t in embeddings if t not in draft.last]
        tied = bool(embeddings)
    first, last, everywhere = (tuple(t.name for t in part) for part in (draft.first, draft.last, draft.everywhere))
    return LayerMap(_layers(draft.stacks), first, last, everywhere, tied)

"""Which files of a repository are weights, and which of them make one model together."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["WeightSet", "beside", "companions", "is_weights", "main_set", "weight_sets"]

_SPLIT = re.compile(r"(?P<stem>.+)-(?P<number>\d{5,6})-of-(?P<count>\d{5,6})")
_WEIGHTS = re.compile(
    r".*\.(?:safetensors|gguf|bin|pth?|ckpt|h5|msgpack|onnx|onnx_data|ot|npz|tflite|mlmodel|nemo|llamafile|zip|tar|gz)"
)
_FIRST_CHOICE = ("model", "diffusion_pytorch_model", "pytorch_model")

# A pipeline of diffusers: the models of several folders. These run many times for one answer, the others once.
_PIPELINE = "model_index.json"
_DENOISERS = ("transformer", "unet", "prior")


@dataclass(frozen=True)
class WeightSet:
    """Files that hold the tensors of one model.

    Attributes:
        folder: of the repository; "" for its root.
        stem: the common name: "model" of ``model-00001-of-00004.safetensors``.
        kind: their format.
        files: their paths, sorted.
        index: path of the ``*.safetensors.index.json`` that belongs to them; None where there is none.
        missing: the parts that the names of the others promise and the repository lacks.
    """

    folder: str
    stem: str
    kind: Literal["safetensors", "gguf"]
    files: tuple[str, ...]
    index: str | None = None
    missing: tuple[str, ...] = ()


def is_weights(path: str) -> bool:
    """Whether a file is weights of any format, by its name. Small ``.bin`` files (training arguments) are too."""
    return bool(_WEIGHTS.fullmatch(path.lower()))


def weight_sets(files: Iterable[str]) -> tuple[WeightSet, ...]:
    """The models in a repository, those that loaders choose before others first: by folder, then by name."""
    paths = set(files)
    groups: dict[tuple[str, str, str], dict[str, int]] = {}
    for path in paths:
        folder, name = posixpath.split(path)
        base, dot, kind = name.rpartition(".")
        if dot and kind in ("safetensors", "gguf"):
            found = _SPLIT.fullmatch(base)
            groups.setdefault((folder, found["stem"] if found else base, kind), {})[path] = (
                int(found["count"]) if found else 1
            )
    sets = []
    for (folder, stem, kind), members in groups.items():
        single = posixpath.join(folder, f"{stem}.{kind}")
        chosen = {single} if single in members else set(members)
        count = max(members[path] for path in chosen)
        wanted = {
            posixpath.join(folder, f"{stem}-{n:05d}-of-{count:05d}.{kind}") for n in range(1, min(count, 10_000) + 1)
        }
        index = posixpath.join(folder, f"{stem}.safetensors.index.json")
        sets.append(
            WeightSet(
                folder,
                stem,
                "gguf" if kind == "gguf" else "safetensors",
                tuple(sorted(chosen)),
                index if kind == "safetensors" and index in paths else None,
                tuple(sorted(wanted - chosen)) if single not in chosen else (),
            )
        )
    rank = {stem: at for at, stem in enumerate(_FIRST_CHOICE)}
    return tuple(sorted(sets, key=lambda s: (s.folder, s.kind == "gguf", rank.get(s.stem, len(rank)), s.stem)))


def companions(files: Mapping[str, int]) -> dict[str, int]:
    """The files that are wanted beside the weights, path -> bytes: configurations, tokenizers, licences.

    Weights of any format and the indexes of weights are left out.
    """
    return {path: size for path, size in files.items() if not is_weights(path) and not path.endswith(".index.json")}


def main_set(files: Mapping[str, int]) -> WeightSet | None:
    """The model that is divided where a repository has several; None where it has no safetensors files.

    It is the one with the most bytes, and of those that are alike the one that loaders choose first. In a pipeline of
    diffusers it is the transformer or UNet, though the encoder of its prompts may be larger.

    Args:
        files: path -> bytes.
    """
    sets = [found for found in weight_sets(files) if found.kind == "safetensors"]
    if _PIPELINE in files:
        inner = [found for found in sets if found.folder]
        sets = [found for found in inner if found.folder in _DENOISERS] or inner or sets
    sizes = [sum(files[path] for path in found.files) for found in sets]
    return next((found for found, size in zip(sets, sizes, strict=True) if 2 * size > max(sizes)), None)


def beside(files: Mapping[str, int], main: WeightSet) -> dict[str, int]:
    """What every node keeps whole beside its part of the main model, path -> bytes.

    Configurations and tokenizers, and the first choice of weights of each other folder (encoders, VAE).
    """
    kept = companions(files)
    seen = {main.folder, ""}
    for found in weight_sets(files) if main.folder else ():
        if found.kind == "safetensors" and found.folder not in seen:
            seen.add(found.folder)
            kept |= {path: files[path] for path in (*found.files, *([found.index] if found.index else []))}
    return kept

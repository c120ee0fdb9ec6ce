"""What the parts of a tensor's name say about where it stands in a model.

Names are paths of modules, as PyTorch and GGUF write them: ``model.layers.7.mlp.experts.3.up_proj.weight``. The words
below are those of the published checkpoints of the common families; tests/unit/formats holds each family to its map.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

__all__ = ["SEQUENCES", "STACK_WORDS", "Numbered", "Where", "expert_of", "is_embedding", "is_head", "numbered", "where"]

# What a stack of layers is called. A stack of another name counts where SEQUENCES has it.
STACK_WORDS = frozenset({"layers", "layer", "h", "block", "blocks", "blk", "resblocks"})

# Stacks that a model runs through one after the other: they differ in this one part of their names.
SEQUENCES: tuple[tuple[str, ...], ...] = (
    ("encoder", "decoder"),
    ("enc", "dec"),
    ("down_blocks", "mid_block", "up_blocks"),
    ("input_blocks", "middle_block", "output_blocks"),
    ("double_blocks", "single_blocks"),
    ("joint_transformer_blocks", "single_transformer_blocks"),
    ("transformer_blocks", "single_transformer_blocks"),
    ("joint_blocks",),
)

# One layer each, though the modules in them are numbered.
_SINGLE = ("mid_block", "middle_block")


class Where(enum.Enum):
    """Where a pipeline needs a tensor that belongs to no layer."""

    BEFORE = "before the layers"
    AFTER = "after the layers"
    EVERYWHERE = "beside each layer"
    UNKNOWN = "unknown"


# The first part of a name that one of these takes decides; of these the first that takes it.
_WORDS: tuple[tuple[re.Pattern[str], Where], ...] = tuple(
    (re.compile(pattern), place)
    for pattern, place in (
        (r"rotary\w*|inv_freq|rope\w*|alibi\w*|masked_bias|embedding_norm", Where.EVERYWHERE),
        (r"embed_out|mtp\w*|first_stage_model|vae|final_\w+|norm_out|conv_norm_out|proj_out|conv_out", Where.AFTER),
        # Towers for images and sound, text encoders, refiners: they run before the first layer.
        (r"visual|vision\w*|\w+_vision|audio\w*|\w+_audio|img_\w+|image_\w+|\w*projector|mm|v|a", Where.BEFORE),
        (
            r"connector|aligner|resampler|multi_modal\w*|\w*refiner|cond_stage_model|conditioner|text_encoders?",
            Where.BEFORE,
        ),
        (r"\w*embed\w*|\w*emb|wte|wpe|shared|tok_\w+|token_\w+|pos_\w+|position\w*|\w+_pos|\w+_token", Where.BEFORE),
        (
            r"time_\w+|txt_in|vector_in|guidance_in|x_in|\w+_in|conv\d*|patch_\w+|per_layer_\w+|altup_proj\w*",
            Where.BEFORE,
        ),
        (r"\w*norm\d*|ln_\w+|\w*head|output\w*|out|pooler|cls|classifier|score|qa_outputs|logit\w*", Where.AFTER),
        (r"predictions|vocab_\w+|seq_relationship|altup_unembed\w*", Where.AFTER),
    )
)
_LEAVES = frozenset({"weight", "bias", "gamma", "beta", "scale", "weight_scale_inv"})

_EMBEDDING = re.compile(
    r"embed_tokens|wte|word_embeddings|token_embd|tok_embeddings|embed_in|shared|embeddings?|word_embedding"
)
_HEAD = re.compile(r"lm_head|output|embed_out|output_layer|proj_out|head|decoder")
_EXPERT = re.compile(r"(?:^|\.)experts\.(\d{1,6})\.")


@dataclass(frozen=True, slots=True)
class Numbered:
    """A name with a number in it: the stack ``model.layers``, layer 7, and what follows."""

    stack: str
    number: int
    rest: str


@cache
def _is_number(part: str) -> bool:
    return part.isascii() and part.isdigit() and len(part) <= 6


def numbered(name: str) -> Numbered | None:
    """Divides a name at its first number; None when it has none, or only at its ends."""
    parts = name.split(".")
    for at, part in enumerate(parts[:-1]):
        if part in _SINGLE:
            return Numbered(".".join(parts[: at + 1]), 0, ".".join(parts[at + 1 :]))
        if at and _is_number(part):
            return Numbered(".".join(parts[:at]), int(part), ".".join(parts[at + 1 :]))
    return None


def expert_of(rest: str) -> int | None:
    """The number of the expert that a tensor of a layer belongs to; None for routers, shared experts and all else."""
    found = _EXPERT.search(rest)
    return int(found[1]) if found else None


def _words(name: str) -> Iterator[str]:
    return (part.lower() for part in name.split(".") if part not in _LEAVES)


def where(name: str) -> Where:
    """Where a tensor of that name is needed when it belongs to none of the model's layers."""
    for word in _words(name):
        for pattern, place in _WORDS:
            if pattern.fullmatch(word):
                return place
    return Where.UNKNOWN


def is_embedding(name: str) -> bool:
    """Whether it is the table of token embeddings, which some models use as their head as well."""
    *path, leaf = name.split(".")
    return leaf == "weight" and bool(path) and bool(_EMBEDDING.fullmatch(path[-1]))


def is_head(name: str) -> bool:
    """Whether it is the matrix that makes scores of tokens out of the last layer's values."""
    *path, leaf = name.split(".")
    return leaf == "weight" and bool(path) and bool(_HEAD.fullmatch(path[-1]))

"""Plan files: what they may say, and what is wrong with those that say something else."""

from __future__ import annotations

from typing import Any

import pytest

from exo_dl.core.plan import LayerParts, Part
from exo_dl.core.planfile import chosen, parse_plan
from exo_dl.errors import PlacementError

LAYERS = tuple(LayerParts((Part(f"layers.{n}.w", "m.safetensors", 100 * n, 100 * n + 100),)) for n in range(4))
PARTS = {part.name: part for layer in LAYERS for part in layer.parts}
ENDS = {"first": (Part("embed", "m.safetensors", 400, 500),), "last": (), "everywhere": ()}
FILES = {"config.json": 7, "m.safetensors": 500, "x.gguf": 9}


def choose(document: Any) -> dict[str, tuple[set[str], set[str]]]:
    found = chosen(parse_plan(document), FILES, PARTS, LAYERS, ENDS, {"config.json": 7})
    return {node: ({part.name for part in c.kept[0]}, set(c.kept[1])) for node, c in found.items()}


def test_layers_tensors_files_and_helpers() -> None:
    assert choose(
        {
            "nodes": {
                "a": {"layers": "0-1", "first": True},
                "b": {"layers": [2], "tensors": ["layers.3.*"]},
                "c": {"files": "*.gguf"},
                "d": {"helper": True},
            }
        }
    ) == {
        "a": ({"layers.0.w", "layers.1.w", "embed"}, {"config.json"}),
        "b": ({"layers.2.w", "layers.3.w"}, {"config.json"}),
        "c": (set(), {"config.json", "x.gguf"}),
        "d": (set(), set()),
    }


def test_common_files_can_be_named() -> None:
    assert choose({"common": ["*.gguf"], "nodes": {"a": {"layers": "3"}}})["a"][1] == {"x.gguf"}


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([], "no nodes"),
        ({"nodes": {}}, "no nodes"),
        ({"nodes": {"a": 1}}, "no table"),
        ({"nodes": {"a": {"layer": "1"}}}, "unknown key 'layer'"),
        ({"nodes": {"a": {}}, "more": 1}, "unknown entry 'more'"),
        ({"nodes": {"a": {"layers": "1-x"}}}, "cannot be read"),
        ({"nodes": {"a": {"layers": "3-1"}}}, "layers 3 to 1"),
        ({"nodes": {"a": {"layers": "2-4"}}}, "layer 4 of 4"),
        ({"nodes": {"a": {"layers": 1.5}}}, ""),
        ({"nodes": {"a": {"tensors": ["nothing.*"]}}}, "'nothing.*'"),
        ({"nodes": {"a": {"files": ["*.bin"]}}}, "'*.bin'"),
        ({"nodes": {"a": {"files": [1]}}}, "list of globs"),
        ({"nodes": {"a": {"first": "yes"}}}, "neither true nor false"),
        ({"nodes": {"a": {"helper": True, "layers": "1"}}}, "helper"),
        ({"nodes": {"a": {"layers": "0-1"}, "b": {"layers": "1-2"}}}, "'layers.1.w' to 'a' and to 'b'"),
        ({"nodes": {"a": {}}, "common": ["*.bin"]}, "'*.bin'"),
    ],
)
def test_what_a_plan_file_may_not_say(document: Any, words: str) -> None:
    with pytest.raises(PlacementError) as caught:
        choose(document)
    assert words in str(caught.value)


def test_overlap_is_allowed_where_it_is_meant() -> None:
    both = choose({"nodes": {"a": {"layers": "0-1"}, "b": {"layers": "1-2", "overlap": True}}})
    assert both["a"][0] & both["b"][0] == {"layers.1.w"}

"""The headers of a model, from a hub and from files of this machine that may be anything."""

from __future__ import annotations

from pathlib import Path

from bench.hub import LocalHub
from bench.models import make_lab_model
from exo_dl.core.manifest import Blob
from exo_dl.hubs.huggingface import HuggingFaceHub
from exo_dld.structure import read_structure


def test_a_damaged_file_of_this_machine_is_not_believed(tmp_path: Path) -> None:
    model = make_lab_model(tmp_path / "hub", size_bytes=8 << 20)
    damaged = tmp_path / "damaged"

    def local(blob: Blob) -> list[Path]:
        """A part file that was made and not filled yet."""
        damaged.write_bytes(bytes(blob.size))
        return [damaged]

    with LocalHub(model.root) as served:
        hub = HuggingFaceHub(served.url)
        manifest = hub.resolve(model.repo, "main", "model", [], []).manifest
        structure = read_structure(manifest, hub, local)
    assert {tensor.name for tensor in structure.model} == set(model.tensors)
    assert structure.config is not None

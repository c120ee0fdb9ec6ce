"""What programs that load models say of the folders of a divided one. Runs where torch, transformers and mlx are.

python loading.py make FOLDER            writes a small Llama
python loading.py check FOLDER PART...   loads the parts with each program, and compares them with the whole
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import mlx.core as mx  # type: ignore[import-not-found]
import torch  # type: ignore[import-not-found]
import transformers  # type: ignore[import-not-found]
from safetensors import safe_open
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

LAYERS = 8


def make(folder: Path) -> None:
    """A Llama of 8 layers in BF16, in several shards."""
    torch.manual_seed(5)
    config = LlamaConfig(
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        num_key_value_heads=4,
        vocab_size=4096,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="5MB")
    print(
        f"transformers {transformers.__version__} made {sum(p.numel() for p in model.parameters())} parameters in BF16"
    )
    print(f"  {', '.join(sorted(path.name for path in folder.iterdir()))}")


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors that a folder's index names."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    found = {}
    for file in sorted(set(index.values())):
        with safe_open(folder / file, framework="pt") as opened:
            found |= {name: opened.get_tensor(name) for name in opened.keys() if name in index}  # noqa: SIM118
    _require(set(found) == set(index), f"the index of {folder} names other tensors")
    return found


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise SystemExit(problem)


def check(folder: Path, parts: list[Path]) -> None:
    """Loads each part by itself, and all of them together."""
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").state_dict()
    together: dict[str, torch.Tensor] = {}
    for part in parts:
        note = json.loads((part / "exo_dl.json").read_text())
        held = tensors(part)
        model, info = AutoModelForCausalLM.from_pretrained(part, dtype="auto", output_loading_info=True)
        missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
        loaded = model.state_dict()
        files = sorted(part.glob("*.safetensors"))
        print(f"{note['node']}, layers {note['layers']}: {len(held)} tensors in {len(files)} files")
        print(f"  transformers: {type(model).__name__} in {model.dtype}, {len(missing)} keys missing (newly made),")
        print(f"    such as {missing[0]}; {len(unexpected)} unexpected")
        _require(set(missing) == set(whole) - set(held), "transformers misses others than those that are not here")
        _require(not unexpected, f"transformers does not expect {unexpected}")
        _require(
            all(torch.equal(loaded[name], tensor) for name, tensor in held.items()), "transformers loads other values"
        )
        arrays = {}
        for file in files:
            arrays |= mx.load(str(file))
        _require(set(arrays) == set(held), "mlx loads other tensors")
        for name, array in arrays.items():
            _require(tuple(array.shape) == tuple(held[name].shape), f"mlx gives {name} another shape")
            same = bytes(mx.view(array, mx.uint16)) == held[name].view(torch.uint16).numpy().tobytes()
            _require(same, f"mlx gives {name} other bytes")
        kinds = sorted({str(array.dtype) for array in arrays.values()})
        print(f"  mlx {mx.__version__}: {len(arrays)} arrays of {', '.join(kinds)}, the same bytes")
        _require(not set(held) & set(together), "two parts have the same tensor")
        together |= held
    _require(set(together) == set(whole), "the parts together are not the whole")
    _require(all(torch.equal(together[name], tensor) for name, tensor in whole.items()), "a tensor differs")
    model = LlamaForCausalLM(LlamaConfig.from_pretrained(folder)).to(torch.bfloat16)
    print(f"together: {model.load_state_dict(together)}; {len(together)} tensors, equal to the original's")


if __name__ == "__main__":
    transformers.logging.set_verbosity_warning()
    what, where, *rest = sys.argv[1:]
    make(Path(where)) if what == "make" else check(Path(where), [Path(part) for part in rest])

"""Headers of real models: the published names and shapes of their tensors, from the sizes in their configurations."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tests.unit.formats.headers import Shapes, sharded, structure
from tests.unit.formats.media import flux_1, sd3_medium, sd_unet, t5_small, t5_xxl_encoder, whisper_tiny

__all__ = [
    "PUBLISHED", "Shapes", "bert_base", "deepseek_v3", "flux_1", "gemma_2_2b", "gpt2", "llama_3_8b", "mixtral_8x7b",
    "phi_2", "qwen2_5_0_5b", "qwen3_0_6b", "qwen3_30b_a3b", "sd3_medium", "sd_unet", "sharded", "structure", "t5_small",
    "t5_xxl_encoder", "whisper_tiny",
]  # fmt: skip


def _decoder(
    vocab: int, hidden: int, layers: int, layer: Callable[[int], Shapes], *, head: bool, norm: str = "norm"
) -> Shapes:
    found: Shapes = {"model.embed_tokens.weight": (vocab, hidden), f"model.{norm}.weight": (hidden,)}
    for index in range(layers):
        found |= {f"model.layers.{index}.{name}": shape for name, shape in layer(index).items()}
    if head:
        found["lm_head.weight"] = (vocab, hidden)
    return found


def _attention(hidden: int, q: int, kv: int) -> Shapes:
    return {
        "self_attn.q_proj.weight": (q, hidden),
        "self_attn.k_proj.weight": (kv, hidden),
        "self_attn.v_proj.weight": (kv, hidden),
        "self_attn.o_proj.weight": (hidden, q),
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
    }


def _mlp(hidden: int, inner: int, prefix: str = "mlp") -> Shapes:
    return {
        f"{prefix}.gate_proj.weight": (inner, hidden),
        f"{prefix}.up_proj.weight": (inner, hidden),
        f"{prefix}.down_proj.weight": (hidden, inner),
    }


def llama_3_8b() -> Shapes:
    return _decoder(128256, 4096, 32, lambda _: _attention(4096, 4096, 1024) | _mlp(4096, 14336), head=True)


def qwen2_5_0_5b() -> Shapes:
    bias: Shapes = {f"self_attn.{name}_proj.bias": (wide,) for name, wide in (("q", 896), ("k", 128), ("v", 128))}
    return _decoder(151936, 896, 24, lambda _: _attention(896, 896, 128) | bias | _mlp(896, 4864), head=False)


def qwen3_0_6b() -> Shapes:
    """Its head is the embedding, and its file has both."""
    norms: Shapes = {"self_attn.q_norm.weight": (128,), "self_attn.k_norm.weight": (128,)}
    return _decoder(151936, 1024, 28, lambda _: _attention(1024, 2048, 1024) | norms | _mlp(1024, 3072), head=True)


def qwen3_30b_a3b() -> Shapes:
    def layer(_: int) -> Shapes:
        found = _attention(2048, 4096, 512) | {"mlp.gate.weight": (128, 2048)}
        found |= {"self_attn.q_norm.weight": (128,), "self_attn.k_norm.weight": (128,)}
        for expert in range(128):
            found |= _mlp(2048, 768, f"mlp.experts.{expert}")
        return found

    return _decoder(151936, 2048, 48, layer, head=True)


def mixtral_8x7b() -> Shapes:
    def layer(_: int) -> Shapes:
        found = _attention(4096, 4096, 1024) | {"block_sparse_moe.gate.weight": (8, 4096)}
        for expert in range(8):
            at = f"block_sparse_moe.experts.{expert}"
            found |= {
                f"{at}.w1.weight": (14336, 4096),
                f"{at}.w2.weight": (4096, 14336),
                f"{at}.w3.weight": (14336, 4096),
            }
        return found

    return _decoder(32000, 4096, 32, layer, head=True)


def deepseek_v3() -> Shapes:
    """FP8 with a scale for each block of 128 by 128, and a 62nd layer that predicts one token more."""

    def scaled(shapes: Shapes) -> Shapes:
        scales = {
            f"{name}_scale_inv": (-(-rows // 128), -(-columns // 128)) for name, (rows, columns) in shapes.items()
        }
        return shapes | scales

    def layer(index: int) -> Shapes:
        found = scaled(
            {
                "self_attn.q_a_proj.weight": (1536, 7168),
                "self_attn.q_b_proj.weight": (24576, 1536),
                "self_attn.kv_a_proj_with_mqa.weight": (576, 7168),
                "self_attn.kv_b_proj.weight": (32768, 512),
                "self_attn.o_proj.weight": (7168, 16384),
            }
        )
        found |= {
            "self_attn.q_a_layernorm.weight": (1536,),
            "self_attn.kv_a_layernorm.weight": (512,),
            "input_layernorm.weight": (7168,),
            "post_attention_layernorm.weight": (7168,),
        }
        if index < 3:
            return found | scaled(_mlp(7168, 18432))
        found |= {"mlp.gate.weight": (256, 7168), "mlp.gate.e_score_correction_bias": (256,)}
        found |= scaled(_mlp(7168, 2048, "mlp.shared_experts"))
        for expert in range(256):
            found |= scaled(_mlp(7168, 2048, f"mlp.experts.{expert}"))
        if index == 61:
            found |= {"embed_tokens.weight": (129280, 7168), "enorm.weight": (7168,), "hnorm.weight": (7168,)}
            found |= {"eh_proj.weight": (7168, 14336), "shared_head.norm.weight": (7168,)}
            found |= {"shared_head.head.weight": (129280, 7168)}
        return found

    return _decoder(129280, 7168, 62, layer, head=True)


def gemma_2_2b() -> Shapes:
    norms: Shapes = {"pre_feedforward_layernorm.weight": (2304,), "post_feedforward_layernorm.weight": (2304,)}
    return _decoder(256000, 2304, 26, lambda _: _attention(2304, 2048, 1024) | norms | _mlp(2304, 9216), head=False)


def phi_2() -> Shapes:
    def layer(_: int) -> Shapes:
        found: Shapes = {"input_layernorm.weight": (2560,), "input_layernorm.bias": (2560,)}
        for name, out, inner in (
            ("self_attn.q_proj", 2560, 2560),
            ("self_attn.k_proj", 2560, 2560),
            ("self_attn.v_proj", 2560, 2560),
            ("self_attn.dense", 2560, 2560),
            ("mlp.fc1", 10240, 2560),
            ("mlp.fc2", 2560, 10240),
        ):
            found |= {f"{name}.weight": (out, inner), f"{name}.bias": (out,)}
        return found

    extra: Shapes = {"model.final_layernorm.bias": (2560,), "lm_head.bias": (51200,)}
    return _decoder(51200, 2560, 32, layer, head=True, norm="final_layernorm") | extra


def gpt2() -> Shapes:
    found: Shapes = {"wte.weight": (50257, 768), "wpe.weight": (1024, 768), "ln_f.weight": (768,), "ln_f.bias": (768,)}
    for n in range(12):
        found[f"h.{n}.attn.bias"] = (1, 1, 1024, 1024)
        for name, shape in (("attn.c_attn", (768, 2304)), ("attn.c_proj", (768, 768)), ("mlp.c_fc", (768, 3072))):
            found |= {f"h.{n}.{name}.weight": shape, f"h.{n}.{name}.bias": shape[1:]}
        found |= {f"h.{n}.mlp.c_proj.weight": (3072, 768), f"h.{n}.mlp.c_proj.bias": (768,)}
        for name in ("ln_1", "ln_2"):
            found |= {f"h.{n}.{name}.weight": (768,), f"h.{n}.{name}.bias": (768,)}
    return found


def bert_base() -> Shapes:
    found: Shapes = {
        "bert.embeddings.word_embeddings.weight": (30522, 768),
        "bert.embeddings.position_embeddings.weight": (512, 768),
        "bert.embeddings.token_type_embeddings.weight": (2, 768),
        "bert.embeddings.LayerNorm.gamma": (768,),
        "bert.embeddings.LayerNorm.beta": (768,),
        "bert.pooler.dense.weight": (768, 768),
        "bert.pooler.dense.bias": (768,),
        "cls.predictions.bias": (30522,),
        "cls.predictions.transform.dense.weight": (768, 768),
        "cls.predictions.transform.dense.bias": (768,),
        "cls.predictions.transform.LayerNorm.gamma": (768,),
        "cls.predictions.transform.LayerNorm.beta": (768,),
        "cls.seq_relationship.weight": (2, 768),
        "cls.seq_relationship.bias": (2,),
    }
    for n in range(12):
        at = f"bert.encoder.layer.{n}"
        for name, out, inner in (
            ("attention.self.query", 768, 768),
            ("attention.self.key", 768, 768),
            ("attention.self.value", 768, 768),
            ("attention.output.dense", 768, 768),
            ("intermediate.dense", 3072, 768),
            ("output.dense", 768, 3072),
        ):
            found |= {f"{at}.{name}.weight": (out, inner), f"{at}.{name}.bias": (out,)}
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            found |= {f"{at}.{name}.gamma": (768,), f"{at}.{name}.beta": (768,)}
    return found


# What `len` gives for the published files, each tensor once.
PUBLISHED: Mapping[Callable[[], Shapes], int] = {
    llama_3_8b: 291,
    qwen2_5_0_5b: 290,
    qwen3_0_6b: 311,
    qwen3_30b_a3b: 18_867,
    mixtral_8x7b: 995,
    deepseek_v3: 91_991,
    gemma_2_2b: 288,
    phi_2: 453,
    gpt2: 160,
    bert_base: 206,
    whisper_tiny: 167,
    t5_small: 131,
    flux_1: 780,
    sd_unet: 686,
}

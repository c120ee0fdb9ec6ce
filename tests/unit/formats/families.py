"""Headers of real models: the published names and shapes of their tensors, from the sizes in their configurations."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from exo_dl.formats.safetensors import DTYPE_BITS
from exo_dl.formats.tensors import FileStructure, ModelStructure, Tensor

Shapes = dict[str, tuple[int, ...]]


def structure(shapes: Mapping[str, tuple[int, ...]], dtype: str = "BF16") -> ModelStructure:
    """One file with these tensors, in the order of their names, as published files have them."""
    tensors, at = [], 4096
    for name in sorted(shapes):
        size = math.prod(shapes[name]) * DTYPE_BITS[dtype] // 8
        tensors.append(Tensor(name, dtype, shapes[name], "model.safetensors", at, at + size))
        at += size
    return ModelStructure(
        {"model.safetensors": FileStructure("model.safetensors", 4096, tuple(tensors))}, "safetensors"
    )


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


def qwen3_0_6b() -> Shapes:
    norms: Shapes = {"self_attn.q_norm.weight": (128,), "self_attn.k_norm.weight": (128,)}
    return _decoder(151936, 1024, 28, lambda _: _attention(1024, 2048, 1024) | norms | _mlp(1024, 3072), head=False)


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
    """Without the scales of its FP8 weights."""

    def layer(index: int) -> Shapes:
        found: Shapes = {
            "self_attn.q_a_proj.weight": (1536, 7168),
            "self_attn.q_a_layernorm.weight": (1536,),
            "self_attn.q_b_proj.weight": (24576, 1536),
            "self_attn.kv_a_proj_with_mqa.weight": (576, 7168),
            "self_attn.kv_a_layernorm.weight": (512,),
            "self_attn.kv_b_proj.weight": (32768, 512),
            "self_attn.o_proj.weight": (7168, 16384),
            "input_layernorm.weight": (7168,),
            "post_attention_layernorm.weight": (7168,),
        }
        if index < 3:
            return found | _mlp(7168, 18432)
        found |= {"mlp.gate.weight": (256, 7168), "mlp.gate.e_score_correction_bias": (256,)}
        found |= _mlp(7168, 2048, "mlp.shared_experts")
        for expert in range(256):
            found |= _mlp(7168, 2048, f"mlp.experts.{expert}")
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


def whisper_tiny() -> Shapes:
    found: Shapes = {
        "model.encoder.conv1.weight": (384, 80, 3),
        "model.encoder.conv1.bias": (384,),
        "model.encoder.conv2.weight": (384, 384, 3),
        "model.encoder.conv2.bias": (384,),
        "model.encoder.embed_positions.weight": (1500, 384),
        "model.decoder.embed_positions.weight": (448, 384),
        "model.decoder.embed_tokens.weight": (51865, 384),
    }
    for side, blocks in (("encoder", ("self_attn",)), ("decoder", ("self_attn", "encoder_attn"))):
        found |= {f"model.{side}.layer_norm.weight": (384,), f"model.{side}.layer_norm.bias": (384,)}
        for n in range(4):
            at = f"model.{side}.layers.{n}"
            for block in blocks:
                for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
                    found[f"{at}.{block}.{name}.weight"] = (384, 384)
                found |= {f"{at}.{block}_layer_norm.weight": (384,), f"{at}.{block}_layer_norm.bias": (384,)}
            found |= {f"{at}.fc1.weight": (1536, 384), f"{at}.fc2.weight": (384, 1536)}
            found |= {f"{at}.final_layer_norm.weight": (384,), f"{at}.final_layer_norm.bias": (384,)}
    return found


def flux_1() -> Shapes:
    """The transformer, as the original publication names it; the widest of its tensors."""
    found: Shapes = {
        "img_in.weight": (3072, 64),
        "txt_in.weight": (3072, 4096),
        "time_in.in_layer.weight": (3072, 256),
        "time_in.out_layer.weight": (3072, 3072),
        "vector_in.in_layer.weight": (3072, 768),
        "vector_in.out_layer.weight": (3072, 3072),
        "guidance_in.in_layer.weight": (3072, 256),
        "guidance_in.out_layer.weight": (3072, 3072),
        "final_layer.linear.weight": (64, 3072),
        "final_layer.adaLN_modulation.1.weight": (6144, 3072),
    }
    for n in range(19):
        for side in ("img", "txt"):
            at = f"double_blocks.{n}.{side}"
            found |= {f"{at}_mod.lin.weight": (18432, 3072), f"{at}_attn.qkv.weight": (9216, 3072)}
            found |= {f"{at}_attn.proj.weight": (3072, 3072), f"{at}_attn.norm.query_norm.scale": (128,)}
            found |= {f"{at}_mlp.0.weight": (12288, 3072), f"{at}_mlp.2.weight": (3072, 12288)}
    for n in range(38):
        at = f"single_blocks.{n}"
        found |= {f"{at}.linear1.weight": (21504, 3072), f"{at}.linear2.weight": (3072, 15360)}
        found[f"{at}.modulation.lin.weight"] = (9216, 3072)
    return found


def sd_unet() -> Shapes:
    """Stable Diffusion 1.5's UNet: one tensor of each module."""
    found: Shapes = {
        "conv_in.weight": (320, 4, 3, 3),
        "time_embedding.linear_1.weight": (1280, 320),
        "time_embedding.linear_2.weight": (1280, 1280),
        "conv_norm_out.weight": (320,),
        "conv_out.weight": (4, 320, 3, 3),
        "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight": (1280, 1280),
        "mid_block.resnets.0.conv1.weight": (1280, 1280, 3, 3),
        "mid_block.resnets.1.conv1.weight": (1280, 1280, 3, 3),
    }
    for n, wide in enumerate((320, 640, 1280, 1280)):
        for r in range(2):
            found[f"down_blocks.{n}.resnets.{r}.conv1.weight"] = (wide, wide, 3, 3)
        if n < 3:
            found[f"down_blocks.{n}.attentions.0.transformer_blocks.0.attn1.to_q.weight"] = (wide, wide)
            found[f"up_blocks.{3 - n}.attentions.0.transformer_blocks.0.attn1.to_q.weight"] = (wide, wide)
        for r in range(3):
            found[f"up_blocks.{3 - n}.resnets.{r}.conv1.weight"] = (wide, 2 * wide, 3, 3)
    return found

"""Models that hear, translate or paint: the published names and shapes of their tensors."""

from __future__ import annotations

from tests.unit.formats.headers import Shapes, pair


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
        found |= pair(f"model.{side}.layer_norm", 384)
        for n in range(4):
            at = f"model.{side}.layers.{n}"
            for block in blocks:
                for name in ("q_proj", "v_proj", "out_proj"):
                    found |= pair(f"{at}.{block}.{name}", 384, 384)
                found[f"{at}.{block}.k_proj.weight"] = (384, 384)
                found |= pair(f"{at}.{block}_layer_norm", 384)
            found |= pair(f"{at}.fc1", 1536, 384) | pair(f"{at}.fc2", 384, 1536) | pair(f"{at}.final_layer_norm", 384)
    return found


def t5_small() -> Shapes:
    return (
        {"shared.weight": (32128, 512)}
        | _t5("encoder", 6, 512, 512, 8, (("wi", 2048),))
        | _t5("decoder", 6, 512, 512, 8, (("wi", 2048),))
    )


def _t5(side: str, layers: int, hidden: int, attention: int, heads: int, inner: tuple[tuple[str, int], ...]) -> Shapes:
    """One side of a T5. Its first layer has the table of relative positions for all."""
    found: Shapes = {
        f"{side}.final_layer_norm.weight": (hidden,),
        f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (32, heads),
    }
    blocks = ("SelfAttention", "EncDecAttention") if side == "decoder" else ("SelfAttention",)
    for n in range(layers):
        at = f"{side}.block.{n}.layer"
        for number, block in enumerate(blocks):
            found |= {f"{at}.{number}.{block}.{name}.weight": (attention, hidden) for name in "qkv"}
            found |= {f"{at}.{number}.{block}.o.weight": (hidden, attention)}
        found |= {f"{at}.{number}.layer_norm.weight": (hidden,) for number in range(len(blocks) + 1)}
        dense = f"{at}.{len(blocks)}.DenseReluDense"
        found |= {f"{dense}.{name}.weight": (wide, hidden) for name, wide in inner}
        found[f"{dense}.wo.weight"] = (hidden, inner[0][1])
    return found


def t5_xxl_encoder() -> Shapes:
    """What Stable Diffusion 3 and FLUX.1 read prompts with."""
    return {"shared.weight": (32128, 4096)} | _t5("encoder", 24, 4096, 4096, 64, (("wi_0", 10240), ("wi_1", 10240)))


def sd3_medium() -> Shapes:
    """The transformer of Stable Diffusion 3, as diffusers names it. Its last layer has no more use for the prompt."""
    found: Shapes = {"pos_embed.pos_embed": (1, 36864, 1536)}
    found |= pair("pos_embed.proj", 1536, 16, 2, 2) | pair("context_embedder", 1536, 4096)
    for name, wide in (("timestep", 256), ("text", 2048)):
        at = f"time_text_embed.{name}_embedder"
        found |= pair(f"{at}.linear_1", 1536, wide) | pair(f"{at}.linear_2", 1536, 1536)
    for n in range(24):
        at, last = f"transformer_blocks.{n}", n == 23
        found |= pair(f"{at}.norm1.linear", 9216, 1536)
        found |= pair(f"{at}.norm1_context.linear", 3072 if last else 9216, 1536)
        names = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj"]
        for name in names if last else [*names, "to_add_out"]:
            found |= pair(f"{at}.attn.{name}", 1536, 1536)
        for side in ("ff",) if last else ("ff", "ff_context"):
            found |= pair(f"{at}.{side}.net.0.proj", 6144, 1536) | pair(f"{at}.{side}.net.2", 1536, 6144)
    return found | pair("norm_out.linear", 3072, 1536) | pair("proj_out", 64, 1536)


def flux_1() -> Shapes:
    """The transformer, as the original publication names it."""
    found = pair("img_in", 3072, 64) | pair("txt_in", 3072, 4096)
    for name, wide in (("time", 256), ("vector", 768), ("guidance", 256)):
        found |= pair(f"{name}_in.in_layer", 3072, wide) | pair(f"{name}_in.out_layer", 3072, 3072)
    found |= pair("final_layer.linear", 64, 3072) | pair("final_layer.adaLN_modulation.1", 6144, 3072)
    for n in range(19):
        for side in ("img", "txt"):
            at = f"double_blocks.{n}.{side}"
            found |= pair(f"{at}_mod.lin", 18432, 3072) | pair(f"{at}_attn.qkv", 9216, 3072)
            found |= {f"{at}_attn.norm.{name}_norm.scale": (128,) for name in ("query", "key")}
            found |= pair(f"{at}_attn.proj", 3072, 3072)
            found |= pair(f"{at}_mlp.0", 12288, 3072) | pair(f"{at}_mlp.2", 3072, 12288)
    for n in range(38):
        at = f"single_blocks.{n}"
        found |= pair(f"{at}.linear1", 21504, 3072) | pair(f"{at}.linear2", 3072, 15360)
        found |= {f"{at}.norm.{name}_norm.scale": (128,) for name in ("query", "key")}
        found |= pair(f"{at}.modulation.lin", 9216, 3072)
    return found


def sd_unet() -> Shapes:
    """Stable Diffusion 1.5's UNet, as diffusers names it."""
    wide = (320, 640, 1280, 1280)

    def resnet(at: str, inside: int, out: int) -> Shapes:
        found = pair(f"{at}.norm1", inside) | pair(f"{at}.conv1", out, inside, 3, 3)
        found |= pair(f"{at}.time_emb_proj", out, 1280) | pair(f"{at}.norm2", out)
        found |= pair(f"{at}.conv2", out, out, 3, 3)
        return found | (pair(f"{at}.conv_shortcut", out, inside, 1, 1) if inside != out else {})

    def attention(at: str, size: int) -> Shapes:
        found = pair(f"{at}.norm", size) | pair(f"{at}.proj_in", size, size, 1, 1)
        found |= pair(f"{at}.proj_out", size, size, 1, 1)
        block = f"{at}.transformer_blocks.0"
        for name, context in (("attn1", size), ("attn2", 768)):
            found[f"{block}.{name}.to_q.weight"] = (size, size)
            found |= {f"{block}.{name}.to_{kind}.weight": (size, context) for kind in "kv"}
            found |= pair(f"{block}.{name}.to_out.0", size, size)
        found |= pair(f"{block}.ff.net.0.proj", 8 * size, size) | pair(f"{block}.ff.net.2", size, 4 * size)
        return found | {k: s for n in (1, 2, 3) for k, s in pair(f"{block}.norm{n}", size).items()}

    found = pair("conv_in", 320, 4, 3, 3) | pair("conv_norm_out", 320) | pair("conv_out", 4, 320, 3, 3)
    found |= pair("time_embedding.linear_1", 1280, 320) | pair("time_embedding.linear_2", 1280, 1280)
    found |= resnet("mid_block.resnets.0", 1280, 1280) | resnet("mid_block.resnets.1", 1280, 1280)
    found |= attention("mid_block.attentions.0", 1280)
    skips, at = [320], 320
    for n, size in enumerate(wide):
        for r in range(2):
            found |= resnet(f"down_blocks.{n}.resnets.{r}", at, size)
            found |= attention(f"down_blocks.{n}.attentions.{r}", size) if n < 3 else {}
            at = size
            skips.append(size)
        if n < 3:
            found |= pair(f"down_blocks.{n}.downsamplers.0.conv", size, size, 3, 3)
            skips.append(size)
    for n, size in enumerate(reversed(wide)):
        for r in range(3):
            found |= resnet(f"up_blocks.{n}.resnets.{r}", at + skips.pop(), size)
            found |= attention(f"up_blocks.{n}.attentions.{r}", size) if n > 0 else {}
            at = size
        if n < 3:
            found |= pair(f"up_blocks.{n}.upsamplers.0.conv", size, size, 3, 3)
    return found

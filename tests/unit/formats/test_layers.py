from __future__ import annotations

import pytest

from exo_dl.errors import FormatError, UnknownStructureError
from exo_dl.formats.layers import LayerMap, classify
from exo_dl.formats.tensors import ModelStructure
from tests.unit.formats import families


def layer_map(shapes: families.Shapes, **config: object) -> LayerMap:
    found = classify(families.structure(shapes), config or None)
    placed = {name for layer in found.layers for name in layer.tensors} | {*found.first, *found.last, *found.everywhere}
    assert placed == set(shapes), "every tensor has its place"
    assert [layer.index for layer in found.layers] == list(range(len(found.layers)))
    return found


@pytest.mark.parametrize("family", families.PUBLISHED, ids=lambda family: family.__name__)
def test_the_fixtures_have_as_many_tensors_as_the_published_files(family) -> None:
    assert len(family()) == families.PUBLISHED[family]


EMBEDDING, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"


@pytest.mark.parametrize(
    ("family", "layers", "first", "last"),
    [
        (families.llama_3_8b, 32, {EMBEDDING}, {NORM, HEAD}),
        (families.qwen2_5_0_5b, 24, {EMBEDDING}, {NORM, EMBEDDING}),
        (families.qwen3_0_6b, 28, {EMBEDDING}, {NORM, HEAD}),
        (families.qwen3_30b_a3b, 48, {EMBEDDING}, {NORM, HEAD}),
        (families.mixtral_8x7b, 32, {EMBEDDING}, {NORM, HEAD}),
        (families.gemma_2_2b, 26, {EMBEDDING}, {NORM, EMBEDDING}),
        (
            families.phi_2,
            32,
            {EMBEDDING},
            {"model.final_layernorm.weight", "model.final_layernorm.bias", HEAD, "lm_head.bias"},
        ),
        (families.gpt2, 12, {"wte.weight", "wpe.weight"}, {"ln_f.weight", "ln_f.bias", "wte.weight"}),
    ],
)
def test_decoders(family, layers: int, first: set[str], last: set[str]) -> None:
    found = layer_map(family())
    assert len(found.layers) == layers
    assert (set(found.first), set(found.last), found.everywhere) == (first, last, ())
    assert found.tied == bool(first & last)


def test_a_head_that_is_said_to_be_the_embedding_comes_with_it_though_the_file_has_both() -> None:
    assert set(layer_map(families.qwen3_0_6b(), tie_word_embeddings=True).last) == {NORM, HEAD, EMBEDDING}


def test_experts_are_found_and_routers_and_shared_experts_stay_with_the_layer() -> None:
    found = layer_map(families.mixtral_8x7b())
    assert set(found.layers[3].experts) == set(range(8))
    assert {name.rsplit(".", 2)[1] for name in found.layers[3].experts[7]} == {"w1", "w2", "w3"}
    assert len(layer_map(families.qwen3_30b_a3b()).layers[0].experts) == 128


def test_deepseek_v3_has_61_layers_and_the_one_that_predicts_further_tokens_is_with_the_last() -> None:
    found = layer_map(families.deepseek_v3(), num_hidden_layers=61, num_nextn_predict_layers=1)
    assert found == layer_map(families.deepseek_v3())
    assert len(found.layers) == 61
    assert not found.layers[2].experts and len(found.layers[3].experts) == 256
    experts = {name for names in found.layers[3].experts.values() for name in names}
    assert "model.layers.3.mlp.shared_experts.up_proj.weight" in set(found.layers[3].tensors) - experts
    assert {"model.layers.61.eh_proj.weight", "model.layers.61.mlp.experts.255.up_proj.weight", HEAD} <= set(found.last)
    assert "model.layers.3.mlp.experts.0.up_proj.weight_scale_inv" in experts
    assert not found.tied


def test_bert_has_its_pooler_and_predictions_last_with_the_embedding_that_they_use() -> None:
    found = layer_map(families.bert_base(), architectures=["BertForMaskedLM"])
    assert len(found.layers) == 12
    assert {name.split(".")[1] for name in found.first} == {"embeddings"}
    assert {name for name in found.last if "embeddings" in name} == {"bert.embeddings.word_embeddings.weight"}
    headless = {name.removeprefix("bert."): s for name, s in families.bert_base().items() if name.startswith("bert.")}
    assert set(layer_map(headless, architectures=["BertModel"]).last) == {"pooler.dense.weight", "pooler.dense.bias"}


def test_whisper_is_its_encoder_and_then_its_decoder() -> None:
    found = layer_map(families.whisper_tiny())
    assert [layer.stack for layer in found.layers] == ["model.encoder.layers"] * 4 + ["model.decoder.layers"] * 4
    assert {name.split(".")[2] for name in found.first} == {"conv1", "conv2", "embed_positions"}
    assert "model.encoder.layer_norm.weight" in found.layers[3].tensors
    assert {"model.decoder.embed_tokens.weight", "model.decoder.embed_positions.weight"} <= set(found.layers[4].tensors)
    assert set(found.last) == {
        "model.decoder.layer_norm.weight",
        "model.decoder.layer_norm.bias",
        "model.decoder.embed_tokens.weight",
    }


def test_t5_is_its_encoder_and_then_its_decoder_which_need_the_same_embedding() -> None:
    found = layer_map(families.t5_small(), architectures=["T5ForConditionalGeneration"], tie_word_embeddings=True)
    assert [layer.stack for layer in found.layers] == ["encoder.block"] * 6 + ["decoder.block"] * 6
    assert found.first == ("shared.weight",)
    assert set(found.last) == {"decoder.final_layer_norm.weight", "shared.weight"}
    assert "encoder.final_layer_norm.weight" in found.layers[5].tensors
    assert "shared.weight" in found.layers[6].tensors
    assert not any("shared.weight" in layer.tensors for layer in found.layers if layer.index != 6)
    assert found.layers[0].size > found.layers[1].size, "with the table of relative positions"
    untied = families.t5_small() | {"lm_head.weight": (32128, 512)}
    assert set(layer_map(untied).last) == {"decoder.final_layer_norm.weight", "lm_head.weight"}


def test_an_encoder_alone_needs_its_embedding_once() -> None:
    found = layer_map(families.t5_xxl_encoder(), architectures=["T5EncoderModel"])
    assert len(found.layers) == 24
    assert (found.first, found.last) == (("shared.weight",), ("encoder.final_layer_norm.weight",))


def test_sd3_has_24_blocks_between_what_reads_its_inputs_and_what_makes_the_image() -> None:
    found = layer_map(families.sd3_medium(), **{"_class_name": "SD3Transformer2DModel"})
    assert [layer.stack for layer in found.layers] == ["transformer_blocks"] * 24
    assert {name.split(".")[0] for name in found.first} == {"pos_embed", "context_embedder", "time_text_embed"}
    assert {name.split(".")[0] for name in found.last} == {"norm_out", "proj_out"}
    assert found.layers[23].size < found.layers[22].size
    assert not (found.everywhere or found.tied)


def test_flux_is_its_double_and_then_its_single_blocks() -> None:
    found = layer_map(families.flux_1())
    assert [layer.stack for layer in found.layers] == ["double_blocks"] * 19 + ["single_blocks"] * 38
    assert {name.split(".")[0] for name in found.first} == {"img_in", "txt_in", "time_in", "vector_in", "guidance_in"}
    assert {name.split(".")[0] for name in found.last} == {"final_layer"}


def test_a_unet_goes_down_through_the_middle_and_up() -> None:
    found = layer_map(families.sd_unet())
    assert [layer.stack for layer in found.layers] == ["down_blocks"] * 4 + ["mid_block"] + ["up_blocks"] * 4
    assert {name.split(".")[0] for name in found.first} == {"conv_in", "time_embedding"}
    assert {name.split(".")[0] for name in found.last} == {"conv_norm_out", "conv_out"}


def test_vision_towers_come_first_and_rotary_tables_go_everywhere() -> None:
    shapes = {f"language_model.{name}": shape for name, shape in families.llama_3_8b().items()}
    shapes |= {f"vision_tower.vision_model.encoder.layers.{n}.mlp.fc1.weight": (4096, 1024) for n in range(24)}
    shapes |= {"multi_modal_projector.linear_1.weight": (4096, 1024), "language_model.model.rotary_emb.inv_freq": (64,)}
    found = layer_map(shapes)
    assert {layer.stack for layer in found.layers} == {"language_model.model.layers"}
    assert {name.split(".")[0] for name in found.first} == {"language_model", "vision_tower", "multi_modal_projector"}
    assert found.everywhere == ("language_model.model.rotary_emb.inv_freq",)


@pytest.mark.parametrize(
    "names",
    [
        ["weight"],
        ["conv1.weight", *(f"layer{a}.{b}.conv1.weight" for a in range(1, 5) for b in range(2))],
        [*(f"talker.model.layers.{n}.w" for n in range(4)), *(f"thinker.model.layers.{n}.w" for n in range(4))],
        ["model.layers.1.w.weight", "model.layers.3.w.weight"],
    ],
)
def test_an_unknown_structure_is_said_plainly(names: list[str]) -> None:
    with pytest.raises(UnknownStructureError, match="--place full"):
        classify(families.structure(dict.fromkeys(names, (64, 64))))


def test_a_name_in_two_files_is_refused() -> None:
    one = families.structure({"a.weight": (2,)}).files["model.safetensors"]
    two = type(one)(
        "other.safetensors", 8, tuple(type(t)(t.name, t.dtype, t.shape, "other", 8, 12) for t in one.tensors)
    )
    with pytest.raises(FormatError, match="is in"):
        ModelStructure({"a": one, "b": two}, "safetensors")

"""Which files of a repository make one model, which of several models is divided, and what comes with it."""

from __future__ import annotations

from exo_dl.formats.weights import beside, main_set, weight_sets

GB = 10**9

SD3 = {
    "model_index.json": 706,
    "README.md": 9_000,
    "scheduler/scheduler_config.json": 141,
    "text_encoder/config.json": 574,
    "text_encoder/model.fp16.safetensors": 247 * GB // 1000,
    "text_encoder/model.safetensors": 494 * GB // 1000,
    "text_encoder_2/config.json": 570,
    "text_encoder_2/model.safetensors": 2_778 * GB // 1000,
    "text_encoder_3/config.json": 741,
    "text_encoder_3/model-00001-of-00002.safetensors": 4_994 * GB // 1000,
    "text_encoder_3/model-00002-of-00002.safetensors": 4_530 * GB // 1000,
    "text_encoder_3/model.safetensors.index.json": 19_886,
    "tokenizer/vocab.json": 1_059_962,
    "tokenizer_3/spiece.model": 791_656,
    "transformer/config.json": 372,
    "transformer/diffusion_pytorch_model.safetensors": 4_170 * GB // 1000,
    "vae/config.json": 739,
    "vae/diffusion_pytorch_model.safetensors": 168 * GB // 1000,
}


def test_of_a_diffusion_pipeline_the_transformer_is_divided_and_the_rest_is_everywhere() -> None:
    main = main_set(SD3)
    assert main is not None
    assert main.files == ("transformer/diffusion_pytorch_model.safetensors",)
    kept = beside(SD3, main)
    assert SD3.keys() - kept.keys() == {*main.files, "text_encoder/model.fp16.safetensors"}
    # The same weights in one file at the root are for other programs.
    more = SD3 | {"sd3_medium_incl_clips.safetensors": 6 * GB}
    assert main_set(more) == main
    assert beside(more, main) == kept


def test_of_several_models_the_largest_is_divided_and_of_copies_the_one_that_loaders_choose() -> None:
    files = {"model.safetensors": 10, "model.fp16.safetensors": 6, "other.safetensors": 11, "config.json": 1}
    main = main_set(files)
    assert main is not None and main.files == ("model.safetensors",)
    assert beside(files, main) == {"config.json": 1}
    assert main_set({"small.safetensors": 3, "large.safetensors": 9}).stem == "large"  # type: ignore[union-attr]
    assert main_set({"a.gguf": 3, "pytorch_model.bin": 9}) is None


def test_parts_that_names_promise_are_missed() -> None:
    (found,) = weight_sets(["m-00001-of-00003.safetensors", "m-00003-of-00003.safetensors", "m.safetensors.index.json"])
    assert found.missing == ("m-00002-of-00003.safetensors",)
    assert found.index == "m.safetensors.index.json"

"""Small random-weight models of the Hugging Face architectures that fxpress must compile.

`ZOO[name]()` builds one: the model in evaluation mode, its positional and its keyword arguments. Importing this file
imports neither transformers nor any of its models. The same call always gives the same weights and inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Entry = Callable[[], tuple[nn.Module, tuple[Any, ...], dict[str, Any]]]
Inputs = Callable[[], dict[str, Any]]

VOCABULARY = 99

ENCODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
HEADLESS = {key: value for key, value in ENCODER.items() if key != "num_attention_heads"}
SPECIAL_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
DECODER = {**ENCODER, **SPECIAL_TOKENS, "use_cache": False}
GROUPED = {**DECODER, "num_key_value_heads": 2}
VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
SEQ2SEQ = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
    "use_cache": False,
    **SPECIAL_TOKENS,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}
T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "use_cache": False,
    "decoder_start_token_id": 0,
}
SPEECH = {
    "vocab_size": 32,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": (32, 32, 32),
    "conv_stride": (5, 4, 2),
    "conv_kernel": (10, 4, 3),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
WHISPER = {
    **SEQ2SEQ,
    "num_mel_bins": 16,
    "max_source_positions": 32,
    "max_target_positions": 32,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
}
SWIN = {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}


def _image(size: int = 32, batch: int = 1) -> Inputs:
    return lambda: {"pixel_values": torch.randn(batch, 3, size, size)}


def _tokens(batch: int = 1, length: int = 12) -> Tensor:
    return torch.randint(3, VOCABULARY, (batch, length))


def _text(batch: int = 1, length: int = 12) -> Inputs:
    return lambda: {"input_ids": _tokens(batch, length)}


def _padded_text() -> dict[str, Any]:
    mask = torch.ones(2, 12, dtype=torch.int64)
    mask[1, 8:] = 0
    return {"input_ids": _tokens(2), "attention_mask": mask}


def _two_texts() -> dict[str, Any]:
    return {"input_ids": _tokens(), "decoder_input_ids": _tokens(length=7)}


def _wave() -> dict[str, Any]:
    return {"input_values": torch.randn(1, 1600)}


def _image_and_text() -> dict[str, Any]:
    return {**_image()(), **_padded_text()}


def _model(model: str, config: str, inputs: Inputs, **options: Any) -> Entry:
    """An entry that builds `transformers.<model>(transformers.<config>(**options))`."""

    def build() -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
        import transformers

        settings = {key: _build_config(value) for key, value in options.items()}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = getattr(transformers, model)(getattr(transformers, config)(**settings)).eval()
            _perturb(module)
            return module, (), inputs()

    return build


def _build_config(value: Any) -> Any:
    """A nested configuration is written as (class name, options)."""
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], dict):
        import transformers

        return getattr(transformers, value[0])(**value[1])
    return value


def _perturb(module: nn.Module) -> None:
    """Random values in place of the zeros and ones that layers start with, which would hide mistakes."""
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if not tensor.is_floating_point() or tensor.dim() == 0 or not (tensor == tensor.flatten()[0]).all():
            continue
        positive = name.endswith("running_var") or tensor.numel() == 1  # one bias may decide whether a relu lets pass
        noise = torch.rand_like(tensor) if positive else torch.randn_like(tensor)
        tensor.data.add_(noise, alpha=0.2)


def _first_positional(entry: Entry) -> Entry:
    """The same model called with its first argument by position."""

    def build() -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
        module, _, kwargs = entry()
        first, *rest = kwargs.items()
        return module, (first[1],), dict(rest)

    return build


ZOO: dict[str, Entry] = {
    # convolutional image models
    "resnet": _model(
        "ResNetForImageClassification", "ResNetConfig", _image(),
        embedding_size=16, hidden_sizes=[16, 32], depths=[2, 2], layer_type="basic",
    ),
    "resnet_bottleneck": _model(
        "ResNetForImageClassification", "ResNetConfig", _image(),
        embedding_size=16, hidden_sizes=[32, 64], depths=[1, 2], layer_type="bottleneck",
    ),
    "mobilenet_v1": _model(
        "MobileNetV1ForImageClassification", "MobileNetV1Config", _image(), depth_multiplier=0.25, image_size=32
    ),
    "mobilenet_v2": _first_positional(
        _model("MobileNetV2ForImageClassification", "MobileNetV2Config", _image(), depth_multiplier=0.25, image_size=32)
    ),
    "efficientnet": _model(
        "EfficientNetForImageClassification", "EfficientNetConfig", _image(),
        image_size=32, width_coefficient=0.5, depth_coefficient=0.5, hidden_dim=640,
        kernel_sizes=[3, 5], in_channels=[32, 16], out_channels=[16, 24], depthwise_padding=[], strides=[1, 2],
        num_block_repeats=[1, 2], expand_ratios=[1, 6],
    ),
    "convnext": _model(
        "ConvNextForImageClassification", "ConvNextConfig", _image(), hidden_sizes=[16, 32], depths=[1, 2], num_stages=2
    ),
    "convnextv2": _model(
        "ConvNextV2ForImageClassification", "ConvNextV2Config", _image(),
        hidden_sizes=[16, 32], depths=[1, 2], num_stages=2,
    ),
    "regnet": _model(
        "RegNetForImageClassification", "RegNetConfig", _image(),
        embedding_size=16, hidden_sizes=[16, 32], depths=[1, 2], groups_width=8,
    ),
    "bit": _model(
        "BitForImageClassification", "BitConfig", _image(),
        embedding_size=16, hidden_sizes=[32, 64], depths=[1, 2], num_groups=4,
    ),
    "poolformer": _model(
        "PoolFormerForImageClassification", "PoolFormerConfig", _image(),
        hidden_sizes=[16, 32], depths=[1, 1], num_encoder_blocks=2, patch_sizes=[7, 3], strides=[4, 2], padding=[2, 1],
    ),
    "focalnet": _model(
        "FocalNetForImageClassification", "FocalNetConfig", _image(),
        image_size=32, patch_size=2, embed_dim=16, hidden_sizes=[16, 32], depths=[1, 1],
        focal_levels=[2, 2], focal_windows=[3, 3],
    ),
    "levit": _model(
        "LevitForImageClassification", "LevitConfig", _image(64),
        image_size=64, hidden_sizes=[16, 32, 48], num_attention_heads=[2, 2, 2], depths=[1, 1, 1], key_dim=[8, 8, 8],
        attention_ratio=[2, 2, 2], mlp_ratio=[2, 2, 2],
    ),
    "mobilevit": _model(
        "MobileViTForImageClassification", "MobileViTConfig", _image(64),
        image_size=64, hidden_sizes=[32, 48, 64], neck_hidden_sizes=[8, 16, 24, 32, 40, 48, 64],
        num_attention_heads=4, output_stride=32,
    ),
    "mobilevitv2": _model(
        "MobileViTV2ForImageClassification", "MobileViTV2Config", _image(64),
        image_size=64, width_multiplier=0.25, n_attn_blocks=[1, 1, 1],
    ),
    "hgnet_v2": _model(
        "HGNetV2ForImageClassification", "HGNetV2Config", _image(64),
        stem_channels=[3, 8, 16], stage_in_channels=[16, 16, 32, 32], stage_mid_channels=[8, 8, 16, 16],
        stage_out_channels=[16, 32, 32, 64], stage_num_blocks=[1, 1, 1, 1], stage_numb_of_layers=[2, 2, 2, 2],
        hidden_sizes=[16, 32, 32, 64],
    ),
    "pvt": _model(
        "PvtForImageClassification", "PvtConfig", _image(64),
        image_size=64, hidden_sizes=[16, 32, 32, 64], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 2, 4],
        mlp_ratios=[2, 2, 2, 2],
    ),
    "swiftformer": _model(
        "SwiftFormerForImageClassification", "SwiftFormerConfig", _image(64),
        depths=[1, 1, 1, 1], embed_dims=[16, 32, 32, 64], image_size=64,
    ),
    # image transformers
    "vit": _first_positional(_model("ViTForImageClassification", "ViTConfig", _image(), **VISION)),
    "deit": _model("DeiTForImageClassificationWithTeacher", "DeiTConfig", _image(), **VISION),
    "beit": _model(
        "BeitForImageClassification", "BeitConfig", _image(), **VISION, use_relative_position_bias=True, out_indices=[1]
    ),
    "dinov2": _model("Dinov2ForImageClassification", "Dinov2Config", _image(), **VISION),
    "vit_mae": _model(
        "ViTMAEModel", "ViTMAEConfig", lambda: {**_image()(), "noise": torch.linspace(0, 1, 16)[None]}, **VISION
    ),
    "swin": _model("SwinForImageClassification", "SwinConfig", _image(), **SWIN),
    "swinv2": _model("Swinv2ForImageClassification", "Swinv2Config", _image(), **SWIN),
    "cvt": _model(
        "CvtForImageClassification", "CvtConfig", _image(),
        embed_dim=[16, 32, 32], depth=[1, 2, 3], num_heads=[1, 2, 2],
    ),
    "vitdet": _model("VitDetModel", "VitDetConfig", _image(), **{
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32, "patch_size": 8,
        "window_block_indices": [0], "window_size": 2, "use_relative_position_embeddings": True,
        "pretrain_image_size": 32,
    }),
    "pvt_v2": _model(
        "PvtV2ForImageClassification", "PvtV2Config", _image(64),
        image_size=64, hidden_sizes=[16, 32, 32, 64], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 2, 4],
        mlp_ratios=[2, 2, 2, 2],
    ),
    "hiera": _model(
        "HieraForImageClassification", "HieraConfig", _image(),
        image_size=[32, 32], embed_dim=16, depths=[1, 1], num_heads=[1, 2], patch_stride=[4, 4], num_query_pool=1,
        masked_unit_size=[2, 2], embed_dim_multiplier=2.0,
    ),
    "data2vec_vision": _model("Data2VecVisionModel", "Data2VecVisionConfig", _image(), **VISION, out_indices=[1]),
    "videomae": _model(
        "VideoMAEForVideoClassification", "VideoMAEConfig", lambda: {"pixel_values": torch.randn(1, 2, 3, 32, 32)},
        **VISION, num_frames=2, tubelet_size=2,
    ),
    "timesformer": _model(
        "TimesformerModel", "TimesformerConfig", lambda: {"pixel_values": torch.randn(1, 2, 3, 32, 32)},
        **VISION, num_frames=2,
    ),
    # segmentation, detection, depth, restoration
    "segformer": _model(
        "SegformerForSemanticSegmentation", "SegformerConfig", _image(64),
        hidden_sizes=[16, 32], depths=[1, 1], num_encoder_blocks=2, num_attention_heads=[1, 2], sr_ratios=[4, 2],
        patch_sizes=[7, 3], strides=[4, 2], mlp_ratios=[2, 2], decoder_hidden_size=32,
    ),
    "detr": _model(
        "DetrForObjectDetection", "DetrConfig", _image(64),
        backbone_config=("ResNetConfig", {
            "embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic",
            "out_features": ["stage2"],
        }),
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None,
        d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=64, decoder_ffn_dim=64, num_queries=5,
    ),
    "yolos": _model(
        "YolosForObjectDetection", "YolosConfig", _image(),
        **{**VISION, "image_size": [32, 32]}, num_detection_tokens=5,
    ),
    "dpt": _model(
        "DPTForDepthEstimation", "DPTConfig", _image(64),
        **{**VISION, "image_size": 64, "num_hidden_layers": 4, "patch_size": 16}, backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[16, 16, 32, 32], fusion_hidden_size=16, is_hybrid=False,
    ),
    "glpn": _model(
        "GLPNForDepthEstimation", "GLPNConfig", _image(64),
        hidden_sizes=[16, 16, 32, 32], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 2, 2], mlp_ratios=[2, 2, 2, 2],
        decoder_hidden_size=16,
    ),
    "upernet": _model(
        "UperNetForSemanticSegmentation", "UperNetConfig", _image(64),
        backbone_config=("ConvNextConfig", {
            "hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1],
            "out_features": ["stage1", "stage2", "stage3", "stage4"],
        }),
        hidden_size=16, auxiliary_in_channels=16, auxiliary_channels=8, pool_scales=[1, 2], num_labels=5,
    ),
    "swin2sr": _model(
        "Swin2SRForImageSuperResolution", "Swin2SRConfig", _image(16),
        image_size=16, embed_dim=16, depths=[2, 2], num_heads=[2, 2], window_size=4, upscale=2,
        patch_size=1, upsampler="pixelshuffle",
    ),
    # text encoders
    "bert": _model("BertForSequenceClassification", "BertConfig", _padded_text, **ENCODER),
    "bert_eager": _model("BertModel", "BertConfig", _padded_text, **ENCODER, attn_implementation="eager"),
    "roberta": _model("RobertaForMaskedLM", "RobertaConfig", _padded_text, **ENCODER, pad_token_id=1),
    "xlm_roberta": _model("XLMRobertaModel", "XLMRobertaConfig", _text(), **ENCODER, pad_token_id=1),
    "distilbert": _model(
        "DistilBertForQuestionAnswering", "DistilBertConfig", _padded_text,
        vocab_size=VOCABULARY, dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=64,
    ),
    "albert": _model("AlbertForMaskedLM", "AlbertConfig", _padded_text, **ENCODER, embedding_size=16),
    "electra": _model("ElectraForPreTraining", "ElectraConfig", _padded_text, **ENCODER, embedding_size=16),
    "deberta": _model(
        "DebertaModel", "DebertaConfig", _padded_text,
        **ENCODER, relative_attention=True, pos_att_type=["c2p", "p2c"], max_relative_positions=16,
    ),
    "deberta_v2": _model(
        "DebertaV2Model", "DebertaV2Config", _padded_text,
        **ENCODER, relative_attention=True, pos_att_type=["c2p", "p2c"], position_buckets=8,
    ),
    "mpnet": _model("MPNetModel", "MPNetConfig", _padded_text, **ENCODER),
    "fnet": _model("FNetModel", "FNetConfig", _text(), **HEADLESS),
    "mobilebert": _model(
        "MobileBertForSequenceClassification", "MobileBertConfig", _padded_text,
        **ENCODER, embedding_size=16, intra_bottleneck_size=16, true_hidden_size=16, num_feedforward_networks=2,
    ),
    "squeezebert": _model("SqueezeBertModel", "SqueezeBertConfig", _padded_text, **ENCODER, embedding_size=32),
    "convbert": _model("ConvBertModel", "ConvBertConfig", _padded_text, **ENCODER, embedding_size=32, head_ratio=2),
    "modernbert": _model(
        "ModernBertModel", "ModernBertConfig", _padded_text,
        **ENCODER, **SPECIAL_TOKENS, cls_token_id=1, sep_token_id=2,
        global_attn_every_n_layers=2, local_attention=4,
    ),
    "roformer": _model("RoFormerModel", "RoFormerConfig", _padded_text, **ENCODER, embedding_size=32),
    "layoutlm": _model("LayoutLMModel", "LayoutLMConfig", _padded_text, **ENCODER),
    "camembert": _model("CamembertModel", "CamembertConfig", _text(), **ENCODER, pad_token_id=1),
    "rembert": _model("RemBertModel", "RemBertConfig", _padded_text, **ENCODER, input_embedding_size=16),
    "megatron_bert": _model("MegatronBertModel", "MegatronBertConfig", _padded_text, **ENCODER),
    "xlnet": _model(
        "XLNetModel", "XLNetConfig", _text(), vocab_size=VOCABULARY, d_model=32, n_layer=2, n_head=4, d_inner=64,
        use_mems_eval=False,
    ),
    "ibert": _model("IBertModel", "IBertConfig", _text(), **ENCODER),
    # text decoders
    "gpt2": _model(
        "GPT2LMHeadModel", "GPT2Config", _padded_text,
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64, use_cache=False,
    ),
    "gpt_neo": _model(
        "GPTNeoForCausalLM", "GPTNeoConfig", _text(),
        vocab_size=VOCABULARY, hidden_size=32, num_layers=2, num_heads=4, intermediate_size=64, window_size=4,
        attention_types=[[["global", "local"], 1]], max_position_embeddings=64, use_cache=False,
    ),
    "gpt_neox": _model("GPTNeoXForCausalLM", "GPTNeoXConfig", _text(), **DECODER),
    "gptj": _model(
        "GPTJForCausalLM", "GPTJConfig", _text(),
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64, rotary_dim=4, use_cache=False,
    ),
    "opt": _model(
        "OPTForCausalLM", "OPTConfig", _padded_text,
        vocab_size=VOCABULARY, hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, word_embed_proj_dim=32, use_cache=False,
    ),
    "bloom": _model(
        "BloomForCausalLM", "BloomConfig", _padded_text,
        vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4, use_cache=False,
    ),
    "llama": _model("LlamaForCausalLM", "LlamaConfig", _text(), **GROUPED),
    "mistral": _model("MistralForCausalLM", "MistralConfig", _text(), **GROUPED, sliding_window=8),
    "qwen2": _model("Qwen2ForCausalLM", "Qwen2Config", _padded_text, **GROUPED),
    "qwen3": _model("Qwen3ForCausalLM", "Qwen3Config", _text(), **GROUPED, head_dim=8),
    "gemma": _model("GemmaForCausalLM", "GemmaConfig", _text(), **GROUPED, head_dim=8),
    "gemma2": _model(
        "Gemma2ForCausalLM", "Gemma2Config", _text(), **GROUPED, head_dim=8, query_pre_attn_scalar=8, sliding_window=8
    ),
    "phi": _model("PhiForCausalLM", "PhiConfig", _text(), **DECODER),
    "phi3": _model("Phi3ForCausalLM", "Phi3Config", _text(), **GROUPED),
    "falcon": _model(
        "FalconForCausalLM", "FalconConfig", _text(),
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, use_cache=False,
    ),
    "stablelm": _model("StableLmForCausalLM", "StableLmConfig", _text(), **GROUPED),
    "olmo2": _model("Olmo2ForCausalLM", "Olmo2Config", _text(), **GROUPED),
    "mamba": _model(
        "MambaForCausalLM", "MambaConfig", _text(length=4),
        vocab_size=VOCABULARY, hidden_size=32, state_size=4, num_hidden_layers=2, use_cache=False,
    ),
    "gpt_bigcode": _model(
        "GPTBigCodeForCausalLM", "GPTBigCodeConfig", _text(),
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64, use_cache=False,
    ),
    "xglm": _model(
        "XGLMForCausalLM", "XGLMConfig", _text(),
        vocab_size=VOCABULARY, d_model=32, ffn_dim=64, num_layers=2, attention_heads=4, max_position_embeddings=64,
        use_cache=False,
    ),
    "granite": _model("GraniteForCausalLM", "GraniteConfig", _text(), **DECODER),
    "cohere": _model("CohereForCausalLM", "CohereConfig", _text(), **DECODER),
    "smollm3": _model("SmolLM3ForCausalLM", "SmolLM3Config", _text(), **GROUPED),
    # text to text
    "t5": _model("T5ForConditionalGeneration", "T5Config", _two_texts, **T5),
    "t5_encoder": _model("T5EncoderModel", "T5Config", _padded_text, **T5),
    "mt5_gated": _model("MT5EncoderModel", "MT5Config", _text(), **T5),
    "bart": _model("BartForConditionalGeneration", "BartConfig", _two_texts, **SEQ2SEQ),
    "marian": _model("MarianMTModel", "MarianConfig", _two_texts, **SEQ2SEQ),
    "pegasus": _model("PegasusModel", "PegasusConfig", _two_texts, **SEQ2SEQ),
    "mbart": _model("MBartModel", "MBartConfig", _two_texts, **SEQ2SEQ),
    "m2m_100": _model("M2M100Model", "M2M100Config", _two_texts, **SEQ2SEQ),
    "blenderbot": _model("BlenderbotModel", "BlenderbotConfig", _two_texts, **SEQ2SEQ),
    "umt5": _model("UMT5EncoderModel", "UMT5Config", _text(), **T5),
    # speech
    "whisper": _model(
        "WhisperForConditionalGeneration", "WhisperConfig",
        lambda: {"input_features": torch.randn(1, 16, 64), "decoder_input_ids": _tokens(length=5)}, **WHISPER,
    ),
    "whisper_encoder": _model(
        "WhisperForAudioClassification", "WhisperConfig", lambda: {"input_features": torch.randn(1, 16, 64)}, **WHISPER
    ),
    "wav2vec2": _model("Wav2Vec2ForCTC", "Wav2Vec2Config", _wave, **SPEECH),
    "wav2vec2_layer_norm": _model(
        "Wav2Vec2Model", "Wav2Vec2Config", _wave, **SPEECH, feat_extract_norm="layer", do_stable_layer_norm=True
    ),
    "hubert": _model("HubertForCTC", "HubertConfig", _wave, **SPEECH),
    "wavlm": _model("WavLMModel", "WavLMConfig", _wave, **SPEECH, num_buckets=16, max_bucket_distance=32),
    "audio_spectrogram_transformer": _model(
        "ASTForAudioClassification", "ASTConfig", lambda: {"input_values": torch.randn(1, 32, 16)},
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        patch_size=8, frequency_stride=4, time_stride=4, max_length=32, num_mel_bins=16,
    ),
    "hifigan": _model(
        "SpeechT5HifiGan", "SpeechT5HifiGanConfig", lambda: {"spectrogram": torch.randn(1, 8, 16)},
        model_in_dim=16, upsample_initial_channel=16, upsample_rates=[4, 2], upsample_kernel_sizes=[8, 4],
        resblock_kernel_sizes=[3, 5], resblock_dilation_sizes=[[1, 3], [1, 3]],
    ),
    "univnet": _model(
        "UnivNetModel", "UnivNetConfig",
        lambda: {"input_features": torch.randn(1, 8, 16), "noise_sequence": torch.randn(1, 8, 8)},
        model_in_channels=8, model_hidden_channels=8, num_mel_bins=16, resblock_kernel_sizes=[3],
        resblock_stride_sizes=[4], resblock_dilation_sizes=[[1, 3]], kernel_predictor_hidden_channels=8,
    ),
    "data2vec_audio": _model("Data2VecAudioModel", "Data2VecAudioConfig", _wave, **SPEECH),
    "sew": _model("SEWModel", "SEWConfig", _wave, **SPEECH, squeeze_factor=2),
    "speech_to_text": _model(
        "Speech2TextModel", "Speech2TextConfig",
        lambda: {"input_features": torch.randn(1, 32, 16), "decoder_input_ids": _tokens(length=5)},
        **{k: v for k, v in SEQ2SEQ.items() if k != "max_position_embeddings"}, input_feat_per_channel=16,
        max_source_positions=64, max_target_positions=32, conv_channels=32, num_conv_layers=2,
    ),
    # image and text
    "clip": _model(
        "CLIPModel", "CLIPConfig", _image_and_text,
        text_config=("CLIPTextConfig", {**ENCODER, "projection_dim": 16, **SPECIAL_TOKENS}),
        vision_config=("CLIPVisionConfig", {**VISION, "projection_dim": 16}), projection_dim=16,
    ),
    "siglip": _model(
        "SiglipModel", "SiglipConfig", _image_and_text,
        text_config=("SiglipTextConfig", {**ENCODER, "projection_size": 32, **SPECIAL_TOKENS}),
        vision_config=("SiglipVisionConfig", VISION),
    ),
    "blip_vision": _model("BlipVisionModel", "BlipVisionConfig", _image(), **VISION),
    "dinov3": _model("DINOv3ViTModel", "DINOv3ViTConfig", _image(), **VISION, num_register_tokens=2),
    # time series
    "patchtst": _model(
        "PatchTSTForPrediction", "PatchTSTConfig", lambda: {"past_values": torch.randn(1, 32, 3)},
        num_input_channels=3, context_length=32, patch_length=8, patch_stride=8, d_model=32, num_hidden_layers=2,
        num_attention_heads=4, ffn_dim=64, prediction_length=8,
    ),
    "patchtsmixer": _model(
        "PatchTSMixerForPrediction", "PatchTSMixerConfig", lambda: {"past_values": torch.randn(1, 32, 3)},
        context_length=32, patch_length=8, patch_stride=8, num_input_channels=3, d_model=16, num_layers=2,
        prediction_length=8,
    ),
}  # fmt: skip

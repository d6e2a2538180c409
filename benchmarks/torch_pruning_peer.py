"""Pruning with the PyPI package torch-pruning, as its README and its examples for transformers do.

`SETTINGS` are the ways to ask for it, in order: what the README shows (importance by magnitude, the output layer
ignored), and what its examples for BERT, ViT and Swin add by hand: the heads of each attention, a pruner for layers
that it does not know, and the numbers in modules that pruning does not change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

OUTPUT_LAYERS = {
    "efficientnet-lite0": "_fc",
    "segformer-b0": "model.decode_head.classifier",
    "bert-base": "model.encoder.layer.11.output.dense",
    "minilm-b1": "encoder.encoder.layer.5.output.dense",
    "minilm-b8": "encoder.encoder.layer.5.output.dense",
    "gpt2-prefill": "model.lm_head",
    "whisper-tiny-encoder": "model.layers.3.fc2",
    "mlp-3x64": "4",
    "lenet": "classifier.4",
    "gru-2x128": "head",
    "ds-cnn": "head",
    "resnet-8": "head",
}
"""The layer that makes each model's output, or writes last to what becomes it; `model.classifier` of the others."""

PROJECTIONS = (("query", "key", "value"), ("q_proj", "k_proj", "v_proj"))
HEADS = ("num_attention_heads", "num_heads")


def output_layer(name: str, module: nn.Module) -> nn.Module:
    """The module that the user must tell torch-pruning to leave alone."""
    return module.get_submodule(OUTPUT_LAYERS.get(name, "model.classifier"))


def attentions(module: nn.Module) -> list[tuple[nn.Module, list[nn.Linear], str]]:
    """The modules that attend: each with its layers for q, k and v, and the name of its number of heads."""
    found = []
    for part in module.modules():
        for names in PROJECTIONS:
            layers = [getattr(part, name, None) for name in names]
            counts = [name for name in HEADS if isinstance(getattr(part, name, None), int)]
            if counts and all(isinstance(layer, nn.Linear) for layer in layers):
                found.append((part, layers, counts[0]))
    return found


def by_readme(name: str, module: nn.Module, args: Sequence[Any], ratio: float) -> bool:
    """Prune in place as the README's example does; whether heads stay heads. Raises whatever torch-pruning raises."""
    import torch_pruning

    depths = _depths(module)
    pruner = torch_pruning.pruner.BasePruner(
        module,
        tuple(args),
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        ignored_layers=[output_layer(name, module)],
    )
    pruner.step()
    return _whole_heads(pruner, depths)


def by_examples(name: str, module: nn.Module, args: Sequence[Any], ratio: float, depth: bool = False) -> bool:
    """Prune in place as the examples for transformers do, and afterwards set the modules' numbers by hand.

    Whole heads go as in the example for BERT; with `depth` parts of each as in those for ViT and Swin.
    """
    import torch_pruning

    found = attentions(module)
    kinds = {type(part) for part in module.modules() if type(part).__name__.endswith("PatchMerging")}
    pruner = torch_pruning.pruner.BasePruner(
        module,
        tuple(args),
        importance=torch_pruning.importance.MagnitudeImportance(p=2, group_reduction="mean"),
        pruning_ratio=ratio,
        num_heads={layer: getattr(part, count) for part, layers, count in found for layer in layers},
        prune_num_heads=not depth,
        prune_head_dims=depth,
        head_pruning_ratio=ratio,
        ignored_layers=[output_layer(name, module)],
        customized_pruners={kind: _patch_merging_pruner(torch_pruning) for kind in kinds},
        root_module_types=[nn.Linear, nn.LayerNorm, *kinds] if kinds else [nn.Conv2d, nn.Conv1d, nn.Linear],
    )
    for group in pruner.step(interactive=True):
        group.prune()
    for part, layers, count in found:
        setattr(part, count, pruner.num_heads[layers[0]])
        width = layers[0].out_features
        numbers = {"all_head_size": width, "embed_dim": width}
        numbers |= dict.fromkeys(("attention_head_size", "head_dim"), width // getattr(part, count))
        for attribute, value in numbers.items():
            if isinstance(getattr(part, attribute, None), int):
                setattr(part, attribute, value)
    return True


def _depths(module: nn.Module) -> dict[str, int]:
    """How many channels a head has in each layer for q, k and v, by the layer's name."""
    names = {layer: name for name, layer in module.named_modules()}
    return {
        names[layer]: layer.out_features // getattr(part, count)
        for part, layers, count in attentions(module)
        for layer in layers
    }


def _whole_heads(pruner: Any, depths: dict[str, int]) -> bool:
    """Whether all channels of a head went or none: what is left is cut into heads that are as deep as before."""
    for name, outputs, indices in pruner.DG.pruning_history():
        if outputs and name in depths:
            gone = Counter(index // depths[name] for index in indices)
            if any(count != depths[name] for count in gone.values()):
                return False
    return True


def _patch_merging_pruner(torch_pruning: Any) -> Any:
    class PatchMergingPruner(torch_pruning.BasePruningFunc):  # type: ignore[misc, name-defined]
        """Four neighbours are concatenated before a norm and a linear layer."""

        def prune_out_channels(self, layer: Any, idxs: list[int]) -> Any:
            torch_pruning.prune_linear_out_channels(layer.reduction, idxs)
            return layer

        def prune_in_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
            width = layer.norm.normalized_shape[0] // 4
            repeated = [index + part * width for part in range(4) for index in idxs]
            torch_pruning.prune_linear_in_channels(layer.reduction, repeated)
            torch_pruning.prune_layernorm_out_channels(layer.norm, repeated)
            return layer

        def get_out_channels(self, layer: Any) -> int:
            return int(layer.reduction.out_features)

        def get_in_channels(self, layer: Any) -> int:
            return int(layer.norm.normalized_shape[0]) // 4

    return PatchMergingPruner()


SETTINGS: dict[str, Callable[..., bool]] = {
    "readme": by_readme,
    "examples-heads": by_examples,
    "examples-depth": partial(by_examples, depth=True),
}


def settings_of(kind: str) -> list[str]:
    """The settings worth trying for a kind of model."""
    return ["readme", "examples-depth", "examples-heads"] if kind == "transformer" else ["readme"]


def shapes(outputs: Any) -> list[tuple[int, ...]]:
    """The shapes of what a model returns, flat."""
    return [tuple(x.shape) for x in torch.utils._pytree.tree_leaves(outputs) if isinstance(x, torch.Tensor)]

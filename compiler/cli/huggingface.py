"""Hugging Face model folders: config.json and safetensors, read without the network."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..errors import BackendUnavailable, InvalidInput
from .models import example_tensor


def load_folder(folder: Path, *, sequence: int, batch: int) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The model saved in `folder`, of the class that its config.json names, and example inputs for it.

    Raises InvalidInput when it is no such folder, BackendUnavailable without the package transformers.
    """
    if not (folder / "config.json").is_file():
        raise InvalidInput(f"folder {str(folder)!r} must hold a Hugging Face model: config.json and *.safetensors")
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        import transformers
    except ImportError as error:
        raise BackendUnavailable(
            "compiling a Hugging Face model needs the package transformers: pip install transformers"
        ) from error
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        kind = getattr(transformers, (config.architectures or ["AutoModel"])[0], transformers.AutoModel)
        model = kind.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise InvalidInput(f"folder {str(folder)!r} must hold a model that transformers can load: {error}") from error
    if getattr(model.config, "use_cache", False):
        model.config.use_cache = False
    return model, _example_inputs(model, sequence, batch)


def _example_inputs(model: Any, sequence: int, batch: int) -> dict[str, Any]:
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    generator = torch.Generator().manual_seed(0)

    def setting(name: str, default: Any) -> Any:
        value = getattr(model.config, name, None)
        return default if value is None else value

    def tokens() -> torch.Tensor:
        return example_tensor((batch, sequence), "int64", config.vocab_size, generator)

    def pixels() -> torch.Tensor:
        size = setting("image_size", 224)
        height, width = size if isinstance(size, list | tuple) else (size, size)
        return example_tensor((batch, setting("num_channels", 3), height, width), "float32", 0, generator)

    def features() -> torch.Tensor:  # speech: mel bins x frames
        shape = (batch, setting("num_mel_bins", 80), 2 * setting("max_source_positions", 1500))
        return example_tensor(shape, "float32", 0, generator)

    def wave() -> torch.Tensor:  # a second of speech
        return example_tensor((batch, 16000), "float32", 0, generator)

    makers: dict[str, Callable[[], torch.Tensor]] = {
        "input_ids": tokens,
        "pixel_values": pixels,
        "input_features": features,
        "input_values": wave,
    }
    main = model.main_input_name
    if main not in makers:
        raise InvalidInput(
            f"example inputs of {type(model).__name__} must be given, for its {main!r} is none of {sorted(makers)}: "
            f"--input {main}=SHAPE:DTYPE"
        )
    inputs = {main: makers[main]()}
    if getattr(model.config, "is_encoder_decoder", False) and "decoder_input_ids" in _parameters(model):
        length = sequence if main == "input_ids" else 1
        inputs["decoder_input_ids"] = example_tensor((batch, length), "int64", config.vocab_size, generator)
    return inputs


def _parameters(model: torch.nn.Module) -> set[str]:
    import inspect

    return set(inspect.signature(model.forward).parameters)

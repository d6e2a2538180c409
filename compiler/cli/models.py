"""What `fxpress compile` compiles: a function in a Python file, an exported program, a Hugging Face folder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..errors import InvalidInput
from ..program import Program
from .objects import find_object

_INPUT = re.compile(r"(?:(?P<name>[A-Za-z_]\w*)=)?(?P<shape>\d+(?:x\d+)*)?(?::(?P<dtype>\w+))?(?::(?P<limit>\d+))?")


@dataclass(frozen=True)
class LoadedModel:
    """A model and the example inputs to capture it with."""

    name: str
    model: torch.nn.Module | torch.export.ExportedProgram | Program
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


def load_model(source: str, inputs: Sequence[str], *, sequence: int = 128, batch: int = 1) -> LoadedModel:
    """Load what `source` names; `inputs` describe its example inputs, where it does not come with any.

    `sequence` and `batch` are for Hugging Face models without `inputs`. Raises InvalidInput, BackendUnavailable.
    """
    args, kwargs = parse_inputs(inputs)
    path = Path(source)
    if path.is_dir():
        from .huggingface import load_folder

        model, defaults = load_folder(path, sequence=sequence, batch=batch)
        return LoadedModel(path.resolve().name, model, args, kwargs if inputs else defaults)
    if path.suffix == ".pt2":
        return LoadedModel(path.stem, _load_exported(path, inputs))
    if path.suffix == ".program":
        return LoadedModel(path.stem, _load_program(path, inputs))
    found = find_object("model", source, ("a .pt2 file", "a .program file", "the folder of a Hugging Face model"))
    model, own_args, own_kwargs = _call(source, found)
    name = source.rpartition(":")[2]
    if inputs:
        return LoadedModel(name, model, args, kwargs)
    if own_args is None:
        raise InvalidInput(
            f"the model of {source!r} must come with example inputs: give --input for each of them, "
            f"for example --input 1x3x224x224, or return (model, args) from {name}"
        )
    return LoadedModel(name, model, own_args, own_kwargs)


def parse_inputs(texts: Sequence[str]) -> tuple[tuple[torch.Tensor, ...], dict[str, torch.Tensor]]:
    """Example tensors for texts like `1x3x224x224`, `1x128:int64:30522`, `mask=1x128:bool`: by position, by name.

    Floats are normal random numbers, integers random below the limit (default 2), always the same ones.
    """
    generator = torch.Generator().manual_seed(0)
    args: list[torch.Tensor] = []
    kwargs: dict[str, torch.Tensor] = {}
    for text in texts:
        match = _INPUT.fullmatch(text)
        if match is None or not text:
            raise InvalidInput(f"input must look like [name=]1x3x224x224[:dtype[:limit]], not {text!r}")
        shape = tuple(int(size) for size in (match["shape"] or "").split("x") if size)
        tensor = example_tensor(shape, match["dtype"] or "float32", int(match["limit"] or 2), generator)
        if match["name"] is None:
            args.append(tensor)
        elif match["name"] in kwargs:
            raise InvalidInput(f"input {match['name']!r} must be given once, not several times")
        else:
            kwargs[match["name"]] = tensor
    return tuple(args), kwargs


def example_tensor(shape: Sequence[int], dtype: str, limit: int, generator: torch.Generator) -> torch.Tensor:
    """Normal random floats, or random integers below `limit`."""
    kind = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype):
        raise InvalidInput(f"input dtype must be a dtype of PyTorch such as float32 or int64, not {dtype!r}")
    if kind.is_floating_point or kind.is_complex:
        return torch.randn(tuple(shape), generator=generator).to(kind)
    return torch.randint(max(limit, 1), tuple(shape), generator=generator).to(kind)


def _load_exported(path: Path, inputs: Sequence[str]) -> torch.export.ExportedProgram:
    if inputs:
        raise InvalidInput(f"{path} was exported with its inputs: --input must not be given")
    if not path.is_file():
        raise InvalidInput(f"model must be a file that exists, not {str(path)!r}")
    try:
        return torch.export.load(path)
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        raise InvalidInput(f"{path} must be a file that torch.export.save wrote: {error}") from error


def _load_program(path: Path, inputs: Sequence[str]) -> Program:
    if inputs:
        raise InvalidInput(f"{path} was captured with its inputs: --input must not be given")
    if not path.is_file():
        raise InvalidInput(f"model must be a file that exists, not {str(path)!r}")
    return Program.load(path)


def _call(source: str, make: Any) -> tuple[torch.nn.Module, tuple[Any, ...] | None, Mapping[str, Any]]:
    """The model that `make` returns, and its example inputs if it returns them too."""
    made = make if isinstance(make, torch.nn.Module) else make()
    match made:
        case torch.nn.Module():
            return made, None, {}
        case (torch.nn.Module() as model, args):
            return model, _positional(args), {}
        case (torch.nn.Module() as model, args, Mapping() as kwargs):
            return model, _positional(args), kwargs
    raise InvalidInput(
        f"{source} must return a torch.nn.Module, (model, args) or (model, args, kwargs), not {type(made).__name__}"
    )


def _positional(args: Any) -> tuple[Any, ...]:
    return tuple(args) if isinstance(args, tuple | list) else (args,)

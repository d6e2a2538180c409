"""A loaded artifact: called like the model it was compiled from."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from types import TracebackType
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..errors import InvalidArtifact, InvalidInput
from .arrays import address_of, input_memory, is_torch, like, numpy_outputs, torch_outputs
from .container import CONSTANTS, REPORT_JSON, REPORT_TEXT, SAMPLES, Container
from .execution import Executor
from .host_calls import Functions
from .manifest import Manifest
from .samples import Samples, SelfTest
from .structure import TensorSpec
from .tensor_file import Array, numpy_dtype_or_none


class Modelled(NamedTuple):
    """What a call costs by a model of the machine: seconds, joules, multiply-accumulates."""

    seconds: float
    joules: float
    macs: int


class AnyExecutor(Protocol):
    """What runs an artifact's code, on whatever machine."""

    num_threads: int

    def run(self, addresses: Sequence[int]) -> None:
        """Run the model; `addresses` are those of the inputs, then the outputs."""

    def timed(self, addresses: Sequence[int], repeat: int) -> list[float]:
        """Run the model `repeat` times, call by call; return the median seconds of each call."""

    def close(self) -> None:
        """Give memory back; no call may be running."""


class Artifact:
    """A compiled model. Made by `load`; thread-safe; usable as a context manager.

    Call it like the model, with numpy arrays, PyTorch tensors or anything with DLPack. Outputs have the structure of
    the model's outputs and are of the kind of the first input.
    """

    def __init__(self, container: Container, num_threads: int) -> None:
        self._container = container
        self._manifest = manifest = Manifest.from_json(container.manifest)
        if container.size(CONSTANTS) != manifest.constants_bytes:
            raise InvalidArtifact(
                f"constants must be {manifest.constants_bytes} bytes as the manifest says, "
                f"not {container.size(CONSTANTS)}"
            )
        self._executor: AnyExecutor = self._new_executor(container, manifest, num_threads)
        self._expected = [(spec.shape, numpy_dtype_or_none(spec.dtype), spec) for spec in manifest.inputs]
        signature = manifest.signature
        self._flat = not signature.kwargs.children and all(child.kind == "leaf" for child in signature.args.children)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What each input tensor must be, in order."""
        return self._manifest.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What each output tensor is, in order."""
        return self._manifest.output_specs

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest, which holds the hashes of everything else: what `expected_digest` pins."""
        return self._container.digest

    @property
    def num_threads(self) -> int:
        """The number of threads a call uses."""
        return self._executor.num_threads

    @property
    def manifest(self) -> dict[str, Any]:
        """The artifact's metadata, as in its `manifest.json`."""
        return self._container.manifest

    def __repr__(self) -> str:
        inputs, outputs = (", ".join(map(str, specs)) for specs in (self.inputs, self.outputs))
        return f"Artifact(({inputs}) -> ({outputs}), target={self._manifest.target!r})"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model. Raises InvalidInput naming the argument that is wrong, what was expected and found."""
        if self._flat and not kwargs and len(args) == len(self._expected):
            return self._manifest.outputs.unflatten(self._run(args))
        return self._manifest.outputs.unflatten(self._run(self._manifest.signature.bind(args, kwargs)))

    def run_flat(self, *tensors: Any) -> tuple[Any, ...]:
        """Run the model on its input tensors in order; return its output tensors in order."""
        return tuple(self._run(self._counted(tensors)))

    def self_test(self) -> SelfTest:
        """Run the sample inputs and compare with the expected outputs; verifies the constants too.

        Raises InvalidArtifact when an output is further off than the artifact allows.
        """
        self._container.verify_constants()
        samples = self._samples()
        outputs = self._run(samples.make_inputs(self.inputs))
        result = SelfTest(tuple(samples.errors(outputs)), self._manifest.tolerances)
        if not result.passed:
            raise InvalidArtifact(
                f"self-test outputs must be what the artifact expects: {result.describe(self.outputs)}"
            )
        return result

    def sample_inputs(self) -> list[Array]:
        """The input tensors of the self-test."""
        return self._samples().make_inputs(self.inputs)

    def profile(self, inputs: Sequence[Any] | None = None, repeat: int = 10) -> list[tuple[dict[str, Any], float]]:
        """Time every call: for each layer its description and the median of its seconds over `repeat` runs.

        `inputs` are the input tensors in order (default: the samples).
        """
        if repeat < 1:
            raise InvalidInput(f"repeat must be at least 1, not {repeat}")
        leaves = self.sample_inputs() if inputs is None else self._counted(inputs)
        addresses, _converted, _outputs = self._memory(leaves)
        seconds = self._executor.timed(addresses, repeat)
        return list(zip(self._manifest.layers, seconds, strict=True))

    def report(self) -> dict[str, Any]:
        """What the compiler reported: what was kept, fused, refused and why."""
        return dict(json.loads(self._container.read(REPORT_JSON))) if REPORT_JSON in self._container else {}

    def modelled(self) -> Modelled | None:
        """What a call costs, where a model of the machine says that; None where calls are to be timed."""
        return None

    def notes(self) -> list[str]:
        """What reports say besides the CPU's kernels, line by line."""
        return []

    def sections(self) -> list[tuple[str, str]]:
        """What the report's page shows besides the CPU's kernels: titles and HTML that needs nothing else."""
        return []

    def text(self) -> str:
        """The compiler's report as text."""
        return self._container.read(REPORT_TEXT).decode() if REPORT_TEXT in self._container else ""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Copy the artifact to `path`, whole or not at all. Raises InvalidInput when that cannot be written."""
        self._container.save(path)

    def close(self) -> None:
        """Give memory back. Later calls raise InvalidInput; no call may be running."""
        self._executor.close()

    def __enter__(self) -> Artifact:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def runs_here(self) -> bool:
        """Whether this machine has what the artifact runs on."""
        return True

    def _new_executor(self, container: Container, manifest: Manifest, num_threads: int) -> AnyExecutor:
        """What runs the code. Raises InvalidArtifact when this machine cannot."""
        manifest.check_machine()
        return Executor(container, manifest, num_threads, self._functions())

    def _functions(self) -> Functions:
        """What calls between kernels may call besides PyTorch; for kinds of artifacts that use another device."""
        return {}

    def _run(self, leaves: Sequence[Any]) -> list[Any]:
        addresses, _inputs, outputs = self._memory(leaves)
        self._executor.run(addresses)
        if leaves and type(leaves[0]) is not np.ndarray:
            return [like(leaves[0], output) for output in outputs]
        return outputs

    def _memory(self, leaves: Sequence[Any]) -> tuple[list[int], list[Any], list[Any]]:
        """Addresses of inputs and of new outputs; the inputs' memory, to be kept alive; the outputs."""
        addresses: list[int] = []
        alive: list[Any] = []
        for value, (shape, dtype, spec) in zip(leaves, self._expected, strict=True):
            if type(value) is np.ndarray and value.shape == shape and value.dtype == dtype and value.flags.c_contiguous:
                addresses.append(address_of(value))
            else:
                address, memory = input_memory(value, spec)
                addresses.append(address)
                alive.append(memory)
        make = torch_outputs if alive and is_torch(leaves[0]) else numpy_outputs
        return addresses, alive, make(self._manifest.output_specs, addresses)

    def _counted(self, tensors: Sequence[Any]) -> Sequence[Any]:
        if len(tensors) != len(self._expected):
            raise InvalidInput(f"the model must be given {len(self._expected)} tensors, not {len(tensors)}")
        return tensors

    def _samples(self) -> Samples:
        return Samples.load(self._container.read(SAMPLES), self._manifest.samples)

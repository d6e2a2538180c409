"""The competitors, each at its best honest setting, behind one small protocol.

A peer is prepared once with a model and then called many times. `call()` is what is timed: it returns whatever the
peer returns, without a conversion that a user would not pay for. `outputs()` makes the same call and gives arrays.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from judge import Array, arrays
from measure import Plan, burst
from onnx_files import cache_directory, fingerprint, onnx_files, onnx_runtime_errors
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

Args = tuple[Any, ...]
Kwargs = dict[str, Any]


class Peer(Protocol):
    """One way to run a model."""

    name: str

    def available(self) -> str | None:
        """None if the peer can be used on this machine, else why not."""

    def prepare(self, module: nn.Module, args: Args, kwargs: Kwargs, threads: int) -> None:
        """Makes the model ready to run on these inputs with so many threads."""

    def call(self) -> object:
        """Runs the model once and waits for its outputs."""

    def outputs(self) -> list[Array]:
        """The outputs of one call, flat, in the order of the model's own outputs."""


def missing(*modules: str) -> str | None:
    """Why a peer that needs these modules cannot be used here, None if it can."""
    absent = [name for name in modules if importlib.util.find_spec(name) is None]
    return f"not installed: {', '.join(absent)}" if absent else None


def aligned(value: object) -> object:
    """A tensor as a numpy array that starts at a multiple of 64 bytes, so that a runtime may use it in place."""
    if not isinstance(value, torch.Tensor):
        return value
    source = value.detach().contiguous().numpy()
    buffer = np.empty(source.nbytes + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    array = buffer[start : start + source.nbytes].view(source.dtype).reshape(source.shape)
    array[...] = source
    return array


@dataclass
class Candidate:
    """One of several ways to run a model on the same runtime."""

    call: Callable[[], object]
    outputs: Callable[[], list[Array]]
    run: Callable[[Sequence[Any]], list[Array]]  # the outputs for other inputs of the same shapes


def fastest(candidates: list[Candidate]) -> Candidate:
    """The candidate with the quickest call, from a few interleaved bursts; not a measurement, only a choice."""
    if len(candidates) == 1:
        return candidates[0]
    plan = Plan(warm=2, calls=5)
    rounds = [[min(burst(candidate.call, plan)) for candidate in candidates] for _ in range(3)]
    times = [min(column) for column in zip(*rounds, strict=True)]
    return candidates[times.index(min(times))]


class Fxpress:
    """The artifact that `fxpress.compile` makes, loaded by the runtime, on numpy inputs."""

    name = "fxpress"
    artifact: Any

    def available(self) -> str | None:
        import fxpress

        return None if hasattr(fxpress, "compile") else "this fxpress has no compile()"

    def prepare(self, module: nn.Module, args: Args, kwargs: Kwargs, threads: int) -> None:
        import fxpress

        self.artifact = fxpress.compile(module, args, kwargs, target="cpu", num_threads=threads)
        self._args, self._kwargs = tree_map(aligned, (args, kwargs))

    def call(self) -> object:
        return self.artifact(*self._args, **self._kwargs)

    def outputs(self) -> list[Array]:
        return arrays(self.call())


class Eager:
    """PyTorch as it comes, in inference mode."""

    name = "eager"
    _module: Callable[..., object]

    def available(self) -> str | None:
        return None

    def prepare(self, module: nn.Module, args: Args, kwargs: Kwargs, threads: int) -> None:
        torch.set_num_threads(threads)
        self._module, self._args, self._kwargs = module, args, kwargs

    def call(self) -> object:
        with torch.inference_mode():
            return self._module(*self._args, **self._kwargs)

    def outputs(self) -> list[Array]:
        return arrays(self.call())


class Inductor(Eager):
    """torch.compile with weights frozen into the code, which lets it fold and pre-pack them."""

    name = "inductor"

    def prepare(self, module: nn.Module, args: Args, kwargs: Kwargs, threads: int) -> None:
        import torch._dynamo.config
        import torch._inductor.config

        super().prepare(module, args, kwargs, threads)
        torch._dynamo.reset()
        torch._dynamo.config.allow_rnn = True
        options: dict[str, str | int | bool | Callable[..., object]] = {"freezing": True}
        self._module = torch.compile(module, fullgraph=True, dynamic=False, options=options)
        self.call()


class _OfOnnx(ABC):
    """A peer that reads ONNX files, and takes the one that it runs quickest."""

    package: str
    _best: Candidate

    def available(self) -> str | None:
        return missing(self.package, "onnx", "onnxscript")

    def prepare(self, module: nn.Module, args: Args, kwargs: Kwargs, threads: int) -> None:
        inputs = [aligned(leaf) for leaf in tree_leaves((args, kwargs))]
        files = self._files(module, args, kwargs)
        self._best = fastest([each for path in files for each in self._candidates(path, inputs, threads)])

    def _files(self, module: nn.Module, args: Args, kwargs: Kwargs) -> list[Path]:
        return onnx_files(module, args, kwargs)

    @abstractmethod
    def _candidates(self, path: Path, inputs: list[Any], threads: int) -> list[Candidate]: ...

    def call(self) -> object:
        return self._best.call()

    def outputs(self) -> list[Array]:
        return self._best.outputs()

    def run(self, args: Args) -> list[Array]:
        """The outputs for other inputs of the same shapes."""
        return self._best.run([aligned(leaf) for leaf in tree_leaves(args)])


class OnnxRuntime(_OfOnnx):
    """ONNX Runtime's CPU provider with all graph optimisations, spinning threads and inputs bound to memory."""

    name = "ort"
    package = "onnxruntime"

    def _candidates(self, path: Path, inputs: list[Any], threads: int) -> list[Candidate]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        with onnx_runtime_errors():
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        binding = session.io_binding()
        for slot, value in zip(session.get_inputs(), inputs, strict=True):
            binding.bind_cpu_input(slot.name, value)
        for slot in session.get_outputs():
            binding.bind_output(slot.name)

        def call() -> object:
            session.run_with_iobinding(binding)
            return inputs  # the binding holds only their addresses

        def outputs() -> list[Array]:
            call()
            return list(binding.copy_outputs_to_cpu())

        def run(others: Sequence[Any]) -> list[Array]:
            names = (slot.name for slot in session.get_inputs())
            return list(session.run(None, dict(zip(names, others, strict=True))))

        return [Candidate(call, outputs, run)]


class OpenVino(_OfOnnx):
    """OpenVINO's CPU plugin in float32, tuned for latency, sharing its inputs and outputs with the caller."""

    name = "openvino"
    package = "openvino"
    precisions: tuple[str, ...] = ("f32",)  # its default may be bfloat16 where the CPU has it

    def _candidates(self, path: Path, inputs: list[Any], threads: int) -> list[Candidate]:
        return [self._candidate(path, inputs, threads, precision) for precision in self.precisions]

    def _candidate(self, path: Path, inputs: list[Any], threads: int, precision: str) -> Candidate:
        import openvino

        settings = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        core = openvino.Core()
        request = core.compile_model(core.read_model(path), "CPU", settings).create_infer_request()
        by_index = dict(enumerate(inputs))

        def call() -> object:
            return request.infer(by_index, share_inputs=True, share_outputs=True)

        def run(others: Sequence[Any]) -> list[Array]:
            return [np.array(value) for value in request.infer(dict(enumerate(others))).to_tuple()]

        return Candidate(call, lambda: run(inputs), run)


class Iree:
    """IREE's LLVM CPU backend for this very machine, its task system with one worker a thread."""

    name = "iree"

    def available(self) -> str | None:
        return missing("iree.compiler", "iree.runtime", "iree.turbine")

    def prepare(self, module: nn.Module, args: Args, kwargs: Kwargs, threads: int) -> None:
        import iree.runtime

        iree.runtime.flags.parse_flags(f"--task_topology_group_count={threads}")
        config = iree.runtime.Config("local-task")
        program = iree.runtime.VmModule.mmap(config.vm_instance, str(_iree_file(module, args, kwargs)))
        entry = next(name for name in ("main", "main_graph") if name in program.function_names)  # torch, ONNX
        self._main = iree.runtime.load_vm_module(program, config)[entry]
        self._inputs = [iree.runtime.asdevicearray(config.device, x) for x in map(aligned, tree_leaves((args, kwargs)))]

    def call(self) -> object:
        return self._main(*self._inputs)

    def outputs(self) -> list[Array]:
        found = self.call()
        return [value.to_host() for value in (found if isinstance(found, tuple | list) else (found,))]


IREE_FLAGS = (
    "--iree-llvmcpu-target-cpu=host",
    "--iree-opt-level=O3",
    "--iree-opt-data-tiling=true",
    "--iree-llvmcpu-fail-on-out-of-bounds-stack-allocation=false",
)


def _iree_file(module: nn.Module, args: Args, kwargs: Kwargs) -> Path:
    """The model compiled by IREE, from the first form that it accepts: torch.export, decomposed, or ONNX."""
    import iree.compiler.version

    facts = (iree.compiler.version.VERSION, *IREE_FLAGS)
    path = cache_directory() / f"{fingerprint(module, args, kwargs, *facts)}.vmfb"
    if path.exists():
        return path
    program = torch.export.export(module, args, kwargs)
    failures = []
    forms: dict[str, Callable[[Path], None]] = {
        "torch": lambda unfinished: _iree_from_torch(program, unfinished),
        "decomposed": lambda unfinished: _iree_from_torch(program.run_decompositions(), unfinished),
        "onnx": lambda unfinished: _iree_from_onnx(onnx_files(module, args, kwargs)[0], unfinished),
    }
    for form, compile_to in forms.items():
        unfinished = path.with_suffix(f".{form}.unfinished")  # IREE deletes the file of a failed try, but late
        try:
            compile_to(unfinished)
        except RuntimeError as error:
            failures.append(f"{form}: {error}")
            continue
        unfinished.rename(path)
        return path
    raise RuntimeError("IREE accepts no form of the model. " + "; ".join(failures))


def _iree_from_torch(program: torch.export.ExportedProgram, path: Path) -> None:
    import iree.compiler.ir
    from iree.turbine import aot

    try:
        output = aot.export(program)
    except iree.compiler.ir.MLIRError as error:
        raise RuntimeError(f"IREE cannot import the exported program: {str(error)[:500]}") from None
    output.session.set_flags(*IREE_FLAGS)
    output.compile(save_to=str(path), target_backends=("llvm-cpu",))


def _iree_from_onnx(model: Path, path: Path) -> None:
    import iree.compiler.tools

    imported = path.with_suffix(".mlir")
    importer = [sys.executable, "-m", "iree.compiler.tools.import_onnx", str(model), "-o", str(imported)]
    found = subprocess.run(importer, capture_output=True, text=True)
    if found.returncode:
        raise RuntimeError(f"IREE cannot import the ONNX file: {found.stderr[-500:]}")
    try:
        iree.compiler.tools.compile_file(
            str(imported),
            output_file=str(path),
            input_type="auto",
            target_backends=["llvm-cpu"],
            extra_args=list(IREE_FLAGS),
        )
    except iree.compiler.tools.CompilerToolError as error:
        raise RuntimeError(f"IREE cannot compile the ONNX file: {str(error)[:500]}") from None
    finally:
        imported.unlink()


PEERS: dict[str, type[Peer]] = {peer.name: peer for peer in (Fxpress, Eager, Inductor, OnnxRuntime, OpenVino, Iree)}
OURS = Fxpress.name


def artifact_sizes(artifact: Path) -> dict[str, int]:
    """Bytes of every member of an artifact, by name, and of the whole file as `total`."""
    with zipfile.ZipFile(artifact) as archive:
        members = {member.filename: member.file_size for member in archive.infolist()}
    return {**members, "total": artifact.stat().st_size}

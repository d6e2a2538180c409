"""An artifact for NVIDIA GPUs: called with tensors of the GPU without copies, or with any others, which are copied."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ...errors import BackendUnavailable, InvalidArtifact
from ..arrays import check_tensor, input_memory, is_torch, like, numpy_outputs, torch_module, torch_outputs
from ..artifact import Artifact
from ..container import Container
from ..manifest import Manifest
from ..structure import TensorSpec
from ..tensor_file import numpy_dtype
from .driver import Driver
from .executor import CudaExecutor

_ALIGNMENT = 16  # bytes that divide the addresses of inputs: kernels read as many at once


class CudaArtifact(Artifact):
    """A model compiled for NVIDIA GPUs. It can be opened, inspected and saved anywhere; a call needs a GPU.

    With PyTorch tensors on the GPU a call only launches kernels on PyTorch's current stream, and returns tensors of the
    GPU. Other inputs are copied to the GPU, and the results back. Raises BackendUnavailable without a driver or GPU,
    InvalidArtifact for a GPU that the code is not for, OutOfMemory.
    """

    _executor: CudaExecutor

    def _new_executor(self, container: Container, manifest: Manifest, num_threads: int) -> CudaExecutor:
        return CudaExecutor(container, manifest, Driver)

    @property
    def runs_here(self) -> bool:
        try:
            return self._executor.driver is not None
        except (BackendUnavailable, InvalidArtifact):
            return False

    def _run(self, leaves: Sequence[Any]) -> list[Any]:
        if leaves and all(is_torch(leaf) and leaf.device.type == "cuda" for leaf in leaves):
            return self._run_on_device(leaves)
        return self._run_with_copies(leaves)

    def _run_on_device(self, leaves: Sequence[Any]) -> list[Any]:
        torch = torch_module()
        stream = torch.cuda.current_stream(leaves[0].device)
        inputs = [_device_tensor(leaf, spec) for leaf, spec in zip(leaves, self.inputs, strict=True)]
        outputs = [
            torch.empty(spec.shape, dtype=getattr(torch, spec.dtype), device=leaves[0].device) for spec in self.outputs
        ]
        self._executor.launch([tensor.data_ptr() for tensor in (*inputs, *outputs)], stream.cuda_stream)
        for copied, leaf in zip(inputs, leaves, strict=True):
            if copied is not leaf:
                copied.record_stream(stream)
        return outputs

    def _run_with_copies(self, leaves: Sequence[Any]) -> list[Any]:
        driver = self._executor.driver
        driver.enter()
        host = [
            input_memory(leaf.cpu() if is_torch(leaf) else leaf, spec)
            for leaf, spec in zip(leaves, self.inputs, strict=True)
        ]
        targets: list[int] = []
        outputs = (torch_outputs if leaves and is_torch(leaves[0]) else numpy_outputs)(self.outputs, targets)
        sizes = [_bytes(spec) for spec in self.inputs], [_bytes(spec) for spec in self.outputs]
        addresses: list[int] = []
        try:
            for size in (*sizes[0], *sizes[1]):
                addresses.append(driver.allocate(size))
            for (source, _), address, size in zip(host, addresses, sizes[0], strict=False):
                driver.upload(address, source, size, 0)
            self._executor.launch(addresses, 0)
            for target, address, size in zip(targets, addresses[len(host) :], sizes[1], strict=True):
                driver.download(target, address, size, 0)
            driver.wait(0)
        finally:
            for address in addresses:
                driver.free(address)
        return [like(leaves[0], output) for output in outputs] if leaves else outputs


def _bytes(spec: TensorSpec) -> int:
    return math.prod(spec.shape) * numpy_dtype(spec.dtype).itemsize


def _device_tensor(value: Any, spec: TensorSpec) -> Any:
    """The tensor, or a copy where its elements are not dense or begin where kernels cannot read them."""
    check_tensor(value, spec)
    dense = value.detach().resolve_neg().contiguous()
    return dense if dense.data_ptr() % _ALIGNMENT == 0 else dense.clone()

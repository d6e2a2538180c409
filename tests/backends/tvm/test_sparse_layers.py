"""Float32 layers whose weights are stored without their zeros: read as they are, or expanded at load."""

from __future__ import annotations

import copy

import fxpress
import numpy as np
import pytest
import torch
from fxpress.errors import Unsupported
from fxpress.ops import fxpress as ops
from fxpress.ops.sparse import pack_blocks, pack_masked
from fxpress.program import Program
from fxpress.rewriter import Rewriter
from fxpress.testing import trace
from torch import Tensor, nn

TARGETS = ("cpu{isa=avx2,cores=2}", "cpu{isa=avx512,cores=2}")
MODULES = {
    "linear": (nn.Linear(70, 90), torch.randn(2, 9, 70)),
    "linear-bare": (nn.Linear(70, 90, bias=False), torch.randn(20, 70)),
    "one row": (nn.Linear(70, 90), torch.randn(1, 70)),
    "pointwise": (nn.Conv2d(30, 50, 1), torch.randn(1, 30, 5, 5)),
    "strided": (nn.Conv2d(20, 40, (3, 3), stride=2, padding=1, bias=False), torch.randn(2, 20, 9, 9)),
    "line": (nn.Conv1d(20, 40, 3, dilation=2), torch.randn(1, 20, 17)),
    "winograd": (nn.Conv2d(64, 72, 3, padding=1), torch.randn(1, 64, 24, 24)),
    "grouped": (nn.Conv2d(32, 60, 1, groups=2), torch.randn(1, 32, 7, 7)),
    "depthwise": (nn.Conv2d(48, 48, 3, groups=48), torch.randn(1, 48, 5, 5)),
}


def with_packed(module: nn.Module, x: Tensor, form: str) -> Program:
    """The fused Program of the module, some of whose weight is zero, the weight in that form."""
    with torch.no_grad():
        weight = module.weight
        weight.mul_(
            (torch.rand(-(-len(weight) // 16), *weight.shape[1:]) < 0.4).repeat_interleave(16, 0)[: len(weight)]
        )
    program = fxpress.pass_manager.PassManager("default{pack=false}").run(trace(module.eval(), x))
    rw = Rewriter(program)
    (node,) = [n for n in program.nodes if n.op == "get_attr" and n.meta["val"].shape == module.weight.shape]
    tensor = program.constant(node)
    op, parts = ops.unpack_masked.default, pack_masked(tensor)
    if form == "blocks":
        op, parts = ops.unpack_blocks.default, pack_blocks(tensor, 16, 1)
    held = [rw.constant(f"part{number}", part) for number, part in enumerate(parts)]
    rw.replace(node, rw.call(op, *held, list(tensor.shape), at=next(iter(node.users))))
    rw.finish()
    return program


def check(name: str, form: str, target: str) -> str:
    """Compile a module with its weight in that form, demand accuracy, return the artifact's text."""
    module, x = MODULES[name]
    program = with_packed(module, x, form)
    artifact = fxpress.compile(program, target=target, pipeline="", self_test=False)
    exact = copy.deepcopy(module).double()(x.double()).detach()
    error = float((artifact(x) - exact).norm() / exact.norm())
    assert error <= (2e-6 if name == "winograd" else 5e-7), name
    return f"{artifact.text()}derived: {artifact.manifest['memory']['derived']}"


@pytest.mark.parametrize(
    ("target", "names"),
    [(TARGETS[0], ("linear-bare", "pointwise", "line")), (TARGETS[1], ("linear", "one row", "strided"))],
    ids=["avx2", "avx512"],
)
def test_blocks_are_read_as_they_are(target: str, names: tuple[str, ...]) -> None:
    for name in names:
        text = check(name, "blocks", target)
        assert "sparse-conv" in text, name
        assert "derived: 0" in text, name


def test_what_no_sparse_kernel_reads_is_expanded_at_load() -> None:
    for name, form in (("grouped", "blocks"), ("linear", "masked"), ("winograd", "masked"), ("depthwise", "masked")):
        text = check(name, form, TARGETS[0])
        assert "sparse-conv" not in text, name
        assert "derived: 0" not in text, name


@pytest.mark.parametrize("isa", ["avx2", "avx512"])
def test_a_mask_is_read_where_weights_come_from_memory(isa: str) -> None:
    for name, x in (("linear", torch.randn(2, 70)), ("pointwise", torch.randn(2, 30, 2, 2))):
        module = copy.deepcopy(MODULES[name][0]).requires_grad_(False)
        program = with_packed(module, x, "masked")
        artifact = fxpress.compile(program, target=f"cpu{{isa={isa},cores=1,l2=4096}}", pipeline="")
        assert "masked-linear" in artifact.text(), name
        torch.testing.assert_close(artifact(x), module(x))
    cached = fxpress.compile(program, target=f"cpu{{isa={isa},cores=1,l2=4194304}}", pipeline="", self_test=False)
    assert "masked-linear" not in cached.text()


def test_what_else_reads_a_weight_gets_all_of_it() -> None:
    weight = torch.randn(20, 70) * (torch.rand(20, 70) < 0.3)
    values, mask = pack_masked(weight)
    blocks = pack_blocks(weight, 4, 2)

    def function(x: Tensor) -> tuple[Tensor, ...]:
        w = ops.unpack_masked(values, mask, [20, 70])
        v = ops.unpack_blocks(*blocks, [20, 70])
        return ops.linear(x, w, None, None, "none"), w * 2, v + 1

    x = torch.randn(3, 70)
    found = fxpress.compile(function, (x,), pipeline="")(x)
    torch.testing.assert_close(found, (x @ weight.T, weight * 2, weight + 1))


def test_parts_that_are_computed_are_not_supported() -> None:
    _, mask = pack_masked(torch.ones(4, 8))

    def function(x: Tensor, values: Tensor) -> Tensor:
        return ops.linear(x, ops.unpack_masked(values, mask, [4, 8]), None, None, "none")

    with pytest.raises(Unsupported, match="its weight must be a constant"):
        fxpress.compile(function, (torch.randn(2, 8), torch.randn(32)), pipeline="")


def test_files_are_smaller(tmp_path) -> None:
    x, sizes = torch.randn(16, 512), {}
    for name, r, share in (("dense", 1, 0.0), ("anywhere", 1, 0.5), ("blocks", 32, 0.75)):
        module = nn.Linear(512, 512, bias=False).requires_grad_(False)
        module.weight.mul_((torch.rand(512 // r, 512) >= share).repeat_interleave(r, 0))
        fxpress.compile(module, (x,)).save(tmp_path / name)
        sizes[name] = (tmp_path / name).stat().st_size
    dense = 4 * 512 * 512
    assert sizes["anywhere"] < sizes["dense"] - 0.4 * dense
    assert sizes["blocks"] < sizes["dense"] - 0.6 * dense


def test_a_sparse_artifact_runs_from_its_file_on_another_thread_count(tmp_path) -> None:
    module, x = nn.Linear(256, 256).requires_grad_(False), torch.randn(40, 256)
    module.weight.mul_((torch.rand(8, 256) < 0.25).repeat_interleave(32, 0))
    fxpress.compile(module, (x,), target="cpu{cores=2}").save(tmp_path / "model.fxp")
    for threads in (1, 2):
        found = fxpress.runtime.load(tmp_path / "model.fxp", num_threads=threads)(x.numpy())
        np.testing.assert_allclose(found, module(x).numpy(), rtol=1e-4, atol=1e-5)

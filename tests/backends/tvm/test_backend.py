"""The TVM backend as a whole: what it refuses, what it leaves to PyTorch, what it hands to LLVM."""

import fxpress
import numpy as np
import pytest
import torch
from fxpress import PassManager, Target
from fxpress.backends.tvm import TvmBackend
from fxpress.backends.tvm.schedules import unscheduled_loops
from fxpress.errors import CaptureError, InvalidInput, Unsupported
from fxpress.testing import trace
from lowering_cases import CASES, MODULES


class Rare(torch.nn.Module):
    def forward(self, x):
        y = torch.special.i0(x + 3)
        mantissa, exponent = torch.frexp(y)
        return torch.relu(y) * 2, mantissa, exponent.abs()


def test_unsupported_ops_are_listed_all_at_once_with_their_lines():
    with pytest.raises(Unsupported) as caught:
        fxpress.compile(Rare(), (torch.randn(4, 4),))
    message = str(caught.value)
    assert message.startswith("2 node(s) cannot be compiled for cpu:\n- %")
    assert "aten.i0.default" in message
    assert "aten.frexp.Tensor" in message
    assert "test_backend.py:" in message
    assert message.endswith("or allow calls of PyTorch at run time with fallback='torch'.")


def test_fallback_runs_the_rest_in_pytorch_and_says_so():
    x = torch.randn(4, 4)
    artifact = fxpress.compile(Rare(), (x,), fallback="torch")
    for found, expected in zip(artifact(x), Rare()(x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert len(artifact.manifest["host_calls"]) == 2
    assert any("runs in PyTorch" in line for line in artifact.manifest["fallbacks"])


def test_unknown_fallback():
    with pytest.raises(InvalidInput, match=r"^fallback must be None or 'torch', not 'numpy'$"):
        fxpress.compile(Rare(), (torch.randn(4, 4),), fallback="numpy")


def test_supports_says_why():
    program = trace(lambda x: torch.special.i0(x).relu(), torch.randn(3, 3))
    backend, target = TvmBackend(), Target.parse("cpu")
    calls = {n.name: n for n in program.nodes if n.op == "call_function"}
    assert backend.supports(calls["relu"], target)
    refused = backend.supports(next(n for n in calls.values() if "i0" in n.name), target)
    assert not refused
    assert refused.because == "no kernel and no TVM operator computes this op"


@pytest.mark.parametrize("name", [*CASES, *MODULES])
def test_no_loop_reaches_llvm_unscheduled(name):
    function, inputs = {**CASES, **MODULES}[name]
    target = Target.parse("cpu")
    program = PassManager("default", target=target, verify="off").run(trace(function, *inputs))
    assert unscheduled_loops(TvmBackend().lower(program, target).module()) == []


def test_lowered_text_names_kernels_and_nodes():
    program = PassManager("default").run(trace(torch.nn.Linear(4, 8), torch.randn(2, 4)))
    text = TvmBackend().lower(program, Target.parse("cpu")).text()
    assert "linear" in text
    assert "# %linear" in text
    assert "input[3]+0: float32[2, 4]" in text


def test_equal_layers_share_one_kernel():
    module = torch.nn.Sequential(*(torch.nn.Linear(16, 16) for _ in range(6)))
    lowered = TvmBackend().lower(PassManager("default").run(trace(module, torch.randn(1, 16))), Target.parse("cpu"))
    assert len(lowered.lowering.calls) == 6
    assert len({call.kernel for call in lowered.lowering.calls}) == 1


def test_the_plan_needs_no_more_than_what_lives_at_once():
    module = torch.nn.Sequential(*(torch.nn.Linear(64, 64) for _ in range(9)))
    lowered = TvmBackend().lower(PassManager("default").run(trace(module, torch.randn(32, 64))), Target.parse("cpu"))
    assert lowered.arena_bytes == lowered.peak_bytes == 2 * 32 * 64 * 4


def test_num_threads_do_not_change_the_result():
    module = torch.nn.Conv2d(16, 32, 3, padding=1)
    x = torch.randn(1, 16, 40, 40)
    one, two = (fxpress.compile(module, (x,), num_threads=n)(x) for n in (1, 2))
    assert torch.equal(one, two)


def test_outputs_are_fresh_arrays():
    artifact = fxpress.compile(torch.nn.ReLU(), (torch.randn(8),))
    x = np.ones(8, dtype=np.float32)
    first = artifact(x)
    artifact(-x)
    assert np.array_equal(first, x)


def test_an_op_that_checks_its_result_is_explained():
    with pytest.raises(CaptureError, match=r"call the form that does not check, for example torch.linalg.inv_ex"):
        trace(lambda x: torch.linalg.inv(x), torch.eye(3))


SOLVABLE = torch.tensor([[2.0, 0.5, 0.0], [0.5, 3.0, 0.1], [0.0, 0.1, 1.0]])


@pytest.mark.parametrize(
    "remedy",
    [
        lambda x: torch.linalg.inv_ex(x).inverse,
        lambda x: torch.linalg.cholesky_ex(x).L,
        lambda x: torch.linalg.solve_ex(x, x[:, :1]).result,
    ],
    ids=["inv", "cholesky", "solve"],
)
def test_what_that_explanation_proposes_works(remedy):
    artifact = fxpress.compile(trace(remedy, SOLVABLE), fallback="torch")
    np.testing.assert_allclose(artifact(SOLVABLE), remedy(SOLVABLE), rtol=1e-5, atol=1e-6)


def test_a_report_counts_the_rows_that_an_embedding_reads():
    program = PassManager("default").run(trace(torch.nn.Embedding(5000, 16), torch.randint(0, 5000, (3,))))
    (layer,) = TvmBackend().lower(program, Target.parse("cpu")).layers()
    assert layer["bytes"] == 3 * 8 + 2 * (3 * 16 * 4)

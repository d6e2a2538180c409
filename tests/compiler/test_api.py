"""fxpress.compile: its options, and that the artifact is judged against the model itself."""

import subprocess
import sys

import fxpress
import numpy as np
import pytest
import torch
from fxpress import rewrite
from fxpress.errors import InvalidArtifact, InvalidInput

aten = torch.ops.aten


@rewrite(aten.relu.default, accuracy="reassociating")
def wrong_relu(node, rw):
    """relu(x)  ->  |x|, which is wrong"""
    rw.replace(node, rw.call(aten.abs.default, node.args[0], at=node))


def test_a_wrong_pass_fails_the_self_test():
    with pytest.raises(InvalidArtifact, match=r"self-test"):
        fxpress.compile(torch.nn.ReLU(), (torch.randn(2, 8),), pipeline=[wrong_relu])


def test_compile_takes_a_module_an_exported_program_and_a_program():
    module, x = torch.nn.Linear(4, 3).eval(), torch.randn(2, 4)
    expected = module(x).detach()
    for model in (module, torch.export.export(module, (x,)), fxpress.capture(module, (x,))):
        torch.testing.assert_close(fxpress.compile(model, (x,))(x), expected)


def test_equal_models_make_equal_files(tmp_path):
    module, x = torch.nn.Linear(4, 3).eval(), torch.randn(2, 4)
    for name in ("a", "b"):
        fxpress.compile(module, (x,)).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_dump_dir_holds_every_stage(tmp_path):
    fxpress.compile(torch.nn.Linear(4, 3), (torch.randn(2, 4),), dump_dir=tmp_path)
    names = {p.name for p in tmp_path.iterdir()}
    assert {"00-start.txt", "pipeline.txt", "lowered.txt", "timing.json"} <= names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "gpu"}, r"^target kind must be one of \['cpu', .*\], not 'gpu'"),
        ({"target": "cpu{isa=sse}"}, r"^target option isa must be one of \['avx2', 'avx512'\], not 'sse'"),
        ({"print_ir": "all"}, r"^print_ir must be None or 'changed', not 'all'"),
        ({"pipeline": "no-such-pass"}, r"^name must be among the registered pipelines and passes, not 'no-such-pass'"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(InvalidInput, match=message):
        fxpress.compile(torch.nn.ReLU(), (torch.randn(2),), **options)


def test_what_is_not_a_model():
    with pytest.raises(
        InvalidInput, match=r"^model must be a torch.nn.Module, a function, an ExportedProgram or a Program, not int"
    ):
        fxpress.compile(3, (torch.randn(2),))


def test_results_of_torch_functions_keep_their_fields_without_torch(tmp_path):
    x = torch.randn(3, 5)
    artifact = fxpress.compile(fxpress.capture(lambda x: (x.max(1), x.sort()), (x,)))
    largest, ordered = artifact(x)
    assert type(largest) is torch.return_types.max
    assert type(ordered) is torch.return_types.sort
    artifact.save(tmp_path / "model.fxp")
    np.save(tmp_path / "x.npy", x.numpy())
    code = """
import sys
sys.modules["torch"] = None  # importing it raises ImportError
import fxpress.runtime, numpy
x = numpy.load("x.npy")
largest, (values, indices) = fxpress.runtime.load("model.fxp")(x)
print(largest._fields, (largest.values == x.max(1)).all(), (largest.indices == x.argmax(1)).all())
print((values == numpy.sort(x)).all(), (indices == numpy.argsort(x)).all())
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.stdout == "('values', 'indices') True True\nTrue True\n", result.stderr

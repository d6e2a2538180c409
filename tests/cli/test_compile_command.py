"""`fxpress compile`: where models come from, what inputs look like, what errors look like."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import fxpress
import numpy as np
import pytest
import torch
from fxpress.cli.models import load_model, parse_inputs
from fxpress.errors import BackendUnavailable, CaptureError, InvalidInput
from fxpress.runtime import load
from typer.testing import Result
from zoo import ZOO

Command = Callable[..., Result]


def test_a_function_of_a_file_compiles_and_runs(fxpress_command: Command, model_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.fxp"
    result = fxpress_command("compile", f"{model_file}:make_model", "--input", "2x8", "-o", path)
    assert result.exit_code == 0, result.output
    assert "input: float32[2, 8]" in result.output
    np.save(tmp_path / "x.npy", x := np.random.default_rng(0).standard_normal((2, 8), np.float32))
    result = fxpress_command("run", path, "--input", tmp_path / "x.npy", "--output", tmp_path / "y.npz")
    assert result.exit_code == 0, result.output
    model = load_model(f"{model_file}:make_model", ["2x8"]).model
    with torch.no_grad():
        expected = model(torch.from_numpy(x))
    with np.load(tmp_path / "y.npz") as found:
        np.testing.assert_allclose(found["output"], expected, rtol=1e-5, atol=1e-6)


def test_a_model_may_bring_its_inputs(model_file: Path) -> None:
    loaded = load_model(f"{model_file}:with_inputs", [])
    assert [x.shape for x in loaded.args] == [(3, 8)]
    assert [x.shape for x in load_model(f"{model_file}:with_inputs", ["5x8"]).args] == [(5, 8)]


def test_a_module_on_the_path(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(model_file.parent)
    assert len(load_model("some_model:make_model", ["1x8"]).args) == 1


def test_an_exported_program(fxpress_command: Command, tmp_path: Path) -> None:
    exported = torch.export.export(torch.nn.Linear(4, 2).eval(), (torch.randn(3, 4),))
    torch.export.save(exported, tmp_path / "linear.pt2")
    result = fxpress_command("compile", tmp_path / "linear.pt2", "-o", tmp_path / "m.fxp")
    assert result.exit_code == 0, result.output
    assert load(tmp_path / "m.fxp").outputs[0].shape == (3, 2)


def test_a_hugging_face_folder(fxpress_command: Command, tmp_path: Path) -> None:
    model, _, _ = ZOO["bert"]()
    model.save_pretrained(tmp_path / "bert")
    loaded = load_model(str(tmp_path / "bert"), [], sequence=7, batch=2)
    assert type(loaded.model) is type(model)
    assert {name: x.shape for name, x in loaded.kwargs.items()} == {"input_ids": (2, 7)}
    result = fxpress_command("compile", tmp_path / "bert", "--sequence", 7, "-o", tmp_path / "m.fxp")
    assert result.exit_code == 0, result.output
    ids = torch.arange(7)[None]
    with torch.no_grad():
        expected = loaded.model(input_ids=ids)
    found = load(tmp_path / "m.fxp")(input_ids=ids)
    torch.testing.assert_close(found["logits"], expected["logits"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["vit", "whisper_encoder_decoder", "t5"])
def test_inputs_of_hugging_face_models(name: str, tmp_path: Path) -> None:
    if name not in ZOO:
        name = next(entry for entry in ZOO if entry.startswith(name.split("_")[0]))
    model, _, _ = ZOO[name]()
    model.save_pretrained(tmp_path / name)
    loaded = load_model(str(tmp_path / name), [], sequence=6)
    with torch.no_grad():
        assert loaded.model(**loaded.kwargs) is not None
    assert model.main_input_name in loaded.kwargs


def test_without_transformers_a_folder_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(BackendUnavailable, match="needs the package transformers: pip install transformers"):
        load_model(str(tmp_path), [])


def test_inputs_have_shapes_dtypes_limits_and_names() -> None:
    args, kwargs = parse_inputs(["2x3", "4:int64:10", ":float64", "mask=5:bool"])
    assert [(x.dtype, tuple(x.shape)) for x in args] == [
        (torch.float32, (2, 3)),
        (torch.int64, (4,)),
        (torch.float64, ()),
    ]
    assert 0 <= int(args[1].min()) <= int(args[1].max()) < 10
    assert kwargs["mask"].dtype == torch.bool
    again, _ = parse_inputs(["2x3"])
    assert torch.equal(args[0], again[0])


@pytest.mark.parametrize("text", ["2y3", "", "2x", "-1x3", "2x3:int64:-1"])
def test_an_input_that_does_not_parse(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"^input must look like \[name=\]1x3x224x224\[:dtype\[:limit\]\], not "):
        parse_inputs([text])


def test_an_input_of_an_unknown_dtype() -> None:
    with pytest.raises(InvalidInput, match=r"^input dtype must be a dtype of PyTorch such as .*, not 'float33'$"):
        parse_inputs(["2x3:float33"])


@pytest.mark.parametrize(
    ("function", "inputs", "message"),
    [
        ("number", [], r"must return a torch.nn.Module, \(model, args\) or \(model, args, kwargs\), not int$"),
        ("make_model", [], r"must come with example inputs: give --input for each of them"),
        ("missing", [], r"must define 'missing'; it defines .*make_model"),
        ("branches", ["--input", "2x2"], r"control flow depends on the values of a tensor\n.*some_model.py:"),
        ("digamma", ["--input", "2x2"], r"aten.digamma.default"),
        (
            "make_model",
            ["--input", "2x8", "--target", "gpu"],
            r"^error: target kind must be one of \['cpu', .*\], not 'gpu'",
        ),
        ("make_model", ["--input", "2x8", "--pipeline", "fold-batchnorm"], r"did you mean fold-batch-norm"),
        ("make_model", ["--input", "2x8", "--fallback", "numpy"], r"fallback must be None or 'torch', not 'numpy'"),
    ],
)
def test_errors_are_clean(
    fxpress_command: Command, model_file: Path, tmp_path: Path, function: str, inputs: list[str], message: str
) -> None:
    result = fxpress_command("compile", f"{model_file}:{function}", *inputs, "-o", tmp_path / "m.fxp")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert re.search(message, result.stderr), result.stderr
    assert "Traceback" not in result.output + result.stderr
    assert not (tmp_path / "m.fxp").exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.py:make", r"^model must be in a file that exists, not 'nowhere.py'$"),
        ("no.such.module:make", r"^model must be in a module that can be imported, not 'no.such.module'"),
        ("nothing", r"^model must be file.py:name, .* not 'nothing'$"),
        ("nowhere.pt2", r"^model must be a file that exists, not 'nowhere.pt2'$"),
    ],
)
def test_sources_that_are_not_there(source: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        load_model(source, [])


def test_debug_lets_the_error_through(fxpress_command: Command, model_file: Path, tmp_path: Path) -> None:
    source = f"{model_file}:branches"
    result = fxpress_command("--debug", "compile", source, "--input", "2x2", "-o", tmp_path / "m.fxp")
    assert isinstance(result.exception, CaptureError)


def test_ops_that_fall_back_are_named(fxpress_command: Command, model_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.fxp"
    result = fxpress_command(
        "compile", f"{model_file}:digamma", "--input", "2x2", "--fallback", "torch", "-o", path,
        "--dump-dir", tmp_path / "dump",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert re.search(r"fallback: .*aten.digamma.default runs in PyTorch \(some_model.py:", result.output)
    assert (tmp_path / "dump" / "pipeline.txt").exists()


def test_progress_names_every_stage() -> None:
    stages: list[str] = []
    fxpress.compile(torch.nn.ReLU(), (torch.randn(4),), pipeline="drop-dead-code", progress=stages.append)
    wanted = ["capture", "pass drop-dead-code", "lower", "code generation", "expected outputs", "write", "self-test"]
    assert stages == wanted

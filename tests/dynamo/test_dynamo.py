"""torch.compile(model, backend="fxpress")."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from typing import Any

import fxpress.dynamo
import fxpress.errors
import pytest
import torch
from fxpress.errors import InvalidInput
from torch import Tensor, nn
from zoo import ZOO


@pytest.fixture(autouse=True)
def _fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # a graph that runs in PyTorch must not pass for a success
        yield
    torch._dynamo.reset()


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.Size, ...]]:
    """The input shapes of each artifact that the backend compiles."""
    shapes: list[tuple[torch.Size, ...]] = []
    compile_model = fxpress.dynamo.compile_model

    def counted(program: Any, **options: Any) -> Any:
        shapes.append(tuple(x.shape for x in program.example_inputs))
        return compile_model(program, **options)

    monkeypatch.setattr(fxpress.dynamo, "compile_model", counted)
    return shapes


def layers() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).eval()


def check(model: Any, compiled: Any, *args: Any, **kwargs: Any) -> None:
    with torch.no_grad():
        torch.testing.assert_close(compiled(*args, **kwargs), model(*args, **kwargs), rtol=1e-4, atol=1e-5)


def test_the_backend_is_found_by_name() -> None:
    assert "fxpress" in torch._dynamo.list_backends()


def test_parameters_are_constants_of_the_artifact(compilations: list[Any]) -> None:
    model = layers()
    compiled = torch.compile(model, backend="fxpress")
    x = torch.randn(2, 4)
    check(model, compiled, x)
    check(model, compiled, x + 1)
    assert compilations == [((2, 4),)]
    with torch.inference_mode():
        assert compiled(x).shape == (2, 3)


def test_changed_parameters_are_seen(compilations: list[Any]) -> None:
    model = layers()
    compiled = torch.compile(model, backend="fxpress")
    x = torch.randn(2, 4)
    check(model, compiled, x)
    with torch.no_grad():
        model[0].weight.mul_(2)
    check(model, compiled, x)
    model[3].bias.data = torch.ones(3)
    check(model, compiled, x)
    model[3].weight = nn.Parameter(torch.ones(3, 6))
    check(model, compiled, x)
    assert len(compilations) == 4


def test_two_modules_with_one_graph_keep_their_own_parameters() -> None:
    first, second = nn.Linear(4, 2), nn.Linear(4, 2)
    compiled = torch.compile(lambda layer, x: layer(x), backend="fxpress")
    for layer in (first, second, first):
        check(lambda layer, x: layer(x), compiled, layer, torch.randn(2, 4))


def test_a_graph_break_makes_two_graphs(compilations: list[Any]) -> None:
    def function(x: Tensor) -> Tensor:
        y = (x * 2).relu()
        torch._dynamo.graph_break()
        return y.sum(1) + 1

    check(function, torch.compile(function, backend="fxpress"), torch.randn(2, 4))
    assert len(compilations) == 2


def test_control_flow_on_values_breaks_the_graph() -> None:
    def function(x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x - 1

    compiled = torch.compile(function, backend="fxpress")
    for x in (torch.ones(3), -torch.ones(3)):
        check(function, compiled, x)


@pytest.mark.parametrize("dynamic", [None, True, False])
def test_new_shapes_are_compiled_once_each(compilations: list[Any], dynamic: bool | None) -> None:
    model = layers()
    compiled = torch.compile(model, backend="fxpress", dynamic=dynamic)
    for rows in (2, 3, 5, 3, 5):
        check(model, compiled, torch.randn(rows, 4))
    assert sorted(compilations) == [((2, 4),), ((3, 4),), ((5, 4),)]


def test_sizes_are_computed_with() -> None:
    def function(x: Tensor) -> Tensor:
        return x.reshape(x.shape[0] * 2, -1) / x.shape[0]

    compiled = torch.compile(function, backend="fxpress", dynamic=True)
    for rows in (2, 4, 3):
        check(function, compiled, torch.randn(rows, 4))


def test_floats_that_vary(compilations: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def function(x: Tensor, factor: float) -> Tensor:
        return x * factor + factor

    compiled = torch.compile(function, backend="fxpress")
    for factor in (1.5, 2.5, 3.5, 2.5):
        check(function, compiled, torch.randn(3), factor)
    assert len(compilations) == 3
    monkeypatch.setattr(fxpress.dynamo, "_MOST_VARIANTS", 2)
    with pytest.warns(UserWarning, match="a number that it takes changes too often"):
        check(function, compiled, torch.randn(3), 4.5)
    assert len(compilations) == 3


def test_nested_inputs_and_outputs_keep_their_structure() -> None:
    def function(pair: dict[str, Tensor], number: int) -> dict[str, Any]:
        total = pair["a"] + pair["b"] * number
        return {"total": total, "list": [pair["a"], None, total.sum()], "rows": total.shape[0]}

    pair = {"a": torch.randn(2, 3), "b": torch.randn(2, 3)}
    compiled = torch.compile(function, backend="fxpress")
    check(function, compiled, pair, 3)
    found = compiled(pair, 3)
    assert list(found) == ["total", "list", "rows"]
    assert found["rows"] == 2


def test_inputs_that_are_views() -> None:
    check(lambda x: x + 1, torch.compile(lambda x: x + 1, backend="fxpress"), torch.randn(4, 3).t()[1:])


def test_bert_from_the_zoo() -> None:
    model, args, kwargs = ZOO["bert"]()
    check(model, torch.compile(model, backend="fxpress"), *args, **kwargs)


def test_gradients_are_refused_with_the_remedy() -> None:
    compiled = torch.compile(layers(), backend="fxpress")
    message = (
        r"the fxpress backend is for inference: gradients must not be required, .*"
        r"call the model in `with torch.no_grad\(\):` or `with torch.inference_mode\(\):`"
    )
    with pytest.raises(torch._dynamo.exc.BackendCompilerFailed, match=message) as caught:
        compiled(torch.randn(2, 4))
    assert isinstance(caught.value.inner_exception, InvalidInput)


def test_no_grad_inside_the_function_is_enough() -> None:
    model = layers()

    @torch.no_grad()
    def function(x: Tensor) -> Tensor:
        return model(x)

    x = torch.randn(2, 4)
    torch.testing.assert_close(torch.compile(function, backend="fxpress")(x), function(x), rtol=1e-4, atol=1e-5)


def test_ops_without_a_kernel_run_in_pytorch_with_a_warning() -> None:
    def function(x: Tensor) -> Tensor:
        return torch.digamma(x * 0.5) + 1

    with pytest.warns(
        UserWarning, match=r"no code for a part .*\n.*aten.digamma.default runs in PyTorch \(test_dynamo.py:"
    ):
        check(function, torch.compile(function, backend="fxpress"), torch.rand(3))
    torch._dynamo.reset()
    strict = torch.compile(function, backend="fxpress", options={"fallback": None})
    with pytest.raises(fxpress.errors.Unsupported, match="digamma"):
        strict(torch.rand(3))


def test_a_graph_that_changes_its_input_runs_in_pytorch_with_a_warning() -> None:
    def function(x: Tensor) -> Tensor:
        x.add_(1)
        return x * 2

    x = torch.zeros(3)
    with pytest.warns(UserWarning, match=r"runs this graph in PyTorch: .* in place"):
        y = torch.compile(function, backend="fxpress")(x)
    assert x.tolist() == [1, 1, 1]
    assert y.tolist() == [2, 2, 2]


def test_options_reach_the_compiler() -> None:
    options = {"target": "cpu{isa=avx2}", "pipeline": "drop-dead-code", "num_threads": 1}
    check(lambda x: x.relu(), torch.compile(lambda x: x.relu(), backend="fxpress", options=options), torch.randn(9))
    torch._dynamo.reset()
    wrong = torch.compile(lambda x: x.relu(), backend="fxpress", options={"level": 3})
    with pytest.raises(torch._dynamo.exc.BackendCompilerFailed, match=r"must be out of \[.*\], not 'level'"):
        wrong(torch.randn(9))


def test_calls_from_many_threads() -> None:
    model = layers()
    compiled = torch.compile(model, backend="fxpress")
    x = torch.randn(2, 4)
    check(model, compiled, x)
    with torch.no_grad():
        expected = model(x)
    errors: list[float] = []

    def work() -> None:
        with torch.no_grad():
            for _ in range(20):
                errors.append(float((compiled(x) - expected).abs().max()))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 80
    assert max(errors) < 1e-5

"""Budgets of latency, size and RAM: what they mean, the solver against brute force, the search, promises kept.

No time is measured: kernels have predicted seconds, and meters are given.
"""

from __future__ import annotations

import functools
import itertools
import re

import fxpress
import numpy as np
import pytest
import torch
from fxpress.errors import InvalidInput, Unsupported
from fxpress.kernel_times import KernelTimes
from fxpress.passes.pruning.budget_search import ROUNDS, Search
from fxpress.passes.pruning.budgeted import prune_to_budget
from fxpress.passes.pruning.budgets import PruneBudget
from fxpress.passes.pruning.config import PruneConfig
from fxpress.passes.pruning.layer_table import COARSE, LayerCosts, Side, isolated, layer_tables
from fxpress.passes.pruning.meters import Measured, interleaved
from fxpress.passes.pruning.predicted_costs import Levels, add_other_constants, layers_cost
from fxpress.passes.pruning.steps import removable_groups
from fxpress.passes.pruning.width_choice import Cost, Form, Problem, cheapest_levels, choose_levels
from fxpress.passes.pruning.widths import Rounding, Widths
from fxpress.registry import lookup
from fxpress.target import Target
from fxpress.testing import op_counts, trace
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

HERE = Target.parse("cpu{isa=avx2,cores=1}")
IMAGE = torch.randn(1, 3, 16, 16)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1, groups=32),
        nn.ReLU(), nn.Conv2d(32, 64, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    ).eval()  # fmt: skip


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("latency=10ms", PruneBudget("latency", 0.01, relative=False)),
        (" latency = 50 % ", PruneBudget("latency", 0.5, relative=True)),
        ("latency=1.5e3us", PruneBudget("latency", 1.5e-3, relative=False)),
        ("size=5MB", PruneBudget("size", 5e6, relative=False)),
        ("ram=2MiB", PruneBudget("ram", 2.0**21, relative=False)),
    ],
)
def test_budgets_are_read(text, budget):
    found = PruneBudget.parse(text)
    assert (found.kind, found.relative) == (budget.kind, budget.relative)
    assert found.amount == pytest.approx(budget.amount)
    assert found.limit(8.0) == pytest.approx(budget.amount * 8 if budget.relative else budget.amount)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("latency=0", r"^budget of latency must end in one of \['s', 'ms', 'us', '%'\], as in 'latency=50%', not "),
        ("latency=0ms", r"^budget must be a positive number, not '0' in 'latency=0ms'$"),
        ("speed=3", r"^budget must be of one of \['latency', 'size', 'ram'\], not of 'speed'$"),
        ("latency=-5ms", r"^budget must be a positive number, not '-5' in "),
        ("latency=200%", r"^budget must be less than 100% of what the unpruned model needs, not 'latency=200%'$"),
        ("latency=5MB", r"^budget of latency must end in one of "),
        ("size=1e999MB", r"^budget must be a positive number, not '1e999' in "),
        ("size=1.2.3MB", r"^budget must be a positive number, not '1\.2\.3' in "),
        ("10ms", r"^budget must look like 'latency=10ms', 'latency=50%', 'size=5MB' or 'ram=2MB', not '10ms'$"),
        (0.5, r"^budget must look like "),
    ],
)
def test_malformed_budgets_are_refused(text, message):
    with pytest.raises(InvalidInput, match=message):
        PruneConfig(budget=text)


@pytest.mark.parametrize(
    "option", [{"ratio": 0.5}, {"ratios": {"0": 0.5}}, {"schedule": "cubic", "steps": 2}, {"pattern": "2:4"}]
)
def test_what_contradicts_a_budget_is_refused(option):
    with pytest.raises(InvalidInput, match=rf"^{next(iter(option))} must be .* with budget='size=50%', which decides "):
        PruneConfig(budget="size=50%", **option)


# the solver


def random_problem(seed: int) -> tuple[Problem, list[tuple[int, ...]]]:
    """Up to four groups of up to four levels, costs of one and of two groups, and up to two moments; all choices."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 5, rng.integers(1, 5)).tolist()

    def cost() -> Cost:
        made = Cost(fixed=rng.random())
        for g, size in enumerate(sizes):
            made.add(np.sort(rng.random(size))[::-1], g)
        for g, h in itertools.permutations(range(len(sizes)), 2):
            if rng.random() < 0.4:
                made.add(rng.random((sizes[g], sizes[h])), g, h)
        return made

    losses = [np.concatenate([[0.0], np.cumsum(rng.random(size - 1))]) for size in sizes]
    problem = Problem(losses, cost(), [cost() for _ in range(rng.integers(0, 3))])
    return problem, list(itertools.product(*map(range, sizes)))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), share=st.floats(-0.05, 1))
def test_choices_are_as_good_as_the_best_of_all(seed, share):
    problem, choices = random_problem(seed)
    costs = [problem.at(each) for each in choices]
    limit = min(costs) + share * (max(costs) - min(costs))
    allowed = [problem.loss(each) for each, cost in zip(choices, costs, strict=True) if cost <= limit]
    found = choose_levels(problem, limit)
    if share < 0:
        assert found is None or share > -1e-6
        return
    if found is not None:
        assert problem.at(found) <= limit * (1 + 1e-6)
        assert problem.loss(found) <= min(allowed) + 1e-3
    else:
        assert share < 1e-6
    assert problem.at(cheapest_levels(problem)) <= min(costs) * (1 + 1e-3)


def test_a_smaller_budget_never_loses_less():
    problem, choices = random_problem(4)
    costs = sorted(problem.at(each) for each in choices)
    losses = [problem.loss(choose_levels(problem, limit * 1.000001)) for limit in np.linspace(costs[0], costs[-1], 12)]
    assert all(a >= b - 1e-3 for a, b in itertools.pairwise(losses))
    assert losses[0] > losses[-1]


def test_costs_are_products_of_widths():
    a, b = np.array([4.0, 2.0]), np.array([9.0, 6.0, 3.0])
    cost = Cost()
    cost.add_product(2.0, Form(1.0, {0: a}), Form(0.0, {1: b}), Form(5.0, {}))
    cost.add_product(1.0, Form(0.0, {0: a}), Form(1.0, {0: a}))
    for i, j in itertools.product(range(2), range(3)):
        assert cost.at([i, j]) == pytest.approx(10 * (1 + a[i]) * b[j] + a[i] * (1 + a[i]))
    with pytest.raises(ValueError, match="at most two widths, not 3"):
        cost.add_product(1.0, *[Form(0.0, {0: a})] * 3)


# the search


def a_problem(groups: int = 3, levels: int = 10) -> Problem:
    cost = Cost()
    for g in range(groups):
        cost.add(np.linspace(1, 0.1, levels), g)
    losses = [np.linspace(0, 1 + g, levels) ** 2 for g in range(groups)]
    return Problem(losses, cost)


@pytest.mark.parametrize("limit", [2.0, 3.0, 4.9])
def test_what_the_model_says_is_corrected_by_what_is_measured(limit):
    problem = a_problem()

    def measured(levels):
        return 1.5 + 1.2 * problem.at(levels)  # the model misses a part, and is too quick

    search = Search(problem, measured([0, 0, 0]), limit, measured)
    best = search.run()
    assert best.measured == measured(best.levels) <= limit
    assert best.measured > limit - 0.2
    assert len(search.trials) == 1 or limit == 2.0 or best.predicted == pytest.approx(best.measured, rel=0.05)
    assert len(search.trials) <= ROUNDS


def test_a_cost_that_jumps_still_keeps_the_budget():
    problem = a_problem()

    def measured(levels):
        return problem.at(levels) + (1.0 if problem.at(levels) > 0.9 else 0.0)

    best = Search(problem, measured([0, 0, 0]), 1.5, measured).run()
    assert measured(best.levels) <= 1.5


def test_the_search_ends_without_a_choice_when_the_cheapest_is_too_much():
    problem = a_problem()
    search = Search(problem, 5.0, 0.5, lambda levels: 2 + problem.at(levels))
    assert search.run() is None
    assert min(trial.measured for trial in search.trials) == pytest.approx(2.3)


def test_a_model_within_its_budget_stays_whole():
    search = Search(a_problem(), 3.0, 4.0, lambda levels: pytest.fail("nothing is to be measured"))
    assert search.run().levels == (0, 0, 0)


# tables of layers


def test_costs_between_widths_are_interpolated():
    program = trace(network(), IMAGE)
    first, second = removable_groups(program).removable
    sides = Side({first: 1}, (0.5, 1.0)), Side({second: 1}, (0.25, 0.5, 1.0))
    layer = LayerCosts("conv", sides, np.array([[1.0, 2.0, 4.0], [2.0, 4.0, 8.0]]))
    assert layer.groups == (first, second)
    assert layer.at({}) == 8.0
    assert layer.at({first: 16, second: 32}) == 2.0
    assert layer.at({first: 24, second: 48}) == pytest.approx(4.5)
    assert layer.at({first: 1, second: 1}) == 1.0  # nothing was measured below


def test_layers_alone_have_the_widths_that_are_left():
    program = trace(network(), IMAGE)
    groups = removable_groups(program)
    first, second = groups.removable
    layers = [node for node in program.nodes if "conv2d" in node.name or node.name == "linear"]
    kept = Widths(groups).at({first: 7, second: 5})
    alone = [isolated(program, node, kept) for node in layers]
    shapes = [[tuple(x.shape) for x in each.constants.values() if x.dim() > 1] for each in alone]
    assert shapes == [[(7, 3, 3, 3)], [(7, 1, 3, 3)], [(5, 7, 1, 1)], [(10, 5)]]
    for each, node in zip(alone, layers, strict=True):
        (found,) = each.run_flat(*each.example_inputs)
        assert found.shape[:2] in ((1, 7), (1, 5), (1, 10))
        assert list(op_counts(each)) == [str(node.target).split(".")[1]]


def test_equal_layers_are_measured_once_at_each_width():
    model = nn.Sequential(*(nn.Linear(32, 32) for _ in range(6))).eval()
    program = trace(model, torch.randn(4, 32))
    groups = removable_groups(program)
    seen = []

    def measure(lowered):
        seen.append(len(lowered))
        return [float(sum(use.flops for use in each.kernel_uses())) for each in lowered]

    (table,) = layer_tables(program, groups, Rounding(8), HERE, [measure], shares=COARSE)
    assert seen == [9 + 2]  # the first and the last layer, of which one width varies, are also measured at 24
    inner = [layer for layer in table if len(layer.sides) == 2]
    assert len(inner) == 4
    flops = 2 * 4 * np.outer([8, 16, 32], [8, 16, 32])
    assert all((layer.costs == flops).all() for layer in inner)


def test_predicted_bytes_are_those_of_the_artifact():
    program = trace(network(), IMAGE)
    groups = removable_groups(program)
    levels = Levels.of(groups.removable, PruneConfig(), Rounding(8, narrow=True))
    assert [units[0] for units in levels.units] == [32, 64]
    assert all(unit >= 1 for units in levels.units for unit in units)

    def constants(lowered):
        return [float(each.memory_use().constants) for each in lowered]

    (table,) = layer_tables(program, groups, Rounding(8), HERE, [constants])
    cost = layers_cost(table, levels)
    add_other_constants(cost, program, groups, levels, {layer.node for layer in table})
    ready = fxpress.PassManager("default", target=HERE).run(program)
    found = lookup("backends", "tvm")().lower(ready, HERE).memory_use().constants
    assert cost.at([0, 0]) == pytest.approx(found, rel=0.05)


# promises


def constants_and_memory(program: fxpress.Program) -> tuple[int, int]:
    """Bytes of an artifact's constants, and of all that a call needs, as its manifest has them."""
    manifest = fxpress.compile(program).manifest
    memory = manifest["memory"]
    constants = memory["constants"]
    return constants, constants - memory["load_only"] + memory["derived"] + memory["arena"]


@functools.cache
def whole_network() -> tuple[int, int]:
    return constants_and_memory(trace(network(), IMAGE))


@pytest.mark.parametrize("budget", ["size=60%", "size=9KB", "ram=50%", "ram=80KB"])
def test_promises_of_bytes_hold_in_the_artifact(budget):
    program = fxpress.prune(network(), PruneConfig(budget=budget), args=(IMAGE,))
    limit = PruneBudget.parse(budget)
    kind = limit.kind
    which = 0 if kind == "size" else 1
    whole = whole_network()[which]
    found = constants_and_memory(program)[which]
    assert found <= limit.limit(whole) < whole
    (note,) = (line for line in program.history[-1].rewrites if line.startswith(kind))
    assert re.match(rf"{kind}: at most \S+ \S+ promised, \S+ \S+ measured, \S+ \S+ predicted, \S+ \S+ unpruned$", note)
    assert program.run(IMAGE).shape == (1, 10)


def predicted_meter(whole: fxpress.Program, slower: float):
    """What the kernels of whole Programs take by prediction, times a factor that the search does not know."""
    times = KernelTimes(HERE, "predicted")

    def seconds(program: fxpress.Program) -> float:
        ready = fxpress.PassManager("default", verify="off", target=HERE).run(program)
        (calls,) = times.of(lookup("backends", "tvm")().lower(ready, HERE))
        return slower * sum(each for _, each in calls)

    return lambda program: Measured(seconds(program), seconds(whole))


@pytest.mark.parametrize(("budget", "slower"), [("latency=50%", 1.0), ("latency=30%", 3.0)])
def test_promises_of_latency_are_measured_and_corrected(budget, slower):
    program = trace(network(), torch.randn(1, 3, 64, 64))
    groups = removable_groups(program)
    meter = predicted_meter(program, slower)
    step = prune_to_budget(
        program, groups, PruneConfig(budget=budget), [], HERE, times=KernelTimes(HERE, "predicted"), meter=meter
    )
    small = fxpress.PassManager([step], target=HERE).run(program)
    found = meter(small)
    assert found.cost <= PruneBudget.parse(budget).amount * found.whole
    assert f"{step.promise}" in small.history[-1].rewrites
    assert all(x.numel() for x in small.constants.values())


def test_a_budget_out_of_reach_is_refused_with_the_least():
    with pytest.raises(
        InvalidInput,
        match=r"^budget must be at least size=[\d.]+ KiB \(\d+% of [\d.]+ KiB\), the least that pruning reaches here, "
        r"not 'size=1KB'; raise it, or `most`, which is 0\.9$",
    ):
        fxpress.prune(network(), PruneConfig(budget="size=1KB"), args=(IMAGE,))


def test_latency_needs_the_machine_itself():
    for target in ("cpu{isa=avx2,cores=64}", "systolic{rows=4,columns=4}"):
        with pytest.raises(Unsupported, match=r"^budget of latency must be for this machine, where it is measured, "):
            fxpress.prune(network(), PruneConfig(budget="latency=50%"), args=(IMAGE,), target=target)


def test_sizes_that_vary_have_no_costs():
    program = fxpress.capture(network(), (IMAGE.repeat(2, 1, 1, 1),), dynamic_shapes=({0: torch.export.Dim("n")},))
    with pytest.raises(
        Unsupported, match=r"^budget must be for a Program of fixed sizes, not one with sizes that vary"
    ):
        fxpress.prune(program, PruneConfig(budget="size=50%"))


def test_a_problem_without_groups_has_one_choice():
    problem = Problem([], Cost(fixed=2.0))
    assert cheapest_levels(problem) == choose_levels(problem, 2.0) == []
    assert choose_levels(problem, 1.0) is None


def test_artifacts_take_turns():
    now, order = [0.0], []

    def call(name, seconds):
        def run():
            order.append(name)
            now[0] += seconds

        return run

    first, second = interleaved(call("a", 0.03), call("b", 0.01), 0.5, clock=lambda: now[0])
    assert (first, second) == (pytest.approx(0.03), pytest.approx(0.01))
    changes = [a for a, b in itertools.pairwise([*order, ""]) if a != b]
    assert changes == ["a", "b"] * (len(changes) // 2)
    assert len(changes) > 2

"""The commands and their options. Each imports what it needs when it runs, so that `--help` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..registry import entries, lookup
from .failures import CleanFailures

app = typer.Typer(
    name="fxpress",
    cls=CleanFailures,
    help="Compile trained PyTorch models to one file that runs without PyTorch; run it, time it, look inside it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ArtifactFile = Annotated[Path, typer.Argument(metavar="MODEL.fxp", help="A compiled model.", show_default=False)]
ModelOrProgram = Annotated[
    str, typer.Argument(metavar="MODEL", help="As for `compile`; also a FILE.program.", show_default=False)
]
Inputs = Annotated[list[str] | None, typer.Option("--input", help="As for `compile`.", show_default=False)]
CalibrationItems = Annotated[int | None, typer.Option(min=1, help="How many items of calibration data to take.")]
TargetText = Annotated[
    str, typer.Option(help="Where it will run: cpu, cpu{isa=avx2,cores=4}, systolic{rows=8,cols=8}.")
]
Tokens = Annotated[int, typer.Option(min=1, help="Tokens of a Hugging Face text model's input.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Batch size of a Hugging Face model's input.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads to use; default: the physical cores.")]


@app.callback()
def options(debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False) -> None:
    """Options of every command; `CleanFailures` reads them."""


@app.command("compile")
def compile_command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="file.py:function or package.module:function (returns a model, or (model, args[, kwargs])), "
            "a file.pt2 that torch.export.save wrote, or the folder of a Hugging Face model.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the artifact.", show_default=False)],
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            help="[NAME=]SHAPE[:DTYPE[:LIMIT]], for example 1x3x224x224 or ids=1x128:int64:30522 (integers below "
            "30522). Once for each input; default: what the model comes with.",
            show_default=False,
        ),
    ] = None,
    target: TargetText = "cpu",
    pipeline: Annotated[str, typer.Option(help="What is done to the model; see `fxpress passes`.")] = "default",
    fallback: Annotated[str | None, typer.Option(help="'torch': ops without a kernel run in PyTorch.")] = None,
    bundle_runtime: Annotated[bool, typer.Option("--bundle-runtime", help="Put TVM's runtime in the file.")] = False,
    sequence: Tokens = 128,
    batch: BatchSize = 1,
    dump_dir: Annotated[Path | None, typer.Option(help="Write the program's text after each pass here.")] = None,
    print_ir: Annotated[str | None, typer.Option(help="'changed': print what each pass changed.")] = None,
) -> None:
    """Compile a model and write it as an artifact."""
    from .compiling import compile_to_file
    from .models import load_model

    compile_to_file(
        load_model(model, inputs or [], sequence=sequence, batch=batch),
        output,
        target=target,
        pipeline=pipeline,
        fallback=fallback,
        bundle_runtime=bundle_runtime,
        dump_dir=dump_dir,
        print_ir=print_ir,
    )


@app.command("quantize")
def quantize_command(
    model: ModelOrProgram,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="FILE.fxp: a compiled artifact. FILE.program: the quantised program, for `compile`.",
            show_default=False,
        ),
    ],
    config: Annotated[
        str | None,
        typer.Option(
            help="int8, int8-accurate, int8-hardware, int8-gemmini, int8-dynamic, int8-, int4-weights. Default: what "
            "suits the target, int8 for a CPU, int8-hardware for a systolic array.",
            show_default=False,
        ),
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            help="file.py:name or package.module:name (an iterable of inputs, or a function that returns one), or a "
            ".npz with an array of items for each input. Default: inputs like the example, which costs accuracy.",
            show_default=False,
        ),
    ] = None,
    items: CalibrationItems = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(help="Keep in float32: a node's name, an op, a module's path, or /a regular expression/."),
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Quantise no other layers; as --ignore.")] = None,
    inputs: Inputs = None,
    target: TargetText = "cpu",
    profitable: Annotated[
        str | None,
        typer.Option(
            help="Leave in float32 what int8 does not make faster: measure it here (default for a CPU), predict it, "
            "or off.",
            show_default=False,
        ),
    ] = None,
    min_sqnr: Annotated[
        float | None,
        typer.Option(help="Keep layers in float32 until the outputs have this signal-to-noise ratio in dB."),
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="A folder that keeps ranges and times of kernels for the next time.")
    ] = None,
    sequence: Tokens = 128,
    batch: BatchSize = 1,
) -> None:
    """Quantise a model to 8-bit integers (or fewer) and write it as an artifact or a program."""
    from .models import load_model
    from .quantizing import quantize_to_file

    quantize_to_file(
        load_model(model, inputs or [], sequence=sequence, batch=batch),
        output,
        config=config,
        calibration=calibration,
        calibration_items=items,
        ignore=ignore or [],
        only=only or [],
        profitable=profitable,
        min_sqnr=min_sqnr,
        target=target,
        cache=cache,
    )


@app.command("prune")
def prune_command(
    model: ModelOrProgram,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="FILE.fxp: a compiled artifact. FILE.program: the pruned program, for `compile` and `quantize`.",
            show_default=False,
        ),
    ],
    config: Annotated[
        str,
        typer.Option(
            help="The share that goes, or uniform, global, gentle, taylor, vector, random, 2:4, blocks-75.",
        ),
    ] = "uniform",
    budget: Annotated[
        str | None,
        typer.Option(help="What it may cost, instead of a share: latency=10ms, latency=50%, size=5MB, ram=30%."),
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option(
            help="units: channels, heads, hidden units go for good. Or where weights become zero: elements, N:M such "
            "as 2:4, RxC blocks such as 16x4, blocks that suit the target."
        ),
    ] = None,
    reconstruct: Annotated[
        bool, typer.Option("--reconstruct", help="Let the weights that stay make up for zeros, on calibration data.")
    ] = False,
    importance: Annotated[
        str | None,
        typer.Option(help="What goes first: l1, l2, batch-norm, taylor, hessian, activation, random."),
    ] = None,
    ranking: Annotated[str | None, typer.Option(help="local: a share of each group. global: of all together.")] = None,
    multiple: Annotated[
        str | None, typer.Option(help="Round what is left up to a multiple of this; auto: of the target's vectors.")
    ] = None,
    calibration: Annotated[
        str | None, typer.Option(help="As for `quantize`; for importance by gradients or activations, --reconstruct.")
    ] = None,
    items: CalibrationItems = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(help="Keep whole what this layer returns: a node's name, an op, a module's path, or /a regex/."),
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Prune no other layers; as --ignore.")] = None,
    inputs: Inputs = None,
    recovery: Annotated[
        str | None, typer.Option(help="least-squares: fit the weights that are left to the calibration data.")
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="Remove what this recipe says, which --save-recipe wrote.")
    ] = None,
    save_recipe: Annotated[Path | None, typer.Option(help="Write what was chosen as JSON.")] = None,
    sensitivity: Annotated[
        Path | None, typer.Option(help="Also prune each group or layer alone and write the errors as a page.")
    ] = None,
    target: Annotated[str, typer.Option(help="Where it will run: cpu, cpu{isa=avx2,cores=4}.")] = "cpu",
    cache: Annotated[
        Path | None, typer.Option(help="A folder that keeps kernel times for the next time, for budgets of latency.")
    ] = None,
    sequence: Tokens = 128,
    batch: BatchSize = 1,
) -> None:
    """Remove the channels, heads and hidden units that matter least; write an artifact or a program."""
    from .models import load_model
    from .pruning import prune_to_file

    prune_to_file(
        load_model(model, inputs or [], sequence=sequence, batch=batch),
        output,
        config=config,
        budget=budget,
        pattern=pattern,
        reconstruct=reconstruct or None,
        importance=importance,
        ranking=ranking,
        multiple=multiple,
        recovery=recovery,
        recipe=recipe,
        save_recipe=save_recipe,
        sensitivity=sensitivity,
        calibration=calibration,
        calibration_items=items,
        ignore=ignore or [],
        only=only or [],
        target=target,
        cache=cache,
    )


@app.command("optimize")
def optimize_command(
    config: Annotated[Path, typer.Argument(help="A .toml file: model, calibration, evaluate, train, strategy, ...")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="A folder for the frontier, its artifacts and its page.", show_default=False
        ),
    ] = None,
) -> None:
    """Search for the models that nothing beats in quality, latency and size."""
    from .optimizing import optimize_from_file

    optimize_from_file(config, output)


@app.command("replay")
def replay_command(
    config: Annotated[Path, typer.Argument(help="The .toml file of the search: model, calibration, train, ...")],
    found: Annotated[Path, typer.Argument(help="The folder of the frontier, or a recipe of a point as JSON.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the artifact.", show_default=False)],
    point: Annotated[int | None, typer.Option("--point", "-p", help="The point's number; 0 is the original.")] = None,
) -> None:
    """Make a model that a search found once more, from its recipe, and say whether it is the same."""
    from .optimizing import replay_from_file

    replay_from_file(config, found, point, output)


@app.command()
def run(
    artifact: ArtifactFile,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", help="[NAME=]FILE.npy, once for each input; default: the samples.", show_default=False),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the outputs to this .npz.")] = None,
    threads: Threads = None,
) -> None:
    """Run an artifact and show or save its outputs."""
    from .running import run_artifact

    run_artifact(artifact, inputs or [], output, threads)


@app.command()
def bench(
    artifact: ArtifactFile,
    threads: Threads = None,
    seconds: Annotated[float, typer.Option(min=0.01, help="How long to measure.")] = 3.0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Time an artifact's calls: median, 10th and 90th percentile, spread."""
    from .running import bench_artifact

    bench_artifact(artifact, threads, seconds, as_json=json)


@app.command()
def explain(
    artifact: ArtifactFile,
    html: Annotated[Path | None, typer.Option(help="Write one self-contained page instead.")] = None,
    threads: Threads = None,
    seconds: Annotated[float, typer.Option(min=0.01, help="How long to measure.")] = 2.0,
) -> None:
    """Show layer by layer where a model's time goes, and what the compiler did, skipped and why."""
    from .explaining import print_explanation, write_page

    if html is not None:
        write_page(artifact, html, threads, seconds)
    else:
        print_explanation(artifact, threads, seconds)


@app.command()
def report(
    artifact: Annotated[Path, typer.Argument(help="An artifact, or the folder of a frontier.", show_default=False)],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The page to write; of a frontier also a picture, FILE.png.")
    ] = Path("report.html"),
    threads: Threads = None,
    seconds: Annotated[float, typer.Option(min=0.01, help="How long to measure.")] = 2.0,
) -> None:
    """Write what `explain` shows, or what a search found, as one self-contained HTML page with pictures."""
    if artifact.is_dir():
        from .optimizing import report_frontier

        report_frontier(artifact, output)
        return
    from .explaining import write_page

    write_page(artifact, output, threads, seconds)


@app.command()
def inspect(
    artifact: ArtifactFile,
    json: Annotated[bool, typer.Option("--json", help="Print the whole manifest as JSON.")] = False,
) -> None:
    """Show an artifact's metadata, without loading its code: any machine can inspect any artifact."""
    from .inspecting import inspect_artifact

    inspect_artifact(artifact, as_json=json)


@app.command()
def passes() -> None:
    """List the passes and pipelines that `--pipeline` takes, installed plugins included."""
    from .inspecting import list_passes

    list_passes()


for name in entries("commands"):
    app.add_typer(lookup("commands", name), name=name)

"""The command line: ``gainnet scenarios | presets | run | compare | bench | validate | schema | node | gateway | lab ...``."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

from gainnet.apps import cli_learning, cli_serving
from gainnet.apps.comparing import Stopped, compared
from gainnet.apps.interrupt import EXIT_CODE, Interrupt, terminate_like_interrupt
from gainnet.apps.options import (
    DurationOption,
    OutOption,
    OverwriteOption,
    RayOption,
    ScenarioArgument,
    SeedOption,
    SetOption,
    slug,
)
from gainnet.apps.running import gone_on_with, publish, registry_of, simulated
from gainnet.errors import GainnetError, InputError

app = typer.Typer(
    name="gainnet",
    help="Plan, simulate and run GAI-native networks.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def scenarios(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Print the file of this one.")] = None,
) -> None:
    """List the built-in scenarios, or print the file of one, to begin your own with."""
    from gainnet.scenario.load import builtin, load, names

    if name is not None:
        print(builtin(name), end="")
        return
    width = max(map(len, names()))
    for each in names():
        print(f"{each:<{width}}  {load(each).description}")


@app.command()
def presets() -> None:
    """Print the machines, base stations and models that scenarios may name, with their sources."""
    from gainnet.scenario.load import presets as known

    print(known(), end="")


@app.command()
def run(
    scenario: ScenarioArgument,
    overrides: SetOption = [],  # noqa: B006  typer copies it
    matcher: Annotated[str | None, typer.Option("--matcher", metavar="KIND", help="The matcher.")] = None,
    seed: SeedOption = None,
    duration_s: DurationOption = None,
    out: OutOption = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="DIR", help="Go on with a run that learns and was stopped.")
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print report.json and nothing else.")] = False,
) -> None:
    """Run a scenario and write its results folder."""
    from gainnet.scenario.load import load

    chosen = [*overrides, *([f"orchestrator.matcher={matcher}"] if matcher is not None else [])]
    if resume is not None:
        if overwrite or any(given is not None for given in (matcher, seed, duration_s, out)):
            others = "--matcher, --seed, --duration-s, --out or --overwrite"
            raise InputError(f"--resume DIR: goes on as it was begun: give no {others}")
        folder = resume
        loaded, registry = gone_on_with(scenario, resume, overrides)
    else:
        loaded = load(scenario, chosen, seed=seed, duration_s=duration_s)
        registry, kind = registry_of(loaded), loaded.orchestrator.matcher.kind
        folder = out or Path("runs") / slug(f"{loaded.name}-{kind}-seed{loaded.seed}")

    from gainnet.measurement import results

    fresh = not folder.exists()
    results.prepare(folder, over=overwrite or resume is not None)
    command = (results.begun_with(folder) if resume is not None else None) or _command()
    try:
        with Interrupt(lambda: _remove_empty(folder, fresh)) as interrupt:
            recorder, interrupted = simulated(
                loaded, interrupt, folder,
                registry=registry, command=command, resume=resume is not None, quiet=as_json,
            )  # fmt: skip
            assert recorder.record is not None, "simulate closes its recorder"
            report = results.write(folder, recorder.record, command)
    except BaseException:
        _remove_empty(folder, fresh)
        raise
    if as_json:
        print(json.dumps(report, indent=2, allow_nan=False))
    else:
        from gainnet.apps import tables

        console = tables.console()
        for table in tables.summary(report, console.width):
            console.print(table)
        console.print(f"report: {folder / 'report.html'}", soft_wrap=True)
    if interrupted:
        raise typer.Exit(EXIT_CODE)
    if registry is not None:
        publish(loaded, folder, registry, quiet=as_json)


@app.command()
def compare(
    scenario: ScenarioArgument,
    matchers: Annotated[
        str, typer.Option("--matchers", metavar="A,B", help="Matchers; the last is the reference.")
    ] = "",
    learning: Annotated[
        str, typer.Option("--arms", metavar="A,B", help="Arms of the knowledge loop; the last is the reference.")
    ] = "",
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, help="Seeds for every arm: the scenario's and those after it.")
    ] = 5,
    sweep: Annotated[
        str | None, typer.Option("--sweep", metavar="PATH=V1,V2", help="A field to vary: network.ends=50,100.")
    ] = None,
    arms: Annotated[
        list[str],
        typer.Option(
            "--arm", metavar="NAME=PATH=X", help="The last matcher with a change, as one more arm. Repeatable."
        ),
    ] = [],  # noqa: B006  typer copies it
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Runs at once. [default: the CPUs]")] = None,
    ray: RayOption = None,
    overrides: SetOption = [],  # noqa: B006  typer copies it
    seed: SeedOption = None,
    duration_s: DurationOption = None,
    out: OutOption = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="DIR", help="Go on in its folder: what ran there is kept.")
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Run matchers on the same seeds and print their figures with 95 % intervals."""
    from gainnet.scenario.load import load

    if resume is not None and (overwrite or out is not None):
        raise InputError("--resume DIR: results go there, beside what ran: give no --out or --overwrite")
    base = load(scenario, overrides, seed=seed, duration_s=duration_s)

    import gainnet.compare as comparing
    from gainnet.apps import tables

    if learning and base.knowledge is None:
        raise InputError(f"--arms: {base.name} has no knowledge loop to compare arms of")
    chosen = comparing.parse_arms(matchers, arms, learning)
    swept = comparing.parse_sweep(sweep) if sweep is not None else None
    named = (learning or matchers).replace(" ", "").split(",")
    reference = [name for name in chosen if name in named][-1]
    folder = resume or out or Path("runs") / slug(f"compare-{base.name}" + (f"-{swept.path}" if swept else ""))
    fresh = not folder.exists()
    try:
        found = compared(
            base, chosen, reference, seeds, swept,
            folder=folder, resume=resume is not None, overwrite=overwrite, workers=workers, ray=ray, command=_arguments,
        )  # fmt: skip
    except Stopped as stopped:
        _say(str(stopped))
        raise typer.Exit(EXIT_CODE) from None
    except BaseException:
        _remove_empty(folder, fresh)
        raise
    console = tables.console()
    for caption, table in tables.comparison(found, console.width):
        console.print(caption)
        if table.columns:
            console.print(table)
    console.print(f"comparison: {folder / 'compare.html'}", soft_wrap=True)
    console.print(f"one run of {reference}: {folder / 'report.html'}", soft_wrap=True)


@app.command()
def bench(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A benchmark, for example matching; without it all are listed.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON and nothing else.")] = False,
    data: Annotated[Path | None, typer.Option("--data", metavar="DIR", help="Folder with reference data.")] = None,
    reference: Annotated[Path | None, typer.Option("--reference", metavar="FILE", help="File to compare with.")] = None,
    instance: Annotated[Path | None, typer.Option("--instance", metavar="FILE", help="A problem to solve.")] = None,
    model: Annotated[Path | None, typer.Option("--model", metavar="DIR", help="A model to begin with.")] = None,
    resume: Annotated[Path | None, typer.Option("--resume", metavar="DIR", help="Keep and go on with parts.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="Where models learn: cpu, cuda.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Less work, rougher figures.")] = False,
    duration_s: Annotated[float | None, typer.Option("--duration-s", min=1.0, help="How long it goes on.")] = None,
    faults: Annotated[int | None, typer.Option("--faults", min=1, help="How many faults are injected.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Of what is random in it.")] = None,
    moves: Annotated[int | None, typer.Option("--moves", min=0, help="Running ones that may move for another.")] = None,
) -> None:
    """Run a benchmark of this source checkout and print its figures, or list the benchmarks."""
    from gainnet.apps import bench as benches

    if name is None:
        told = benches.told()
        for each, text in told.items():
            print(f"{each:<{max(map(len, told))}}  {text}")
        return
    for option, path in (("--data", data), ("--reference", reference), ("--instance", instance), ("--model", model)):
        if path is not None and not path.exists():
            raise InputError(f"{option} {path}: there is no such file or folder")
    given = {
        "data": data, "reference": reference, "instance": instance, "model": model, "resume": resume, "quick": quick,
        "device": device, "duration_s": duration_s, "faults": faults, "seed": seed, "moves": moves,
    }  # fmt: skip
    figures, meaning = benches.run(name, given)
    if as_json:
        from gainnet.measurement.results import environment

        tree = {"bench": name, "figures": figures, "environment": environment(_command())}
        print(json.dumps(tree, indent=2, default=float))
        return
    from gainnet.apps import tables

    tables.console().print(tables.bench(figures, meaning))


@app.command()
def validate(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A YAML file or a built-in name.")],
    overrides: SetOption = [],  # noqa: B006  typer copies it
) -> None:
    """Check a scenario file and everything it names, without running it."""
    from gainnet.scenario.load import load

    loaded = load(file, overrides)

    from gainnet.run import Run

    Run(loaded)
    network = loaded.network
    print(f"{file}: valid: {network.ends} ends, {network.cells} cells, {network.edges} edges, {loaded.frames} frames")


@app.command()
def schema() -> None:
    """Print the JSON schema of scenario files."""
    from gainnet.scenario.load import schema as scenario_schema

    print(json.dumps(scenario_schema(), indent=2))


def _remove_empty(folder: Path, fresh: bool) -> None:
    """Remove a folder that was made for results which never came."""
    if fresh:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _command() -> str:
    return shlex.join(["gainnet", *_arguments])


def _say(message: str) -> None:
    print("gainnet: " + " ".join(message.split()), file=sys.stderr)


_arguments: list[str] = []


for _learn in (cli_learning.train, cli_learning.pretrain):
    app.command()(_learn)
for _serve in (cli_serving.node, cli_serving.gateway, cli_serving.profile):
    app.command()(_serve)
app.add_typer(cli_serving.lab, name="lab")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: every error is one line on stderr and exit code 2, an interrupt 130."""
    _arguments[:] = sys.argv[1:] if arguments is None else arguments
    terminate_like_interrupt()
    sys.exit(_exit_code(_arguments))


def _exit_code(arguments: list[str]) -> int:
    try:
        code = app(args=arguments, prog_name="gainnet", standalone_mode=False)
        sys.stdout.flush()
        if code == EXIT_CODE:  # typer makes it of KeyboardInterrupt
            _say("interrupted")
        return code if isinstance(code, int) else 0
    except TyperException as error:
        if error.format_message():
            _say(error.format_message())
    except GainnetError as error:
        _say(str(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        _say(f"{error.filename or 'output'}: {error.strerror or error}")
    except KeyboardInterrupt:
        _say("interrupted")
        return EXIT_CODE
    return 2

"""The command line: ``gainnet scenarios | run | compare | bench | validate | schema | node | gateway | profile | lab ...``."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.exceptions import TyperException

from gainnet.apps.interrupt import EXIT_CODE, Interrupt, terminate_like_interrupt
from gainnet.apps.progress import progress
from gainnet.apps.running import extra, gone_on_with, simulated
from gainnet.errors import GainnetError, InputError

if TYPE_CHECKING:
    from gainnet.measurement.comparison import Comparison
    from gainnet.measurement.record import Record

app = typer.Typer(
    name="gainnet",
    help="Plan, simulate and run GAI-native networks.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ScenarioArgument = Annotated[str, typer.Argument(metavar="SCENARIO", help="A built-in name or a YAML file.")]
SetOption = Annotated[
    list[str], typer.Option("--set", metavar="PATH=X", help="Change a value: network.ends=50. Repeatable.")
]
SeedOption = Annotated[int | None, typer.Option("--seed", help="The scenario's seed.")]
DurationOption = Annotated[float | None, typer.Option("--duration-s", metavar="S", help="Simulated time.")]
RayOption = Annotated[
    str | None, typer.Option("--ray", metavar="ADDRESS", help="Run on Ray: auto, HOST:PORT or ray://HOST:PORT.")
]
OutOption = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Results folder. [default: runs/...]")]


@app.command()
def scenarios() -> None:
    """List the built-in scenarios."""
    from gainnet.scenario.load import load, names

    width = max(map(len, names()))
    for name in names():
        print(f"{name:<{width}}  {load(name).description}")


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
    as_json: Annotated[bool, typer.Option("--json", help="Print report.json and nothing else.")] = False,
) -> None:
    """Run a scenario and write its results folder."""
    from gainnet.scenario.load import load

    chosen = [*overrides, *([f"orchestrator.matcher={matcher}"] if matcher is not None else [])]
    if resume is not None:
        if chosen or seed is not None or duration_s is not None or out is not None:
            raise InputError("--resume DIR: goes on as it was begun: give no --set, --matcher, --seed or --out")
        loaded, folder = gone_on_with(scenario, resume), resume
    else:
        loaded = load(scenario, chosen, seed=seed, duration_s=duration_s)
        kind = loaded.orchestrator.matcher.kind
        folder = out or Path("runs") / _slug(f"{loaded.name}-{kind}-seed{loaded.seed}")

    from gainnet.measurement import results

    fresh = not folder.exists()
    results.prepare(folder)
    try:
        with Interrupt(lambda: _remove_empty(folder, fresh)) as interrupt:
            recorder, interrupted = simulated(loaded, interrupt, folder, resume=resume is not None, quiet=as_json)
            assert recorder.record is not None, "simulate closes its recorder"
            report = results.write(folder, recorder.record, _command())
    except BaseException:
        _remove_empty(folder, fresh)
        raise
    if as_json:
        print(json.dumps(report, indent=2, allow_nan=False))
    else:
        from gainnet.apps import tables

        console = tables.console()
        for table in tables.summary(report):
            console.print(table)
        console.print(f"report: {folder / 'report.html'}", soft_wrap=True)
    if interrupted:
        raise typer.Exit(EXIT_CODE)


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
) -> None:
    """Run matchers on the same seeds and print their figures with 95 % intervals."""
    from gainnet.scenario.load import load

    base = load(scenario, overrides, seed=seed, duration_s=duration_s)

    import gainnet.compare as comparing
    from gainnet.apps import tables
    from gainnet.measurement import results

    if learning and base.knowledge is None:
        raise InputError(f"--arms: {base.name} has no knowledge loop to compare arms of")
    chosen = comparing.parse_arms(matchers, arms, learning)
    swept = comparing.parse_sweep(sweep) if sweep is not None else None
    named = (learning or matchers).replace(" ", "").split(",")
    reference = [name for name in chosen if name in named][-1]
    folder = out or Path("runs") / _slug(f"compare-{base.name}" + (f"-{swept.path}" if swept else ""))
    fresh = not folder.exists()
    results.prepare(folder)
    try:
        with progress("comparing", quiet=False) as show:
            found, record = comparing.compare(base, chosen, reference, seeds, swept, workers, show, ray)
        _write_comparison(folder, found, record)
    except BaseException:
        _remove_empty(folder, fresh)
        raise
    console = tables.console()
    for caption, table in tables.comparison(found):
        console.print(caption)
        if table.columns:
            console.print(table)
    console.print(f"comparison: {folder / 'compare.html'}", soft_wrap=True)
    console.print(f"one run of {reference}: {folder / 'report.html'}", soft_wrap=True)


def _write_comparison(folder: Path, found: Comparison, record: Record) -> None:
    """The files of one whole run, and those of the comparison beside them."""
    from gainnet.measurement import contrast, metrics, results

    machine = results.environment(_command())
    files = results.run_writers(record, metrics.report(record), machine)
    files["compare.json"] = results.text_writer(results.as_json(found.as_tree(machine)))
    files["compare.csv"] = results.text_writer(found.as_csv())
    files["compare.html"] = results.text_writer(contrast.page(found, machine))
    results.replace(folder, files)


@app.command()
def train(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="The learned matcher: neural, drl or diffusion.")] = "",
    scenario: Annotated[str, typer.Argument(metavar="SCENARIO", help="A built-in name or a YAML file.")] = "",
    overrides: SetOption = [],  # noqa: B006  typer copies it
    seed: SeedOption = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Steps of the training.")] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Processes. [default: the CPUs]")] = None,
    ray: RayOption = None,
    out: OutOption = None,
    resume: Annotated[Path | None, typer.Option("--resume", metavar="DIR", help="Go on with a training.")] = None,
) -> None:
    """Train a learned matcher on a scenario and write its checkpoint."""
    if resume is None and not (kind and scenario):
        raise InputError("KIND and SCENARIO are missing: gainnet train neural vehicular, or --resume DIR")
    if resume is not None and (kind or overrides or seed is not None or steps is not None or out is not None):
        raise InputError(
            "--resume DIR: goes on as it was begun: give no KIND, SCENARIO, --set, --seed, --steps or --out"
        )
    with extra("learn"):
        from gainnet.training import train as training
    from gainnet.scenario.load import load
    from gainnet.workers.start import start

    if resume is not None:
        begun = training.resume(resume)
    else:
        loaded = load(scenario, overrides, seed=seed)
        folder = out or Path("runs") / _slug(f"train-{kind}-{loaded.name}-seed{loaded.seed}")
        begun = training.begin(kind, loaded, steps, folder)
    with start(workers, ray) as several, progress("training", quiet=False) as show:
        made = begun.run(several, show)
    print(f"checkpoint: {made}")


@app.command()
def pretrain(
    text: Annotated[
        Path | None, typer.Option("--text", metavar="FILE", help="Public text: .jsonl or .csv (also .gz), or .txt.")
    ] = None,
    settings: Annotated[
        list[str], typer.Option("--set", metavar="FIELD=X", help="Of the model: layers=8, width=384. Repeatable.")
    ] = [],  # noqa: B006  typer copies it
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Of weights and order. [default: 0]")] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Steps of the training.")] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Threads. [default: the CPUs]")] = None,
    bf16: Annotated[bool, typer.Option("--bf16", help="Multiply in bfloat16, for processors that can.")] = False,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1 or mps. [default: cpu]")] = None,
    extracts: Annotated[
        float | None,
        typer.Option(
            "--extracts", metavar="SHARE", help="Part that is passages with notes made of the text. [default: 0]"
        ),
    ] = None,
    start: Annotated[Path | None, typer.Option("--from", metavar="DIR", help="A model to go on from.")] = None,
    images: Annotated[
        str | None, typer.Option("--images", metavar="DATA", help="An image model instead, of these images: digits.")
    ] = None,
    out: OutOption = None,
    resume: Annotated[Path | None, typer.Option("--resume", metavar="DIR", help="Go on with a training.")] = None,
) -> None:
    """Train a small language model on public text; transformers loads the folder. Or an image model, for diffusers."""
    if images is not None:
        if any(given is not None for given in (text, settings or None, threads, bf16 or None, device, extracts, start)):
            raise InputError("--images: only --seed, --steps, --out and --resume go with it")
        _pretrain_images(images, seed, steps, out, resume)
        return
    if resume is None and text is None:
        raise InputError("--text is missing: gainnet pretrain --text FILE, or --resume DIR")
    begins = (text, settings or None, seed, steps, threads, bf16 or None, device, extracts, start, out)
    if resume is not None and any(given is not None for given in begins):
        raise InputError("--resume DIR: goes on as it was begun: give nothing else")
    with extra("learn"):
        from gainnet.apps import pretrain as pretraining
    from gainnet.workers.workers import InProcess

    if resume is not None:
        begun = pretraining.resume(resume)
    else:
        assert text is not None
        folder = out or Path("runs") / _slug(f"pretrain-{text.name.partition('.')[0]}-seed{seed or 0}")
        begun = pretraining.begin(
            text,
            settings,
            folder,
            steps=steps,
            seed=seed or 0,
            threads=threads,
            bf16=bf16,
            device=device or "cpu",
            share=extracts or 0.0,
            start=start,
        )
    with progress("pre-training", quiet=False) as show:
        begun.run(InProcess(), show)
    print(f"model: {begun.folder}")


def _pretrain_images(images: str, seed: int | None, steps: int | None, out: Path | None, resume: Path | None) -> None:
    with extra("learn"):
        from gainnet.apps import pretrain_images
    from gainnet.workers.workers import InProcess

    begun = pretrain_images.begin(images, seed, steps, out, resume)
    with progress("pre-training", quiet=False) as show:
        begun.run(InProcess(), show)
    print(f"model: {begun.folder}")


@app.command()
def bench(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A benchmark, for example matching.")],
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
) -> None:
    """Run a benchmark of this source checkout and print its figures."""
    from gainnet.apps import bench as benches

    for option, path in (("--data", data), ("--reference", reference), ("--instance", instance), ("--model", model)):
        if path is not None and not path.exists():
            raise InputError(f"{option} {path}: there is no such file or folder")
    given = {
        "data": data, "reference": reference, "instance": instance, "model": model, "resume": resume, "quick": quick,
        "device": device, "duration_s": duration_s, "faults": faults, "seed": seed,
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


ConfigOption = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Settings, YAML.")]


@app.command()
def node(
    tier: Annotated[str | None, typer.Option("--tier", metavar="TIER", help="end, edge or cloud.")] = None,
    config: ConfigOption = None,
) -> None:
    """Serve a model at one OpenAI-compatible address, until SIGTERM or Ctrl-C."""
    with extra("serve,learn"):
        from gainnet.apps import serving

        serving.node(config, tier)


@app.command()
def gateway(
    config: ConfigOption = None,
    scenario: Annotated[
        str | None,
        typer.Option(
            "--scenario",
            metavar="SCENARIO",
            envvar="GAINNET_SCENARIO",
            help="What `router: priced` prices: a built-in name or a YAML file.",
        ),
    ] = None,
    overrides: SetOption = [],  # noqa: B006  typer copies it
) -> None:
    """Serve one OpenAI-compatible address in front of many nodes, until SIGTERM or Ctrl-C."""
    with extra("serve"):
        from gainnet.apps import serving

        serving.gateway(config, scenario, overrides)


@app.command()
def profile(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="A node's address, or the folder of a model.")],
    model: Annotated[
        str | None, typer.Option("--model", metavar="ID", help="The node's model. [default: its first]")
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option("--shape", metavar="CARD|DIR", help="What model an address has: a preset, or a folder."),
    ] = None,
    tier: Annotated[
        str | None, typer.Option("--tier", metavar="TIER", help="end, edge or cloud. [default: as the node says]")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="CARD", help="Of the card. [default: the model's]")
    ] = None,
    slots: Annotated[
        int | None, typer.Option("--slots", min=1, max=256, help="Largest batch. [default: as the node says, or 8]")
    ] = None,
    context: Annotated[int, typer.Option("--context", min=64, help="Longest text that is measured.")] = 600,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Rounds, of which medians are taken.")] = 5,
    adapter: Annotated[
        str | None, typer.Option("--adapter", metavar="PATH", help="An adapter whose loading is measured.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="For the card. [default: printed]")] = None,
) -> None:
    """Measure a node, and write its compute card: sections of a scenario."""
    with extra("serve,learn"):
        from gainnet.apps import profiling

        asked = profiling.Asked(target, model, shape, tier, name, slots, context, repeats, adapter)
        profiling.profile(asked, out)


lab = typer.Typer(help="A whole network on this machine.", rich_markup_mode=None, no_args_is_help=True)
app.add_typer(lab, name="lab")
LabOption = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder with its logs and lab.json.")]


@lab.command("up")
def lab_up(
    scenario: Annotated[str, typer.Argument(metavar="SCENARIO", help="A built-in name or a YAML file.")] = "lab",
    nodes: Annotated[
        str,
        typer.Option("--nodes", metavar="TIER=N,...", help="How many: cloud=1,edge=2,end=4. [default: the scenario's]"),
    ] = "",
    router: Annotated[
        str, typer.Option("--router", metavar="KIND", help="priced, nearest, cloud or round_robin.")
    ] = "priced",
    models: Annotated[
        list[str], typer.Option("--model", metavar="TIER=DIR", help="A model for a tier. [default: small ones]")
    ] = [],  # noqa: B006  typer copies it
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="Of the gateway; 0 takes a free one.")] = 0,
    overrides: SetOption = [],  # noqa: B006  typer copies it
    out: LabOption = Path("runs/lab"),
) -> None:
    """Start a cloud, edges, ends and the gateway over shaped links; Ctrl-C or SIGTERM ends all of it."""
    with extra("serve,learn"):
        from gainnet.apps import serving

        serving.lab_up(scenario, overrides, nodes, router, models, port, out)


@lab.command("ask")
def lab_ask(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to say.")],
    end: Annotated[int | None, typer.Option("--end", min=0, help="The end that asks. [default: the gateway]")] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="ID", help="[default: the first service]")] = None,
    out: LabOption = Path("runs/lab"),
) -> None:
    """Ask a running lab something, and see which node answered and why."""
    from gainnet.apps import serving

    serving.lab_ask(text, end, model, out)


def _slug(name: str) -> str:
    """A scenario's name as one harmless part of a path."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name).lstrip(".") or "run"


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

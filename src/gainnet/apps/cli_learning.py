"""Commands that train: ``gainnet train | pretrain``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gainnet.apps.options import OutOption, OverwriteOption, RayOption, SeedOption, SetOption, slug
from gainnet.apps.progress import progress
from gainnet.apps.running import extra
from gainnet.errors import InputError


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
    overwrite: OverwriteOption = False,
) -> None:
    """Train a learned matcher on a scenario and write its checkpoint."""
    if resume is None and not (kind and scenario):
        raise InputError("KIND and SCENARIO are missing: gainnet train neural vehicular, or --resume DIR")
    if resume is not None and (kind or overrides or overwrite or any(x is not None for x in (seed, steps, out))):
        others = "KIND, SCENARIO, --set, --seed, --steps, --out or --overwrite"
        raise InputError(f"--resume DIR: goes on as it was begun: give no {others}")
    with extra("learn"):
        from gainnet.training import train as training
    from gainnet.scenario.load import load
    from gainnet.workers.start import start

    if resume is not None:
        begun = training.resume(resume)
    else:
        loaded = load(scenario, overrides, seed=seed)
        folder = out or Path("runs") / slug(f"train-{kind}-{loaded.name}-seed{loaded.seed}")
        begun = training.begin(kind, loaded, steps, folder, overwrite=overwrite)
    with start(workers, ray) as several, progress("training", quiet=False) as show:
        made = begun.run(several, show)
    print(f"checkpoint: {made}")


def pretrain(
    text: Annotated[
        Path | None,
        typer.Option(
            "--text", metavar="FILE", help="Public text: .jsonl or .csv (also .gz), or .txt; or a folder of it."
        ),
    ] = None,
    settings: Annotated[
        list[str], typer.Option("--set", metavar="FIELD=X", help="Of the model: layers=8, width=384. Repeatable.")
    ] = [],  # noqa: B006  typer copies it
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Of weights and order. [default: 0]")] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Steps of the training.")] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Threads. [default: the CPUs]")] = None,
    bf16: Annotated[bool, typer.Option("--bf16", help="Multiply in bfloat16, for processors that can.")] = False,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1 or mps. [default: cpu]")] = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile passes first: pays in long trainings on a GPU.")
    ] = False,
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
    overwrite: OverwriteOption = False,
) -> None:
    """Train a small language model on public text; transformers loads the folder. Or an image model, for diffusers."""
    begins = (text, settings or None, threads, bf16 or None, device, compiled or None, extracts, start)
    if images is not None:
        if any(given is not None for given in begins):
            raise InputError("--images: only --seed, --steps, --out, --overwrite and --resume go with it")
        _pretrain_images(images, seed, steps, out, resume, overwrite=overwrite)
        return
    if resume is None and text is None:
        raise InputError("--text is missing: gainnet pretrain --text FILE, or --resume DIR")
    if resume is not None and any(given is not None for given in (*begins, seed, steps, out, overwrite or None)):
        raise InputError("--resume DIR: goes on as it was begun: give nothing else")
    with extra("learn"):
        from gainnet.apps import pretrain as pretraining
    from gainnet.workers.workers import InProcess

    if resume is not None:
        begun = pretraining.resume(resume)
    else:
        assert text is not None
        folder = out or Path("runs") / slug(f"pretrain-{text.name.partition('.')[0]}-seed{seed or 0}")
        begun = pretraining.begin(
            text,
            settings,
            folder,
            steps=steps,
            seed=seed or 0,
            threads=threads,
            bf16=bf16,
            device=device or "cpu",
            compiled=compiled,
            share=extracts or 0.0,
            start=start,
            overwrite=overwrite,
        )
    with progress("pre-training", quiet=False) as show:
        begun.run(InProcess(), show)
    print(f"model: {begun.folder}")


def _pretrain_images(
    images: str, seed: int | None, steps: int | None, out: Path | None, resume: Path | None, *, overwrite: bool
) -> None:
    with extra("learn"):
        from gainnet.apps import pretrain_images
    from gainnet.workers.workers import InProcess

    begun = pretrain_images.begin(images, seed, steps, out, resume, overwrite=overwrite)
    with progress("pre-training", quiet=False) as show:
        begun.run(InProcess(), show)
    print(f"model: {begun.folder}")

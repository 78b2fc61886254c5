"""Commands of the live network: ``gainnet node | gateway | profile | lab up | lab ask``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gainnet.apps.options import SetOption
from gainnet.apps.running import extra

ConfigOption = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Settings, YAML.")]


def node(
    tier: Annotated[str | None, typer.Option("--tier", metavar="TIER", help="end, edge or cloud.")] = None,
    config: ConfigOption = None,
) -> None:
    """Serve a model at one OpenAI-compatible address, until SIGTERM or Ctrl-C."""
    with extra("serve,learn"):
        from gainnet.apps import serving

        serving.node(config, tier)


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
    links: Annotated[
        str,
        typer.Option("--links", metavar="KIND", help="Shaped in user space: proxy; or by the kernel, for root: netem."),
    ] = "proxy",
    patience_s: Annotated[
        float, typer.Option("--patience-s", metavar="SECONDS", min=1.0, help="How long it may take to be ready.")
    ] = 120.0,
    overrides: SetOption = [],  # noqa: B006  typer copies it
    out: LabOption = Path("runs/lab"),
) -> None:
    """Start a cloud, edges, ends and the gateway over shaped links; Ctrl-C or SIGTERM ends all of it."""
    with extra("serve,learn"):
        from gainnet.apps import serving

        serving.lab_up(scenario, overrides, nodes, router, models, port, links, patience_s, out)


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

"""What a person writes for a node: a YAML file, with every value also settable by the environment.

`GAINNET_NODE_LISTEN__PORT=8001` sets ``listen.port``, see `gainnet.serving.reading`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from gainnet.scenario.knowledge import Foundation, Pretrained, SmallModel
from gainnet.serving.reading import File, FileSettings, under_folder
from gainnet.serving.settings import (
    AdaptersSetting,
    Limits,
    Listen,
    Name,
    Seconds,
    Timeouts,
    TracingSetting,
    Url,
    VerifierSetting,
)

Natural = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0.0)]
NotNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


def _folder_or_name(model: Foundation) -> Foundation:
    """A model's folder is under that of the settings; what is no folder is a name on the hub."""
    if isinstance(model, Pretrained):
        folder = under_folder(Path(model.name))
        if folder.is_dir():
            return model.model_copy(update={"name": str(folder)})
    return model


Model = Annotated[Foundation, AfterValidator(_folder_or_name)]


class NodeTimeouts(Timeouts):
    """How long what may take; of a gateway's, those that are about clients count here.

    Attributes:
        session_s: a session for drafts that nobody asks.
        retry_s: what is said of when to come back, where the queue is full.
    """

    session_s: Seconds = 60.0
    retry_s: Seconds = 1.0


class MachineSetting(BaseModel):
    """A machine and its model, whose time a node's steps take: see `gainnet.inference.tempo.Machine`."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    count: Positive = 1.0
    flop_per_s: Positive
    byte_per_s: Positive
    size_byte: Positive
    flop_per_token: Positive
    attention_flop_per_token2: Annotated[float, Field(ge=0.0)] = 0.0
    kv_byte_per_token: Annotated[float, Field(ge=0.0)] = 0.0


class ShareSetting(BaseModel):
    """Which steps alike images share: see `gainnet.inference.images.request.Sharing`."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    part: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.4
    similarity: Annotated[float, Field(ge=-1.0, le=1.0)] = 0.999


class PricesSetting(BaseModel):
    """What a second is worth, in one currency: see `gainnet.inference.images.pace.Prices`."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    here_per_s: NotNegative = 0.0
    above_per_s: NotNegative = 0.0
    waiting_per_s: NotNegative = 1.0


class AboveSetting(BaseModel):
    """A node of this project that may begin this one's images, with the same image model; where that pays, it does.

    Attributes:
        url: without `/v1`.
        model: the id by which the node knows the image model.
        token: that the node asks for.
        prices: what seconds are worth, which decides; by default only that of who waits is.
        name: of the node, by which gateways know it; without, none chooses it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    url: Url
    model: Name
    token: SecretStr | None = None
    prices: PricesSetting = PricesSetting()
    name: Name | None = None


def _digits_or_folder(model: str) -> str:
    folder = under_folder(Path(model))
    if model != "digits" and not folder.is_dir():
        raise ValueError(f"{model}: must be digits, the model that comes with gainnet, or a folder with one")
    return model if model == "digits" else str(folder)


class ImagesSetting(BaseModel):
    """A model that draws images, beside the one for text.

    Attributes:
        model: a folder that a `LabelPipeline` or a `StableDiffusionPipeline` wrote, or ``digits``.
        ids: by which requests name it.
        slots: images that are drawn at once.
        queue: images that may wait.
        width: images in one pass, which is filled up where there are fewer, so that images do not depend on others.
        steps: of an image where nothing is said.
        eta: part of each step's noise that is drawn anew.
        share: which steps alike images of a tenant share; None: none.
        above: a node that may take the shared steps; None: they are taken here.
        step_s: time of a step of one image on the machine that this stands in for; None: as long as it takes here.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, protected_namespaces=())

    model: Annotated[str, AfterValidator(_digits_or_folder)] = "digits"
    ids: Annotated[tuple[Name, ...], Field(min_length=1)] = ("digits",)
    slots: Natural = 16
    queue: Natural = 64
    width: Natural = 8
    steps: Natural = 20
    eta: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    share: ShareSetting | None = None
    above: AboveSetting | None = None
    step_s: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] | None = None

    @model_validator(mode="after")
    def _above_needs_share(self) -> ImagesSetting:
        if self.above is not None and self.share is None:
            raise ValueError("above: needs share, which says how many steps are taken there")
        return self


class NodeSettings(FileSettings):
    """All of a node's settings; `gainnet.serving.reading.read` makes one.

    Attributes:
        name: shown in logs.
        tier: where it stands.
        listen: for requests, metrics and adapters: only gateways and who runs the network should reach it.
        token: bearer token that all but /health and /ready ask for; None: nobody is asked.
        model: a folder or name (`pretrained`), or one of random weights that is built at the start (`small`, whose
            fields about training don't count).
        ids: by which requests name the model.
        seed: of a model that is built.
        slots: texts that run at once.
        queue: texts that may wait.
        sessions: sessions for drafts that keep their keys and values.
        sessions_open: sessions that may be open.
        prefill: tokens of prompts in a step at most.
        prefix_byte: what keys and values of earlier texts may take.
        threads: of torch; None leaves them as they are.
        machine: whose time steps take, to stand in for it; None: as long as they take here.
        images: a model that draws images; None: none are drawn.
        limits: of requests.
        timeouts: of everything that waits.
        adapters: where adapters come from; None: none are loaded.
        tracing: where traces go; None: nowhere.
        state: file in which adapters that were loaded outlive a restart; None: they don't.
        verifiers: nodes that judge this one's drafts, by the names that requests call them.
        load: adapters loaded at the start, their folders below ``adapters.root`` by name.
        log_level: of the JSON log.
    """

    model_config = SettingsConfigDict(
        env_prefix="GAINNET_NODE_", env_nested_delimiter="__", extra="forbid", frozen=True, hide_input_in_errors=True
    )

    name: Name = "node"
    tier: Literal["end", "edge", "cloud"] = "edge"
    listen: Listen = Listen(port=8000)
    token: SecretStr | None = None
    model: Model = SmallModel()
    ids: Annotated[tuple[Name, ...], Field(min_length=1)] = ("gainnet",)
    seed: Annotated[int, Field(ge=0)] = 0
    slots: Natural = 8
    queue: Natural = 64
    sessions: Natural = 8
    sessions_open: Natural = 256
    prefill: Natural = 256
    prefix_byte: Annotated[int, Field(ge=0)] = 64 << 20
    threads: Natural | None = None
    machine: MachineSetting | None = None
    images: ImagesSetting | None = None
    limits: Limits = Limits()
    timeouts: NodeTimeouts = NodeTimeouts()
    adapters: AdaptersSetting | None = None
    tracing: TracingSetting | None = None
    state: File | None = None
    verifiers: dict[Name, VerifierSetting] = Field(default_factory=dict)
    load: dict[Name, str] = Field(default_factory=dict)
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @model_validator(mode="after")
    def _adapters_have_a_root(self) -> NodeSettings:
        if self.load and self.adapters is None:
            raise ValueError("load: needs adapters.root, below which the folders are")
        for name in self.load:
            if name in self.ids:
                raise ValueError(f"load.{name}: is one of ids, the names of the model itself")
        for name in () if self.images is None else self.images.ids:
            if name in self.ids or name in self.load:
                raise ValueError(f"images.ids: {name} is also the name of a model for text")
        return self

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
    VerifierSetting,
)

Natural = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0.0)]


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
        return self

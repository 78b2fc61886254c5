"""What a person writes for a gateway: a YAML file, with every value also settable by the environment.

`GAINNET_GATEWAY_LISTEN__PORT=8443` sets ``listen.port``: see `gainnet.serving.reading`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    model_validator,
)
from pydantic_settings import SettingsConfigDict

from gainnet.scenario.complaint import nearest
from gainnet.serving.reading import File, FileSettings, under_folder
from gainnet.serving.router import Kind

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@:/-]{0,127}$")]
Url = Annotated[str, StringConstraints(pattern=r"^https?://[A-Za-z0-9.\[\]:-]+(/[A-Za-z0-9._~/-]*)?$")]
HeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]+$", to_lower=True)]
HeaderValue = Annotated[str, StringConstraints(pattern=r"^[\x20-\x7e]*$")]
Seconds = Annotated[float, Field(gt=0.0, le=86_400.0)]
Port = Annotated[int, Field(ge=0, le=65_535)]
KINDS: tuple[str, ...] = get_args(Kind)


def _file_or_name(scenario: str) -> str:
    file = under_folder(Path(scenario))
    return str(file) if file.is_file() else scenario


ScenarioFile = Annotated[str, AfterValidator(_file_or_name)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Tls(_Section):
    """Who a listener is.

    Attributes:
        cert: chain of certificates, PEM.
        key: its private key, PEM.
        client_ca: clients must show a certificate that one of these signed (mutual TLS); None: nobody is asked.
    """

    cert: File
    key: File
    client_ca: File | None = None


class PeerTls(_Section):
    """How a node is recognised, and how the gateway shows itself to it.

    Attributes:
        ca: who may have signed the node's certificate; None: those the system trusts.
        cert: the gateway's own chain of certificates for mutual TLS, PEM.
        key: its private key.
    """

    ca: File | None = None
    cert: File | None = None
    key: File | None = None


class Listen(_Section):
    """Where requests come in; port 0 takes a free one."""

    host: str = "127.0.0.1"
    port: Port = 8080
    tls: Tls | None = None


class AdminListen(_Section):
    """Where metrics and administration are asked, apart from requests.

    Attributes:
        token: bearer token for what changes something; None: nothing may be changed from outside this machine's loopback.
    """

    host: str = "127.0.0.1"
    port: Port = 9090
    tls: Tls | None = None
    token: SecretStr | None = None


def _as_map(models: Any) -> Any:
    return {name: name for name in models} if isinstance(models, list) else models


class NodePlace(_Section):
    """A node that the gateway may send requests to: any OpenAI-compatible server.

    Attributes:
        name: shown in x-gainnet-node.
        tier: of the node.
        url: without `/v1`.
        models: the node's own id of each public model; a list where they are the same.
        headers: sent with every request, as `authorization`.
        tls: for https.
        end: which end it is, for nodes of tier end: only that end's requests go there.
        quality: of its answers, for requests that name the least; None where nobody knows: any will do.
    """

    name: Name
    tier: Literal["end", "edge", "cloud"]
    url: Url
    models: Annotated[dict[Name, Name], BeforeValidator(_as_map)] = Field(default={}, validate_default=True)
    headers: dict[HeaderName, HeaderValue] = {}
    tls: PeerTls = PeerTls()
    end: int | None = None
    quality: Annotated[float, Field(ge=0.0, le=1.0)] | None = None

    @model_validator(mode="after")
    def _ends_are_ends(self) -> NodePlace:
        if self.end is not None and self.tier != "end":
            raise ValueError("end: only a node of tier end is one")
        return self


class VerifierSetting(_Section):
    """A node of this project that judges drafts of another's, whose model has the same tokenizer.

    Attributes:
        url: without `/v1`.
        model: the id that the node knows.
        token: that the node asks for.
        context: positions of its model; None: as many as the drafting one's.
    """

    url: Url
    model: Name
    token: SecretStr | None = None
    context: Annotated[int, Field(gt=0)] | None = None


class ModelSetting(_Section):
    """What is known of a public model.

    Attributes:
        kinds: of requests that it answers.
        context_token: prompt and answer together, None where the node alone knows.
        root: what it is an adapter of.
    """

    kinds: tuple[Kind, ...] = ("chat", "completion", "embedding", "image")
    context_token: Annotated[int, Field(gt=0)] | None = None
    root: Name | None = None


class Limits(_Section):
    """What a request may ask for, and how much may be under way at once.

    Attributes:
        body_byte: of a request, decompressed.
        prompt_token: estimated as a quarter of the prompt's bytes.
        output_token: most that max_tokens may be.
        output_token_default: counted where a request names none.
        choices: most that n may be.
        inputs: prompts or texts in one request.
        steps: of an image.
        side_pixel: of an image, either side.
        in_flight: requests at once.
        queued_prompt_token: of all requests that wait for their first byte.
        answer_byte: of an answer that isn't streamed.
        event_byte: of one event of a stream.
        connections: of clients at once.
    """

    body_byte: Annotated[int, Field(gt=0)] = 4_000_000
    prompt_token: Annotated[int, Field(gt=0)] = 131_072
    output_token: Annotated[int, Field(gt=0)] = 32_768
    output_token_default: Annotated[int, Field(gt=0)] = 256
    choices: Annotated[int, Field(gt=0)] = 8
    inputs: Annotated[int, Field(gt=0)] = 2_048
    steps: Annotated[int, Field(gt=0)] = 100
    side_pixel: Annotated[int, Field(gt=0)] = 2_048
    in_flight: Annotated[int, Field(gt=0)] = 1_024
    queued_prompt_token: Annotated[int, Field(gt=0)] = 2_000_000
    answer_byte: Annotated[int, Field(gt=0)] = 64_000_000
    event_byte: Annotated[int, Field(gt=0)] = 1_000_000
    connections: Annotated[int, Field(gt=0)] = 4_096


class Timeouts(_Section):
    """How long what may take.

    Attributes:
        header_s: a request's headers, from its first byte.
        body_s: a client's request body.
        connect_s: to a node.
        first_byte_s: until a node's answer begins.
        between_chunks_s: of a node's answer.
        client_s: a client that takes nothing of its answer.
        drain_s: requests under way after SIGTERM.
        notice_s: from a failing /ready to a closed door, so that balancers see it.
        idle_s: a client's connection between requests.
    """

    header_s: Seconds = 10.0
    body_s: Seconds = 30.0
    connect_s: Seconds = 2.0
    first_byte_s: Seconds = 120.0
    between_chunks_s: Seconds = 30.0
    client_s: Seconds = 60.0
    drain_s: Seconds = 60.0
    notice_s: Annotated[float, Field(ge=0.0)] = 0.0
    idle_s: Seconds = 75.0


class BreakerSetting(_Section):
    """When a node is left alone: after this many failures in a row, for this long; then one request tries it."""

    failures: Annotated[int, Field(gt=0)] = 5
    rest_s: Seconds = 5.0


class ProbeSetting(_Section):
    """How nodes are asked whether they are well.

    Attributes:
        path: that is got; any answer below 500 is well.
        every_s: after the answer before.
        timeout_s: for an answer.
        rise: so many well in a row, and requests may go there again.
        fall: so many not in a row, and none do. The first answer of all decides at once.
    """

    path: Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9._~/-]*$")] = "/ready"
    every_s: Seconds = 2.0
    timeout_s: Seconds = 2.0
    rise: Annotated[int, Field(gt=0)] = 2
    fall: Annotated[int, Field(gt=0)] = 3


class TracingSetting(_Section):
    """Where traces go.

    Attributes:
        endpoint: of a collector that takes OTLP over HTTP, as `http://127.0.0.1:4318/v1/traces`.
        headers: sent to it.
        ratio: of requests that are traced, among those that come without a trace.
        timeout_s: for the collector's answer; what it does not take is dropped.
    """

    endpoint: Url
    headers: dict[HeaderName, SecretStr] = Field(default_factory=dict)
    ratio: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0
    timeout_s: Seconds = 5.0


class KeysSetting(_Section):
    """Who may ask: see `gainnet.serving.keys`.

    Attributes:
        file: YAML with tenants.
        pepper: the secret of the digests.
    """

    file: File
    pepper: Annotated[SecretStr, Field(min_length=16)]


class IdempotencySetting(_Section):
    """How long and how many answers are kept for a repeated Idempotency-Key."""

    keep_s: Seconds = 3_600.0
    byte: Annotated[int, Field(gt=0)] = 64_000_000


class FollowSetting(_Section):
    """A model of a knowledge loop's registry, whose champion an alias follows.

    Attributes:
        model: its name in the registry, which is `adapters.root`.
        base: public id of what its versions adapt: nodes that serve it load them; None: all nodes.
    """

    model: Name = "foundation"
    base: Name | None = None


class AdaptersSetting(_Section):
    """Where adapters may come from: only folders below `root`."""

    root: File


class FollowingAdapters(AdaptersSetting):
    """Adapters of a gateway, whose aliases may follow a knowledge loop.

    Attributes:
        follow: aliases that stand for the champion of a model of the registry, whichever that is; `root` is the registry
            then (`gainnet run medical --out DIR` keeps it as DIR/registry).
        look_s: how often it is looked at.
    """

    follow: dict[Name, FollowSetting] = Field(default_factory=dict)
    look_s: Seconds = 1.0


class GatewaySettings(FileSettings):
    """All of a gateway's settings; `gainnet.serving.reading.read` makes one.

    Attributes:
        listen: for requests.
        admin: for metrics and administration.
        nodes: that answer.
        models: what is known of public models.
        aliases: names that stand for one of the nodes' models, and may be moved by the administration.
        router: nearest, cloud or round_robin; others are given to the gateway by who starts it.
        limits: of requests.
        timeouts: of everything that waits.
        breaker: when nodes are left alone.
        probes: how nodes are asked whether they are well; None: only requests show it.
        keys: who may ask; None: anyone.
        idempotency: of repeated requests.
        tracing: where traces go; None: nowhere, and traceparent is passed on as it came.
        adapters: where they come from; None: none are loaded.
        state: file in which adapters that were loaded and aliases that were moved outlive a restart; None: they don't.
        scenario: whose network the router `priced` prices, a built-in name or a YAML file; others only show it.
        page: the live page is at /live.
        log_level: of the JSON log.
    """

    model_config = SettingsConfigDict(
        env_prefix="GAINNET_GATEWAY_", env_nested_delimiter="__", extra="forbid", frozen=True, hide_input_in_errors=True
    )

    listen: Listen = Listen()
    admin: AdminListen = AdminListen()
    nodes: tuple[NodePlace, ...] = ()
    models: dict[Name, ModelSetting] = Field(default_factory=dict)
    aliases: dict[Name, Name] = Field(default_factory=dict)
    router: Name = "nearest"
    limits: Limits = Limits()
    timeouts: Timeouts = Timeouts()
    breaker: BreakerSetting = BreakerSetting()
    probes: ProbeSetting | None = ProbeSetting()
    keys: KeysSetting | None = None
    idempotency: IdempotencySetting = IdempotencySetting()
    tracing: TracingSetting | None = None
    adapters: FollowingAdapters | None = None
    state: File | None = None
    scenario: ScenarioFile | None = None
    page: bool = False
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @model_validator(mode="after")
    def _names_fit(self) -> GatewaySettings:
        names = [node.name for node in self.nodes]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"nodes: two are named {name!r}")
        served = {model for node in self.nodes for model in node.models}
        for alias, followed in ({} if self.adapters is None else self.adapters.follow).items():
            where = f"adapters.follow.{alias}"
            if alias in served or alias in self.aliases:
                raise ValueError(f"{where}: is {'a model of a node' if alias in served else 'in aliases'} already")
            if followed.base is not None and followed.base not in served:
                raise ValueError(f"{where}.base: no node serves {followed.base!r}{nearest(followed.base, served)}")
        for alias, model in self.aliases.items():
            if model not in served:
                raise ValueError(f"aliases.{alias}: no node serves {model!r}{nearest(model, served)}")
            if alias in served:
                raise ValueError(f"aliases.{alias}: a node serves a model of that name")
        return self

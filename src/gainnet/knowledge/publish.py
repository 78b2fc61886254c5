"""Publishing: a registry's versions in an MLflow model registry, where people and other systems find them.

The registry in files stays the truth, so a run neither waits for a server nor depends on what is there already: an address
is tried before anything is learnt, and published to when all else is written. Publishing again adds what is new, moves
aliases, and finishes what a killed process began.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from gainnet.errors import InputError, OutputError
from gainnet.knowledge.gate import perplexity
from gainnet.knowledge.registry import Registry, Version

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

EXPERIMENT = "gainnet"
DIGEST = "digest"
_ARTIFACT = "model"
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""MLflow reports its use to its makers from version 3 on, unless it is told not to before it is imported; it prints."""
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
"""A server that is not there is told of in seconds, not in minutes; who set other values keeps them."""
_BRIEF = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
"""In place of that patience, where a server is only asked whether it is there."""
_ALLOWED = "must be http(s)://HOST:PORT of an MLflow server that runs, a folder, or another address that MLflow knows"
_PLAIN_FILES = {"MLFLOW_ALLOW_FILE_STORE": "true"}
"""MLflow keeps its registry of plain files for those who ask for it."""


def check(uri: str) -> None:
    """Ask an MLflow registry once, within seconds, whether it is there.

    Args:
        uri: see `publish`.

    Raises:
        InputError: the package is missing, MLflow knows no such URI, or what is there does not answer as it should.
    """
    client = _client(uri)
    try:
        with _briefly():
            client.search_registered_models(max_results=1)
    except Exception as said:  # MLflow's stores raise whatever their libraries do
        raise _refused(uri, said) from said


def publish(registry: Registry, uri: str) -> int:
    """Bring all versions to an MLflow registry, with runs that hold their figures and artifacts.

    Args:
        registry: what is published.
        uri: MLflow's tracking URI: http(s)://..., sqlite:///..., or a folder as file:///... or a path.

    Returns:
        How many versions were not there before.

    Raises:
        InputError: the package is missing, the URI is none, or the registry in files is broken.
        OutputError: what is there cannot be reached, or refuses.
    """
    client = _client(uri)
    try:
        return sum(_publish(client, registry, name) for name in registry.names())
    except InputError:  # of the registry in files
        raise
    except Exception as said:  # MLflow's stores raise whatever their libraries do
        raise OutputError(f"registry {uri}: {_line(said)}") from said


def _client(uri: str) -> MlflowClient:
    os.environ.update({**_PATIENCE, **os.environ, **_QUIET})
    if urlparse(uri).scheme in ("", "file"):
        uri = uri if uri.startswith("file:") else Path(uri).absolute().as_uri()
        os.environ.update(_PLAIN_FILES)
    try:
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
    except ImportError:
        raise InputError("knowledge.registry: needs mlflow-skinny: pip install 'gainnet[learn]'") from None
    try:
        return MlflowClient(tracking_uri=uri, registry_uri=uri)
    except (MlflowException, ImportError, OSError) as said:
        raise _refused(uri, said) from None


@contextlib.contextmanager
def _briefly() -> Iterator[None]:
    """Without patience meanwhile; who set other values keeps them."""
    before = {key: value for key, value in _PATIENCE.items() if os.environ[key] == value}
    os.environ.update({key: _BRIEF[key] for key in before})
    try:
        yield
    finally:
        os.environ.update(before)


def _refused(uri: str, said: Exception) -> InputError:
    return InputError(f'knowledge.registry = "{uri}": {_ALLOWED}: {_line(said)}')


def _publish(client: MlflowClient, registry: Registry, name: str) -> int:
    """One name: what is missing, then statuses and aliases."""
    there = _there(client, name)
    new = [version for version in registry.versions(name) if version.digest not in there]
    experiment = _experiment(client) if new else ""
    for version in new:
        there[version.digest] = _create(client, experiment, version)
    for version in registry.versions(name):
        _mark(client, there[version.digest], version)
    chosen = {"champion": registry.champion(name), "candidate": registry.candidate(name)}
    _point(client, name, {alias: there[found.digest] for alias, found in chosen.items() if found})
    return len(new)


def _there(client: MlflowClient, name: str) -> dict[str, ModelVersion]:
    """The versions that are there, by digest; the name is made where it is missing."""
    if not client.search_registered_models(f"name='{name}'", max_results=1):
        client.create_registered_model(name)
        return {}
    found: dict[str, ModelVersion] = {}
    token = None
    while True:
        page = client.search_model_versions(f"name='{name}'", page_token=token)
        found |= {version.tags[DIGEST]: version for version in page if DIGEST in version.tags}
        token = page.token
        if not token:
            return found


def _experiment(client: MlflowClient) -> str:
    found = client.get_experiment_by_name(EXPERIMENT)
    return str(found.experiment_id if found else client.create_experiment(EXPERIMENT))


def _create(client: MlflowClient, experiment: str, version: Version) -> ModelVersion:
    """A run with figures and artifacts, and a version that points to it."""
    from mlflow.entities import Metric

    tags = {DIGEST: version.digest, "model": version.name}
    asked = " and ".join(f"tags.{key} = '{value}'" for key, value in tags.items())
    begun = client.search_runs([experiment], asked, max_results=1)
    run = begun[0] if begun else client.create_run(experiment, run_name=f"{version.name} {version.number}", tags=tags)
    now = int(1000 * time.time())
    figures = [Metric(key, value, now, version.origin.round) for key, value in _figures(version)]
    client.log_batch(run.info.run_id, figures)
    client.log_artifacts(run.info.run_id, str(version.folder), _ARTIFACT)
    client.set_terminated(run.info.run_id)
    source = f"{run.info.artifact_uri}/{_ARTIFACT}"
    return client.create_model_version(version.name, source, run.info.run_id, _tags(version), await_creation_for=0)


def _tags(version: Version) -> dict[str, str]:
    origin = version.origin
    tags = {
        DIGEST: version.digest,
        "number": str(version.number),
        "round": str(origin.round),
        "base": origin.base,
        "parents": json.dumps(origin.parents),
        "contributors": json.dumps([asdict(found) for found in origin.contributors]),
    }
    if origin.privacy:
        tags |= {key: repr(value) for key, value in asdict(origin.privacy).items()}
    return tags | {"status": version.status, "reasons": "\n".join(version.reasons)}


def _figures(version: Version) -> Iterator[tuple[str, float]]:
    """What a run shows: finite figures only, since servers refuse others."""
    figures: dict[str, float] = {}
    scores = version.origin.scores
    if scores:
        figures |= {f"perplexity.{name}": perplexity(loss) for name, loss in scores.domain.items()}
        measured = {"latency_s": scores.latency_s, "memory_byte": scores.memory_byte}
        figures |= {"perplexity.public": perplexity(scores.public)}
        figures |= {key: value for key, value in measured.items() if value is not None}
    for name, f1 in version.origin.rouge.items():
        figures |= {f"rouge{kind}.{name}": value for kind, value in zip("12L", f1, strict=True)}
    yield from ((key, value) for key, value in figures.items() if math.isfinite(value))


def _mark(client: MlflowClient, there: ModelVersion, version: Version) -> None:
    """Tags that are not those that are there: it was judged since, or a killed process left some out."""
    for key, value in _tags(version).items():
        if there.tags.get(key, "") != value:
            client.set_model_version_tag(there.name, str(there.version), key, value)


def _point(client: MlflowClient, name: str, chosen: Mapping[str, ModelVersion]) -> None:
    """The aliases, where they are not those that are there."""
    aliases: Mapping[str, Any] = client.get_registered_model(name).aliases
    for alias in ("champion", "candidate"):
        number = str(chosen[alias].version) if alias in chosen else None
        if number is None and alias in aliases:
            client.delete_registered_model_alias(name, alias)
        elif number is not None and str(aliases.get(alias)) != number:
            client.set_registered_model_alias(name, alias, number)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__

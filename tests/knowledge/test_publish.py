"""Publishing to MLflow: what arrives there, twice the same, and nothing said to anybody else."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gainnet.errors import InputError, OutputError
from gainnet.knowledge import publish as publishing
from gainnet.knowledge.gate import Scores
from gainnet.knowledge.publish import check, publish
from gainnet.knowledge.registry import Contributor, Origin, Registry, Spent, Version

pytest.importorskip("mlflow", reason="needs the extra learn")


def _add(registry: Registry, number: int, name: str = "cloud") -> Version:
    origin = Origin(
        round=number,
        base="f" * 64,
        parents=("e" * 64,),
        contributors=(Contributor("edge-0", 3, 0.75),),
        privacy=Spent(2.5, 1e-3),
        scores=Scores({"heart": 0.0, "lung": float("nan")}, 0.0, latency_s=0.5),
        rouge={"heart": (0.5, 0.25, 0.4)},
    )
    return registry.register(name, f"{number:064d}", lambda folder: (folder / "w").write_text("w") and None, origin)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    made = Registry(tmp_path / "registry")
    made.promote(_add(made, 0), 0)
    made.reject(_add(made, 1), ("heart: bad", "lung: bad"))
    _add(made, 2)
    return made


def _client(uri: str) -> Any:
    return publishing._client(uri)


@pytest.mark.untraced
def test_versions_arrive_with_their_facts_files_and_aliases(registry: Registry, tmp_path: Path) -> None:
    uri = str(tmp_path / "mlflow")
    assert publish(registry, uri) == 3
    client = _client(uri)
    versions = sorted(client.search_model_versions("name='cloud'"), key=lambda version: int(version.version))
    assert [version.tags["status"] for version in versions] == ["promoted", "rejected", "candidate"]
    assert versions[1].tags["reasons"] == "heart: bad\nlung: bad"
    assert versions[0].tags["epsilon"] == "2.5"
    assert json.loads(versions[0].tags["contributors"]) == [{"edge": "edge-0", "ends": 3, "weight": 0.75}]
    assert client.get_model_version_by_alias("cloud", "champion").tags["round"] == "0"
    assert client.get_model_version_by_alias("cloud", "candidate").tags["round"] == "2"
    run = client.get_run(versions[0].run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {
        "perplexity.heart": 1.0, "perplexity.public": 1.0, "latency_s": 0.5,
        "rouge1.heart": 0.5, "rouge2.heart": 0.25, "rougeL.heart": 0.4,
    }  # fmt: skip
    assert [file.path for file in client.list_artifacts(run.info.run_id, "model")] == ["model/w"]


def test_publishing_again_adds_what_is_new_and_moves_aliases(registry: Registry, tmp_path: Path) -> None:
    uri = (tmp_path / "mlflow").as_uri()
    assert publish(registry, uri) == 3
    assert publish(registry, uri) == 0
    waiting = registry.candidate("cloud")
    assert waiting is not None
    registry.promote(waiting, 2)
    _add(registry, 3, "edge-0")
    assert publish(registry, uri) == 1
    client = _client(uri)
    aliases = client.get_registered_model("cloud").aliases
    assert {alias: str(number) for alias, number in aliases.items()} == {"champion": "3"}
    assert len(client.search_model_versions("name='cloud'")) == 3


def test_what_a_killed_process_began_is_finished(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    uri = str(tmp_path / "mlflow")
    client, tag = _client(uri), "set_model_version_tag"

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for method in ("log_batch", "log_artifacts", "create_model_version", "set_registered_model_alias", tag):
        if method == tag:  # MLflow's plain files may miss what came last
            client.delete_model_version_tag("cloud", "2", "reasons")
        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, method, die)
            with pytest.raises(KeyboardInterrupt):
                publish(registry, uri)
    assert publish(registry, uri) == 0
    assert client.get_model_version("cloud", "2").tags["reasons"] == "heart: bad\nlung: bad"
    assert len(client.search_model_versions("name='cloud'")) == 3
    experiment = client.get_experiment_by_name(publishing.EXPERIMENT).experiment_id
    assert len(client.search_runs([experiment])) == 3
    assert client.get_model_version_by_alias("cloud", "champion").tags["status"] == "promoted"


def test_trouble_is_one_line(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r'knowledge.registry = "gopher://x": .*gopher'):
        publish(registry, "gopher://x")
    (tmp_path / "file").write_text("")
    with pytest.raises((InputError, OutputError), match=r"registry .*file"):
        publish(registry, str(tmp_path / "file"))
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    with pytest.raises(InputError, match=r"gainnet\[learn\]"):
        publish(registry, str(tmp_path / "mlflow"))


def test_an_address_is_tried_once_and_briefly(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    retries, timeout = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"
    monkeypatch.setitem(publishing._BRIEF, timeout, "1")
    for key in (retries, timeout):
        monkeypatch.delenv(key, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as mute:  # takes calls and never answers
        address = f"http://127.0.0.1:{mute.getsockname()[1]}"
        with pytest.raises(InputError, match=rf'knowledge.registry = "{address}": must be http.*') as said:
            check(address)
        mute.setblocking(False)
        mute.accept()[0].close()
        with pytest.raises(BlockingIOError):  # nobody called again
            mute.accept()
    assert "\n" not in str(said.value)
    for wrong in (address, "foo://bar"):
        with pytest.raises(InputError, match=rf'knowledge.registry = "{wrong}": must be http'):
            check(wrong)
    assert (os.environ[retries], os.environ[timeout]) == ("2", "20")  # publishing has more patience
    check(str(tmp_path / "mlflow"))
    assert publish(registry, str(tmp_path / "mlflow")) == 3


def test_what_libraries_raise_is_one_line_too(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ImportError("no boto3")

    monkeypatch.setattr("mlflow.tracking.MlflowClient.log_artifacts", fail)
    with pytest.raises(OutputError, match=r"registry .*mlflow: no boto3"):
        publish(registry, str(tmp_path / "mlflow"))
    (registry.folder / "cloud" / "versions.json").write_text("{")
    with pytest.raises(InputError, match=r"^\S*versions.json: is broken"):
        publish(Registry(registry.folder), str(tmp_path / "mlflow"))


QUIET = """
import sys
said = []
asked = ("socket.connect", "socket.getaddrinfo")
sys.addaudithook(lambda event, found: said.append((event, found)) if event in asked else None)
from pathlib import Path
from gainnet.knowledge.publish import publish
from gainnet.knowledge.registry import Registry
assert "mlflow" not in sys.modules
assert publish(Registry(Path(sys.argv[1])), sys.argv[2]) == 3
from mlflow.telemetry import get_telemetry_client
assert get_telemetry_client() is None
assert "torch" not in sys.modules
assert said == [], said
"""


def test_nobody_is_told(registry: Registry, tmp_path: Path) -> None:
    """In a process of its own, since MLflow is quiet by itself where it finds a test or CI."""
    command = [sys.executable, "-W", "error", "-c", QUIET, str(registry.folder), str(tmp_path / "mlflow")]
    quiet = {"PATH": "/usr/bin", "HOME": str(tmp_path)}
    done = subprocess.run(command, env=quiet, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""

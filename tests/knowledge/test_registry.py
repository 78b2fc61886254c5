"""The registry: versions once each, judged, and whole after any kill."""

from __future__ import annotations

import json
import math
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from gainnet.errors import InputError
from gainnet.knowledge.gate import Scores
from gainnet.knowledge.registry import Contributor, Origin, Registry, Save, Spent, Version
from gainnet.models.low_rank import Factors, LowRank


def _origin(number: int) -> Origin:
    return Origin(
        round=number,
        base="f" * 64,
        parents=(f"parent{number - 1}",),
        contributors=(Contributor("edge-0", 3, 0.75), Contributor("edge-1", 1, 0.25)),
        privacy=Spent(2.5, 1e-3),
        scores=Scores({"heart": 2.0, "lung": math.nan}, 2.2, latency_s=0.5),
        rouge={"heart": (0.5, 0.25, 0.4)},
    )


def _text(text: str) -> Save:
    return lambda folder: (folder / "weights").write_text(text) and None


def _add(registry: Registry, number: int, name: str = "cloud") -> Version:
    return registry.register(name, f"digest{number}", _text(f"weights {number}"), _origin(number))


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_versions_are_read_back_as_they_were(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry")
    assert registry.names() == ()
    assert registry.versions("cloud") == ()
    assert registry.champion("cloud") is None
    made = [_add(registry, number) for number in range(3)]
    _add(registry, 7, "edge-0")
    registry.promote(made[0], 0)
    registry.reject(made[1], ("heart: too bad",))
    again = Registry(tmp_path / "registry")
    assert again.names() == ("cloud", "edge-0")
    versions = again.versions("cloud")
    assert [version.status for version in versions] == ["promoted", "rejected", "candidate"]
    assert [version.number for version in versions] == [1, 2, 3]
    assert versions[1].reasons == ("heart: too bad",)
    assert repr(versions) == repr(registry.versions("cloud"))  # NaN equals nothing
    assert repr(versions[2].origin) == repr(_origin(2))
    assert (versions[2].folder / "weights").read_text() == "weights 2"
    assert again.candidate("cloud") == versions[2]
    assert again.champion("cloud") == versions[0]


def test_the_same_digest_is_the_same_version(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    first, _ = _add(registry, 1), _add(registry, 2)
    registry.reject(first, ("bad",))
    again = registry.register("cloud", "digest1", _text("never written"), _origin(9))
    assert (again.number, again.origin.round, again.reasons) == (1, 1, ("bad",))
    assert registry.candidate("cloud") == again
    assert len(registry.versions("cloud")) == 2
    assert (again.folder / "weights").read_text() == "weights 1"
    assert _add(registry, 1, "edge-0").number == 1


def test_champions_of_the_past(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    made = [_add(registry, number) for number in range(4)]
    for number in (0, 1, 3):
        registry.promote(made[number], number)
    champions = [registry.champion("cloud", before=number) for number in range(5)]
    assert [champion and champion.number for champion in champions] == [None, 1, 2, 2, 4]
    for back in (1, 2):  # to an older version, twice
        registry.promote(made[back], 4)
        assert Registry(tmp_path).champion("cloud") == registry.versions("cloud")[back]
    assert [version.status for version in registry.versions("cloud")] == ["promoted"] * 4


def test_a_champion_judged_anew_stays(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    champion = registry.promote(_add(registry, 1), 1)
    _add(registry, 1)
    kept = registry.reject(champion, ("slow today",))
    assert (kept.status, kept.reasons) == ("promoted", ("slow today",))
    assert registry.champion("cloud") == kept
    assert registry.candidate("cloud") is None


class Killed(BaseException):
    """What nothing catches."""


def _rounds(folder: Path) -> None:
    registry = Registry(folder)
    for number in range(3):
        for name in ("cloud", "edge-0"):
            version = _add(registry, number, name)
            if number == 1:
                registry.reject(version, ("bad",))
            else:
                registry.promote(version, number)


@pytest.mark.parametrize("call", range(18))
@pytest.mark.parametrize("done", [False, True])
@pytest.mark.untraced
def test_a_killed_run_does_again_what_it_began(
    tmp_path: Path, call: int, done: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before or after any of its renames: every other write is to a name that nobody reads."""
    real, calls = os.replace, iter(range(99))

    def replace_or_die(source: Path, target: Path) -> None:
        now = next(calls)
        if now == call and not done:
            raise Killed
        real(source, target)
        if now == call:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace_or_die)
        with pytest.raises(Killed):
            _rounds(tmp_path / "killed")
    _rounds(tmp_path / "killed")
    _rounds(tmp_path / "whole")
    assert _contents(tmp_path / "killed") == _contents(tmp_path / "whole")
    assert next(calls) == call + 1


def test_a_save_that_fails_leaves_the_registry_as_it_was(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    _add(registry, 1)

    def full(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="full"):
        registry.register("cloud", "digest2", full, _origin(2))
    assert [version.number for version in registry.versions("cloud")] == [1]
    assert sorted(path.name for path in _add(Registry(tmp_path), 2).folder.iterdir()) == ["weights"]


def test_clear_forgets_versions_and_nothing_else(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    _add(registry, 1)
    (tmp_path / "mine").mkdir()
    registry.clear()
    assert registry.versions("cloud") == ()
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert _add(registry, 5).number == 1


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a:b", "x" * 101])
def test_names_that_are_no_folders_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="letters, digits"):
        _add(Registry(tmp_path), 1, name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("broken", ["", "{}", '{"versions": [1], "candidate": null, "champions": []}', "hole", "alias"])
def test_a_broken_file_is_named(tmp_path: Path, broken: str) -> None:
    registry = Registry(tmp_path)
    _add(registry, 1)
    _add(registry, 2)
    path = tmp_path / "cloud" / "versions.json"
    tree = json.loads(path.read_text())
    if broken == "hole":
        del tree["versions"][0]
    if broken == "alias":
        tree["champions"] = [[0, 7]]
    path.write_text(json.dumps(tree) if broken in ("hole", "alias") else broken)
    with pytest.raises(InputError, match=r"versions\.json: is broken"):
        Registry(tmp_path).versions("cloud")


def test_an_adapter_of_the_registry_is_loaded_as_it_was(tmp_path: Path) -> None:
    from gainnet.models import adapter

    rng = np.random.default_rng(0)
    layers = {"model.layers.0.self_attn.q_proj": Factors(*(rng.normal(size=s).astype("f4") for s in ((2, 6), (4, 2))))}
    made = LowRank(layers, 2.0, "f" * 64)
    version = Registry(tmp_path).register("cloud", made.digest(), partial(adapter.save, made), _origin(0))
    assert {path.name for path in version.folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert adapter.load(version.folder, "f" * 64).digest() == version.digest

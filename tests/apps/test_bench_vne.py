"""`gainnet bench vne` reads its format, keeps the rules, and names the field that is wrong."""

from __future__ import annotations

import copy
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from gainnet.apps import bench, cli
from gainnet.errors import InputError

SMALL: dict[str, Any] = {
    "substrate": {"cpu": [10, 10.0, 5.0], "links": [[0, 1, 20.0], [1, 2, 20]]},
    "requests": [
        {"arrival": 1.0, "lifetime": 4.0, "cpu": [8.0, 2.0], "links": [[0, 1, 10.0]]},
        {"arrival": 2.0, "lifetime": 9.0, "cpu": [8.0, 8.0], "links": []},
        {"arrival": 5.0, "lifetime": 2.0, "cpu": [9.0, 9.0], "links": [[1, 0, 20.0]]},
    ],
}


def _write(path: Path, tree: Any) -> Path:
    text = json.dumps(tree).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


@pytest.mark.parametrize("name", ["small.json", "small.json.gz"])
@pytest.mark.untraced
def test_the_figures_are_those_of_the_definitions(name: str, tmp_path: Path) -> None:
    figures, meaning = bench.run("vne", {"instance": _write(tmp_path / name, SMALL)})
    assert figures["accepted"] == pytest.approx(2 / 3)  # the first ends as the third comes; the second finds no room
    assert figures["revenue_to_cost"] == 1.0
    assert figures["revenue_rate"] == pytest.approx((20.0 * 4.0 + 38.0 * 2.0) / 5.0)
    assert figures["violations"] == 0.0
    assert set(figures) == set(meaning)


@pytest.mark.untraced
def test_moves_are_counted_and_replayed(tmp_path: Path) -> None:
    tree = {
        "substrate": {"cpu": [3.0, 2.0], "links": []},
        "requests": [
            {"arrival": 1.0, "lifetime": 9.0, "cpu": [2.0], "links": []},
            {"arrival": 4.0, "lifetime": 3.0, "cpu": [3.0], "links": []},  # fits where the first one is
            {"arrival": 8.0, "lifetime": 3.0, "cpu": [3.0], "links": []},
        ],
    }
    path = _write(tmp_path / "moves.json", tree)
    plain, _ = bench.run("vne", {"instance": path})
    assert (plain["accepted"], plain["moves"], plain["moves_allowed"]) == (pytest.approx(1 / 3), 0.0, 0.0)
    figures, meaning = bench.run("vne", {"instance": path, "moves": 1})
    assert (figures["accepted"], figures["moves"], figures["moves_allowed"]) == (1.0, 1.0, 1.0)
    assert figures["moved_share"] == pytest.approx(1 / 3)
    assert (figures["revenue_to_cost"], figures["violations"]) == (1.0, 0.0)
    assert figures["revenue_rate"] == pytest.approx((2.0 * 9.0 + 3.0 * 3.0 * 2) / 8.0)
    assert set(figures) == set(plain) == set(meaning)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("substrate",), None, "substrate is no object"),
        (("substrate", "cpu"), 3, "substrate.cpu is no list"),
        (("substrate", "cpu", 1), -1.0, r"substrate.cpu\[1\] = -1.0"),
        (("substrate", "links", 0, 2), float("nan"), r"substrate.links\[0\]\[2\] = nan"),
        (("substrate", "links", 0), [0, 1], r"substrate.links\[0\] is not"),
        (("substrate", "links", 1), [2, 2, 1.0], r"substrate.links\[1\] joins 2 and 2"),
        (("substrate", "links", 1), [1, 0, 1.0], r"substrate.links\[1\] joins 1 and 0"),
        (("requests",), [], "requests is empty"),
        (("requests", 1), 7, r"requests\[1\] is no object"),
        (("requests", 1, "arrival"), "soon", r"requests\[1\].arrival = 'soon'"),
        (("requests", 1, "arrival"), 0.0, r"requests\[1\].arrival is before"),
        (("requests", 0, "lifetime"), float("inf"), r"requests\[0\].lifetime = inf"),
        (("requests", 0, "cpu", 0), True, r"requests\[0\].cpu\[0\] = True"),
        (("requests", 0, "links", 0, 1), 2, r"requests\[0\].links\[0\] names node 2"),
        (("requests", 0, "links", 0, 1), "b", r"requests\[0\].links\[0\] names node 'b'"),
        (("requests", 0, "links", 0, 1), [1], r"requests\[0\].links\[0\] names node"),
    ],
)
def test_a_field_that_is_wrong_is_named(path: tuple[Any, ...], value: Any, message: str, tmp_path: Path) -> None:
    tree = copy.deepcopy(SMALL)
    inner: Any = tree
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(InputError, match=message):
        bench.run("vne", {"instance": _write(tmp_path / "bad.json", tree)})


@pytest.mark.parametrize("field", ["substrate", "requests"])
def test_a_field_that_is_missing_is_named(field: str, tmp_path: Path) -> None:
    tree = {key: value for key, value in SMALL.items() if key != field}
    with pytest.raises(InputError, match=f"{field} is missing"):
        bench.run("vne", {"instance": _write(tmp_path / "bad.json", tree)})


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"\x1f\x8b broken", b"[]", gzip.compress(b"{}", mtime=0)[:-9]]
)
def test_what_is_no_instance_is_one_line_and_exit_code_2(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(SystemExit) as caught:
        cli.main(["bench", "vne", "--instance", str(path)])
    out, err = capsys.readouterr()
    assert (caught.value.code, out, err.count("\n")) == (2, "", 1)
    assert str(path) in err


@pytest.mark.parametrize("arguments", [[], ["--instance", "/none.json"], ["--instance", "."]])
def test_an_instance_is_needed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["bench", "vne", *arguments])
    assert caught.value.code == 2
    assert "instance" in capsys.readouterr().err

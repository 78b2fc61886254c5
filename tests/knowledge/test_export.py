"""What answers at the end of a run: plain PEFT loads it, with the model that it belongs to."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors import SafetensorError
from transformers import AutoTokenizer

from gainnet.errors import OutputError
from gainnet.knowledge import export
from gainnet.knowledge.loop import learn
from gainnet.models import adapter as adapters
from gainnet.models import hub
from gainnet.models.low_rank import LowRank
from learning import learning_scenario, untaught

pytestmark = [
    pytest.mark.usefixtures("models"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),  # of PEFT
]


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def loads(folder: Path) -> None:
    """Plain PEFT loads every adapter, and each says what its model with its numbers says."""
    for each in sorted(path.parent for path in folder.rglob(adapters.CONFIG)):
        base = Path(json.loads((each / adapters.CONFIG).read_text())["base_model_name_or_path"])
        assert base.is_absolute()
        model = AutoPeftModelForCausalLM.from_pretrained(str(each)).eval()
        token = torch.tensor([AutoTokenizer.from_pretrained(base)("no known allergies")["input_ids"]])
        language = hub.load(str(base), 64)
        own = adapters.Adapters(language, [4])
        own.put(adapters.load(each, language.digest))
        with torch.no_grad():
            torch.testing.assert_close(model(token).logits, own.model(token).logits)


@pytest.mark.untraced
def test_a_run_leaves_what_answers_and_goes_on_to_the_same(tmp_path: Path) -> None:
    learn(learning_scenario(), folder=tmp_path)
    folder = tmp_path / "adapters"
    first = content(folder)
    names = sorted(path.name for path in folder.iterdir())
    edges = [name.removeprefix("edge-") for name in names if name.startswith("edge-")]
    assert len(edges) == 2
    ends = [name for name in names if name.startswith("end-")]
    assert set(ends) <= {f"end-{edge}" for edge in edges}
    assert sorted(["base", "cloud", *(f"edge-{edge}" for edge in edges), *ends, *["base-small"] * bool(ends)]) == names
    loads(folder)
    (folder / "stale").mkdir()
    learn(learning_scenario(), folder=tmp_path, resume=True)
    assert content(folder) == first
    assert not (folder / "stale").exists()


@pytest.mark.parametrize(
    ("arm", "names"), [("flat", ["cloud"]), ("central", ["cloud"]), ("local", [f"end-{end}" for end in range(4)])]
)
def test_the_other_arms_leave_theirs(tmp_path: Path, arm: str, names: list[str]) -> None:
    export.export(untaught(arm), tmp_path / "adapters")
    assert sorted(path.name for path in (tmp_path / "adapters").iterdir()) == ["base", *names]
    loads(tmp_path / "adapters")


def test_the_small_models_adapters_lie_beside_their_own_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arm = untaught("gainnet")
    small: LowRank = arm.setting.small.adapters.fresh(4, np.random.default_rng(0))
    assert set(arm.taught().values()) == {None}
    monkeypatch.setattr(arm, "taught", lambda: {"end-A / ü": small, "end-a - Ü": small, "end-none": None})
    export.export(arm, tmp_path / "adapters")
    found = {path.name for path in (tmp_path / "adapters").iterdir() if path.name.startswith(("end-", "base"))}
    assert found == {"base", "base-small", "end-A-ü", "end-a---Ü"}
    where = adapters.load(tmp_path / "adapters" / "end-A-ü", arm.setting.small.language.digest)
    assert where.digest() == small.digest()
    assert hub.load(str(tmp_path / "adapters" / "base-small"), 64).digest == arm.setting.small.language.digest
    loads(tmp_path / "adapters")


def test_names_that_come_to_the_same_are_told_apart() -> None:
    taken: set[str] = set()
    assert [export._free(name, taken) for name in ("end-a/b", "end-A b", "end-a b")] == [
        "end-a-b",
        "end-A-b-2",
        "end-a-b-3",
    ]
    assert len(export._free("edge-" + "ü" * 300, taken).encode()) < 200


def test_a_model_that_has_a_folder_is_named_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.save(untaught("central").setting.language, tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    export.export(
        untaught("central", foundation={"kind": "pretrained", "name": "mine", "context": 64}), Path("adapters")
    )
    assert [path.name for path in (tmp_path / "adapters").iterdir()] == ["cloud"]
    config = json.loads((tmp_path / "adapters" / "cloud" / adapters.CONFIG).read_text())
    assert config["base_model_name_or_path"] == str(tmp_path / "mine")
    loads(tmp_path / "adapters")
    assert export._resolved("someone/model") == "someone/model"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("No space left on device")])
def test_a_full_disk_is_one_line_and_leaves_the_folder_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters" / "before").write_text("")

    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr(hub, "save", full)
    with pytest.raises(OutputError, match=f"{tmp_path / 'adapters'}: cannot be written: No space left on device"):
        export.export(untaught("central"), tmp_path / "adapters")
    assert os.listdir(tmp_path) == ["adapters"]
    assert os.listdir(tmp_path / "adapters") == ["before"]

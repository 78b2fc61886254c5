"""Pre-training: learns, ends with the same bytes when it was stopped, and writes what transformers loads."""

from __future__ import annotations

import gzip
import itertools
import random
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from gainnet.apps import pretrain
from gainnet.apps.cli import main
from gainnet.errors import InputError
from gainnet.models import hub
from gainnet.models.held_out import hold_out
from gainnet.scenario.knowledge import SmallModel
from gainnet.training import train
from gainnet.training.foundation import FoundationTraining, pack
from gainnet.training.train import Folder
from gainnet.workers.workers import InProcess

torch.set_num_threads(1)
WORDS = [
    "pain",
    "doctor",
    "takes",
    "pills",
    "daily",
    "since",
    "monday",
    "headache",
    "knee",
    "left",
    "right",
    "worse",
    "better",
]
SHAPE = ["layers=1", "width=16", "heads=2", "kv_heads=1", "vocabulary=300", "context=32", "batch=2"]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    drawn = random.Random(0)
    path = tmp_path_factory.mktemp("text") / "visits.txt"
    path.write_text("\n\n".join(" ".join(drawn.choices(WORDS, k=drawn.randint(20, 60))) for _ in range(40)))
    return path


def _run(
    folder: Path,
    text: Path,
    stops: tuple[int, ...] = (),
    *,
    steps: int = 6,
    shape: Sequence[str] = SHAPE,
    share: float = 0.0,
    start: Path | None = None,
) -> Folder:
    begun = pretrain.begin(text, shape, folder, steps=steps, seed=3, threads=1, share=share, start=start)
    for stop in stops:

        def progress(done: int, total: int, stop: int = stop) -> None:
            if done == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            begun.run(InProcess(), progress)
        begun = pretrain.resume(folder)
        assert begun.done == stop
    begun.run(InProcess(), lambda done, total: None)
    return begun


@pytest.mark.untraced
def test_a_stopped_training_ends_with_the_same_bytes(text: Path, tmp_path: Path) -> None:
    _run(tmp_path / "whole", text)
    _run(tmp_path / "stopped", text, stops=(2, 5))
    for name in (*hub.FILES, "curve.csv", "state.safetensors", "pretrain.yaml"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes(), name
    assert (tmp_path / "whole" / "curve.svg").is_file()


def _spoilt(monkeypatch: pytest.MonkeyPatch, moment: str, number: int, signals: Sequence[signal.Signals]) -> None:
    """Signals come the ``number``-th time that weights moved, or that held-out perplexity was measured."""
    where, name = {
        "moved": (torch.optim.AdamW, "step"),
        "held out": (FoundationTraining, "perplexity"),
    }[moment]
    run, times = getattr(where, name), itertools.count(1)

    def spoilt(*given: Any, **named: Any) -> Any:
        found = run(*given, **named)
        if next(times) == number:
            for each in signals:
                signal.raise_signal(each)
        return found

    monkeypatch.setattr(where, name, spoilt)


def _ended(number: int, frame: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("moment", "number", "sent", "done"),
    [
        ("moved", 3, signal.SIGINT, 3),
        ("moved", 1, signal.SIGTERM, 1),
        ("held out", 4, signal.SIGINT, 4),
        ("moved", 6, signal.SIGINT, 6),
    ],
)
def test_a_signal_in_a_step_waits_for_its_end(
    moment: str,
    number: int,
    sent: signal.Signals,
    done: int,
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _run(tmp_path / "whole", text)
    begun = pretrain.begin(text, SHAPE, tmp_path / "stopped", steps=6, seed=3, threads=1)
    before = signal.signal(signal.SIGTERM, _ended)
    try:
        with monkeypatch.context() as now:
            _spoilt(now, moment, number, [sent])
            with pytest.raises(KeyboardInterrupt):
                begun.run(InProcess(), lambda done, total: None)
        assert signal.getsignal(signal.SIGTERM) is _ended
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)
    gone_on = pretrain.resume(tmp_path / "stopped")
    assert gone_on.done == done
    gone_on.run(InProcess(), lambda done, total: None)
    for name in (*hub.FILES, "curve.csv", "state.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes(), name


def test_a_second_signal_does_not_wait_and_what_was_saved_stays(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _run(tmp_path / "whole", text)
    monkeypatch.setattr(train, "SAVE_EVERY_S", -1.0)
    begun = pretrain.begin(text, SHAPE, tmp_path / "stopped", steps=6, seed=3, threads=1)
    with monkeypatch.context() as now:
        _spoilt(now, "moved", 3, [signal.SIGINT, signal.SIGINT])
        with pytest.raises(KeyboardInterrupt):
            begun.run(InProcess(), lambda done, total: None)
    gone_on = pretrain.resume(tmp_path / "stopped")
    assert gone_on.done == 2
    gone_on.run(InProcess(), lambda done, total: None)
    assert (tmp_path / "whole" / hub.FILES[0]).read_bytes() == (tmp_path / "stopped" / hub.FILES[0]).read_bytes()


def test_a_step_that_fails_after_a_signal_is_an_interrupt(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: FoundationTraining) -> float:
        signal.raise_signal(signal.SIGINT)
        raise OSError("a worker is gone")

    monkeypatch.setattr(FoundationTraining, "perplexity", failing)
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path / "out", text)


def test_a_signal_that_is_taken_otherwise_ends_nothing(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever had the signal gets it, after the step; the training goes on where that does not end it."""
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        _spoilt(monkeypatch, "moved", 3, [signal.SIGTERM])
        assert _run(tmp_path / "out", text).done == 6
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_folder_is_its_files_of_text_by_name(text: Path, tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    (folder / "more.txt").mkdir(parents=True)
    (folder / "b.txt").write_text(text.read_text())
    with gzip.open(folder / "a.jsonl.gz", "wt") as file:
        file.write('{"question": "what is it", "answer": "pain"}\n{"question": "what is it", "answer": "a cough"}\n')
    (folder / "c.csv").write_text("text\nthe last one\n")
    (folder / "picture.png").write_bytes(b"none")
    (folder / ".hidden.txt").write_text("none\n\nof it")
    texts, held = pretrain.read(folder)
    assert set(texts) | set(held) == {
        "Question: what is it\nAnswer: pain",
        "Question: what is it\nAnswer: a cough",
        *text.read_text().split("\n\n"),
        "the last one",
    }
    in_order = [one for one in (*texts, *held) if one in ("the last one", "Question: what is it\nAnswer: pain")]
    assert in_order == ["Question: what is it\nAnswer: pain", "the last one"]
    begun = _run(tmp_path / "out", folder, steps=2)
    (folder / "d.txt").write_text("one more")
    with pytest.raises(InputError, match="texts: has changed since the pre-training was begun"):
        pretrain.resume(begun.folder)
    with pytest.raises(
        InputError, match=r"more\.txt: holds no public text; it must have files that end in \.txt, \.csv"
    ):
        pretrain.read(folder / "more.txt")


def test_a_training_goes_on_from_a_model_with_passages_and_notes(text: Path, tmp_path: Path) -> None:
    before = _run(tmp_path / "before", text)
    goes_on = {"shape": ["context=32", "batch=2"], "share": 0.5, "start": tmp_path / "before"}
    _run(tmp_path / "whole", text, **goes_on)
    _run(tmp_path / "stopped", text, (3,), **goes_on)
    for name in (*hub.FILES, "curve.csv", "pretrain.yaml"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes(), name
    first = (tmp_path / "whole" / "curve.csv").read_text().splitlines()[1].split(",")
    last = (tmp_path / "before" / "curve.csv").read_text().splitlines()[-1].split(",")
    assert float(first[-1]) == pytest.approx(float(last[-1]), rel=0.05)  # one warming step away
    assert before.folder != tmp_path / "whole"
    with pytest.raises(InputError, match=r"--set layers: a model that is gone on from \(--from\) has its own"):
        pretrain.begin(text, ["layers=2"], tmp_path / "new", start=tmp_path / "before")
    with pytest.raises(InputError, match="--extracts 1: must be at least 0 and less than 1"):
        pretrain.begin(text, SHAPE, tmp_path / "new", share=1.0)
    assert not (tmp_path / "new").exists()
    _run(tmp_path / "before2", text, steps=2)
    for name in hub.FILES:
        (tmp_path / "before" / name).write_bytes((tmp_path / "before2" / name).read_bytes())
    with pytest.raises(InputError, match="before: has changed since the pre-training was begun"):
        pretrain.resume(tmp_path / "whole")


def test_the_command_writes_what_plain_transformers_loads(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    settings = [argument for setting in SHAPE for argument in ("--set", setting)]
    with pytest.raises(SystemExit) as ended:
        main(["pretrain", "--text", str(text), *settings, "--steps", "3", "--threads", "1", "--out", str(out)])
    assert ended.value.code == 0
    assert f"model: {out}" in capsys.readouterr().out
    found = hub.load(str(out), 32)
    model, token = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)("pain")["input_ids"]
    with torch.inference_mode():
        given = torch.tensor([token])
        assert torch.equal(model(given).logits, found.model(given).logits)
    with pytest.raises(SystemExit) as ended:
        main(["pretrain", "--resume", str(out)])  # all steps are taken: the same again
    assert ended.value.code == 0


@pytest.mark.untraced
def test_it_learns_what_words_follow(text: Path) -> None:
    texts, held = pretrain.read(text)
    config = pretrain.model_of([*SHAPE, "steps=60", "batch=4", "learning_rate=0.02"])
    training = FoundationTraining(config, texts, held, 1)
    curve = [training.step(number, InProcess()) for number in range(60)]
    assert curve[0]["held_out_perplexity"] > 200.0
    assert curve[-1]["held_out_perplexity"] < 60.0
    rates = [row["learning_rate"] for row in curve]
    assert rates[2] == max(rates) == pytest.approx(0.02)
    assert rates[-1] == pytest.approx(0.002)


def test_passes_are_compiled_where_that_is_asked_for(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, held = pretrain.read(text)
    config = pretrain.model_of([*SHAPE, "steps=2"])
    compiled = []

    def compile_(passed: Callable[..., torch.Tensor], **given: bool) -> Callable[..., torch.Tensor]:
        compiled.append(given)
        return passed

    monkeypatch.setattr(torch, "compile", compile_)
    plain = FoundationTraining(config, texts, held, 1).step(0, InProcess())
    assert not compiled
    assert FoundationTraining(config, texts, held, 1, compiled=True).step(0, InProcess()) == plain
    assert compiled == [{"dynamic": False}]


def test_an_epoch_has_every_window_once(text: Path) -> None:
    texts, _ = pretrain.read(text)
    training = FoundationTraining(pretrain.model_of(SHAPE), texts, (), 1)
    size = training.windows
    drawn = [window for number in range(size) for window in training._drawn(number)]
    assert sorted(drawn[:size]) == sorted(drawn[size : 2 * size]) == list(range(size))
    assert drawn[:size] != drawn[size : 2 * size]


def test_windows_follow_one_another_and_overlap_by_what_is_predicted() -> None:
    tok = hub.tokenizer(("pain",), 300, 8)
    windows = pack(tok, ["pain " * 20, "knee"], 8)
    assert windows.shape[1] == 9
    np.testing.assert_array_equal(windows[1:, 0], windows[:-1, -1])
    assert windows[0, 0] == tok.bos_token_id
    with pytest.raises(InputError, match="must fill at least one context of 8"):
        pack(tok, [""], 8)


def test_what_is_held_out_does_not_depend_on_order() -> None:
    texts = [f"text {number}" for number in range(100)]
    kept, held = hold_out(texts)
    assert len(held) == 5
    assert set(held) == set(hold_out(texts[::-1])[1])
    assert sorted((*kept, *held)) == sorted(texts)
    assert len(hold_out(texts[:2])[1]) == 1


def test_tied_weights_count_once(text: Path) -> None:
    texts, _ = pretrain.read(text)
    training = FoundationTraining(SmallModel(layers=1, width=16, heads=2, kv_heads=1, vocabulary=300), texts, (), 1)
    tokens = len(training.language().tokenizer)
    assert training.parameters == tokens * 16 + (2 * 16 * 16 + 2 * 16 * 8) + 3 * 16 * 48 + 3 * 16


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "--text is missing"),
        (["--text", "nowhere.txt"], "nowhere.txt"),
        (["--resume", "nowhere"], "nothing to go on from"),
        (["--resume", "nowhere", "--steps", "3"], "give nothing else"),
        (["--text", "x.txt", "--set", "layer=8"], "did you mean 'layers'"),
        (["--text", "x.txt", "--set", "layers=none"], "layers"),
        (["--text", "x.txt", "--set", "heads=3"], "width must be a multiple of heads"),
        (["--text", "x.txt", "--set", "steps=0"], "steps = 0: must be at least 1"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    complaint: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["pretrain", *arguments])
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert complaint in captured.err
    assert captured.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_text_that_changed_or_a_spoilt_description_is_refused(text: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text(text.read_text())
    _run(tmp_path / "out", own, steps=2)
    own.write_text(text.read_text() + "\n\none more")
    with pytest.raises(InputError, match="has changed since"):
        pretrain.resume(tmp_path / "out")
    (tmp_path / "out" / "pretrain.yaml").write_text("text: 3")
    with pytest.raises(InputError, match="describes no pre-training"):
        pretrain.resume(tmp_path / "out")


def test_windows_in_one_row_learn_what_they_learn_side_by_side() -> None:
    config = SmallModel(
        layers=2, width=32, heads=4, kv_heads=2, vocabulary=300, context=40, batch=3, steps=4, learning_rate=1e-2
    )
    texts = [" ".join(random.Random(seed).choices(WORDS, k=50)) for seed in range(30)]

    def losses(packs: bool) -> list[float]:
        training = FoundationTraining(config, texts, texts[:2], 0, bf16=True)
        assert training._packs
        training._packs = packs
        found = [training.step(number, InProcess()) for number in range(4)]
        assert training.module.config._attn_implementation == "sdpa"
        return [figures["loss"] for figures in found] + [found[-1]["held_out_perplexity"]]

    assert losses(packs=True) == pytest.approx(losses(packs=False), rel=2e-2)
    assert not FoundationTraining(config, texts, (), 0)._packs

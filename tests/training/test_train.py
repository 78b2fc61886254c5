"""Training from the command line: the same seed the same file, also when it was interrupted; and what it refuses."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pytest
import torch

from gainnet.apps.cli import main
from gainnet.errors import InputError
from gainnet.orchestrator import checkpoint
from gainnet.orchestrator.bound import columns_of, dual_bound, unit_price
from gainnet.orchestrator.kernels.columns import Columns
from gainnet.orchestrator.matchers import drl as acting
from gainnet.orchestrator.matchers import neural as matching
from gainnet.rng import stream
from gainnet.run import Run
from gainnet.scenario.load import load
from gainnet.training import diffusion, drl, neural, problems, rollout, train
from gainnet.workers.workers import InProcess, Workers

torch.set_num_threads(1)
OVERRIDES = [
    "network.ends=40",
    "network.edge.hardware=phone-soc",
    "demand.services.perception.arrivals.rate_per_end_per_s=3",
]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problems, "RUNS", 3)
    monkeypatch.setattr(problems, "FRAMES", 30)
    monkeypatch.setattr(rollout, "DURATION_S", 1.5)
    monkeypatch.setattr(drl, "EPISODES", 3)
    monkeypatch.setattr(drl, "EPISODES_A_STEP", 2)
    monkeypatch.setattr(drl, "TRIALS", 1)
    monkeypatch.setattr(drl, "TRIAL_STEPS", 2)
    monkeypatch.setattr(drl, "TROUBLES", 2)
    monkeypatch.setattr(rollout, "TROUBLED_S", 1.5)
    monkeypatch.setattr(diffusion, "SAMPLES", 4)


@pytest.fixture(scope="module")
def posed() -> Sequence[tuple[Columns, int]]:
    run = Run(load("vehicular-dense", ["network.ends=300", "orchestrator.foresight=0"], duration_s=4.0))
    for _ in range(20):
        run.step()
    found = []
    for _ in range(4):
        problem = run.observe()
        found.append((columns_of(problem), problem.rows))
        run.commit(run.match())
    return found


@pytest.mark.untraced
def test_the_kernel_computes_what_was_trained(posed: Sequence[tuple[Columns, int]]) -> None:
    net = neural.Unrolled()
    weights = {name: w.astype(np.float64) for name, w in net.weights().items()}
    for columns, rows in posed:
        graph = neural.graph(columns, rows)
        with torch.no_grad():
            trained = net(graph)[-1].numpy()
        scale = neural.stakes(columns, rows)[0].mean()
        predicted, _ = matching.predict(weights, columns, rows)
        np.testing.assert_allclose(predicted, trained * scale, rtol=2e-3, atol=1e-6 * float(predicted.max() + 1e-30))


def test_the_loss_is_the_dual_bound() -> None:
    run = Run(load("vehicular-dense", ["network.ends=300", "orchestrator.foresight=0"], duration_s=3.0))
    for _ in range(15):
        run.step()
    problem = run.observe()
    columns = columns_of(problem)
    graph, scale = neural.graph(columns, problem.rows), neural.stakes(columns, problem.rows)[0].mean()
    price = np.abs(np.random.default_rng(1).normal(size=problem.rows)) * 0.1
    bound = dual_bound(problem, unit_price(price * scale, problem.capacity)) / scale
    assert float(neural.dual(graph, torch.tensor(price, dtype=torch.float32))) == pytest.approx(bound, rel=1e-4)


def test_the_actor_computes_what_was_trained() -> None:
    learner = drl.Learner()
    for layer in (learner.kind_out, learner.own_out, learner.threshold_out):
        torch.nn.init.normal_(layer.weight)
    run = Run(load("campus"))
    for _ in range(5):
        run.step()
    outlook = run.orchestrator.outlook(run.execution.load, 0.5)
    actor = acting.Actor({name: w.astype(np.float64) for name, w in learner.weights().items()})
    kind, own, threshold = actor.means(outlook)
    played = rollout.play(rollout.Episode(load("campus", duration_s=1.0), actor.weights, None, 0))
    batch = drl.batch_of(learner, [played], [played])
    with torch.no_grad():
        means = learner(batch)
    np.testing.assert_allclose(means[0].numpy(), batch.kind_action.numpy(), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(means[1].numpy(), batch.own_action.numpy(), rtol=1e-3, atol=1e-4)
    assert kind.shape == (4, acting.ACTIONS)
    assert own.shape == (len(outlook.kind), acting.ACTIONS)
    assert np.isfinite(threshold)


@pytest.mark.untraced
def test_ppo_moves_towards_what_pays() -> None:
    torch.manual_seed(0)
    learner = drl.Learner()
    optimiser = torch.optim.Adam(learner.parameters(), drl.RATE)
    rng = stream(1, "test")
    played = rollout.play(rollout.Episode(load("campus", duration_s=3.0), None, None, 0))
    for _ in range(40):
        shape = played.kind_action.shape
        with torch.no_grad():
            means = learner(drl.batch_of(learner, [played], [played]))
        action = means[0].numpy() + 0.1 * rng.standard_normal(shape).astype(np.float32)
        trial = rollout.Trajectory(
            played.kind, played.resource, played.pooled, action, played.own_action, played.threshold_action,
            -np.abs(action[:, :, 0] - 0.3).mean(1).astype(np.float32),
        )  # fmt: skip
        drl.improve(learner, optimiser, drl.batch_of(learner, [trial], [played]))
    with torch.no_grad():
        learnt = learner(drl.batch_of(learner, [played], [played]))[0].numpy()[:, :, 0]
    assert learnt.mean() > 0.04
    assert learnt.min() > 0.0


def test_kinds_are_dearer_while_something_fails_where_most_episodes_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drl, "TROUBLES", 4)
    training = drl.DrlTraining(load("campus", OVERRIDES, duration_s=1.0), steps=1)
    gains = np.array([[0.01, -0.01, 0.001, 0.01], [0.02, 0.01, 0.001, 0.01], [0.01, -0.01, 0.001, 0.01], [-3, 5, 0, 0]])

    def play(episode: rollout.Episode) -> rollout.Trajectory:
        assert episode.weights is not None
        reward = gains[episode.seed] @ episode.weights["failing"]
        return dataclasses.replace(nothing, reward=np.full(1, reward, np.float32))

    nothing = rollout.play(rollout.Episode(load("campus", duration_s=0.5), None, None, 0))
    monkeypatch.setattr(drl, "play", play)
    training._best = dict(training.module.weights())
    assert training._prepare_for_faults(InProcess()) == pytest.approx(0.02)
    np.testing.assert_array_equal(training.weights()["failing"], [1.0, 0.0, 0.0, 1.0])


def test_troubled_episodes_have_several_faults_each() -> None:
    scenario = load("vehicular-dense")
    found = [rollout.trouble(scenario, index) for index in range(6)]
    assert all(3 <= len(s.execution.faults) <= 6 for s in found)
    assert len({s.seed for s in found}) == len(found)
    assert found[2] == rollout.trouble(scenario, 2)
    assert len({fault.kind for s in found for fault in s.execution.faults}) > 2


def _run(folder: Path, kind: str, steps: int, stop: int | None = None) -> bytes:
    scenario = load("campus", OVERRIDES, duration_s=4.0)
    begun = train.begin(kind, scenario, steps, folder)

    def progress(done: int, total: int) -> None:
        if done == stop:
            raise KeyboardInterrupt

    if stop is not None:
        with pytest.raises(KeyboardInterrupt):
            begun.run(InProcess(), progress)
        begun = train.resume(folder)
        assert begun.done == stop
    return begun.run(InProcess(), lambda done, total: None).read_bytes()


@pytest.mark.parametrize("kind", train.TRAININGS)
@pytest.mark.slow
def test_an_interrupted_training_ends_with_the_same_file(kind: str, tmp_path: Path) -> None:
    """The same seed gives the same file, too: what is done before the interruption and after it repeats the whole."""
    whole = _run(tmp_path / "whole", kind, 4)
    assert whole == _run(tmp_path / "stopped", kind, 4, stop=3)
    names = {path.name for path in (tmp_path / "stopped").iterdir()}
    assert names == {"scenario.yaml", "curve.csv", "curve.svg", "state.safetensors", f"{kind}.safetensors"}
    curves = [(tmp_path / name / "curve.csv").read_text() for name in ("whole", "stopped")]
    assert curves[0] == curves[1]


class Elsewhere(Workers):
    """Workers that are not this process, as far as a training can tell."""

    def map(self, function: Any, jobs: Sequence[Any], name: Callable[[Any], str] = str) -> Iterator[tuple[Any, Any]]:
        yield from InProcess().map(function, jobs, name)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """There is nothing to end."""


@pytest.mark.untraced
def test_an_interrupt_in_a_step_with_other_workers_undoes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _run(tmp_path / "whole", "drl", 3)
    begun = train.begin("drl", load("campus", OVERRIDES, duration_s=4.0), 3, tmp_path / "stopped")
    improve, times = drl.improve, itertools.count(1)

    def interrupted(*given: Any) -> Any:
        found = improve(*given)
        if next(times) == 2:
            raise KeyboardInterrupt
        return found

    with monkeypatch.context() as now:
        now.setattr(drl, "improve", interrupted)
        with pytest.raises(KeyboardInterrupt):
            begun.run(Elsewhere(), lambda done, total: None)
    begun = train.resume(tmp_path / "stopped")
    assert begun.done == 1
    assert begun.run(InProcess(), lambda done, total: None).read_bytes() == whole


@pytest.mark.untraced
def test_the_command_trains_a_checkpoint_that_a_run_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    settings = [argument for override in OVERRIDES for argument in ("--set", override)]
    with pytest.raises(SystemExit) as ended:
        main(["train", "neural", "campus", *settings, "--steps", "2", "--workers", "1", "--out", str(out)])
    assert ended.value.code == 0
    made = out / "neural.safetensors"
    assert str(made) in capsys.readouterr().out
    arguments = ["campus", "--duration-s", "1", "--set", f"orchestrator.matcher={{kind: neural, checkpoint: {made}}}"]
    with pytest.raises(SystemExit) as ended:
        main(["run", *arguments, "--out", str(tmp_path / "run"), "--json"])
    assert ended.value.code == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["neural"], "KIND and SCENARIO are missing"),
        (["neutral", "campus"], "unknown learned matcher 'neutral'"),
        (["neural", "campis"], "unknown scenario 'campis'"),
        (["--resume", "nowhere"], "nothing to go on from"),
        (["neural", "campus", "--resume", "x"], "give no KIND"),
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
        main(["train", *arguments])
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert complaint in captured.err
    assert captured.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.untraced
def test_a_state_of_another_training_is_refused(tmp_path: Path) -> None:
    _run(tmp_path / "neural", "neural", 2)
    (tmp_path / "neural" / train.STATE).write_bytes(b"\x80\x04pickled")
    with pytest.raises(InputError, match="pickled code"):
        train.resume(tmp_path / "neural")


def test_nothing_scarce_nothing_to_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problems, "RUNS", 1)
    monkeypatch.setattr(problems, "ENDS_RANGE", (0.1, 0.1000001))
    begun = train.begin("neural", load("campus", duration_s=2.0), 2, tmp_path / "idle")
    with pytest.raises(InputError, match="nothing is scarce"):
        begun.run(InProcess(), lambda done, total: None)


def test_variations_repeat_and_differ() -> None:
    scenario = load("vehicular-dense")
    assert rollout.variation(scenario, 3) == rollout.variation(scenario, 3)
    several = [rollout.variation(scenario, index) for index in range(12)]
    assert len({v.seed for v in several}) == 12
    assert any(v.execution.faults for v in several)
    assert any(not v.execution.faults for v in several)


@pytest.mark.untraced
def test_a_checkpoint_says_what_made_it(tmp_path: Path) -> None:
    _run(tmp_path / "noted", "neural", 2)
    _, notes = checkpoint.read_state(tmp_path / "noted" / "neural.safetensors", "neural")
    assert (notes["scenario"], notes["steps"]) == ("campus", "2")

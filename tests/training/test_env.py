"""The Gymnasium environment: conformance, seeds, neutrality of doing nothing, masks, the vector against the single one."""

from __future__ import annotations

import subprocess
import sys
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode

from gainnet.errors import InputError
from gainnet.execution.outcome import Outcomes
from gainnet.orchestrator import checker
from gainnet.orchestrator.outlook import Outlook, Steering
from gainnet.run import Run
from gainnet.scenario.load import load
from gainnet.training.decision import DecisionEpisode
from gainnet.training.env import IsccEnv
from gainnet.training.register import ENV_ID, register
from gainnet.training.reward import Reward
from gainnet.training.setting import settle
from gainnet.training.steering import Helm, adjacency, owner_of
from gainnet.training.vector import IsccVectorEnv

MODES = [(action, observation) for action in ("steering", "pattern") for observation in ("dict", "graph")]
SCARCE = ["network.ends=80", "network.edge.count=1"]


def _made(action: str = "steering", observation: str = "dict", **options: Any) -> IsccEnv:
    given = {"episode_s": 1.0, "overrides": SCARCE if action == "pattern" else [], **options}
    return IsccEnv(action=action, observation=observation, **given)


@pytest.mark.parametrize(("action", "observation"), MODES)
@pytest.mark.untraced
def test_it_conforms(action: str, observation: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(_made(action, observation), skip_render_check=True)


@pytest.mark.untraced
def test_stable_baselines_accepts_it() -> None:
    checks = pytest.importorskip("stable_baselines3.common.env_checker")
    # Its policies flatten whatever is no vector; that is all there is to warn of.
    for action in ("steering", "pattern"):
        with pytest.warns(UserWarning, match="unconventional shape"):
            checks.check_env(_made(action), warn=True)


def test_importing_it_registers_it_once() -> None:
    spec = gymnasium.spec(ENV_ID)
    register()
    assert gymnasium.spec(ENV_ID) is spec
    made = gymnasium.make("gainnet.training.env:" + ENV_ID, episode_s=1.0)
    assert isinstance(made.unwrapped, IsccEnv)
    observation, _ = made.reset(seed=3)
    assert observation in made.observation_space
    made.step(made.action_space.sample())


def test_neither_gainnet_nor_a_run_needs_gymnasium() -> None:
    program = "import sys, gainnet, gainnet.run, gainnet.training; print('gymnasium' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def _trajectory(env: Any, seed: int | None, steps: int) -> list[Any]:
    env.action_space.seed(7)
    observation, info = env.reset(seed=seed)
    return [(observation, info), *(env.step(env.action_space.sample()) for _ in range(steps))]


@pytest.mark.parametrize(("action", "observation"), MODES)
def test_seeds_are_honoured(action: str, observation: str) -> None:
    env, other = _made(action, observation), _made(action, observation)
    first = _trajectory(env, 1, 6)
    following = _trajectory(env, None, 6)
    assert data_equivalence(first, _trajectory(other, 1, 6), exact=True)
    assert data_equivalence(following, _trajectory(other, None, 6), exact=True)
    assert following[0][1]["seed"] != first[0][1]["seed"]
    assert not data_equivalence(first, _trajectory(other, 2, 6))


def _outcomes(frames: list[Outcomes]) -> list[np.ndarray]:
    return [np.concatenate([getattr(one, name) for one in frames]) for name in Outcomes.__dataclass_fields__]


def _same(one: list[Outcomes], other: list[Outcomes]) -> bool:
    return all(
        np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        for a, b in zip(_outcomes(one), _outcomes(other), strict=True)
    )


def _steered(env: IsccEnv, action: np.ndarray, seed: int = 5) -> tuple[list[Outcomes], int]:
    """Outcomes of an episode's frames under one action, and the episode's scenario seed."""
    _, info = env.reset(seed=seed)
    seen: list[Outcomes] = []
    commit = env.run.commit
    env.run.commit = lambda *given: (seen.append((done := commit(*given)).outcomes), done)[1]  # type: ignore[method-assign]
    while not env.step(action)[3]:
        pass
    return seen, info["seed"]


@pytest.mark.untraced
def test_zeros_are_the_scenario_itself_and_other_actions_are_not() -> None:
    options: dict[str, Any] = {"overrides": SCARCE, "episode_s": 3.0, "frames_per_step": 4}
    env = _made(**options)
    neutral, seed = _steered(env, np.zeros(env.action_space.shape or (), np.float32))
    run = Run(load("campus", SCARCE, duration_s=3.0, seed=seed))
    plain = [run.step().outcomes for _ in range(30)]
    assert sum(len(outcomes) for outcomes in plain) > 20
    assert _same(neutral, plain)
    dear = np.full(env.action_space.shape or (), 1.0, np.float32)
    assert not _same(_steered(env, dear)[0], plain)


def test_the_agent_adds_to_what_the_scenarios_own_policy_says() -> None:
    class Own:
        def steer(self, outlook: Outlook) -> Steering:
            return Steering(np.full(3, 0.5), 0.25)

    helm = Helm(3, Own())
    outlook = Outlook(np.zeros(3, np.int64), np.zeros((3, 12)), np.zeros(5))
    np.testing.assert_array_equal(helm.steer(outlook).residual, 0.5)
    helm.steering = Steering(np.array([1.0, 0.0, -1.0]), 0.5)
    np.testing.assert_array_equal(helm.steer(outlook).residual, [1.5, 0.5, -0.5])
    assert helm.steer(outlook).threshold == 0.75


def test_a_steering_step_is_the_mean_over_its_frames() -> None:
    env = _made(frames_per_step=4, reward=Reward(satisfaction=1.0, value=0.0, cost=0.0))
    env.reset(seed=1)
    frames, total, steps = [], 0.0, 0
    while True:
        _, reward, terminated, truncated, info = env.step(np.zeros(env.action_space.shape or ()))
        frames.append(info["frame"])
        arrive = env.run.demand.rate_per_s * env.run.scenario.frame_s
        length = frames[-1] - (frames[-2] if len(frames) > 1 else 0)
        assert reward == pytest.approx(info["served"] / arrive / length)
        assert not terminated
        steps, total = steps + 1, total + reward
        if truncated:
            break
    assert frames == [4, 8, 10]
    assert env.step(np.zeros(env.action_space.shape or ()))[1:4] == (0.0, False, True)


def _fits(episode: DecisionEpisode, pattern: int) -> bool:
    """Whether the frame's choice stays feasible with a pattern of the task to decide, by the independent checker."""
    problem, choice = episode.run.posed.problem, episode._choice.copy()
    choice[episode._task] = pattern
    original = np.append(episode._columns.origin, -1)[choice]
    drawn = np.zeros(problem.rows)
    opened = set()
    for p in original[original >= 0]:
        entries = slice(problem.demand_ptr[p], problem.demand_ptr[p + 1])
        np.add.at(drawn, problem.demand_row[entries], problem.demand_amount[entries])
        opened |= {int(m) for m in problem.setup[p] if m >= 0}
    for m in opened:
        if problem.setup_row[m] >= 0:
            drawn[problem.setup_row[m]] += problem.setup_size[m]
    return bool((drawn <= problem.capacity * (1.0 + checker.TOLERANCE)).all())


def test_masked_patterns_never_fit_and_others_always_do(monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[list[str]] = []
    commit = Run.commit

    def checked(run: Run, plan: Any, *rest: Any) -> Any:
        plans.append(checker.violations(run.posed.problem, plan))
        return commit(run, plan, *rest)

    env = _made("pattern", episode_s=2.0, overrides=["network.ends=250"], patterns_max=24)
    monkeypatch.setattr(Run, "commit", checked)
    _, info = env.reset(seed=0)
    rng, episode = np.random.default_rng(0), env._episode
    assert isinstance(episode, DecisionEpisode)
    masked = allowed = 0
    while True:
        mask = info["action_mask"]
        np.testing.assert_array_equal(mask.astype(bool), env.action_masks())
        assert mask[0] == 1
        for action, pattern in enumerate(episode._offered, start=1):
            if pattern >= 0:
                assert _fits(episode, pattern) == bool(mask[action])
                masked, allowed = masked + 1 - int(mask[action]), allowed + int(mask[action])
            else:
                assert not mask[action]
        _, _, _, truncated, info = env.step(rng.choice(np.flatnonzero(mask)[1:]))
        if truncated:
            break
    assert masked > 0
    assert allowed > 100
    assert len(plans) == 20
    assert not any(plans)
    assert info["illegal"] == 0


@pytest.mark.compiles
@pytest.mark.untraced
def test_what_the_mask_forbids_counts_as_a_refusal() -> None:
    env, other = _made("pattern", patterns_max=200), _made("pattern", patterns_max=200)
    _, info = env.reset(seed=4)
    other.reset(seed=4)
    for illegal in range(1, 11):
        forbidden = np.flatnonzero(info["action_mask"] == 0)
        action = int(forbidden[-1])
        done, refused = env.step(action), other.step(0)
        info = done[4]
        assert info["illegal"] == illegal
        assert data_equivalence(done[0], refused[0], exact=True)
        assert done[1] == refused[1]


@pytest.mark.untraced
def test_the_first_pattern_offered_is_worth_more_than_refusing() -> None:
    def total(action: int) -> tuple[float, int]:
        env = _made("pattern", episode_s=4.0, overrides=[])
        env.reset(seed=2)
        reward, served = 0.0, 0
        while True:
            _, gained, _, truncated, info = env.step(action)
            reward, served = reward + gained, served + info["served"]
            if truncated:
                return reward, served

    best, refusing = total(1), total(0)
    assert best[1] > 10
    assert refusing[1] == 0
    assert best[0] > refusing[0]


def test_an_episode_without_anything_to_decide_is_over_at_once() -> None:
    quiet = [
        f"demand.services.{name}.arrivals.rate_per_end_per_s=0" for name in ("assistant", "pictures", "perception")
    ]
    for observation in ("dict", "graph"):
        env = _made("pattern", observation, overrides=quiet)
        found, info = env.reset(seed=1)
        assert found in env.observation_space
        np.testing.assert_array_equal(np.flatnonzero(info["action_mask"]), [0])
        found, reward, terminated, truncated, info = env.step(0)
        assert found in env.observation_space
        assert (reward, terminated, truncated, info["frame"]) == (0.0, False, True, 10)


def test_there_are_masks_with_patterns_only() -> None:
    with pytest.raises(InputError, match="action_masks: there are masks with action='pattern' only"):
        _made().action_masks()


@pytest.mark.parametrize(("action", "observation"), MODES)
@pytest.mark.untraced
def test_the_vector_is_as_many_single_ones(action: str, observation: str) -> None:
    options = {"action": action, "observation": observation, "episode_s": 0.6, "overrides": SCARCE[:1]}
    made = gymnasium.make_vec(ENV_ID, num_envs=3, vectorization_mode="vector_entry_point", **options)
    plain = gymnasium.make_vec(ENV_ID, num_envs=3, vectorization_mode="sync", **options)
    assert isinstance(made, IsccVectorEnv)
    assert made.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    assert made.observation_space == plain.observation_space
    assert made.action_space == plain.action_space
    made.action_space.seed(0)
    first, second = made.reset(seed=11), plain.reset(seed=11)
    assert data_equivalence(first, second, exact=True)
    assert first[0] in made.observation_space
    ended = 0
    for _ in range(8 if action == "steering" else 60):
        actions = made.action_space.sample()
        one, other = made.step(actions), plain.step(actions)
        assert data_equivalence(one, other, exact=True)
        ended += int(one[3].sum())
    assert ended >= 3
    plain.close()


def test_the_vector_resets_those_of_a_mask() -> None:
    env = IsccVectorEnv(3, episode_s=1.0)
    env.reset(seed=[5, None, 7])
    before, *_ = env.step(np.zeros(env.action_space.shape or ()))
    after, info = env.reset(options={"reset_mask": np.array([True, False, False])})
    np.testing.assert_array_equal(info["_frame"], [True, False, False])
    assert [one.frame for one in env.episodes] == [0, 5, 5]
    np.testing.assert_array_equal(after["resource"][1:], before["resource"][1:])
    with pytest.raises(ValueError, match="2 seeds for 3 environments"):
        env.reset(seed=[1, 2])


def test_the_steering_graph_is_the_network() -> None:
    run = Run(load("campus"))
    pool, topology = run.orchestrator.pool, run.network.topology
    assert owner_of(pool, topology).tolist()[:7] == [1, 2, 3, 0, 1, 2, 3]
    assert set(owner_of(pool, topology)[7:].tolist()) == {1, 2, 3}
    joins, access = adjacency(pool, topology)
    assert {tuple(pair) for pair in joins[access[:, 0] == 1.0]} == {(1, 5), (2, 6), (3, 7)}
    assert len(joins) == 3 + 2 * pool.links


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scenario": "campu"}, "unknown scenario 'campu'.*did you mean 'campus'"),
        ({"action": "steer"}, "unknown action 'steer': one of steering, pattern .did you mean 'steering'"),
        ({"observation": "grph"}, "unknown observation 'grph': one of dict, graph .did you mean 'graph'"),
        ({"overrides": ["network.end=3"]}, "network.end"),
        ({"frames_per_step": 0}, "frames_per_step = 0: must be"),
        ({"patterns_max": 0}, "patterns_max = 0: must be"),
        ({"episode_s": -1.0}, "episode_s = -1.0: must be"),
    ],
)
def test_what_it_cannot_be_made_of(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        IsccEnv(**options)
    assert "\n" not in str(raised.value)


def test_a_vector_has_at_least_one() -> None:
    with pytest.raises(InputError, match="num_envs = 0"):
        IsccVectorEnv(0)


def test_a_scenario_may_be_given_as_such() -> None:
    scenario = load("campus", ["network.ends=9"])
    assert settle(scenario, episode_s=2.0).scenario.frames == 20
    assert settle(scenario).scenario is scenario

"""The ParallelEnv: conformance, seeds, who steers what, and that agents who ask for nothing change nothing."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from gainnet.errors import InputError
from gainnet.training.env import IsccEnv
from gainnet.training.parallel import IsccParallelEnv, parallel_env

with warnings.catch_warnings():
    # Its tests import an environment of its own the old way.
    warnings.simplefilter("ignore", DeprecationWarning)
    from pettingzoo.test import parallel_api_test, parallel_seed_test

SHORT_S = 1.0


def _made() -> IsccParallelEnv:
    return parallel_env(episode_s=SHORT_S, overrides=["network.ends=60"])


@pytest.mark.untraced
def test_it_conforms(capsys: pytest.CaptureFixture[str]) -> None:
    parallel_api_test(_made(), num_cycles=20)
    assert "Passed" in capsys.readouterr().out


@pytest.mark.untraced
def test_seeds_are_honoured() -> None:
    parallel_seed_test(_made, num_cycles=20)


def test_what_agents_see_and_what_is_whole() -> None:
    env = _made()
    observations, infos = env.reset(seed=1)
    assert env.possible_agents == ["edge_0", "edge_1", "edge_2"] == env.agents
    assert env.num_agents == env.max_num_agents == 3
    assert all(observations[agent] in env.observation_space(agent) for agent in env.agents)
    assert env.observation_space("edge_1") is env.observation_space("edge_1")
    assert env.action_space("edge_1") is env.action_space("edge_1")
    assert env.state() in env.state_space
    assert len({info["seed"] for info in infos.values()}) == 1
    shared = np.stack([observations[agent]["resource"][-1] for agent in env.agents])
    np.testing.assert_array_equal(shared, shared[:1].repeat(3, axis=0))
    assert (shared[:, 2] == 1.0).all(), "the last resource is the cloud's"
    kinds = observations["edge_0"]["resource"][:, :4].sum(axis=0)
    np.testing.assert_array_equal(kinds, [1, 1, 1, 2])


def _asked(env: IsccParallelEnv, actions: dict[str, np.ndarray]) -> np.ndarray:
    """The residual and the threshold that the run was steered with."""
    env.reset(seed=0)
    env.step(actions)
    steering = env._episode._helm.steering
    return np.append(steering.residual, steering.threshold)


def test_an_agent_steers_its_own_edge_and_a_third_of_the_cloud() -> None:
    env = _made()
    size = env.action_space("edge_1").shape or (0,)
    before = _asked(env, {agent: np.zeros(size) for agent in env.possible_agents})
    np.testing.assert_array_equal(before, 0.0)
    asked = _asked(env, {"edge_1": np.full(size, 0.5)})
    own, cloud = env._own[1], env._cloud
    np.testing.assert_allclose(asked[own], 1.5)
    np.testing.assert_allclose(asked[cloud], 0.5)
    np.testing.assert_allclose(asked[-1], 0.5 / 3)
    others = np.setdiff1d(np.arange(len(asked) - 1), np.concatenate([own, cloud]))
    np.testing.assert_array_equal(asked[others], 0.0)
    every = np.sort(np.concatenate([*env._own, cloud]))
    np.testing.assert_array_equal(every, np.arange(len(asked) - 1))


def test_agents_that_ask_for_nothing_are_the_neutral_single_agent() -> None:
    env, single = _made(), IsccEnv(episode_s=SHORT_S, overrides=["network.ends=60"])
    env.reset(seed=3)
    single.reset(seed=3)
    while env.agents:
        _, rewards, terminations, truncations, _ = env.step({})
        _, reward, _, truncated, _ = single.step(np.zeros(single.action_space.shape or ()))
        assert set(rewards.values()) == {reward}
        assert not any(terminations.values())
        assert set(truncations.values()) == {truncated}
    assert truncated


def test_edges_of_unequal_size_have_equal_spaces() -> None:
    env = parallel_env(episode_s=SHORT_S, overrides=["network.cells_per_edge=2"])
    observations, _ = env.reset(seed=1)
    assert len({space.shape for space in env.action_spaces.values()}) == 1
    assert len(env._own[0]) > len(env._own[1])
    padding = observations["edge_1"]["resource"][len(env._own[1]) : env._room]
    np.testing.assert_array_equal(padding, 0.0)
    env.step({agent: env.action_space(agent).sample() for agent in env.agents})


def test_agents_have_no_other_action() -> None:
    with pytest.raises(InputError, match="action = 'pattern': agents have 'steering' only"):
        parallel_env(action="pattern")

"""Registers the environment with Gymnasium; it names where things are and imports none of them."""

from __future__ import annotations

from gymnasium.envs import registration

ENV_ID = "GainNet/ISCC-v0"


def register() -> None:
    """Register `ENV_ID`, unless it is already.

    Gymnasium reads no entry points of installed packages (since 1.0): it is importing `gainnet.training.env` that
    registers, which ``gymnasium.make("gainnet.training.env:GainNet/ISCC-v0")`` does by itself.
    """
    if ENV_ID not in registration.registry:
        registration.register(
            id=ENV_ID,
            entry_point="gainnet.training.env:IsccEnv",
            vector_entry_point="gainnet.training.vector:IsccVectorEnv",
        )

"""The arms of the case study, one file each."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gainnet.knowledge.arm import Arm
from gainnet.knowledge.arms.central import Central
from gainnet.knowledge.arms.flat import Flat
from gainnet.knowledge.arms.local import Local
from gainnet.knowledge.arms.tiers import Tiers
from gainnet.knowledge.setting import Setting

ARMS: Mapping[str, Callable[[Setting], Arm]] = {"gainnet": Tiers, "flat": Flat, "local": Local, "central": Central}


def build(setting: Setting) -> Arm:
    """The arm that the scenario names."""
    return ARMS[setting.config.arm](setting)

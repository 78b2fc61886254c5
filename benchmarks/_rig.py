"""A machine of the scenarios that stands behind an engine of a benchmark, and what its time costs."""

from __future__ import annotations

from dataclasses import dataclass

from gainnet.inference.tempo import Machine
from gainnet.models import card
from gainnet.scenario.hardware import Hardware, hardware


@dataclass(frozen=True, slots=True)
class Rig:
    """A machine with a model of its card."""

    hardware: Hardware
    machine: Machine

    @classmethod
    def of(cls, name: str, model: str) -> Rig:
        """A machine of `gainnet.scenario.hardware`, with a model of `gainnet.scenario.models`."""
        kind, known = hardware(name), card.build([model], {})
        return cls(
            kind,
            Machine(
                1.0, kind.flop_per_s * kind.efficiency, kind.memory_bandwidth_byte_per_s * kind.bandwidth_efficiency,
                float(known.size_byte[0]), float(known.flop_per_token[0]), float(known.attention_flop_per_token2[0]),
                float(known.kv_byte_per_token[0]),
            ),
        )  # fmt: skip

    @property
    def price(self) -> float:
        """Dollars for a busy second: its price, and the energy that it adds."""
        return self.hardware.price_per_s + (self.hardware.peak_w - self.hardware.idle_w) * 0.30 / 3.6e6

    def image_step_s(self, model: str) -> float:
        """Time of a step of an image with an image model, under guidance where the model has it."""
        return float(card.build([model], {}).step_flop[0]) / self.machine.flop_per_s

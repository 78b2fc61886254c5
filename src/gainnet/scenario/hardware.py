"""Hardware and base-station presets: published figures, each with its source, and the fields to write your own."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TypeVar

from gainnet.scenario.quantity import Count, NonNegative, Positive, PositiveFraction, Section


class Hardware(Section):
    """A machine that runs models.

    ``flop_per_s`` is the dense half-precision peak, ``efficiency`` and ``bandwidth_efficiency`` the fractions that real
    kernels reach. ``load_byte_per_s`` is the rate at which weights come from its storage. ``price_per_s`` is what a
    second of the busy machine costs its user, in the scenario's currency. What its software takes besides is
    ``step_overhead_s`` for each step (scheduling, launching kernels) and ``text_overhead_s`` for each text in a step
    (sampling), of its time, and ``request_overhead_s`` for each request (parsing, answering), which delays only that one.
    """

    flop_per_s: Positive
    memory_bandwidth_byte_per_s: Positive
    memory_byte: Positive
    load_byte_per_s: Positive
    load_overhead_s: NonNegative = 0.2
    idle_w: NonNegative
    peak_w: Positive
    efficiency: PositiveFraction = 0.5
    bandwidth_efficiency: PositiveFraction = 0.7
    batch_max: Count = 64
    price_per_s: NonNegative = 0.0
    step_overhead_s: NonNegative = 0.0
    text_overhead_s: NonNegative = 0.0
    request_overhead_s: NonNegative = 0.0
    source: str = "the scenario's own"


class BaseStation(Section):
    """Power model of one cell: ``N_trx (P0 + slope P_out)``, asleep ``N_trx P_sleep`` (EARTH D2.3, SOTA 2010).

    All powers are of one transceiver; the cell radiates at most ``transceivers power_max_w``.
    """

    transceivers: Count
    power_max_w: Positive
    p0_w: NonNegative
    slope: NonNegative
    sleep_w: NonNegative
    source: str = "the scenario's own"


_EARTH = "EARTH D2.3 (2012), state of the art 2010; Auer et al., IEEE Wireless Commun. 18(5), 2011, table 2"
BASE_STATIONS: Mapping[str, BaseStation] = {
    "macro": BaseStation(
        transceivers=2,
        power_max_w=20.0,
        p0_w=130.0,
        slope=4.7,
        sleep_w=75.0,
        source=f"{_EARTH}: 6 transceivers for a site of three sectors, so 2 for a cell",
    ),
    "micro": BaseStation(transceivers=2, power_max_w=6.3, p0_w=56.0, slope=2.6, sleep_w=39.0, source=_EARTH),
    "pico": BaseStation(transceivers=2, power_max_w=0.13, p0_w=6.8, slope=4.0, sleep_w=4.3, source=_EARTH),
}

HARDWARE: Mapping[str, Hardware] = {
    "phone-soc": Hardware(
        flop_per_s=17e12,
        memory_bandwidth_byte_per_s=51.2e9,
        memory_byte=3e9,
        load_byte_per_s=1.5e9,
        idle_w=0.5,
        peak_w=6.0,
        batch_max=2,
        source="Apple A16 class: 17 TOPS neural engine, LPDDR5 6400 x 64 bit = 51.2 GB/s, 6 GB of which half is free; "
        "power and storage are our estimate",
    ),
    "vehicle-computer": Hardware(
        flop_per_s=42.5e12,
        memory_bandwidth_byte_per_s=204.8e9,
        memory_byte=8e9,
        load_byte_per_s=2e9,
        idle_w=10.0,
        peak_w=60.0,
        batch_max=4,
        source="NVIDIA Jetson AGX Orin 64 GB: 170 TOPS sparse INT8 on the GPU = 42.5 TFLOPS dense FP16, 204.8 GB/s, "
        "15-60 W; idle power, storage and the 8 GB left to gainnet are our estimate",
    ),
    "edge-accelerator": Hardware(
        flop_per_s=121e12,
        memory_bandwidth_byte_per_s=300e9,
        memory_byte=24e9,
        load_byte_per_s=3e9,
        idle_w=16.0,
        peak_w=72.0,
        batch_max=64,
        price_per_s=0.71 / 3600,
        source="NVIDIA L4: 242 TFLOPS sparse (121 dense) FP16, 300 GB/s, 24 GB, 72 W; idle power, storage and price "
        "(a cloud's list price of 2024) are our estimate",
    ),
    "cloud-accelerator": Hardware(
        flop_per_s=989e12,
        memory_bandwidth_byte_per_s=3350e9,
        memory_byte=80e9,
        load_byte_per_s=5e9,
        idle_w=70.0,
        peak_w=700.0,
        batch_max=256,
        price_per_s=3.0 / 3600,
        source="NVIDIA H100 SXM: 989 TFLOPS dense BF16, 3.35 TB/s, 80 GB, 700 W; idle power, storage and price (about "
        "3 dollars an hour to rent) are our estimate",
    ),
}

Preset = TypeVar("Preset", bound=Section)


def _preset(given: Preset | str, table: Mapping[str, Preset], field: str) -> Preset:
    if not isinstance(given, str):
        return given
    if given not in table:
        near = difflib.get_close_matches(given, table, n=1, cutoff=0.0)
        raise ValueError(f"{field} {given!r} is not a preset: one of {', '.join(table)} (did you mean {near[0]!r}?)")
    return table[given]


def hardware(given: Hardware | str, field: str = "hardware") -> Hardware:
    """The preset of that name, or the given hardware itself; ValueError names the presets."""
    return _preset(given, HARDWARE, field)


def base_station(given: BaseStation | str, field: str = "base_station") -> BaseStation:
    """The preset of that name, or the given base station itself; ValueError names the presets."""
    return _preset(given, BASE_STATIONS, field)

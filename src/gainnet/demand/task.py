"""Tasks and the graphs they are made of.

A task's graph is a chain of stages, the same for every task of a service kind. How the chain is laid onto the resource
graph (who senses, which cell, which node, which model) is a pattern, chosen by a matcher.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from jaxtyping import Float, Int


class Stage(IntEnum):
    """One stage of a task graph."""

    SENSE = 0
    UPLINK = 1
    PREFILL = 2
    DENOISE = 3
    DECODE = 4
    DOWNLINK = 5
    TRAIN = 6
    UPLOAD = 7
    AGGREGATE = 8
    TRANSFER = 9  # over one backhaul link; a pattern adds it where consecutive stages lie apart
    SPLIT = 10  # training of the layers that an end leaves to the node that aggregates


class ServiceKind(IntEnum):
    """What kind of work a service asks for."""

    TEXT = 0
    IMAGE = 1
    PERCEPTION = 2
    LEARNING = 3


GRAPHS: Mapping[ServiceKind, tuple[Stage, ...]] = {
    ServiceKind.TEXT: (Stage.UPLINK, Stage.PREFILL, Stage.DECODE, Stage.DOWNLINK),
    ServiceKind.IMAGE: (Stage.UPLINK, Stage.DENOISE, Stage.DOWNLINK),
    ServiceKind.PERCEPTION: (Stage.SENSE, Stage.UPLINK, Stage.PREFILL, Stage.DECODE, Stage.DOWNLINK),
    ServiceKind.LEARNING: (Stage.DOWNLINK, Stage.TRAIN, Stage.UPLOAD, Stage.SPLIT, Stage.AGGREGATE),
}
"""The stages of each kind, in order. A learning task leaves out those that have nothing to do: a round that fetches no
adapter its downlink, one that trains on the end alone its split part."""


@dataclass(frozen=True, slots=True)
class Tasks:
    """Tasks as a struct of arrays; a quantity that a task's kind does not use is zero.

    Attributes:
        task_id: serial number, unique in a run.
        service: index of the service (the order of the scenario).
        user: the end that asks.
        arrival_s: when it arrived.
        deadline_s: when it must have ended (absolute time).
        quality_min: least quality that satisfies it.
        value: what it is worth when satisfied.
        prompt_token: tokens to prefill (text: prompt; perception: scene tokens; learning: tokens to train on at the end).
        output_token: tokens to decode (learning: tokens to train on at the node that aggregates, > 0 in split training;
            ``prompt_token / (prompt_token + output_token)`` is then the part of the model that the end trains).
        step: denoising steps asked for.
        image: images asked for.
        uplink_bit: bits from the end up (prompt, features, or what a learning round sends: update and activations).
        downlink_bit: bits back to the end (of a learning round before it trains: the adapter, and gradients).
        adapter: artifact index of the adapter asked for, -1 for none.
        target_range_m: range of the target to sense from the end.
    """

    task_id: Int[np.ndarray, " task"]
    service: Int[np.ndarray, " task"]
    user: Int[np.ndarray, " task"]
    arrival_s: Float[np.ndarray, " task"]
    deadline_s: Float[np.ndarray, " task"]
    quality_min: Float[np.ndarray, " task"]
    value: Float[np.ndarray, " task"]
    prompt_token: Float[np.ndarray, " task"]
    output_token: Float[np.ndarray, " task"]
    step: Float[np.ndarray, " task"]
    image: Float[np.ndarray, " task"]
    uplink_bit: Float[np.ndarray, " task"]
    downlink_bit: Float[np.ndarray, " task"]
    adapter: Int[np.ndarray, " task"]
    target_range_m: Float[np.ndarray, " task"]

    def __len__(self) -> int:
        return len(self.task_id)

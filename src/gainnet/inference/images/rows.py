"""Images under way: what each is, which leads others through steps that they share, and what a drawing waits for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gainnet.inference.images.request import Drawing, Drawn, HalfDrawn, Painting
from gainnet.models.diffusion import Condition, Diffusion, Step


def noise(seed: int, image: int, place: int, shape: tuple[int, int, int]) -> Float[Tensor, "channel height width"]:
    """The noise of an image before its first step (``place`` 0), or of the step of this number (from 1).

    Drawn by a counter (Philox), so that it is the same wherever a drawing is gone on with.
    """
    drawn = np.random.Generator(np.random.Philox(key=[seed, (image << 32) + place]))
    return torch.from_numpy(drawn.standard_normal(shape, np.float32))


@dataclass(slots=True, eq=False)
class Group:
    """The images of one drawing.

    Attributes:
        drawing: what was asked for.
        painting: what whoever asked holds.
        tenant: whose it is.
        left: images that are not drawn yet.
        ended: what each image became.
        evaluations: of the network so far.
        shared: steps that were taken for another image.
        alike: images that had steps in common with its own.
        cancelled: whether it was given up.
        begun_s: when it was asked for, by time.monotonic.
    """

    drawing: Drawing
    painting: Painting
    tenant: str
    left: int
    ended: dict[int, Tensor] = field(default_factory=dict)
    evaluations: int = 0
    shared: int = 0
    alike: int = 1
    cancelled: bool = False
    begun_s: float = field(default_factory=time.monotonic)

    def drawn(self, model: Diffusion) -> Drawn:
        """The answer, when all images are there; each is decoded alone, so that its pixels do not depend on others."""
        latents = [self.ended[number] for number in range(len(self.ended))]
        until = self.drawing.until
        if until is not None:
            half = HalfDrawn(until, torch.stack(latents).numpy())
            return Drawn(None, half, self.evaluations, self.shared, self.alike)
        pixels = np.concatenate([model.pixels(latent[None]) for latent in latents])
        return Drawn(pixels, None, self.evaluations, self.shared, self.alike)


@dataclass(slots=True, eq=False)
class Row:
    """One image.

    Attributes:
        group: the drawing that it is of.
        number: which of its images.
        given: the prompt as the network reads it.
        schedule: its steps.
        last: after how many of them it ends.
        fork: after how many of them those that follow it go on by themselves; 0: it neither leads nor follows.
        eta: part of its steps' noise that is drawn anew.
        latent: what it is so far; None: no step was taken.
        done: steps taken.
        followers: images that it takes the first steps for.
    """

    group: Group
    number: int
    given: Condition
    schedule: Sequence[Step]
    last: int
    fork: int
    eta: float
    latent: Tensor | None = None
    done: int = 0
    followers: list[Row] = field(default_factory=list)

    def leads(self, other: Row, similarity: float) -> bool:
        """Whether it may take the first steps for another image: of a like prompt, as many steps, and the same tenant."""
        return (
            0 < self.fork == other.fork
            and self.done <= self.fork
            and len(self.schedule) == len(other.schedule)
            and self.group.tenant == other.group.tenant
            and self.given.similarity(other.given) >= similarity
        )

    def forked(self, from_row: Row, eta: float) -> None:
        """Take over what another image is so far, and go on with noise of its own."""
        assert from_row.latent is not None
        taken = from_row.done - self.done
        self.latent, self.done, self.eta = from_row.latent, from_row.done, eta
        self.group.shared += taken
        self.group.painting.done += taken

    def prepared(self, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        """What it is before its next step, and that step's noise."""
        seed = self.group.painting.seed
        if self.latent is None:
            self.latent = noise(seed, self.number, 0, shape)
        return self.latent, noise(seed, self.number, self.done + 1, shape)

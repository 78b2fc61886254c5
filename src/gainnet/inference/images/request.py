"""What is asked of the image engine, and what it answers."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from gainnet.errors import InputError

IMAGES_MAX = 64
SEED_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class HalfDrawn:
    """Images between two steps, as they pass a link between two machines.

    Attributes:
        done: steps that were taken.
        latent: one for each image, or one for all.
    """

    done: int
    latent: Float[np.ndarray, "image channel height width"]


@dataclass(frozen=True, slots=True)
class Drawing:
    """What is asked for.

    Attributes:
        prompt: what the images show.
        steps: of each; None as many as the engine takes by default.
        images: how many.
        seed: of all noise, with the image's number and the step's: the same gives the same images, whatever else is drawn
            (but see `share`); None draws one.
        share: whether steps may be shared with alike drawings where the engine shares: then the noise of the shared
            steps is that of whoever began them. Of what is given half-drawn, whether others go on from the same.
        begin: half-drawn images to go on from.
        until: stop after so many steps, and give the images half-drawn; None draws them to the end.
    """

    prompt: str
    steps: int | None = None
    images: int = 1
    seed: int | None = None
    share: bool = True
    begin: HalfDrawn | None = None
    until: int | None = None

    def check(self, steps: int, steps_max: int, latent: tuple[int, int, int]) -> None:
        """Hold it to what can be drawn: ``steps`` of at most so many, of such latents. InputError names the field."""
        _within("images", self.images, 1, IMAGES_MAX)
        _within("steps", steps, 1, steps_max)
        if self.seed is not None:
            _within("seed", self.seed, 0, SEED_MAX)
        if self.begin is not None:
            _within("begin.done", self.begin.done, 1, steps - 1)
            given = self.begin.latent
            if given.shape[1:] != latent or len(given) not in (1, self.images) or not np.isfinite(given).all():
                raise InputError(
                    f"begin.latent: must be 1 or {self.images} of finite numbers, {latent}: it is {given.shape}"
                )
        if self.until is not None:
            _within("until", self.until, 1 if self.begin is None else self.begin.done + 1, steps - 1)


def _within(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise InputError(f"{name} {value}: must be from {least} to {most}")


@dataclass(frozen=True, slots=True)
class Sharing:
    """Which steps alike drawings share (arXiv 2304.03446): the first ones, in which an image's outline is made.

    Attributes:
        part: of the steps, in [0, 1); rounded down.
        similarity: least similarity of prompts, by `gainnet.models.diffusion.Condition.similarity`.
        eta: part of the noise that is drawn anew in the steps of those that go on from another's: without any, images of
            one prompt would end the same.
    """

    part: float = 0.4
    similarity: float = 0.999
    eta: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.part < 1.0:
            raise InputError(f"share.part {self.part:g}: must be above 0 and below 1")
        if not -1.0 <= self.similarity <= 1.0:
            raise InputError(f"share.similarity {self.similarity:g}: must be from -1 to 1")
        if not 0.0 < self.eta <= 1.0:
            raise InputError(f"share.eta {self.eta:g}: must be above 0 and at most 1")


@dataclass(frozen=True, slots=True)
class Drawn:
    """What was drawn.

    Attributes:
        pixels: the images; None where they stay half-drawn.
        half: the half-drawn ones; None where they are whole.
        evaluations: of the network, by one image each, that this drawing took.
        shared: steps of its images that were taken for another one.
        alike: images that had their first steps in common with these, as far as was known then; 1 where none had.
    """

    pixels: UInt8[np.ndarray, "image height width channel"] | None
    half: HalfDrawn | None
    evaluations: int
    shared: int
    alike: int = 1


class Painting:
    """A drawing under way.

    Attributes:
        seed: of its noise.
        steps: steps of all its images.
        done: how many of them are taken or shared.
        result: ready with the last step; cancelling it gives the drawing up.
    """

    def __init__(self, seed: int, steps: int, cancel: Callable[[], None]) -> None:
        self.seed, self.steps, self.done = seed, steps, 0
        self.result: Future[Drawn] = Future()
        self.result.add_done_callback(lambda done: cancel() if done.cancelled() else None)

    def cancel(self) -> None:
        """Give it up: its places are free before the next step."""
        self.result.cancel()

    def wait(self, timeout_s: float | None = None) -> Drawn:
        """What was drawn, from a thread. Raises EngineStopped, TimeoutError, or CancelledError where it was given up."""
        return self.result.result(timeout_s)

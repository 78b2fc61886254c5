"""Shared denoising steps beside whole drawings, on the digits: cost, and how good the images are.

Groups of four drawings are asked for at once. In the arm ``whole`` each takes all its steps; in ``same`` the four have one
prompt and share the first part of their steps; in ``near`` two prompts that the model finds most alike take turns; in
``any`` the four prompts are drawn at random, which shows what sharing among unlike drawings would cost. In ``split`` the
first part is drawn by one engine, once for the four, sent at half precision, and gone on with by another.

Accuracy is that of a support vector machine on pixels, which scikit-learn fits to the images that the model learnt from.
The distance is Frechet's (as in arXiv 1706.08500) between Gaussians fitted to 16 principal components of pixels, of the
images drawn and of those that were held out. Diversity is the mean distance of two images of one group, over that of two
held-out images of one digit.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int

from _reader import WORDS, Pixels, flat, reader
from gainnet.inference.images.engine import ImageEngine
from gainnet.inference.images.request import Drawing, Drawn, HalfDrawn, Sharing
from gainnet.models import diffusion
from gainnet.models.diffusion import Diffusion
from gainnet.serving.node_images import DIGITS
from gainnet.training.digits import Digits, digits

STEPS, GROUP, COMPONENTS = 20, 4, 16
PARTS = (0.2, 0.4, 0.6, 0.8)
ARMS = ("whole", *(f"{kind}{part:g}" for part in PARTS for kind in ("same", "near", "any")), "split0.4")
MEANING: dict[str, str] = {
    **{
        f"{arm}.{name}": f"{meaning}, {arm}"
        for arm in ARMS
        for name, meaning in {
            "evaluations": "of the network for an image",
            "cpu_s": "processor time of an image, s",
            "accuracy": "images in which the classifier sees the digit that was asked for",
            "frechet": "distance to the held-out images",
            "diversity": "distance within a group, over that of held-out images of a digit",
        }.items()
    },
    "held.accuracy": "held-out images that the classifier knows",
    "held.frechet": "distance between images learnt from and held out: none can be expected to be below it",
    "split.bit": "half-drawn image on the link, bit",
    "near.similarity": "of the prompts that take turns, on average",
    "any.similarity": "of two different prompts, on average",
}


def figures(quick: bool = False) -> dict[str, float]:
    """The figures of MEANING; ``quick`` draws fewer images, at one part."""
    torch.set_num_threads(1)
    model, groups = diffusion.load(DIGITS), 40 if quick else 400
    judge = _Judge(*digits(0))
    near = _near(model)
    rng = np.random.default_rng(0)
    kinds = {
        "same": [[label] * GROUP for label in rng.integers(10, size=groups).tolist()],
        "near": [[label, near[label]] * (GROUP // 2) for label in rng.integers(10, size=groups).tolist()],
        "any": rng.integers(10, size=(groups, GROUP)).tolist(),
    }
    found = {"held.accuracy": judge.held_accuracy, "held.frechet": judge.held_frechet}
    found |= judge.arm("whole", model, kinds["same"], None)
    for part in PARTS[1:2] if quick else PARTS:
        for kind, labels in kinds.items():
            found |= judge.arm(f"{kind}{part:g}", model, labels, Sharing(part, -1.0))
    found |= judge.split("split0.4", model, kinds["same"], 0.4)
    similarity = _similarities(model)
    return found | {
        "split.bit": 16.0 * np.prod(model.latent),
        "near.similarity": float(np.mean([similarity[label, other] for label, other in enumerate(near)])),
        "any.similarity": float(similarity[~np.eye(10, dtype=bool)].mean()),
    }


class _Judge:
    """Knows digits, and what they look like."""

    def __init__(self, learnt: Digits, held: Digits) -> None:
        from sklearn.decomposition import PCA

        mine, theirs = (flat(some.image) for some in (learnt, held))
        self._classifier = reader(learnt)
        self._components = PCA(COMPONENTS, random_state=0).fit(mine)
        self._held = theirs
        self.held_accuracy = float(self._classifier.score(theirs, held.label))
        self.held_frechet = self._frechet(mine)
        self._spread = float(np.mean([_spread(theirs[held.label == label]) for label in range(10)]))

    def arm(
        self, name: str, model: Diffusion, groups: Sequence[Sequence[int]], sharing: Sharing | None
    ) -> dict[str, float]:
        """Groups of prompts, each asked for at once."""
        seeds = itertools.count()
        with ImageEngine(model, slots=GROUP, width=GROUP, sharing=sharing, threads=1) as engine:
            began_s = time.process_time()
            drawn = []
            for group in groups:
                paintings = [engine.submit(Drawing(WORDS[label], STEPS, seed=next(seeds))) for label in group]
                drawn += [painting.wait() for painting in paintings]
            spent_s = time.process_time() - began_s
        return self._figures(name, drawn, groups, spent_s, sum(one.evaluations for one in drawn))

    def split(self, name: str, model: Diffusion, groups: Sequence[Sequence[int]], part: float) -> dict[str, float]:
        """The first part of the steps by one engine, the others by another, as two machines would."""
        drawn, evaluations, began_s = [], 0, time.process_time()
        with (
            ImageEngine(model, width=1, threads=1) as above,
            ImageEngine(model, slots=GROUP, width=GROUP, eta=Sharing().eta, threads=1) as below,
        ):
            for number, group in enumerate(groups):
                prompt = WORDS[group[0]]
                begun = above.submit(Drawing(prompt, STEPS, seed=number, until=int(part * STEPS))).wait()
                assert begun.half is not None
                sent = HalfDrawn(begun.half.done, begun.half.latent.astype("<f2").astype(np.float32))
                ended = below.submit(Drawing(prompt, STEPS, GROUP, number, begin=sent)).wait()
                drawn.append(ended)
                evaluations += begun.evaluations + ended.evaluations
        return self._figures(name, drawn, groups, time.process_time() - began_s, evaluations)

    def _figures(
        self, name: str, drawn: Sequence[Drawn], groups: Sequence[Sequence[int]], spent_s: float, evaluations: int
    ) -> dict[str, float]:
        image = flat(np.concatenate([one.pixels[..., 0] for one in drawn if one.pixels is not None]) / 127.5 - 1.0)
        label: Int[np.ndarray, " image"] = np.concatenate([np.array(group) for group in groups])
        spread = float(np.mean([_spread(image[i : i + GROUP]) for i in range(0, len(image), GROUP)]))
        return {
            f"{name}.evaluations": evaluations / len(image),
            f"{name}.cpu_s": spent_s / len(image),
            f"{name}.accuracy": float((self._classifier.predict(image) == label).mean()),
            f"{name}.frechet": self._frechet(image),
            f"{name}.diversity": spread / self._spread,
        }

    def _frechet(self, image: Pixels) -> float:
        """Between Gaussians fitted to components of these images and of those held out."""
        from scipy.linalg import sqrtm

        mine, theirs = (self._components.transform(some) for some in (image, self._held))
        first, second = np.cov(mine.T), np.cov(theirs.T)
        root = np.real(sqrtm(first @ second))
        return float(((mine.mean(0) - theirs.mean(0)) ** 2).sum() + np.trace(first + second - 2.0 * root))


def _spread(image: Pixels) -> float:
    """Mean distance of two different images."""
    apart = np.sqrt(((image[:, None] - image[None]) ** 2).sum(-1))
    return float(apart[~np.eye(len(image), dtype=bool)].mean())


def _similarities(model: Diffusion) -> Float[np.ndarray, "label label"]:
    given = [model.condition(word) for word in WORDS]
    return np.array([[one.similarity(other) for other in given] for one in given])


def _near(model: Diffusion) -> list[int]:
    """The most similar other digit of each."""
    found = _similarities(model)
    np.fill_diagonal(found, -np.inf)
    nearest: list[int] = found.argmax(1).tolist()
    return nearest

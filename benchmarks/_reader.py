"""Who reads drawn digits: a support vector machine on pixels, fitted to the images that the image model learnt from."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from gainnet.training.digits import LABELS, Digits

WORDS = tuple(names[1] for names in LABELS)
"""A prompt for each digit."""
Pixels = Float[np.ndarray, "image pixel"]


def reader(learnt: Digits) -> Any:
    """A classifier of scikit-learn, for `flat` images."""
    from sklearn.svm import SVC

    return SVC(gamma=0.05, C=10.0).fit(flat(learnt.image), learnt.label)


def flat(image: np.ndarray) -> Pixels:
    """Images of values from -1 to 1 as rows."""
    return image.reshape(len(image), -1).astype(np.float64)

"""The policy of the `drl` matcher: log factors on bids and capacities, and an admission threshold, on top of `neural`.

A frame's optimum takes what later frames would need more; the policy sees what is coming (queues, batches, faults, how
far bids are from where they were headed) and makes resources dearer or cheaper before the frame is matched. It acts on
as many resources as there are: one perceptron looks at the means over each kind of resource and sets that kind's factor,
another adds each resource's own, a third sets the threshold. While anything fails (a resource gives less than it should,
or sensing is out), each kind's bids are raised by a factor of their own. With weights of zero it changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Float

from gainnet.orchestrator import checkpoint
from gainnet.orchestrator.outlook import KINDS, OVERALL_FEATURES, RESOURCE_FEATURES, Outlook, Steering

KIND = "drl"
ACTIONS = 2
"""Of a kind and of a resource: log factors on the bid and on what the resource is taken to give."""
FEATURES, OVERALL, HIDDEN, CONTEXT = len(RESOURCE_FEATURES), len(OVERALL_FEATURES), 32, 8
POOLED = len(KINDS) * FEATURES + OVERALL
SHAPES = {
    "kind_in": (HIDDEN, len(KINDS) + POOLED),
    "kind_in_bias": (HIDDEN,),
    "kind_out": (ACTIONS + CONTEXT, HIDDEN),
    "kind_out_bias": (ACTIONS + CONTEXT,),
    "own_in": (HIDDEN, FEATURES + CONTEXT),
    "own_in_bias": (HIDDEN,),
    "own_out": (ACTIONS, HIDDEN),
    "own_out_bias": (ACTIONS,),
    "threshold_in": (HIDDEN, POOLED),
    "threshold_in_bias": (HIDDEN,),
    "threshold_out": (1, HIDDEN),
    "threshold_out_bias": (1,),
    "failing": (len(KINDS),),
}
_HEALTHY, _SENSING = RESOURCE_FEATURES.index("healthy"), OVERALL_FEATURES.index("sensing")

KindActions: TypeAlias = Float[np.ndarray, "kind action"]
OwnActions: TypeAlias = Float[np.ndarray, "shared action"]


@dataclass(frozen=True)
class Actor:
    """A policy (see `gainnet.orchestrator.outlook.Policy`).

    Attributes:
        weights: by the names of SHAPES.
    """

    weights: checkpoint.Weights

    def steer(self, outlook: Outlook) -> Steering:
        """See Policy: the most likely action."""
        return steering(outlook, *self.means(outlook))

    def means(self, outlook: Outlook) -> tuple[KindActions, OwnActions, float]:
        """Log factors of each kind of resource, what each resource adds to them, and the threshold (below 0: none)."""
        pooled = pool(outlook)
        kinds = np.concatenate([np.eye(len(KINDS)), np.tile(pooled, (len(KINDS), 1))], 1)
        out = self._perceive("kind", kinds)
        own = self._perceive("own", np.concatenate([outlook.resource, out[outlook.kind, ACTIONS:]], 1))
        if fails(outlook):
            out[:, 0] += self.weights["failing"]
        return out[:, :ACTIONS], own, float(self._perceive("threshold", pooled[None])[0, 0])

    def _perceive(self, name: str, given: Float[np.ndarray, "sample input"]) -> Float[np.ndarray, "sample output"]:
        w = self.weights
        hidden = np.tanh(given @ w[f"{name}_in"].T + w[f"{name}_in_bias"])
        return np.asarray(hidden @ w[f"{name}_out"].T + w[f"{name}_out_bias"])


def steering(outlook: Outlook, kind: KindActions, own: OwnActions, threshold: float) -> Steering:
    """What the actions of kinds and of resources come to."""
    both = kind[outlook.kind] + own
    return Steering(both[:, 0], max(threshold, 0.0), both[:, 1])


def fails(outlook: Outlook) -> bool:
    """Whether a resource gives less than it does when all is well, or sensing is out."""
    return bool(outlook.resource[:, _HEALTHY].min(initial=1.0) < 1.0 or outlook.overall[_SENSING] < 1.0)


def pool(outlook: Outlook) -> Float[np.ndarray, " pooled"]:
    """Mean features of each kind of resource (zeros where there is none), then the overall ones."""
    count = np.maximum(np.bincount(outlook.kind, minlength=len(KINDS)), 1)
    total = np.zeros((len(KINDS), FEATURES))
    np.add.at(total, outlook.kind, outlook.resource)
    return np.concatenate([(total / count[:, None]).ravel(), outlook.overall])


def load(path: Path | None) -> checkpoint.Weights:
    """The weights of a checkpoint, or of the one that ships with the package. InputError where it is none."""
    return checkpoint.read(path if path is not None else checkpoint.shipped(KIND), KIND, SHAPES)

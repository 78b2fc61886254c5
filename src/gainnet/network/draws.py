"""Standard normals by the block: taking a generator into compiled code costs more than a small network's draws."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from gainnet.network.draws_kernel import fill

BLOCK = 1 << 16


class Normals:
    """Standard normals of one generator, drawn ahead in blocks."""

    def __init__(self, generator: np.random.Generator) -> None:
        """The generator must be used for nothing else."""
        self._generator = generator
        self._block = np.empty(0)
        self._used = 0

    def take(self, count: int) -> Float[np.ndarray, " count"]:
        """The next ``count`` normals, for the caller to overwrite if it likes; valid until the next call."""
        if self._used + count > len(self._block):
            if len(self._block) < count:
                self._block = np.empty(max(count, BLOCK))
            fill(self._block, self._generator)
            self._used = 0
        self._used += count
        return self._block[self._used - count : self._used]

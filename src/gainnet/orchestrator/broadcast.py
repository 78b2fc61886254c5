"""What the controller tells the edges, and when they hear it.

At the start of each frame the controller sends what it knows then: the row prices and the bids that came out of the
frames before, and which edges have most time to spare. It is heard ``staleness_s`` later, by all edges at once. While
the controller is out nothing is sent; what is under way still arrives, and the last that was heard holds.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

_ROUNDING_S = 1e-9


@dataclass(frozen=True, slots=True)
class Message:
    """What is broadcast.

    Attributes:
        price: price of each pool row, value per unit.
        bid: bid on a unit of each resource's time to come.
        spare: the edge nodes, those with most time to spare first.
    """

    price: Float[np.ndarray, " pool_row"]
    bid: Float[np.ndarray, " resource"]
    spare: Int[np.ndarray, " edge"]


class Broadcast:
    """The messages under way, and the last one that was heard.

    Args:
        staleness_s: time from sending to hearing.
        first: what is known before any message is heard.
    """

    def __init__(self, staleness_s: float, first: Message) -> None:
        self._staleness_s = staleness_s
        self._heard = first
        self._under_way: deque[tuple[float, Message]] = deque()

    def send(self, message: Message, now_s: float) -> None:
        """Send a message. One that takes time is copied, as its arrays change meanwhile.

        One that takes none is not: the edges then read the controller's own arrays, up to the last that it wrote.
        """
        if self._staleness_s > 0.0:
            message = Message(message.price.copy(), message.bid.copy(), message.spare.copy())
        self._under_way.append((now_s + self._staleness_s, message))

    def heard(self, now_s: float) -> Message:
        """The last message that was heard up to, and including, ``now_s``, which must not go back."""
        while self._under_way and self._under_way[0][0] <= now_s + _ROUNDING_S:
            self._heard = self._under_way.popleft()[1]
        return self._heard

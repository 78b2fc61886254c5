"""How much may be under way at once: requests, and tokens of prompts that wait for their first byte."""

from __future__ import annotations

from gainnet.serving.router import Refused
from gainnet.serving.settings import Limits

RETRY_S = 1.0


class Permit:
    """A request's leave to be under way, until `leave`."""

    __slots__ = ("_admission", "_in", "_prompt_token", "_waits")

    def __init__(self, admission: Admission, prompt_token: int) -> None:
        self._admission, self._prompt_token = admission, prompt_token
        self._in = self._waits = True

    def began(self) -> None:
        """The first byte came: its prompt waits no longer; again is harmless."""
        if self._waits:
            self._admission.queued_prompt_token -= self._prompt_token
            self._admission.waiting -= 1
            self._waits = False

    def leave(self) -> None:
        """The request is over; again is harmless."""
        if self._in:
            self.began()
            self._admission.in_flight -= 1
            self._in = False


class Admission:
    """Counts what is under way.

    Attributes:
        in_flight: requests.
        waiting: those of them that wait for their first byte.
        queued_prompt_token: of requests that wait for their first byte, estimated.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.in_flight = self.waiting = 0
        self.queued_prompt_token = 0

    def enter(self, prompt_token: int) -> Permit:
        """Leave for one more request. Refused: 429 where there is no room; one alone always has room."""
        if self.in_flight >= self._limits.in_flight:
            raise Refused(429, "too many requests are under way", RETRY_S, code="overloaded")
        if self.in_flight and self.queued_prompt_token + prompt_token > self._limits.queued_prompt_token:
            raise Refused(429, "too many prompts wait to be read", RETRY_S, code="overloaded")
        self.in_flight += 1
        self.waiting += 1
        self.queued_prompt_token += prompt_token
        return Permit(self, prompt_token)

"""Server-sent events of a stream, held to the API's form as they pass, and counted."""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json


class Events:
    """The events of one stream.

    Attributes:
        done: `[DONE]` has come; what follows is dropped.
        failed: the node sent an error as an event, which ends the stream.
        wrong: what is not an event of the API; None so far.
        prompt_token: as the node says in its usage, None until then.
        output_token: as the node says, else the chunks that had text.
    """

    def __init__(self, byte_max: int) -> None:
        self._byte_max = byte_max
        self._rest = b""
        self.done = self.failed = False
        self.wrong: str | None = None
        self.prompt_token: int | None = None
        self.output_token = 0
        self._counted = False

    @property
    def over(self) -> bool:
        """Whether nothing more is to come."""
        return self.done or self.failed or self.wrong is not None

    def feed(self, data: bytes) -> bytes:
        """The whole events in what came, as they are to be passed on; what is not whole waits for more."""
        if self._rest:
            data = self._rest + data
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        end = data.rfind(b"\n\n") + 2
        if end == 1:
            self._keep(data)
            return b""
        passed = 0
        while passed < end and not self.over:
            until = data.index(b"\n\n", passed)
            self._read(data[passed:until])
            if self.wrong is not None:
                break
            passed = until + 2
        if not self.over:
            self._keep(data[end:])
        return data if passed == len(data) else data[:passed]

    def _keep(self, rest: bytes) -> None:
        self._rest = rest
        if len(rest) > self._byte_max:
            self.wrong = f"an event of more than {self._byte_max} byte"

    def _read(self, event: bytes) -> None:
        if event.startswith(b"data: ") and b"\n" not in event:
            payload = event[6:]
        else:
            lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
            if not lines:  # a comment that keeps the connection alive
                return
            payload = b"\n".join(lines)
        if payload == b"[DONE]":
            self.done = True
            return
        try:
            chunk = from_json(payload, allow_inf_nan=False)
        except ValueError:
            self.wrong = "an event that is not JSON"
            return
        if not isinstance(chunk, dict):
            self.wrong = "an event that is no object"
        elif "error" in chunk:
            self.failed = True
        else:
            self._count(chunk)

    def _count(self, chunk: dict[str, Any]) -> None:
        counted = usage(chunk)
        if counted is not None:
            self.prompt_token, self.output_token = counted
            self._counted = True
        elif not self._counted and chunk.get("choices"):
            self.output_token += 1


def usage(answer: dict[str, Any]) -> tuple[int, int] | None:
    """Tokens of prompt and answer that an answer or a chunk says were used; None where it doesn't say."""
    used = answer.get("usage")
    if not isinstance(used, dict):
        return None
    prompt = used.get("prompt_tokens", used.get("input_tokens"))  # the names differ where images are drawn
    output = used.get("completion_tokens", used.get("output_tokens", 0))
    if not isinstance(prompt, int) or not isinstance(output, int):
        return None
    return max(prompt, 0), max(output, 0)

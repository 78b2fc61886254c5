"""The model of a node, and how requests become its tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import numpy as np

from gainnet.knowledge import general
from gainnet.knowledge.draw import Draw
from gainnet.models import hub, tokens
from gainnet.models.hub import Language
from gainnet.scenario.knowledge import Foundation, SmallModel
from gainnet.serving.router import Refused
from gainnet.serving.wire import Message

TEXTS = 64
ROLES = {"developer": "System", "system": "System", "user": "User", "assistant": "Assistant"}
"""How the plain template names who speaks, where the tokenizer has no template of its own."""
_AT_ONCE = 16_384
"""Characters that are tokenised in the event loop; longer texts in a thread."""


def made(model: Foundation, seed: int) -> Language:
    """The model: built of random weights, its tokenizer trained on a few made-up texts; or loaded.

    InputError where it cannot be.
    """
    if not isinstance(model, SmallModel):
        return hub.load(model.name, model.context)
    texts = general.texts(Draw(np.random.default_rng(seed)), TEXTS)
    return hub.build(model, hub.tokenizer(texts, model.vocabulary, model.context), seed)


class Prompts:
    """Turns what requests say into tokens."""

    def __init__(self, language: Language) -> None:
        self._tokenizer, self._context = language.tokenizer, language.context
        self._start = tokens.start(language.tokenizer)

    async def chat(self, messages: Sequence[Message]) -> list[int]:
        """The tokens of a conversation, up to where the assistant is to speak.

        Refused: 400 where it holds more than text, or does not fit.
        """
        said = [{"role": message.role, "content": _text(number, message)} for number, message in enumerate(messages)]
        if self._tokenizer.chat_template is None:
            return await self.text(plain(said))
        size = sum(len(one["content"]) for one in said)
        return self._fitting(await _apart(size, lambda: self._templated(said)))

    async def text(self, text: str, room: int = 1) -> list[int]:
        """The tokens of a text, with what begins one; ``room`` positions must be left."""
        found = await _apart(len(text), lambda: tokens.ids(self._tokenizer, text))
        return self._fitting([*self._start, *found], room)

    async def either(self, given: str | Sequence[int], room: int = 1) -> list[int]:
        """The tokens of a text, or those that were given."""
        return await self.text(given, room) if isinstance(given, str) else self._fitting(list(given), room)

    def shown(self, token: int) -> str:
        """A token as text."""
        shown: str = self._tokenizer.decode([token])  # type: ignore[assignment]
        return shown

    def _templated(self, said: list[dict[str, str]]) -> list[int]:
        try:
            text = self._tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # noqa: BLE001  templates are programs that raise what they like
            reason = " ".join(str(error).split())[:200]
            raise Refused(400, f"messages: {reason}", code="invalid_value", param="messages") from None
        found: list[int] = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return found

    def _fitting(self, found: list[int], room: int = 1) -> list[int]:
        if len(found) + room > self._context:
            raise Refused(
                400, f"the prompt has {len(found)} tokens; the model has room for {self._context - room}",
                code="context_length_exceeded",
            )  # fmt: skip
        return found


def plain(said: Sequence[dict[str, str]]) -> str:
    """A conversation as text: a line for each message, then the assistant's name."""
    lines = [f"{ROLES.get(one['role'], one['role'].capitalize())}: {one['content']}" for one in said]
    return "\n".join([*lines, "Assistant:"])


def _text(number: int, message: Message) -> str:
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    for place, part in enumerate(message.content):
        if part.type not in ("text", "refusal"):
            name = f"messages[{number}].content[{place}]"
            raise Refused(400, f"{name}: the model reads text only", code="unsupported_content", param=name)
    return "".join(part.text or "" for part in message.content)


async def _apart(size: int, work: Callable[[], list[int]]) -> list[int]:
    return work() if size <= _AT_ONCE else await asyncio.to_thread(work)

"""What is learnt from: examples, and how they lie over domains (one for each edge) and ends."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Example:
    """A dialogue and the note that was written from it.

    Attributes:
        key: unique in its corpus.
        section: of the note (its header).
        dialogue: what was said.
        note: what is to be written.
        seen: of a held-out example: its note or its dialogue stands in the training data too.
    """

    key: str
    section: str
    dialogue: str
    note: str
    seen: bool = False


@dataclass(frozen=True, slots=True)
class Domain:
    """An edge's domain: a group of note sections.

    Attributes:
        name: of the domain.
        sections: which belong to it.
        shards: the private examples of each end of the edge; an end may have none.
        validation: held out, for decisions (gate, drift, who is better).
        test: held out, for what is reported.
    """

    name: str
    sections: tuple[str, ...]
    shards: tuple[tuple[Example, ...], ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]


@dataclass(frozen=True, slots=True)
class Corpus:
    """All there is to learn from.

    Attributes:
        domains: one for each edge, in the order of edges.
        public: public text, which the cloud may have.
        public_held: public text held out.
        refused: one line for each row or file that could not be used, and why.
    """

    domains: tuple[Domain, ...]
    public: tuple[str, ...]
    public_held: tuple[str, ...]
    refused: tuple[str, ...]


def folded(text: str) -> str:
    """The text as it is compared to find duplicates: any white space is one space, and case does not matter."""
    return " ".join(text.casefold().split())

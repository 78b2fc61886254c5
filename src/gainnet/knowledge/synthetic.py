"""Synthetic data: visits for as many domains as there are edges, and public text of the same words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gainnet.knowledge import general, visits
from gainnet.knowledge.draw import Draw
from gainnet.knowledge.example import Corpus, Example
from gainnet.knowledge.shards import Parts, domains, refuse_endless
from gainnet.scenario.knowledge import Synthetic

_ATTEMPTS = 50  # to write a note that is not there yet, before one that is there is taken


@dataclass(frozen=True, slots=True)
class _Style:
    """A domain's name, and how the notes of its sections are written."""

    name: str
    sections: dict[str, visits.Write]


_STYLES = (
    _Style("history", {"HPI": visits.complaint, "FAMILY": visits.family}),
    _Style("treatment", {"MEDICATIONS": visits.medications, "ALLERGIES": visits.allergies}),
    _Style("examination", {"VITALS": visits.vitals, "EXAM": visits.exam}),
    _Style("decision", {"ASSESSMENT": visits.assessment, "PLAN": visits.plan}),
)


def make(
    data: Synthetic,
    *,
    ends_of_edge: Sequence[int],
    rng: np.random.Generator,
    public: np.random.Generator | None = None,
) -> Corpus:
    """A corpus with one domain for each edge, whose training examples lie on that many ends.

    ``data.train`` examples are dealt to the domains as evenly as can be (at least one for each), and so are
    ``data.held`` for validation and as many more for the test; ``data.public`` public texts and ``data.held`` held out.
    The first four domains are history, treatment, examination and decision; those beyond are clinics, each with a
    grammar of its own. No note and no public text is there twice, unless so many are asked for that they run out;
    a test example whose note stands in train as well is marked as seen. Public text is drawn from ``public`` where that is
    given, so that it can be the same whatever the private data are.

    Errors: InputError without edges, or with an edge that has no end for its examples.
    """
    refuse_endless(ends_of_edge)
    draw, notes, edges = Draw(rng), set[str](), len(ends_of_edge)
    parts = []
    for edge in range(edges):
        style, train, held = _style(edge), _part(data.train, edge, edges), _part(data.held, edge, edges)
        written = (
            _write(style, name, number, draw, notes)
            for name, number in (("train", train), ("validation", held), ("test", held))
        )
        parts.append(Parts(style.name, tuple(style.sections), *written))
    dealt = domains(parts, ends_of_edge, rng)
    texts = general.texts(draw if public is None else Draw(public), data.public + data.held)
    return Corpus(dealt, tuple(texts[: data.public]), tuple(texts[data.public :]), ())


def _style(edge: int) -> _Style:
    if edge < len(_STYLES):
        return _STYLES[edge]
    index, name = 2 * (edge - len(_STYLES)), f"clinic {edge + 1}"
    return _Style(name, {f"VISIT {edge + 1}": visits.clinic(index), f"REVIEW {edge + 1}": visits.clinic(index + 1)})


def _part(number: int, edge: int, edges: int) -> int:
    return max(1, number // edges + (edge < number % edges))


def _write(style: _Style, name: str, number: int, draw: Draw, notes: set[str]) -> tuple[Example, ...]:
    """That many examples, of each section in turn; their notes are added to those that are there."""
    made = []
    for index in range(number):
        section = tuple(style.sections)[index % len(style.sections)]
        for _ in range(_ATTEMPTS):
            visit = style.sections[section](draw)
            if visit.note not in notes:
                break
        notes.add(visit.note)
        made.append(Example(f"{style.name}/{name}/{index}", section, visit.dialogue, visit.note))
    return tuple(made)

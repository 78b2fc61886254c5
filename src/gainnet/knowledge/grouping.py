"""Which note sections belong to which edge's domain."""

from __future__ import annotations

from collections.abc import Mapping

from gainnet.errors import InputError

# MTS-Dialog's 20 section headers in four groups of about 370, 360, 310 and 180 training examples
MTS_DIALOG: Mapping[str, tuple[str, ...]] = {
    "present illness": ("GENHX", "CC"),
    "background": ("FAM/SOCHX", "GYNHX", "OTHER_HISTORY"),
    "past and treatment": ("PASTMEDICALHX", "PASTSURGICAL", "ALLERGY", "MEDICATIONS", "IMMUNIZATIONS", "PROCEDURES"),
    "findings and decisions": (
        *("ROS", "ASSESSMENT", "EXAM", "DIAGNOSIS", "DISPOSITION", "PLAN", "EDCOURSE"),
        *("IMAGING", "LABS"),
    ),
}


def grouped(
    counts: Mapping[str, int], edges: int, domains: Mapping[str, tuple[str, ...]], field: str = "knowledge.data.domains"
) -> dict[str, tuple[str, ...]]:
    """The sections of each domain by its name, one domain for each edge, in the order of edges.

    Args:
        counts: examples of each section that is there.
        edges: how many domains are needed.
        domains: what the person wants; empty for MTS-Dialog's own groups where the sections and the number of edges are
            its, and sections dealt out by size where not (the largest goes first, each to the smallest domain so far;
            a domain is then named after its largest section). Of fewer sections than edges the largest are shared by
            several, as hospitals of one kind are.
        field: of the scenario, for errors.

    Errors: InputError where there is not one domain for each edge, or a section that was given is in two domains or in none
    of the data.
    """
    if domains:
        _refuse(counts, edges, domains, field)
        return dict(domains)
    mts = {section for sections in MTS_DIALOG.values() for section in sections}
    if edges == len(MTS_DIALOG) and set(counts) <= mts:
        there = {name: tuple(s for s in sections if s in counts) for name, sections in MTS_DIALOG.items()}
        if all(there.values()):
            return there
    return _dealt(counts, edges) if len(counts) >= edges else _shared(counts, edges)


def _dealt(counts: Mapping[str, int], edges: int) -> dict[str, tuple[str, ...]]:
    groups: list[list[str]] = [[] for _ in range(edges)]
    sizes = [0] * edges
    for section in sorted(counts, key=lambda name: (-counts[name], name)):
        smallest = min(range(edges), key=lambda edge: (sizes[edge], len(groups[edge]), edge))
        groups[smallest].append(section)
        sizes[smallest] += counts[section]
    return {group[0]: tuple(group) for group in groups}


def _shared(counts: Mapping[str, int], edges: int) -> dict[str, tuple[str, ...]]:
    """One section for each edge; another edge shares the section of which each has the most."""
    sharing = dict.fromkeys(sorted(counts, key=lambda name: (-counts[name], name)), 1)
    for _ in range(edges - len(counts)):
        sharing[max(sharing, key=lambda name: counts[name] / sharing[name])] += 1
    found: dict[str, tuple[str, ...]] = {}
    for section, number in sharing.items():
        for part in range(1, number + 1):
            name = section if number == 1 else f"{section} ({part} of {number})"
            while name in found or (name in counts and name != section):
                name += "*"
            found[name] = (section,)
    return found


def _refuse(counts: Mapping[str, int], edges: int, domains: Mapping[str, tuple[str, ...]], field: str) -> None:
    if len(domains) != edges:
        raise InputError(f"{field}: {len(domains)} domains for {edges} edges; give one for each edge")
    owner: dict[str, str] = {}
    for name, sections in domains.items():
        if not sections:
            raise InputError(f"{field}.{name}: has no section; each domain needs at least one")
        for section in sections:
            if section in owner:
                raise InputError(f"{field}.{name}: section {section!r} is in {owner[section]!r} too; it can be in one")
            if section not in counts:
                have = ", ".join(sorted(counts))[:200]
                raise InputError(f"{field}.{name}: the data have no section {section!r}; they have {have}")
            owner[section] = name

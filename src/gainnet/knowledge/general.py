"""Public text of synthetic data: questions and answers on drugs, conditions, charts and visits in general.

It has the words of `gainnet.knowledge.visits`, lines of other visits, and no dialogue with its note. Letters repeat in
their answer what they asked about, so a model that learns this text learns to copy, which notes need.
"""

from __future__ import annotations

from collections.abc import Callable

from gainnet.knowledge import visits, words
from gainnet.knowledge.draw import Draw

_ATTEMPTS = 50  # before a text that was there already is taken


def texts(draw: Draw, number: int) -> list[str]:
    """That many texts, all different as long as there are enough ways to say something."""
    made: dict[str, None] = {}
    repeated: list[str] = []
    for _ in range(number):
        for _ in range(_ATTEMPTS):
            text = draw.one(_KINDS)(draw)
            if text not in made:
                made[text] = None
                break
        else:
            repeated.append(text)
    return [*made, *repeated]


def _answered(question: str, answer: str) -> str:
    return f"Question: {question}\nAnswer: {answer}"


def _drug(draw: Draw) -> str:
    condition = draw.one(tuple(words.CONDITIONS))
    _, drug, symptoms = words.CONDITIONS[condition]
    dose, often, symptom = draw.one(words.DOSES), draw.one(tuple(words.FREQUENCIES)), draw.one(symptoms)
    question, answer = draw.one(
        (
            ("What is {drug} used for?", "{drug} is used for {condition}. Some take {dose} milligrams {often}."),
            ("How is {condition} treated?", "{drug} is often given for {condition}, for example {dose} mg {often}."),
            ("Does {drug} help with {symptom}?", "If {condition} causes the {symptom}, then {drug} may help."),
            (
                "I stopped {drug} and have {symptom} again. Why?",
                "{drug} treats {condition}, which can bring {symptom}.",
            ),
        )
    )
    values = {"drug": drug, "condition": condition, "dose": dose, "often": often, "symptom": symptom}
    return _answered(question.format(**values), answer.format(**values))


def _chart(draw: Draw) -> str:
    kinds: tuple[Callable[[Draw], tuple[str, str]], ...] = (
        lambda d: _pair(d, {name: chart for name, (chart, _, _) in words.CONDITIONS.items()}),
        lambda d: _pair(d, words.FREQUENCIES),
        lambda d: _pair(d, words.TESTS),
        lambda d: _pair(d, words.REACTIONS),
        lambda d: _pair(d, words.RELATIVES),
        lambda d: _pair(d, words.CLINICS),
        lambda d: _pair(d, words.STATES),
        _span,
        _finding,
    )
    (said, chart), (said_too, chart_too) = draw.one(kinds)(draw), draw.one(kinds)(draw)
    return _answered(
        draw.one(("How do charts write {a} and {b}?", "In a chart, what are {a} and {b}?")).format(a=said, b=said_too),
        draw.one(("{a} is {x}. {b} is {y}.", "They write {x} for {a} and {y} for {b}.")).format(
            a=said, b=said_too, x=chart, y=chart_too
        ),
    )


def _pair(draw: Draw, table: dict[str, str]) -> tuple[str, str]:
    said = draw.one(tuple(table))
    return said, table[said]


def _span(draw: Draw) -> tuple[str, str]:
    number, unit = draw.whole(2, 9), draw.one(tuple(words.UNITS))
    return f"{words.NUMBERS[number - 2]} {unit}", f"{number} {words.UNITS[unit]}"


def _finding(draw: Draw) -> tuple[str, str]:
    organ = draw.one(tuple(words.ORGANS))
    chart, findings = words.ORGANS[organ]
    finding = draw.one(tuple(findings))
    return f"{organ} that {finding}", f"{chart} {findings[finding]}"


def _letter(draw: Draw) -> str:
    age, side = draw.whole(18, 89), draw.one(tuple(words.SIDES))
    part, trouble = draw.one(words.PARTS), draw.one(words.TROUBLES)
    number, unit = draw.one(words.NUMBERS), draw.one(tuple(words.UNITS))
    trigger, relief, symptom = draw.one(words.TRIGGERS), draw.one(words.RELIEFS), draw.one(words.SYMPTOMS)
    return _answered(
        f"I am {age} years old and have {trouble} in my {side} {part}. It began {number} {unit} ago. "
        f"It is worse with {trigger}. Is it bad that I have {symptom} too?",
        f"At {age}, {trouble} in the {side} {part} for {number} {unit} should be looked at. Until then avoid {trigger} "
        f"and try {relief}. Call soon about {symptom} that will not go away.",
    )


def _reader(draw: Draw) -> str:
    first, second = draw.some([drug for _, drug, _ in words.CONDITIONS.values()], 2)
    dose, often = draw.one(words.DOSES), draw.one(tuple(words.FREQUENCIES))
    allergen, reaction = draw.one(words.ALLERGENS), draw.one(tuple(words.REACTIONS))
    relative, condition = draw.one(tuple(words.RELATIVES)), draw.one(tuple(words.CONDITIONS))
    question, answer = draw.one(
        (
            (
                f"I take {first}, {dose} milligrams, {often}. Can I also have {second}?",
                f"With {first} {dose} mg {often}, ask your doctor before you start {second}.",
            ),
            (
                f"I get {reaction} from {allergen}. Is that an allergy?",
                f"Yes, {reaction} from {allergen} can be an allergy. Tell every doctor about {allergen}.",
            ),
            (
                f"My {relative} has {condition} and smokes {draw.one(words.NUMBERS)} cigarettes a day. Will I get it?",
                f"{condition} runs in families. Tell the doctor that your {relative} has {condition}.",
            ),
        )
    )
    return _answered(question, answer)


def _measured(draw: Draw) -> str:
    upper, lower, pulse = draw.whole(95, 179), draw.whole(55, 99), draw.whole(48, 119)
    degrees, oxygen = f"{draw.whole(36, 39)}.{draw.whole(0, 9)}", draw.whole(88, 99)
    question, answer = draw.one(
        (
            (f"What does {upper} over {lower} mean?", f"It is a blood pressure, {upper}/{lower}, upper over lower."),
            (f"Is a pulse of {pulse} good?", f"A heart that beats {pulse} times a minute, HR {pulse}, can be normal."),
            (f"Is {degrees} a fever?", f"A temperature of {degrees} is {'' if degrees >= '38' else 'not '}a fever."),
            (
                f"My oxygen is {oxygen} percent.",
                f"SpO2 {oxygen} is {'low' if oxygen < 92 else 'fine'} for most people.",
            ),
        )
    )
    return _answered(question, answer)


def _chat(draw: Draw) -> str:
    said = draw.one(words.SMALL_TALK).format(number=draw.one(words.NUMBERS))
    wrong, right = draw.some(words.NUMBERS, 2)
    question, answer = draw.one(
        (
            (
                f'A patient says: "{said}" What may a doctor answer?',
                f'For example: "{draw.one(words.SMALL_ANSWERS)}" Then ask how long it has been, and what helps.',
            ),
            (
                f'What if a patient says "{wrong} {draw.one(tuple(words.UNITS))}, no, wait, {right}"?',
                f"Then {right} is right, and {wrong} is forgotten.",
            ),
            (
                f"My {draw.one(words.OTHERS)} was sent to {draw.one(tuple(words.CLINICS))}. What comes next?",
                f"They may order {draw.one(tuple(words.TESTS))} and say when to come back.",
            ),
        )
    )
    return _answered(question, answer)


def _overheard(draw: Draw) -> str:
    """A few lines of a visit that is made for this alone; its note is thrown away."""
    lines = draw.one(_VISITS)(draw).dialogue.split("\n")
    start = 2 * draw.whole(0, (len(lines) - 4) // 2)
    return "\n".join(lines[start : start + 4])


_VISITS = (
    *(visits.complaint, visits.family, visits.medications, visits.allergies),
    *(visits.vitals, visits.exam, visits.assessment, visits.plan),
)
_KINDS: tuple[Callable[[Draw], str], ...] = (_drug, _chart, _letter, _reader, _measured, _chat, _overheard, _overheard)

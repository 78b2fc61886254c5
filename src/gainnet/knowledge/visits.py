"""Synthetic visits: facts are drawn, both sides say them in one of many ways, and the note has them in a chart's grammar.

Every section has a telegraphic grammar of its own, regular enough for a small model to learn, with abbreviations that
are not said aloud. Values are copied from what was said, but patients correct themselves, speak of others' drugs and of
the weather, and topics come in any order, so that copying the dialogue does not solve it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gainnet.knowledge import words
from gainnet.knowledge.draw import Draw

CORRECTED = 0.25  # part of the values that are first said wrong
_GREETED, _SMALL_TALK, _OTHERS = 0.3, 0.3, 0.3  # part of the visits with each


@dataclass(frozen=True, slots=True)
class Visit:
    """What was said (``Doctor:`` and ``Patient:`` in turn, a line each) and the note on it."""

    dialogue: str
    note: str


Write = Callable[[Draw], Visit]

_GREETINGS = (
    ("Good morning, how are you?", "Not too bad, thank you."),
    ("Hello, please have a seat.", "Thanks, doctor."),
    ("Hi, good to see you again.", "Nice to see you too."),
    ("Come on in.", "Hello, doctor."),
)
_FIXES = ("no, wait,", "sorry, I mean", "no, actually", "hmm, no,")


class Talk:
    """A dialogue in the making: topics of one or more lines, put in an order when it is finished."""

    def __init__(self, draw: Draw) -> None:
        self._draw = draw
        self._topics: list[list[str]] = []

    def topic(self, asked: Sequence[str], answered: Sequence[str], **values: str) -> None:
        """The doctor asks in one of these ways, the patient answers in one of those; ``{name}`` is filled in."""
        question = self._draw.one(asked).format(**values)
        answer = self._draw.one(answered).format(**values)
        self._topics.append([f"Doctor: {question}", f"Patient: {answer}"])

    def corrected(self, right: str, others: Sequence[str]) -> str:
        """The value as it is said: now and then another one first, which is taken back."""
        wrong = self._draw.one([other for other in others if other != right])
        return f"{wrong}, {self._draw.one(_FIXES)} {right}" if self._draw.chance(CORRECTED) else right

    def finish(self, note: str) -> Visit:
        """The topics in an order that is drawn, with what has no place in a note between them."""
        if self._draw.chance(_SMALL_TALK):
            chat = self._draw.one(words.SMALL_TALK).format(number=self._draw.one(words.NUMBERS))
            self._topics.append([f"Patient: {chat}", f"Doctor: {self._draw.one(words.SMALL_ANSWERS)}"])
        if self._draw.chance(_OTHERS):
            drug = self._draw.one([drug for _, drug, _ in words.CONDITIONS.values()])
            other = self._draw.one(words.OTHERS)
            self._topics.append([f"Patient: My {other} takes {drug}.", "Doctor: Let us talk about you."])
        topics = self._draw.some(self._topics, len(self._topics))
        if self._draw.chance(_GREETED):
            hello, reply = self._draw.one(_GREETINGS)
            topics.insert(0, [f"Doctor: {hello}", f"Patient: {reply}"])
        lines = [line for topic in topics for line in topic]
        return Visit("\n".join(lines), note)


def complaint(draw: Draw) -> Visit:
    """History of present illness: who, what and where, how long, what makes it worse and better, what is there and not."""
    talk = Talk(draw)
    age, sex = str(draw.whole(18, 89)), draw.one(("man", "woman"))
    side, part, trouble = draw.one(tuple(words.SIDES)), draw.one(words.PARTS), draw.one(words.TROUBLES)
    number, unit = draw.whole(2, 9), draw.one(tuple(words.UNITS))
    trigger, relief = draw.one(words.TRIGGERS), draw.one(words.RELIEFS)
    present, absent, absent_too = draw.some(words.SYMPTOMS, 3)
    talk.topic(
        ("How old are you?", "Can you tell me your age?"),
        ("I am a {age} year old {sex}.", "{age}, and I am a {sex}.", "A {sex} of {age}, doctor."),
        age=talk.corrected(age, [str(other) for other in range(18, 90)]),
        sex=sex,
    )
    talk.topic(
        ("What brings you in?", "What is bothering you?", "How can I help you today?"),
        ("I have {trouble} in my {side} {part}.", "It is my {side} {part}, there is {trouble}."),
        trouble=trouble,
        side=talk.corrected(side, tuple(words.SIDES)),
        part=part,
    )
    talk.topic(
        ("How long has it been?", "When did it start?"),
        ("For about {number} {unit}.", "It began {number} {unit} ago.", "I noticed it {number} {unit} back."),
        number=talk.corrected(words.NUMBERS[number - 2], words.NUMBERS),
        unit=unit,
    )
    talk.topic(
        ("What makes it worse or better?", "What changes it?"),
        ("It is worse with {trigger}, {relief} helps.", "It likes {relief}, but not {trigger}."),
        trigger=trigger,
        relief=relief,
    )
    talk.topic(
        ("Any {a}, {b} or {c}?", "Do you have {a}, {c} or {b}?"),
        ("Only {b}.", "Yes, {b}, but not the rest.", "Some {b}, nothing else."),
        a=absent,
        b=present,
        c=absent_too,
    )
    where = f"{words.SIDES[side]} {part} {trouble} x {number} {words.UNITS[unit]}"
    note = f"{age} {'M' if sex == 'man' else 'F'} c/o {where}, worse w/ {trigger}, better w/ {relief}. Pos {present}."
    return talk.finish(f"{note} Neg {absent}, {absent_too}.")


def family(draw: Draw) -> Visit:
    """Family and social history: who had what from which age on, what nobody had, and smoking."""
    talk = Talk(draw)
    first, second = draw.some(tuple(words.RELATIVES), 2)
    has, has_too, none = draw.some(tuple(words.CONDITIONS), 3)
    age = str(draw.whole(30, 79))
    number = draw.whole(2, 9)
    smoked = draw.one(("now", "quit", "never"))
    talk.topic(
        ("Any illness in your family?", "Tell me about your family's health."),
        ("My {first} has had {has} since age {age}.", "At {age} my {first} got {has}."),
        first=first,
        has=has,
        age=talk.corrected(age, [str(other) for other in range(30, 80)]),
    )
    talk.topic(
        ("Anybody else?", "And on the other side?"),
        ("My {second} has {has}.", "There is {has} too, my {second}."),
        second=talk.corrected(second, [name for name in words.RELATIVES if name != first]),
        has=has_too,
    )
    talk.topic(("Does anyone have {none}?", "And {none}?"), ("No, nobody.", "Not that I know."), none=none)
    answers = {
        "now": ("I smoke {number} cigarettes a day.", "Yes, about {number} cigarettes daily."),
        "quit": ("I quit {number} years ago.", "Not for the last {number} years."),
        "never": ("No, I never did.", "Never touched it."),
    }
    talk.topic(("Do you smoke?", "What about tobacco?"), answers[smoked], number=words.NUMBERS[number - 2])
    short = {name: chart for name, (chart, _, _) in words.CONDITIONS.items()}
    tobacco = {"now": f"{number} cig/d", "quit": f"quit {number} y ago", "never": "never"}[smoked]
    one, two = words.RELATIVES[first], words.RELATIVES[second]
    return talk.finish(f"FHx: {one} {short[has]} at {age}; {two} {short[has_too]}; no {short[none]}. Tob: {tobacco}.")


def _drugs(draw: Draw, number: int) -> list[str]:
    return draw.some([drug for _, drug, _ in words.CONDITIONS.values()], number)


def medications(draw: Draw) -> Visit:
    """Medications: two that are taken, with dose and frequency, and one that was stopped, and why."""
    talk = Talk(draw)
    taken = _drugs(draw, 3)
    lines = []
    for drug, asked in zip(taken, (("What do you take?", "Any pills?"), ("Anything else?",)), strict=False):
        dose, often = draw.one(words.DOSES), draw.one(tuple(words.FREQUENCIES))
        talk.topic(
            asked,
            ("I take {drug}, {dose} milligrams, {often}.", "{often} I have {dose} milligrams of {drug}."),
            drug=drug,
            dose=talk.corrected(dose, words.DOSES),
            often=talk.corrected(often, tuple(words.FREQUENCIES)),
        )
        lines.append(f"{drug} {dose} mg {words.FREQUENCIES[often]}")
    effect = draw.one(words.SYMPTOMS)
    talk.topic(
        ("Did you stop any?", "What did you stop?"),
        ("I stopped {drug}, it gave me {effect}.", "Yes, {drug}, because of {effect}."),
        drug=taken[2],
        effect=effect,
    )
    return talk.finish(f"Rx: {'; '.join(sorted(lines))}. D/c {taken[2]} ({effect}).")


def allergies(draw: Draw) -> Visit:
    """Allergies: two with what they do, one that is tolerated, and since when."""
    talk = Talk(draw)
    first, second, fine = draw.some(words.ALLERGENS, 3)
    does, does_too = draw.some(tuple(words.REACTIONS), 2)
    age = str(draw.whole(3, 60))
    talk.topic(
        ("Are you allergic to anything?", "Any allergies?"),
        ("I get {does} from {first}, since I was {age}.", "At {age} I first had {does} from {first}."),
        first=talk.corrected(first, [name for name in words.ALLERGENS if name not in (second, fine)]),
        does=does,
        age=age,
    )
    talk.topic(
        ("What else?", "Is that the only one?"),
        ("I had {does} from {second}.", "With {second} I have {does}."),
        second=second,
        does=talk.corrected(does_too, tuple(words.REACTIONS)),
    )
    talk.topic(("And {fine}?", "How about {fine}?"), ("That is fine.", "No trouble at all."), fine=fine)
    one, two = words.REACTIONS[does], words.REACTIONS[does_too]
    return talk.finish(f"ALL: {first} -> {one} (age {age}), {second} -> {two}. Tolerates {fine}.")


def vitals(draw: Draw) -> Visit:
    """Vital signs, read out by the doctor, who now and then reads again."""
    talk = Talk(draw)
    upper, lower, pulse = draw.whole(95, 179), draw.whole(55, 99), draw.whole(48, 119)
    degrees, part, oxygen = draw.whole(36, 39), draw.whole(0, 9), draw.whole(88, 99)
    weight = draw.whole(45, 120)
    pressure = talk.corrected(f"{upper} over {lower}", [f"{upper - 10} over {lower}", f"{upper} over {lower + 6}"])
    beats = talk.corrected(str(pulse), [str(pulse + 4), str(pulse - 7)])
    replies = ("Is that good?", "Okay.", "All right.", "I see.")
    talk.topic(("Your blood pressure is {x}.", "I read {x} for the pressure."), replies, x=pressure)
    talk.topic(("The pulse is {x}.", "Your heart beats {x} times a minute."), replies, x=beats)
    talk.topic(("Your temperature is {x}.", "The thermometer says {x}."), replies, x=f"{degrees}.{part}")
    talk.topic(("Oxygen is {x} percent.", "I see {x} percent oxygen."), replies, x=str(oxygen))
    talk.topic(("What do you weigh?", "Your weight?"), ("{x} kilos.", "About {x} kilos."), x=str(weight))
    note = f"VS: T {degrees}.{part}, BP {upper}/{lower}, HR {pulse}, SpO2 {oxygen}"
    return talk.finish(f"{note}, wt {weight} kg. {'Febrile' if degrees >= 38 else 'Afeb'}.")


def exam(draw: Draw) -> Visit:
    """What the doctor finds on three organs and on a limb."""
    talk = Talk(draw)
    found = {}
    replies = ("Okay.", "I see.", "Is that bad?", "All right.")
    starts = ("Your {organ} {finding}.", "The {organ} {finding}.")
    for organ in draw.some(tuple(words.ORGANS), 3):
        chart, findings = words.ORGANS[organ]
        finding = draw.one(tuple(findings))
        talk.topic(starts, replies, organ=organ, finding=talk.corrected(finding, tuple(findings)))
        found[chart] = findings[finding]
    side, part = draw.one(tuple(words.SIDES)), draw.one(words.PARTS)
    trouble = draw.one(("swelling", "redness", "stiffness"))
    talk.topic(
        ("There is {trouble} of the {side} {part}.", "I find some {trouble}, {side} {part}."),
        ("Yes, I noticed.", "I thought so."),
        trouble=trouble,
        side=talk.corrected(side, tuple(words.SIDES)),
        part=part,
    )
    organs = "; ".join(f"{chart} {found[chart]}" for chart, _ in words.ORGANS.values() if chart in found)
    return talk.finish(f"PE: {organs}. Ext: {words.SIDES[side]} {part} {trouble}.")


def assessment(draw: Draw) -> Visit:
    """Two problems, how each of them goes, and what was ruled out."""
    talk = Talk(draw)
    first, second, out = draw.some(tuple(words.CONDITIONS), 3)
    state, state_too = draw.some(tuple(words.STATES), 2)
    number, unit = draw.whole(2, 9), draw.one(tuple(words.UNITS))
    talk.topic(
        ("I think {x} is {state}.", "Your {x} is {state}."),
        ("It has been like that for {number} {unit}.", "Yes, these last {number} {unit}."),
        x=first.removeprefix("a ").removeprefix("an "),
        state=talk.corrected(state, tuple(words.STATES)),
        number=words.NUMBERS[number - 2],
        unit=unit,
    )
    talk.topic(
        ("And {x} is {state}.", "As for {x}, it is {state}."),
        ("I see.", "I thought so."),
        x=second.removeprefix("a ").removeprefix("an "),
        state=state_too,
    )
    talk.topic(("It is not {x}.", "We can rule out {x}."), ("Good.", "Okay."), x=out)
    one, two, three = (words.CONDITIONS[name][0] for name in (first, second, out))
    going = f"#{one}: {words.STATES[state]} x {number} {words.UNITS[unit]}. #{two}: {words.STATES[state_too]}."
    return talk.finish(f"A/P {going} R/o {three} done.")


def plan(draw: Draw) -> Visit:
    """A drug to start or to change, a test, a clinic, and when to come back."""
    talk = Talk(draw)
    drug, old = _drugs(draw, 2)
    dose, often = draw.one(words.DOSES), draw.one(tuple(words.FREQUENCIES))
    test, clinic = draw.one(tuple(words.TESTS)), draw.one(tuple(words.CLINICS))
    number, unit = draw.whole(2, 9), draw.one(tuple(words.UNITS))
    replies = ("Okay.", "Good.", "Fine.", "All right.")
    talk.topic(
        ("Take {drug}, {dose} milligrams, {often}.", "Start {drug} {often}, {dose} milligrams."),
        replies,
        drug=drug,
        dose=talk.corrected(dose, words.DOSES),
        often=often,
    )
    talk.topic(("Stop the {old}.", "No more {old} from now on."), replies, old=old)
    talk.topic(("We will do {test}.", "I will order {test}."), replies, test=talk.corrected(test, tuple(words.TESTS)))
    talk.topic(("I will send you to {x}.", "Please see {x}."), replies, x=clinic)
    talk.topic(
        ("See me in {number} {unit}.", "Come back in {number} {unit}."),
        replies,
        number=talk.corrected(words.NUMBERS[number - 2], words.NUMBERS),
        unit=unit,
    )
    todo = f"+{drug} {dose} mg {words.FREQUENCIES[often]}; d/c {old}; {words.TESTS[test]}; ref {words.CLINICS[clinic]}"
    return talk.finish(f"Plan: {todo}; RTC {number} {words.UNITS[unit]}.")


def clinic(index: int) -> Write:
    """A visit to a clinic of its own kind: the same clauses for each, in an order and with labels by ``index``."""

    def write(draw: Draw) -> Visit:
        talk = Talk(draw)
        side, part, trouble = draw.one(tuple(words.SIDES)), draw.one(words.PARTS), draw.one(words.TROUBLES)
        (drug,) = _drugs(draw, 1)
        dose, number, unit = draw.one(words.DOSES), draw.whole(2, 9), draw.one(tuple(words.UNITS))
        present, absent = draw.some(words.SYMPTOMS, 2)
        talk.topic(
            ("How is it going?", "What is new?"),
            ("There is {trouble} in my {side} {part}.", "My {side} {part} has {trouble}."),
            trouble=trouble,
            side=talk.corrected(side, tuple(words.SIDES)),
            part=part,
        )
        talk.topic(
            ("What do you take for it?", "Any pills?"),
            ("{dose} milligrams of {drug}.", "{drug}, {dose} milligrams."),
            drug=drug,
            dose=talk.corrected(dose, words.DOSES),
        )
        talk.topic(("Any {a} or {b}?", "Is there {b} or {a}?"), ("Just {b}.", "Only {b}."), a=absent, b=present)
        talk.topic(
            ("See me in {number} {unit}.", "Let us meet in {number} {unit}."),
            ("Okay.", "I will."),
            number=words.NUMBERS[number - 2],
            unit=unit,
        )
        clauses = {
            "site": f"{words.SIDES[side]} {part} {trouble}",
            "drug": f"{drug} {dose} mg",
            "signs": f"+ {present}, 0 {absent}",
            "next": f"{number} {words.UNITS[unit]}",
        }
        return talk.finish(_ordered(clauses, index))

    return write


_LABELS: tuple[Mapping[str, str], ...] = (
    {"site": "Cc", "drug": "Tx", "signs": "Sx", "next": "Nv"},
    {"site": "Loc", "drug": "Rx", "signs": "ROS", "next": "FU"},
    {"site": "Prob", "drug": "Med", "signs": "Sys", "next": "Ret"},
)


def _ordered(clauses: Mapping[str, str], index: int) -> str:
    """The clauses in the order of the index-th permutation, under the index-th set of labels."""
    left, parts = list(clauses), []
    place = index
    while left:
        name = left.pop(place % len(left))
        place = place // (len(left) + 1)
        parts.append(f"{_LABELS[index % len(_LABELS)][name]}: {clauses[name]}")
    return f"{' | '.join(parts)}."

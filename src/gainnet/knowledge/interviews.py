"""A patient is asked about health and habits, and what a chart makes of it: conversations about terms of a public text.

What is said is drawn from the forms in ``interviews.txt``, what it is about from the text (runs of its rarer words: names of
conditions, drugs, procedures) and from common complaints, so that the words of a note must be looked for in what was said.
A note takes from question and answer alike ("Any fever?" "No." becomes "Denies fever."), tells of a third person, writes
numbers as figures and some lay words as charts have them. Forms are ordinary phrases of clinics; no recorded conversation
is behind them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from gainnet.knowledge import spoken
from gainnet.knowledge.draw import Draw

COMMON = 300
"""So many of the most frequent words of a text are in no term."""
TERM_WORDS = 3
"""Words of a term, at most."""
TERMS_MAX = 200_000
PLAIN = 0.6
"""How often what is talked about is a common complaint, and not a term of the text."""
SHORT = 0.6
"""How often a note is in the short form of charts; histories are in sentences."""
FACTS_MAX, HISTORY_MAX = 4, 8
NOTED, MOVED = 0.85, 0.25
"""How often a fact is noted, though the first always is; and how often facts are noted in another order than they were told."""
ONE = 0.35
"""How often an interview has one question only."""
OPENED, IDLED, KEPT = 0.5, 0.1, 0.3
"""How often an interview begins with a greeting; is interrupted by idle talk; keeps a lay word in the note."""
OLD, YEARS = (1, 95), (1960, 2009)

HEADINGS: Mapping[str, tuple[str, ...]] = {
    "history": ("GENHX", "HPI", "HISTORY OF PRESENT ILLNESS"),
    "family": ("FAM/SOCHX", "FAMILY HISTORY", "FAMILY AND SOCIAL HISTORY"),
    "social": ("FAM/SOCHX", "SOCIAL HISTORY", "FAMILY AND SOCIAL HISTORY"),
    "past": ("PASTMEDICALHX", "PMH", "PAST MEDICAL HISTORY"),
    "surgery": ("PASTSURGICAL", "PAST SURGICAL HISTORY"),
    "complaint": ("CC", "CHIEF COMPLAINT"),
    "allergy": ("ALLERGY", "ALLERGIES"),
    "review": ("ROS", "REVIEW OF SYSTEMS"),
    "drugs": ("MEDICATIONS", "CURRENT MEDICATIONS"),
    "judged": ("ASSESSMENT", "DIAGNOSIS", "IMPRESSION"),
    "exam": ("EXAM", "PHYSICAL EXAMINATION"),
    "plan": ("PLAN", "DISPOSITION"),
}
_OFTEN = {"history": 5, "family": 2, "social": 3, "past": 2}
SECTIONS = tuple(section for section in HEADINGS for _ in range(_OFTEN.get(section, 1)))
"""As often as they are drawn."""

_RUN = re.compile(r"[A-Za-z][A-Za-z'-]*[A-Za-z]|\S")
_FORM = ("said", "answered", "long", "short")


def _listed(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(","))


def _written(text: str) -> dict[str, str]:
    """Words as they are said, and as charts have them, where that differs."""
    pairs = [(item.partition("=")[0].strip(), item.partition("=")[2].strip()) for item in text.split(",")]
    return {said: noted or said for said, noted in pairs}


CONDITIONS = _written(
    "high blood pressure=hypertension, sugar=diabetes, diabetes=diabetes mellitus, a heart attack=myocardial infarction,"
    "a stroke=CVA, high cholesterol=hyperlipidemia, acid reflux=GERD, blood clots=DVT, low thyroid=hypothyroidism,"
    "heart disease=coronary artery disease, heart failure=congestive heart failure, kidney failure=renal failure,"
    "kidney stones=nephrolithiasis, arthritis=osteoarthritis, asthma, cancer, breast cancer, prostate cancer, colon cancer,"
    "lung cancer, depression, anxiety, seizures=seizure disorder, migraines=migraine headaches, hepatitis, anemia, gout,"
    "an irregular heartbeat=atrial fibrillation, bladder infections=urinary tract infections, weak bones=osteoporosis,"
    "pneumonia, ulcers=peptic ulcer disease, glaucoma, a hernia=hernia, emphysema=COPD, sleep apnea, tuberculosis, HIV"
)
SYMPTOMS = _written(
    "trouble breathing=shortness of breath, throwing up=vomiting, feeling sick=nausea, passing out=syncope, fever, chills,"
    "heartburn=reflux, loose stools=diarrhea, trouble swallowing=dysphagia, swollen legs=lower extremity edema, cough, rash,"
    "a racing heart=palpitations, headaches, chest pain, belly pain=abdominal pain, back pain, neck pain, dizziness, fatigue,"
    "weight loss, night sweats, constipation, blurry vision=blurred vision, numbness, a sore throat=sore throat, weakness,"
    "burning when I pee=dysuria, blood in my stool=rectal bleeding, nosebleeds=epistaxis, ear pain, joint pain, tingling,"
    "a runny nose=rhinorrhea, itching=pruritus, trouble sleeping=insomnia, swelling, bruising, bleeding, hearing loss"
)
SURGERIES = _written(
    "my gallbladder taken out=cholecystectomy, my appendix out=appendectomy, my tonsils out=tonsillectomy, a hysterectomy="
    "hysterectomy, a C section=cesarean section, my tubes tied=tubal ligation, a bypass=coronary artery bypass graft, a hernia "
    "fixed=hernia repair, my knee replaced=total knee replacement, my hip replaced=total hip replacement, back surgery=lumbar "
    "laminectomy, my cataracts done=cataract surgery, a stent put in=stent placement, a breast removed=mastectomy,"
    "my thyroid out=thyroidectomy, sinus surgery, shoulder surgery, heart surgery, a biopsy=biopsy, a colonoscopy=colonoscopy"
)
RELATIVES = _written(
    "mom=mother, dad=father, mother, father, brother, sister, grandma=grandmother, grandpa=grandfather, aunt, uncle, son,"
    "daughter, cousin, wife, husband"
)
OFTEN = _written(
    "once a day=daily, twice a day=b.i.d., three times a day=t.i.d., at bedtime=at bedtime, as needed=p.r.n.,"
    "every morning=every morning, every day=q.d."
)
ALLERGENS = _written(
    "penicillin, sulfa, codeine, aspirin, latex, shellfish, peanuts, morphine, iodine, pollen, cats, eggs"
)
DRUGS = _written(
    "aspirin, lisinopril, metformin, insulin, ibuprofen, Tylenol, prednisone, Lipitor, Synthroid, Coumadin, albuterol,"
    "omeprazole, Zoloft, multivitamins, vitamin D, calcium, Lasix, atenolol, Norvasc, Plavix, Advil, Zocor, Prozac, Vicodin"
)
PLAIN_WORDS: Mapping[str, Mapping[str, str]] = {
    "c": CONDITIONS,
    "s": SYMPTOMS,
    "d": DRUGS,
    "x": SURGERIES,
    "a": ALLERGENS,
    "w": SYMPTOMS,
}
"""What is talked about, by the first letter of its place in a form; terms of the text may stand for it."""
WORDS: Mapping[str, tuple[str, ...]] = {
    "part": _listed(
        "knee, shoulder, hip, ankle, elbow, wrist, foot, ear, eye, hand, arm, leg, breast, heel, thumb, neck, abdomen, chest"
    ),
    "side": ("left", "right"),
    "job": _listed(
        "teacher, nurse, farmer, driver, cook, carpenter, clerk, lawyer, mechanic, secretary, engineer, student, waitress,"
        "manager, accountant, plumber, welder, cashier"
    ),
    "ing": _listed("walking, lifting, running, standing, sitting, bending, climbing stairs, driving, exercise, work"),
    "test": _listed(
        "a chest x-ray, blood work, an MRI, an ultrasound, physical therapy, a CT scan, a stress test, an EKG"
    ),
    "any": _listed("Any, What about, How about, And"),
    "more": ("Tell me more.", "What else?", "Okay, go on.", "Is there anything else?", "Could you describe it?"),
    "no": (
        "No.",
        "Nope.",
        "No, nothing like that.",
        "None.",
        "Um, no.",
        "Not that I know of.",
        "No, I don't.",
        "Never.",
    ),
    "yes": ("Yes.", "Yeah.", "Yes, I do.", "Yep.", "Uh huh, yes.", "I do, yeah.", "Yes, doctor."),
    "ok": ("Okay.", "I see.", "All right.", "Thank you, doctor.", "Is it serious?", "Sounds good."),
}
NUMBERS: Mapping[str, tuple[int, int]] = {"n": (2, 40), "n3": (1, 4), "n5": (2, 6), "n10": (2, 10), "old": OLD}
UNITS = ("day", "week", "month", "year", "hour")
DOSES = (5, 10, 20, 25, 40, 50, 75, 80)
RACES = ("white", "Caucasian", "African American", "Hispanic", "Asian")
CALLED = {"female": ("ma'am", "miss", "young lady"), "male": ("sir", "mister", "young man")}
GREETINGS = ("Hello{}.", "Good morning{}.", "Hi{}, how are you?", "How are you feeling today{}?", "Welcome back{}.")
ANSWERS = ("Hello, doctor.", "Hi.", "Good morning.", "I am okay.", "Not too bad.", "Not so good.", "Fine, thanks.")
OPENINGS = (
    ("What brings you in today?", "I have had {s} for {t}.", "The patient is a {p} who presents with {S} for {T}."),
    ("How can I help you?", "I've been having {s} for about {t} now.", "This is a {p} with {S} for the past {T}."),
    (
        "What seems to be the problem?",
        "It's {s1}, it started {t} ago.",
        "The patient is a {p} complaining of {S1} for {T}.",
    ),
    ("What happened?", "I got {s1} {t} ago.", "This {p} presents with {S1}, which began {T} ago."),
    ("Why are you here?", "It is about my {c1}.", "The patient is a {p} with a history of {C1}."),
    (
        "Tell me what happened.",
        "I have {c} and {s1}.",
        "The patient is a {p} with a history of {C}, who presents with {S1}.",
    ),
)
AGES = ("How old are you?", "And how old are you now?", "Remind me of your age?", "May I ask your age?")


@dataclass(frozen=True, slots=True)
class Form:
    """Ways to ask, to answer and to note one thing; where ``paired`` the answer's place tells which note is meant."""

    said: tuple[str, ...]
    answered: tuple[str, ...]
    long: tuple[str, ...]
    short: tuple[str, ...]
    paired: bool


def terms(texts: Sequence[str], rarity: Mapping[str, int]) -> list[str]:
    """Runs of rarer words in the texts, as often as they are there, up to a limit; lower case but for short capitals."""
    common = set(sorted(rarity, key=lambda word: -rarity[word])[:COMMON])
    found = list[str]()
    for text in texts:
        run = list[str]()
        for word in (*_RUN.findall(text), "."):
            rare = len(word) > 2 and word[0].isalpha() and word.lower() not in common
            if rare and not word.endswith(("ing", "ed", "ly")):
                run.append(word if word.isupper() and len(word) <= 5 else word.lower())
                continue
            if 0 < len(run) <= TERM_WORDS:
                found.append(" ".join(run))
            run = []
        if len(found) >= TERMS_MAX:
            break
    return found


def interview(draw: Draw, known: Sequence[str]) -> str:
    """An interview about terms and common complaints, a heading, and its note."""
    section = draw.one(SECTIONS)
    sex = draw.one(tuple(CALLED))
    turns = _greeting(draw, sex)
    notes = list[str]()
    if section == "history":
        notes.append(_opening(draw, known, sex, turns))
    short = section != "history" and draw.chance(SHORT)
    most = HISTORY_MAX if section == "history" else FACTS_MAX
    asked = draw.some(forms()[section], 1 if draw.chance(ONE) else draw.whole(1, most))
    for form in asked:
        if draw.chance(IDLED):
            turns += zip(("Doctor", "Patient"), draw.one(spoken.IDLE), strict=True)
        said, answered, long, brief = _filled(form, Filling(draw, known, sex))
        turns += [("Doctor", said), ("Patient", answered)]
        if draw.chance(NOTED) or not notes:
            notes.append(brief if short else long)
    if draw.chance(MOVED):
        notes = (
            [*notes[:1], *draw.some(notes[1:], len(notes))] if section == "history" else draw.some(notes, len(notes))
        )
    words = "\n".join(f"{who}: {what}" for who, what in turns)
    return f"{words}\n\n## {draw.one(HEADINGS[section])}\n{' '.join(notes)}"


@cache
def forms() -> Mapping[str, tuple[Form, ...]]:
    """The forms of each section."""
    found: dict[str, list[Form]] = {section: [] for section in HEADINGS}
    text = (files("gainnet.knowledge") / "interviews.txt").read_text("utf-8")
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            section, *parts = (part.strip() for part in line.split(" ; "))
            fields = {name: tuple(part.split("|")) for name, part in zip(_FORM, parts, strict=True)}
            found[section.removesuffix("=")].append(Form(**fields, paired=section.endswith("=")))
    return {section: tuple(several) for section, several in found.items()}


@dataclass(slots=True)
class Filling:
    """What stands in the places of a form, drawn when it is first asked for.

    Attributes:
        draw, known, sex: of the interview.
        drawn: what was drawn, as it is said and as it is written, by the name of the place.
    """

    draw: Draw
    known: Sequence[str]
    sex: str
    drawn: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = field(default_factory=dict)

    def __getitem__(self, place: str) -> str:
        """What stands there: said where the name is in lower case, written else.

        Several are joined by and, by or (``co``), or by commas only (``C,``).
        """
        name = place.lower().removesuffix(",")
        either = name in ("so", "co")
        name = name[0] if either else name
        if name not in self.drawn:
            self.drawn[name] = self._draw(name)
        items = self.drawn[name][place[0].isupper()]
        if len(items) == 1:
            return items[0]
        last = ", " if place.endswith(",") else " or " if either else " and "
        return ", ".join(items[:-1]) + last + items[-1]

    def _draw(self, name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        draw = self.draw
        if name in PLAIN_WORDS or name[:-1] in PLAIN_WORDS:
            number = 1 if name[-1].isdigit() or name in ("x", "w") else draw.whole(1, 4)
            pairs = dict(self._word(PLAIN_WORDS[name[0]]) for _ in range(number))
            return tuple(pairs), tuple(said if draw.chance(KEPT) else noted for said, noted in pairs.items())
        said, noted = self._other(name)
        return (said,), (noted,)

    def _word(self, plain: Mapping[str, str]) -> tuple[str, str]:
        draw = self.draw
        if self.known and not draw.chance(PLAIN):
            term = draw.one(self.known)
            return term, term
        return draw.one(tuple(plain.items()))

    def _other(self, name: str) -> tuple[str, str]:
        draw = self.draw
        if name in WORDS:
            word = draw.one(WORDS[name])
            return word, word
        if name in NUMBERS:
            number = draw.whole(*NUMBERS[name])
            return spoken.in_words(number), str(number) if draw.chance(0.7) else spoken.in_words(number)
        return _MADE[name](draw, self.sex)


def _span(draw: Draw, _sex: str) -> tuple[str, str]:
    number, unit = draw.whole(1, 20), draw.one(UNITS)
    unit += "" if number == 1 else "s"
    return f"{spoken.in_words(number)} {unit}", f"{number if draw.chance(0.6) else spoken.in_words(number)} {unit}"


def _year(draw: Draw, _sex: str) -> tuple[str, str]:
    year = draw.whole(*YEARS)
    said = f"{spoken.in_words(year // 100)} {spoken.in_words(year % 100)}" if year % 100 > 9 else str(year)
    return said, str(year)


def _dose(draw: Draw, _sex: str) -> tuple[str, str]:
    dose = draw.one(DOSES)
    return spoken.in_words(dose), str(dose)


def _who(draw: Draw, sex: str) -> tuple[str, str]:
    who = draw.one(("She" if sex == "female" else "He", "The patient", "Patient"))
    return who, who


def _his(_draw: Draw, sex: str) -> tuple[str, str]:
    his = "her" if sex == "female" else "his"
    return his, his


def _relative(draw: Draw, _sex: str) -> tuple[str, str]:
    return draw.one(tuple(RELATIVES.items()))


def _often(draw: Draw, _sex: str) -> tuple[str, str]:
    return draw.one(tuple(OFTEN.items()))


_MADE: Mapping[str, Callable[[Draw, str], tuple[str, str]]] = {
    "t": _span,
    "y": _year,
    "dose": _dose,
    "who": _who,
    "his": _his,
    "rel": _relative,
    "rel2": _relative,
    "often": _often,
}


def _greeting(draw: Draw, sex: str) -> list[tuple[str, str]]:
    if not draw.chance(OPENED):
        return []
    called = f", {draw.one(CALLED[sex])}" if draw.chance(0.7) else ""
    turns = [("Doctor", draw.one(GREETINGS).format(called))]
    return [*turns, ("Patient", draw.one(ANSWERS))] if draw.chance(0.8) else turns


def _opening(draw: Draw, known: Sequence[str], sex: str, turns: list[tuple[str, str]]) -> str:
    """Who the patient is, and why here: the first sentence of a history; the turns that tell it are put to the others."""
    filling = Filling(draw, known, sex)
    question, answer, note = draw.one(OPENINGS)
    number, race = draw.whole(*OLD), f"{draw.one(RACES)} " if draw.chance(0.3) else ""
    turns += [("Doctor", question), ("Patient", _capital(answer.format_map(filling)))]
    turns.append(("Doctor", draw.one(AGES) + (" And what race do you identify as?" if race else "")))
    turns.append(("Patient", f"I am {spoken.in_words(number)}" + (f", and I am {race.strip()}." if race else ".")))
    filling.drawn["p"] = ((), (f"{number}-year-old {race}{sex}",))
    return note.replace("{p}", "{P}").format_map(filling)


def _filled(form: Form, filling: Filling) -> tuple[str, ...]:
    """Question, answer, and the note long and short."""
    draw, count = filling.draw, len(form.long)
    place = draw.whole(0, count - 1)
    chosen = []
    for ways in (form.said, form.answered, form.long, form.short):
        way = ways[place] if form.paired and len(ways) == count else draw.one(ways)
        chosen.append(_capital(way.format_map(filling)))
    if draw.chance(spoken.FILLED / 2) and not chosen[1].startswith(("Yes", "No", "Um")):
        own = chosen[1][:2] in ("I ", "I'") or chosen[1][1:2].isupper()
        chosen[1] = draw.one(spoken.BEFORE) + (chosen[1] if own else chosen[1][0].lower() + chosen[1][1:])
    return tuple(chosen)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]

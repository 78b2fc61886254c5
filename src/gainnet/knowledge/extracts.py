"""Public text as tasks: a passage, a heading, and what the passage says under it, word by word.

A model that has only continued texts does not look back for the words of its prompt, which notes need. So a part of the
text that a foundation model learns from can be passages that end as examples do (`gainnet.knowledge.text`): a heading, then
one or two of their own sentences: gap sentences (arXiv 1912.08777) that were left in. Of some passages the words are changed
for others at random, the same word always for the same, so that nothing but looking back helps: what is learnt from a
passage of nonsense carries over to summarising as well as what is learnt from a real one (arXiv 2109.04953). Most are
conversations (`gainnet.knowledge.spoken`), whose notes are some of the sentences as they were written, or some of their words.
Beside passages there are interviews about terms of the text (`gainnet.knowledge.interviews`), with what a chart says of them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from gainnet.knowledge import interviews, spoken
from gainnet.knowledge.draw import Draw

SENTENCES = (2, 12)
"""Of a passage; short ones are as often as long ones."""
PASSAGE_MAX, SENTENCE = 900, (12, 240)
"""Characters; sentences shorter or longer than that are left out."""
TWO = 0.35
"""How often a note has two sentences."""
MIXED = 0.4
"""How often a passage has sentences of two texts, a few of each in turn."""
INTERVIEWS = 0.5
"""Part of what is made that are interviews, which are shorter than passages."""
NONSENSE = 0.3
"""Part of the passages whose words are changed."""
SPOKEN = 0.6
"""Part of the others that are conversations."""
NOTED = 3
"""Sentences in the note of a conversation, at most."""
LOSSY = 0.5
"""How often a conversation's note has only some words of its sentences, most of them rare, as notes in other words have."""
OFTEN = 300
"""So many of the most frequent words are kept by `KEPT`'s first chance in such notes, others by its second."""
KEPT = (0.35, 0.85)
HEADING = 3
"""Words of a heading, at most: the rarest of what stands under it."""

_END = re.compile(r"(?<=[.?!])\s+(?=[A-Z\"(])")
_LABEL = re.compile(r"^(Question|Answer): ")
_WORD = re.compile(r"[A-Za-z]{2,}")


def texts(draw: Draw, public: Sequence[str], share: float) -> list[str]:
    """Passages with their notes, so many that they are ``share`` of all characters, beside ``public``.

    Empty where ``public`` has no text of two sentences. ``share`` is at least 0 and less than 1.
    """
    sentences = [found for text in public if len(found := split(text)) >= SENTENCES[0]]
    if not sentences or share <= 0.0:
        return []
    rarity = Counter(word.lower() for found in sentences for sentence in found for word in _WORD.findall(sentence))
    words, known = sorted(rarity), interviews.terms(public, rarity)
    often = frozenset(sorted(rarity, key=lambda word: -rarity[word])[:OFTEN])
    wanted = sum(map(len, public)) * share / (1.0 - share)
    made, size = list[str](), 0
    while size < wanted:
        if known and draw.chance(INTERVIEWS):
            text = interviews.interview(draw, known)
        else:
            nonsense, talk = draw.chance(NONSENSE), draw.chance(SPOKEN)
            text = _conversation(draw, sentences, rarity, often) if talk else _task(draw, sentences, rarity)
            text = _nonsense(draw, text, words) if nonsense else text
        made.append(text)
        size += len(text)
    return made


def split(text: str) -> list[str]:
    """The sentences of a text that are neither too short nor too long."""
    parts = (_LABEL.sub("", part.strip()) for part in _END.split(" ".join(text.split())))
    return [part for part in parts if SENTENCE[0] <= len(part) <= SENTENCE[1]]


def _task(draw: Draw, sentences: Sequence[Sequence[str]], rarity: Mapping[str, int]) -> str:
    """A passage, a heading of words of its note, and the note."""
    passage = _passage(draw, sentences)
    start = draw.whole(0, len(passage) - 1)
    note = passage[start : start + (2 if draw.chance(TWO) else 1)]
    heading = _heading(draw, note, rarity)
    return f"{draw.one((' ', chr(10))).join(passage)}\n\n## {heading}\n{' '.join(note)}"


def _conversation(
    draw: Draw, sentences: Sequence[Sequence[str]], rarity: Mapping[str, int], often: frozenset[str]
) -> str:
    """A passage that is spoken, a heading of words of its note, and some of its sentences or of their words, in order."""
    passage = _passage(draw, sentences)
    chosen = sorted(draw.some(range(len(passage)), draw.whole(1, NOTED)))
    note = [passage[place] for place in chosen]
    heading = _heading(draw, note, rarity)
    if draw.chance(LOSSY):
        note = [_lossy(draw, sentence, often) for sentence in note]
    elif draw.chance(spoken.TERSE):
        note = [spoken.terse(sentence) for sentence in note]
    return f"{spoken.conversation(draw, passage, rarity)}\n\n## {heading}\n{' '.join(note)}"


def _lossy(draw: Draw, sentence: str, often: frozenset[str]) -> str:
    """Some words of a sentence in their order; rare ones are kept more often than others."""
    words = [word for word in sentence.split() if draw.chance(KEPT[_plain(word) not in often])] or [sentence.split()[0]]
    return " ".join([words[0][0].upper() + words[0][1:], *words[1:]]).rstrip(".,;:") + "."


def _plain(word: str) -> str:
    return word.strip('.,;:()?!"').lower()


def _heading(draw: Draw, note: Sequence[str], rarity: Mapping[str, int]) -> str:
    """Some of the rarest words of a note, in its order."""
    known = dict.fromkeys(word.lower() for sentence in note for word in _WORD.findall(sentence))
    rarest = set(sorted(known, key=lambda word: rarity[word])[: draw.whole(1, HEADING)])
    return " ".join(word for word in known if word in rarest) or "note"


def _passage(draw: Draw, sentences: Sequence[Sequence[str]]) -> list[str]:
    """Sentences that follow one another in a text, or those of two texts in turn."""
    number = draw.whole(*SENTENCES)
    sources = [draw.one(sentences) for _ in range(2 if draw.chance(MIXED) else 1)]
    runs = []
    for source in sources:
        count = min(len(source), -(-number // len(sources)))
        start = draw.whole(0, len(source) - count)
        runs.append(list(source[start : start + count]))
    found, size = list[str](), 0
    while any(runs):
        run = draw.one([run for run in runs if run])
        sentence = run.pop(0)
        size += len(sentence)
        if size > PASSAGE_MAX and found:
            break
        found.append(sentence)
    return found


def _nonsense(draw: Draw, text: str, words: Sequence[str]) -> str:
    """The text with each of its words changed for one that is drawn, in the same case."""
    drawn = {name.lower(): name.lower() for name in spoken.SPEAKERS}

    def other(match: re.Match[str]) -> str:
        word = match.group()
        new = drawn.setdefault(word.lower(), draw.one(words))
        return new.capitalize() if word[0].isupper() else new

    return _WORD.sub(other, text)

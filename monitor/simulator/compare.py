"""Holds verdicts against the truth: what a monitor said, as it published it, beside what the scripts made happen.

Reads verdicts as the JSON of the verdict topic and knows nothing else of the monitor.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from monitor.simulator.truth import Counts, Header, Line, RecordingTruth

# The truth's field, and the verdict's.
_FIELDS = (
    ("start_source", "start_source"),
    ("cause", "cause"),
    ("outcome", "outcome"),
    ("call_sid", "call_sid"),
    ("conference_sid", "conference_sid"),
    ("status", "recording_status"),
)


class Score(msgspec.Struct):
    """How many recordings of one cause there were, and what was said of them."""

    true: int = 0
    agreed: int = 0
    wrong: int = 0
    missing: int = 0


class Comparison(msgspec.Struct, kw_only=True):
    """Verdicts against truth. ``wrong`` says of each disagreement, in a line, whose it is and what differs."""

    scores: dict[str, Score]
    wrong: list[str]
    invented: list[str]

    @property
    def agrees(self) -> bool:
        """Whether every recording got its verdict, every verdict is right, and none is about nothing."""
        return not self.wrong and not self.invented


def key_of(truth: RecordingTruth) -> str | None:
    """The key of the verdict about it: the recording's SID, of a suspicion the conference's."""
    return truth.recording_sid if truth.kind == "recording" else truth.conference_sid


def differences(truth: RecordingTruth, verdict: Mapping[str, Any]) -> list[str]:
    """The fields in which a verdict differs from the truth, leaving out what the stream does not tell."""
    found = []
    for field, name in _FIELDS:
        expected, said = getattr(truth, field), verdict.get(name)
        if field not in truth.untold and expected != said:
            found.append(f"{name} is {said}, truly {expected}")
    started_at = verdict.get("started_at")
    if (
        truth.kind == "recording"
        and "started_at" not in truth.untold
        and not _same_second(truth.started_at, started_at)
    ):
        found.append(f"started_at is {started_at}, truly {truth.started_at}")
    return found


def _same_second(one: str | None, other: object) -> bool:
    """Twilio's callbacks give a recording's start to the second."""
    return one is not None and isinstance(other, str) and one[:19] == other[:19]


def compare(lines: Iterable[Line], verdicts: Mapping[str, Mapping[str, Any]]) -> Comparison:
    """Hold the last verdict of each recording against a truth file."""
    scores: dict[str, Score] = {}
    wrong: list[str] = []
    known: set[str] = set()
    for truth in lines:
        if isinstance(truth, Header | Counts):
            continue
        score = scores.setdefault(_label(truth), Score())
        score.true += 1
        key = key_of(truth)
        verdict = verdicts.get(key) if key is not None else None
        if key is not None:
            known.add(key)
        if verdict is None and "recording_sid" in truth.untold:
            score.agreed += 1  # Nothing of it was ever told: silence is right.
            if truth.conference_sid is not None:
                known.add(truth.conference_sid)  # A suspicion about its conference would be right as well.
        elif verdict is None:
            score.missing += 1
            wrong.append(f"{key} ({truth.scene}): no verdict, truly {truth.outcome}, {truth.cause}")
        elif found := differences(truth, verdict):
            score.wrong += 1
            wrong.append(f"{key} ({truth.scene}): {'; '.join(found)}")
        else:
            score.agreed += 1
    invented = sorted(verdicts.keys() - known)
    return Comparison(scores=scores, wrong=wrong, invented=invented)


def _label(truth: RecordingTruth) -> str:
    return "suspicion" if truth.kind == "suspicion" else truth.cause or "open to the end"

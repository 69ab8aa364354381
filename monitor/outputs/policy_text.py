"""What a policy says in words; no telephone number and no name of a person is among them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

from monitor.core.policy import (
    ABSENT,
    CONDITIONS,
    MINUTES_OF_DAY,
    OPEN,
    Answer,
    Hours,
    Policy,
    RuleDocument,
    Subject,
    Values,
)
from monitor.core.verdict import Verdict, read_instant

_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
# In a sentence: "when its cause is …".
_SUBJECTS: Final = {
    "account": "its account",
    "cause": "its cause",
    "start_source": "its start source",
    "conference_name": "its conference's name",
    "callback_url": "its callback URL",
    "direction": "its call's direction",
    "from": "its caller",
    "to": "the number called",
    "queue": "its queue",
    "worker": "its worker",
    "status": "its status",
    "found_by": "what found it",
}
_VALUES_SHOWN: Final = 5


def describe(rule: RuleDocument) -> str:
    """Say in words when a rule is true. Telephone numbers and workers are counted, not named."""
    parts = [_condition_words(name, values) for name, values in rule.when.items()]
    if rule.hours:
        parts.append("it starts " + " or ".join(map(_hours_words, rule.hours)))
    if rule.expires_ms is not None:
        until = datetime.fromtimestamp(rule.expires_ms / 1000, UTC)
        parts.append(f"it starts before {until.isoformat(timespec='minutes').removesuffix('+00:00')}Z")
    return "when " + ", and ".join(parts) if parts else "always"


def _condition_words(name: str, values: Sequence[str]) -> str:
    subject = _SUBJECTS.get(name, name)
    if CONDITIONS[name].private:
        return f"{subject} is {'the one' if len(values) == 1 else f'one of {len(values)}'} given"
    shown = list(values[:_VALUES_SHOWN])
    if len(values) > _VALUES_SHOWN:
        shown.append(f"{len(values) - _VALUES_SHOWN} more")
    *first, last = shown
    verb = "is like" if any("*" in value for value in values) else "is"
    return f"{subject} {verb} {', '.join(first) + ' or ' if first else ''}{last}"


def _hours_words(hours: Hours) -> str:
    days = "" if len(hours.days) == 7 else f"on {_days_words(hours.days)} "
    return f"{days}from {_clock(hours.from_minute)} to {_clock(hours.to_minute)} {hours.zone}"


def _days_words(days: Iterable[int]) -> str:
    """Write days as ranges: mon-fri, sun."""
    runs: list[list[int]] = []
    for day in days:
        if runs and runs[-1][-1] == day - 1:
            runs[-1].append(day)
        else:
            runs.append([day])
    return ", ".join(_DAYS[run[0]] if len(run) == 1 else f"{_DAYS[run[0]]}-{_DAYS[run[-1]]}" for run in runs)


def _clock(minute: int) -> str:
    assert 0 <= minute <= MINUTES_OF_DAY
    return f"{minute // 60:02}:{minute % 60:02}"


def answers(policy: Policy, verdict: Verdict, alias: str | None) -> tuple[Answer, ...]:
    """What each rule says to what the verdict says; open where it asks for what only the events say.

    A verdict holds no number, name or address: `policy explain` reads the events and asks all of it.
    """

    def one(value: str | None, otherwise: Values) -> Values:
        return otherwise if value is None else Values((value,), complete=True)

    subject = Subject(
        account=verdict.account_sid,
        alias=alias,
        started_ms=read_instant(verdict.started_at or verdict.first_seen_at),
        cause=one(verdict.cause, OPEN),
        start_source=one(verdict.start_source, ABSENT),
        conference_name=OPEN,
        callback_url=OPEN,
        direction=OPEN,
        from_=OPEN,
        to=OPEN,
        queue=OPEN,
        worker=OPEN,
        status=one(verdict.recording_status, ABSENT),
        found_by=one(verdict.found_by, OPEN),
    )
    return policy.explain(subject)

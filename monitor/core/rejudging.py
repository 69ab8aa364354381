"""Judging final verdicts again: one partition's fold once more, under today's policy, and what it says otherwise.

A final verdict changes by this alone, and only where all it rests on is there again. Which verdicts may be judged
again, and which of the answers count, is decided here; reading, showing and writing is for whoever asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from operator import attrgetter
from typing import Final

import msgspec

from monitor.core.account_settings import AccountSettings
from monitor.core.judging import Tuning
from monitor.core.ledger import Ledger
from monitor.core.pipeline import Checkpoint, NotJudged, Pipeline, Publish
from monitor.core.policy import Policy
from monitor.core.verdict import Rejudged, Verdict, decode_verdict, read_instant

LOOK_BACK_WINDOWS: Final = 3


def look_backs_ms(tuning: Tuning) -> tuple[int, int]:
    """How long before the first event in question a fold begins: the second, where the first falls short.

    What is born within the first window may lack what came before it; what names connect, and where calls were, lies
    within two. That falls short where what was born so early is still open at that event: how old it is, and so when
    the age bound closes all there is, cannot be told. By the age bound earlier it has been closed, and all is whole.
    """
    near_ms = LOOK_BACK_WINDOWS * tuning.window_ms
    return near_ms, near_ms + tuning.age_max_ms


class Why(StrEnum):
    """Why a verdict is left as it is, to follow "left as it is: "."""

    YOUNG = "it became final, or was changed, too recently: the monitor may come back to it. Try again in some hours"
    NO_POSITION = "the monitor's position in its partition is not known. Start `run` once, with these settings"
    OTHER_LOG = (
        "its positions are of an earlier time: the events topic was made anew, or the group's offsets were reset"
    )
    GONE = "its events are no longer in the topic"
    PARTLY_GONE = "events that it rests on, or may have been connected with, are no longer in the topic"
    UNTIMED = "its events arrive at other times than they did: what set the time before them is not seen any more"
    NOT_FOUND = "its events lead to no final verdict any more"
    FAILED = "judging it failed, which is a bug; please report it"
    CHANGED = "it, or the policy, changed after it was shown. Run this again"
    NOTHING = "there is no verdict about it, or none that was asked about"


class Standing(msgspec.Struct, frozen=True, gc=False):
    """Of a verdict on its topic what decides whether it may be judged again, and what it says."""

    kind: str
    recording_sid: str | None
    account_sid: str
    final: bool
    at: tuple[int, int]
    rests_from: int
    outcome: str
    rule: str
    severity: str | None
    policy: str
    cause: str | None
    started_at: str | None
    first_seen_at: str
    decided_at: str
    rejudged: Rejudged | None = None


Answer = tuple[str, Verdict | Why | None]
"""The SID of a recording, and what ``weigh`` says of its verdict."""

_shortened = attrgetter(*Standing.__struct_fields__)


def read_standing(value: bytes) -> Standing:
    """Read it from a verdict. Raises ``msgspec.DecodeError`` for what no ledger takes for one: it stands for nobody."""
    return Standing(*_shortened(decode_verdict(value)))


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """What of a partition's past is past for every monitor, and what of it is left.

    No rebuild begins below the offset ``replay_from``; a verdict decided after ``before_ms`` may yet be written again
    by somebody who has lost the partition; events below the offset ``low`` are gone.
    """

    generation: int
    replay_from: int
    before_ms: int
    low: int


def left_alone(standing: Standing, settled: Settled | None) -> Why | None:
    """Why a final verdict cannot be judged again; None where it can be tried. ``settled`` None: nothing is known."""
    if settled is None:
        return Why.NO_POSITION
    generation, offset = standing.at
    if generation != settled.generation:
        return Why.OTHER_LOG
    # One that was rejudged had been old enough by then, and has kept its place.
    young = standing.rejudged is None and read_instant(standing.decided_at) > settled.before_ms
    if young or offset >= settled.replay_from:
        return Why.YOUNG
    return Why.GONE if standing.rests_from < settled.low else None


def weigh(standing: Standing, found: Verdict, whole_from: int) -> Verdict | Why | None:
    """What becomes of a final verdict, given the one ``found`` by judging again; None: it says the same.

    ``whole_from`` is the offset from which on the fold has seen all that may be connected. On less evidence than it
    rests on, no verdict changes: least of all from *disallowed* to *allowed*.
    """
    if "judgement" in found.missing:
        return Why.FAILED
    if found.rests_from > standing.rests_from or min(found.rests_from, standing.rests_from) < whole_from:
        return Why.PARTLY_GONE
    if found.first_seen_at != standing.first_seen_at:
        return Why.UNTIMED
    if _says(found) == _says(standing):
        return None
    return found


def _says(verdict: Verdict | Standing) -> tuple[str, str, str | None, str | None]:
    # Not which policy: every change of the file, be it in a comment, makes another.
    return verdict.outcome, verdict.rule, verdict.severity, verdict.cause


class Refold:
    """Folds a partition once more. It is fed messages from its ``checkpoint`` on, up to ``end``, and answers.

    What is asked about stands in ``standings``, by SID.
    """

    def __init__(
        self,
        tuning: Tuning,
        policy: Policy,
        settings: AccountSettings,
        *,
        partition: int | None,
        checkpoint: Checkpoint,
        standings: Mapping[str, Standing],
    ) -> None:
        self._pipeline = Pipeline(tuning, policy, settings, partition=partition, checkpoint=checkpoint)
        # No longer than what is open: the first final verdict of a recording is the one, and it has been taken by then.
        self._pipeline.open(Ledger(allowed_kept_ms=tuning.window_ms, others_kept_ms=tuning.window_ms))
        self._open = dict(standings)
        self._whole_from = 0 if checkpoint.cut is None else None
        self._floor = min((standing.rests_from for standing in standings.values()), default=0)
        self.end = 1 + max((standing.at[1] for standing in standings.values()), default=-1)
        self.failures: list[NotJudged] = []

    @property
    def falls_short(self) -> bool:
        """Whether the first event in question was reached before all was whole: then begin earlier, if that's there."""
        reached = self._pipeline.next_offset > self._floor
        return reached and (self._whole_from is None or self._whole_from > self._floor)

    def feed(
        self, offset: int, timestamp_ms: int, value: bytes | None, headers: Sequence[tuple[str, bytes]] | None = None
    ) -> list[Answer]:
        """Fold one message; the answers that come of it."""
        answers: list[Answer] = []
        told = self._pipeline.feed(offset, timestamp_ms, value, headers)
        if self._whole_from is None and self._pipeline.window.cut is None:
            self._whole_from = offset
        for each in told:
            if isinstance(each, NotJudged):
                self.failures.append(each)
            if isinstance(each, Publish) and each.verdict is not None and each.verdict.final:
                standing = self._open.pop(each.key, None)
                if standing is not None:
                    whole_from = offset + 1 if self._whole_from is None else self._whole_from
                    answers.append((each.key, weigh(standing, each.verdict, whole_from)))
        return answers

    def finish(self) -> list[Answer]:
        """The answers about what no final verdict was found of."""
        return [(key, Why.NOT_FOUND) for key in self._open]

"""The verdict: outcome, rule and attribution for one recording, numbered by ``revision``.

A *finding* is a verdict as the fold concludes it, from evidence, account settings and policy alone. ``revise`` makes of
it the verdict to publish, given what is published, or nothing; the ``Ledger`` knows what is published in one partition.
The rules of publication are those of docs/checkpoint.md, and each is one short function here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from heapq import heappop, heappush
from typing import Final

import msgspec

from monitor.core.attribution import STATUS_RANK


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """One piece of evidence: where the event is and, in one line, what it shows."""

    event_id: str | None
    type: str
    position: str
    occurred_at: str
    shows: str


class RuledOut(msgspec.Struct, frozen=True):
    """A cause that was weighed and dropped, and by what."""

    cause: str
    by: str


class Revision(msgspec.Struct, frozen=True):
    """An earlier revision of a verdict, as its history keeps it."""

    revision: int
    outcome: str
    cause: str | None
    decided_at: str


class AlertLabels(msgspec.Struct, frozen=True):
    """The identity of the alert, fixed when the verdict first became disallowed under ``enforce``."""

    rule: str
    severity: str
    team: str | None
    account: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What is published about one recording (or one suspicion); the fields are those of the verdict topic."""

    kind: str
    recording_sid: str | None
    account_sid: str
    revision: int
    final: bool
    at: tuple[int, int]
    rests_from: int
    outcome: str
    rule: str
    severity: str | None
    mode: str
    policy: str
    cause: str | None
    strength: str | None
    start_source: str | None
    call_sid: str | None
    conference_sid: str | None
    recording_status: str | None
    started_at: str | None
    ended_at: str | None
    first_seen_at: str
    found_by: str | None
    backlog: bool
    decided_at: str
    disallowed_since: str | None
    alert: AlertLabels | None
    reason: str
    evidence: tuple[Shown, ...]
    ruled_out: tuple[RuledOut, ...]
    missing: tuple[str, ...]
    history: tuple[Revision, ...]

    @property
    def key(self) -> str:
        """The key on the verdict topic: the recording's SID, for a suspicion its conference's."""
        key = self.recording_sid or self.conference_sid
        assert key is not None
        return key


def encode_verdict(verdict: Verdict) -> bytes:
    """Render a verdict as the JSON of the verdict topic."""
    return _encoder.encode(verdict)


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Verdict)


def decode_verdict(data: bytes) -> Verdict:
    """Read a verdict back. Raises ``msgspec.DecodeError`` where the bytes are none of ours."""
    return _decoder.decode(data)


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_BARE: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - rendered with a Z of our own, at a fifth of the cost.


def render_instant(ms: int) -> str:
    """An instant as ISO 8601 in UTC, to the millisecond."""
    minute, rest_ms = divmod(ms, 60_000)
    seconds, millis = divmod(rest_ms, 1000)
    return f"{_minute(minute)}{seconds:02d}.{millis:03d}Z"


@lru_cache(maxsize=8_192)
def _minute(minute: int) -> str:
    # A verdict holds half a dozen instants, most of them of the same few minutes; a date takes most of the time.
    return (_EPOCH_BARE + timedelta(minutes=minute)).isoformat(timespec="minutes") + ":"


def read_instant(text: str) -> int:
    """Milliseconds since 1970 of an instant that ``render_instant`` wrote."""
    return round((datetime.fromisoformat(text) - _EPOCH) / timedelta(milliseconds=1))


# --------------------------------------------------------------------------- from a finding to what is published

HISTORY_MAX: Final = 20  # The first revision and the latest others; the revision numbers show the gap.
_SEVERITY_RANK: Final = {"info": 0, "warning": 1, "critical": 2}
_FOUND_BY_RANK: Final = {"listing": 0, "verb": 1, "stream": 2}
# Rests on evidence whose offsets can't be compared any more: nothing can be shown to rest on as much.
RESTS_ON_LOST: Final = -1


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict without what depends on what is published; ``team`` and ``account`` go into the alert's identity.

    ``failed``: judging raised, so that it says only that there is a recording.
    """

    verdict: Verdict
    first_offset: int
    team: str | None
    account: str
    failed: bool = False


def differs(published: Verdict, other: Verdict) -> bool:
    """Whether two verdicts say different things: all but revision, place, instant, backlog and history count."""
    return (
        msgspec.structs.replace(
            other,
            revision=published.revision,
            at=published.at,
            decided_at=published.decided_at,
            backlog=published.backlog,
            history=published.history,
        )
        != published
    )


def revise(published: Verdict | None, finding: Finding) -> Verdict | None:
    """The verdict to publish over ``published``, or None where there is nothing new to say."""
    found = finding.verdict
    if published is None:
        return _dated(msgspec.structs.replace(found, revision=1, rests_from=finding.first_offset), None, finding)
    if published.final:
        new = _amended(published, found, final=True)
    elif finding.failed and (published.outcome == "disallowed" or not found.final):
        new = _amended(published, found, final=found.final)  # It stands; at the end only if nothing could lift it.
    else:
        rests_from = _rests_from(published, found, finding.first_offset)
        if (
            published.outcome == "disallowed"
            and found.outcome == "allowed"
            and not finding.first_offset <= published_rest(published, found)
        ):
            # It would be allowed on less evidence than it was disallowed on.
            new = _amended(published, found, final=found.final)
        else:
            new = _dated(msgspec.structs.replace(found, rests_from=rests_from), published, finding)
    if not differs(published, new):
        return None
    return msgspec.structs.replace(
        new,
        revision=published.revision + 1,
        at=found.at,
        decided_at=found.decided_at,
        backlog=found.backlog,
        history=_with_history(published),
    )


def published_rest(published: Verdict, found: Verdict) -> int:
    """The lowest offset the published verdict rested on, where offsets of the two can be compared."""
    return published.rests_from if published.at[0] == found.at[0] else RESTS_ON_LOST


def _rests_from(published: Verdict, found: Verdict, first_offset: int) -> int:
    if published.kind == "suspicion" or published.outcome != "disallowed":
        return first_offset if published.at[0] != found.at[0] else min(published.rests_from, first_offset)
    return min(published_rest(published, found), first_offset)


def _amended(published: Verdict, found: Verdict, *, final: bool) -> Verdict:
    """The published verdict with what may still change about a settled one: status, end, and how it was found."""
    status, ended_at, found_by = published.recording_status, published.ended_at, published.found_by
    if STATUS_RANK.get(found.recording_status or "", 0) > STATUS_RANK.get(status or "", 0):
        status = found.recording_status
    if _FOUND_BY_RANK.get(found.found_by or "", -1) > _FOUND_BY_RANK.get(found_by or "", -1):
        found_by = found.found_by
    if ended_at is None:
        ended_at = found.ended_at
    return msgspec.structs.replace(
        published, recording_status=status, ended_at=ended_at, found_by=found_by, final=final
    )


def _dated(new: Verdict, published: Verdict | None, finding: Finding) -> Verdict:
    """Give a verdict the instant since which it is disallowed, and the alert's identity: both outlive revisions.

    A policy that only observes has no alerts, not even those of the policy before it.
    """
    since = None
    alert = published.alert if published is not None and new.mode == "enforce" else None
    if new.outcome == "disallowed":
        since = published.disallowed_since if published is not None and published.outcome == "disallowed" else None
        since = since or new.decided_at
        severity = new.severity or "critical"
        if new.mode == "enforce" and (alert is None or _SEVERITY_RANK[severity] > _SEVERITY_RANK[alert.severity]):
            alert = AlertLabels(new.rule, severity, finding.team, finding.account)
    return msgspec.structs.replace(new, disallowed_since=since, alert=alert)


def _with_history(published: Verdict) -> tuple[Revision, ...]:
    told = Revision(published.revision, published.outcome, published.cause, published.decided_at)
    history = (*published.history, told)
    return history if len(history) <= HISTORY_MAX else (history[0], *history[1 - HISTORY_MAX :])


def orphaned(published: Verdict, at: tuple[int, int], decided_at: str) -> Verdict:
    """The end of a verdict whose evidence was lost: what was disallowed stays so, of the rest nothing is known."""
    new = msgspec.structs.replace(published, final=True)
    if published.outcome != "disallowed":
        new = msgspec.structs.replace(
            new,
            outcome="undetermined",
            rule="when_open",
            severity="warning",
            cause=None,
            strength=None,
            reason="The evidence was lost before this recording was judged to the end.",
            missing=("evidence lost",),
        )
    return msgspec.structs.replace(
        new, revision=published.revision + 1, at=at, decided_at=decided_at, history=_with_history(published)
    )


# --------------------------------------------------------------------------- what is published in one partition


class _Entry(msgspec.Struct, gc=False):
    """What is known of one published verdict; ``verdict`` is dropped once a final one can be read back at ``place``."""

    at: tuple[int, int]
    final: bool
    suspicion: bool
    verdict: Verdict | None
    place: int | None
    finding: int  # Digest of the finding that led to it; 0 where not known.
    awaited: int = 0  # Writes of ours under this key that have not been placed yet; this one is the last of them.


class Ledger:
    """What is published in one partition of the verdict topic: the last verdict of each recording.

    ``fetch`` reads one message back by its offset in the verdict topic; needed only for a late change of a verdict
    that was dropped. Without it every final verdict is kept whole.
    """

    def __init__(
        self,
        fetch: Callable[[int], bytes] | None = None,
        *,
        allowed_kept_ms: int = 7 * 86_400_000,
        others_kept_ms: int = 400 * 86_400_000,
    ) -> None:
        self._fetch = fetch
        self._allowed_kept_ms = allowed_kept_ms
        self._others_kept_ms = others_kept_ms
        self._entries: dict[str, _Entry] = {}
        self._ends: list[tuple[int, str]] = []
        self.next_end_ms = 1 << 62  # No final verdict has been kept long enough before this instant.
        self.heard: list[tuple[str, str]] = []  # Whose verdicts somebody else wrote: account and key.
        self.owned = False  # Whether the fold that this belongs to decides what is published.

    def __len__(self) -> int:
        return len(self._entries)

    def read(self, key: str, value: bytes | None, place: int) -> bytes | None:
        """Take in one message of the verdict topic; the bytes to write back where it is lesser than what is known.

        The greatest (``at``, ``final``) holds, of equals the later message. Bytes that are no verdict are passed over.
        A tombstone has no position: once the partition is ours, what we know to hold outlives one of somebody else.
        """
        if value is None:
            known = self._entries.get(key)
            if self.owned and known is not None and not known.final:
                return encode_verdict(self._whole(known))
            self._entries.pop(key, None)
            return None
        try:
            verdict = decode_verdict(value)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        known = self._entries.get(key)
        if known is not None and (known.at, known.final) > (verdict.at, verdict.final):
            return encode_verdict(self._whole(known))
        if known is not None and known.at == verdict.at and (known.place == place or known.verdict == verdict):
            self._lies_at(known, place)  # Our own, come round.
            return None
        self._lies_at(self._put(key, verdict, 0), place)
        self.heard.append((verdict.account_sid, key))
        return None

    def take_heard(self) -> list[tuple[str, str]]:
        """Whose verdicts somebody else has written since the last time: account and key."""
        heard, self.heard = self.heard, []
        return heard

    def placed(self, key: str, at: tuple[int, int], place: int) -> None:
        """Note where in the verdict topic the verdict decided ``at`` lies; a final one is dropped then.

        To be told of every write, in order: a final verdict and its late change may share an ``at``.
        """
        entry = self._entries.get(key)
        if entry is None:
            return
        entry.awaited = max(0, entry.awaited - 1)
        if not entry.awaited and entry.at == at:
            self._lies_at(entry, place)

    def _lies_at(self, entry: _Entry, place: int) -> None:
        entry.place = place
        if entry.final and self._fetch is not None:
            entry.verdict = None

    def published(self, key: str) -> Verdict | None:
        """The verdict that is published about a recording or a suspected conference."""
        entry = self._entries.get(key)
        return None if entry is None else self._whole(entry)

    def is_final(self, key: str) -> bool:
        """Whether a final verdict is published."""
        entry = self._entries.get(key)
        return entry is not None and entry.final

    def is_suspicion(self, key: str) -> bool:
        """Whether what is published under ``key`` is a suspicion."""
        entry = self._entries.get(key)
        return entry is not None and entry.suspicion

    def knows(self, key: str) -> bool:
        """Whether anything is published under ``key``."""
        return key in self._entries

    def ahead(self, key: str, at: tuple[int, int]) -> bool:
        """Whether what is published was decided later than ``at``."""
        entry = self._entries.get(key)
        return entry is not None and entry.at > at

    def unchanged(self, key: str, digest: int) -> bool:
        """Whether the very finding of this digest led to what is published."""
        entry = self._entries.get(key)
        return entry is not None and entry.finding == digest

    def note(self, key: str, digest: int) -> None:
        """Remember the digest of the finding behind what is published."""
        entry = self._entries.get(key)
        if entry is not None:
            entry.finding = digest

    def publish(self, verdict: Verdict, digest: int) -> None:
        """Take in a verdict of our own that is about to be written."""
        known = self._entries.get(verdict.key)
        entry = self._put(verdict.key, verdict, digest)
        entry.awaited = 1 if known is None else known.awaited + 1

    def withdraw(self, key: str) -> None:
        """Forget what was published under ``key``: a tombstone is about to be written."""
        self._entries.pop(key, None)

    def open_keys(self) -> list[str]:
        """Whose verdicts are not final, in order of the SIDs."""
        return sorted(key for key, entry in self._entries.items() if not entry.final)

    def ended(self, log_time_ms: int) -> Iterator[str]:
        """Yield, withdrawn, the final verdicts that have been kept long enough."""
        while self._ends and self._ends[0][0] <= log_time_ms:
            _, key = heappop(self._ends)
            entry = self._entries.get(key)
            if entry is not None and entry.final:
                self.withdraw(key)
                yield key
        self.next_end_ms = self._ends[0][0] if self._ends else 1 << 62

    def greatest_offset(self, generation: int) -> int | None:
        """The greatest offset at which a verdict of ``generation`` was decided."""
        return max((e.at[1] for e in self._entries.values() if e.at[0] == generation), default=None)

    def greatest_generation(self) -> int | None:
        """The greatest generation that has published anything."""
        return max((e.at[0] for e in self._entries.values()), default=None)

    def _put(self, key: str, verdict: Verdict, finding: int) -> _Entry:
        known = self._entries.get(key)
        entry = _Entry(verdict.at, verdict.final, verdict.kind == "suspicion", verdict, None, finding)
        self._entries[key] = entry
        if verdict.final and (known is None or not known.final):
            kept_ms = self._allowed_kept_ms if verdict.outcome == "allowed" else self._others_kept_ms
            heappush(self._ends, (read_instant(verdict.decided_at) + kept_ms, key))
            self.next_end_ms = self._ends[0][0]
        return entry

    def _whole(self, entry: _Entry) -> Verdict:
        if entry.verdict is not None:
            return entry.verdict
        assert self._fetch is not None
        assert entry.place is not None
        return decode_verdict(self._fetch(entry.place))

"""The checkpoint: where a partition goes on, and where its rebuild begins.

It is one ordinary offset commit. The offset is C (all effects of the messages before it are safe), the commit's
metadata says the rest: ``{"v":1,"g":generation,"r":R,"w":log time at R,"x":[cut,until]|null,"t":fingerprint}``, about
100 of the 4,096 bytes Kafka allows; with ``"b":B`` where messages from R to B are only looked at for where calls were,
and ``"l":true`` while what a loss left without evidence has not been ended. Pure: what has to be asked of the broker
comes in as a ``Log``.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Final, Literal, Protocol

import msgspec

from monitor.core.pipeline import Checkpoint
from monitor.core.window import Cut

VERSION: Final = 1

_Offset = Annotated[int, msgspec.Meta(ge=0)]

ForeignReason = Literal[
    "no_metadata", "unreadable", "other_version", "other_topic", "replay_after_commit", "beyond_end"
]
"""Why a commit is not taken as it stands; a closed set, so it may be a metric's label."""

StartAt = int | Literal["earliest", "latest"]
"""Where a group without a commit begins: milliseconds since 1970, or an end of the log."""


class _Metadata(msgspec.Struct, frozen=True, omit_defaults=True):
    """The commit's metadata; one letter a field, because it travels with each commit."""

    v: int
    g: _Offset
    r: _Offset
    w: int | None
    x: tuple[Annotated[int, msgspec.Meta(ge=-1)], int] | None
    t: str
    b: _Offset | None = None
    l: bool = False  # noqa: E741 - a letter as any


class _Versioned(msgspec.Struct, frozen=True):
    """What metadata of any version begins with."""

    v: int


_decode: Final = msgspec.json.Decoder(_Metadata).decode
_decode_version: Final = msgspec.json.Decoder(_Versioned).decode


class Committed(msgspec.Struct, frozen=True):
    """What the group has committed for a partition. ``metadata`` is None or empty where a tool wrote the offset."""

    offset: int
    metadata: str | None


class Log(Protocol):
    """What can be asked about one partition of the events topic. Questions may raise; the takeover is tried again."""

    @property
    def low(self) -> int:
        """The first retained offset."""

    @property
    def high(self) -> int:
        """The offset the next message will get."""

    def first_at(self, timestamp_ms: int) -> int | None:
        """The first offset stamped at or after this instant, ``high`` if there is none; None: it can't be asked."""

    def stamp(self, offset: int) -> int | None:
        """The Kafka timestamp of the first message at or after ``offset``; None where there is no such message."""


class Blind(msgspec.Struct, frozen=True, kw_only=True):
    """Messages that retention took before they were judged, or before what rests on them was settled.

    ``first`` to ``end`` (exclusive) are offsets. Of these, the ``unjudged`` last ones were never judged; the others had
    been, but a rebuild cannot see them again. The instants are the log time at the first of them, as far as the
    checkpoint knows it, and the timestamp of the first message that is left; None: not known.
    """

    first: int
    end: int
    unjudged: int
    since_ms: int | None
    until_ms: int | None


class Resume(msgspec.Struct, frozen=True, kw_only=True):
    """How to take over a partition.

    ``read_from`` is the message before the first one to fold, where it is still there: log time is clamped by comparing
    neighbours. Else it is the first one itself.

    ``foreign`` says why the commit was not taken as it stood; it is None both for a checkpoint of our own and for no
    commit at all (then ``fresh``). Where ``raise_generation`` is set, the checkpoint's generation is not settled before
    the partition's verdicts have been read: pass the greatest one to ``in_generation``.
    """

    checkpoint: Checkpoint
    read_from: int
    fresh: bool
    foreign: ForeignReason | None
    raise_generation: bool
    blind: Blind | None

    def in_generation(self, greatest_published: int | None) -> Checkpoint:
        """The checkpoint to begin with, given the greatest generation on the partition of the verdict topic.

        A raised generation is greater than all published, so that offsets that start again are not taken for old.
        """
        if not self.raise_generation:
            return self.checkpoint
        return msgspec.structs.replace(self.checkpoint, generation=(greatest_published or 0) + 1)


def encode_metadata(checkpoint: Checkpoint, fingerprint: str) -> str:
    """The metadata to commit with ``checkpoint.offset``."""
    cut = checkpoint.cut
    metadata = _Metadata(
        v=VERSION,
        g=checkpoint.generation,
        r=checkpoint.replay_from,
        w=checkpoint.log_time_ms,
        x=(cut.offset, cut.until_ms) if cut is not None else None,
        t=fingerprint,
        b=checkpoint.open_from,
        l=checkpoint.lost,
    )
    return msgspec.json.encode(metadata).decode()


def decode_checkpoint(committed: Committed, fingerprint: str) -> Checkpoint | ForeignReason:
    """Read a commit back, or say why it is none of ours for this very log.

    A field that is not known says nothing; where fields mean something else, the version is another.
    """
    if not committed.metadata:
        return "no_metadata"
    try:
        if _decode_version(committed.metadata).v != VERSION:
            return "other_version"
        read = _decode(committed.metadata)
    except (msgspec.DecodeError, UnicodeError):
        return "unreadable"
    if read.t != fingerprint:
        return "other_topic"
    if read.r > committed.offset or (read.b is not None and not read.r <= read.b <= committed.offset):
        return "replay_after_commit"
    return Checkpoint(
        offset=committed.offset,
        generation=read.g,
        replay_from=read.r,
        log_time_ms=read.w,
        open_from=read.b,
        cut=Cut(*read.x) if read.x is not None else None,
        lost=read.l,
    )


def fingerprint_of(cluster_id: str | None, topic_id: str, partitions: int) -> str:
    """What tells this log from another of the same name; ``topic_id`` is the name where ids can't be asked."""
    text = msgspec.json.encode([cluster_id, topic_id, partitions])
    return hashlib.sha256(text).hexdigest()[:16]


def resume(
    committed: Committed | None,
    log: Log,
    *,
    fingerprint: str,
    start_at: StartAt,
    window_ms: int,
    age_max_ms: int,
    now_ms: int,
) -> Resume:
    """Decide where to go on (C), where the fold starts (R), and under which cut.

    ``committed`` is None for a group without a commit. ``now_ms`` stands in for the log's own time only where the log
    holds no message to read it from.
    """
    if committed is None:
        return _fresh(log, start_at, window_ms, now_ms, foreign=None)
    found = decode_checkpoint(committed, fingerprint)
    if isinstance(found, Checkpoint):
        if found.offset <= log.high:
            return _own(found, log, window_ms, now_ms)
        found = "beyond_end"
    if committed.offset > log.high:
        return _fresh(log, start_at, window_ms, now_ms, foreign=found)
    return _foreign(committed.offset, log, window_ms, age_max_ms, now_ms, foreign=found)


def _fresh(log: Log, start_at: StartAt, window_ms: int, now_ms: int, *, foreign: ForeignReason | None) -> Resume:
    """No usable offset at all: begin where ``start_at`` says, and look at nothing before it."""
    if start_at == "earliest":
        start = log.low
    elif start_at == "latest":
        start = log.high
    else:
        asked = log.first_at(start_at)
        start = log.low if asked is None else min(max(asked, log.low), log.high)
    return Resume(
        checkpoint=_begin(start, start, log, window_ms, now_ms),
        read_from=max(start - 1, log.low),
        fresh=True,
        foreign=foreign,
        raise_generation=True,
        blind=None,
    )


def _foreign(
    offset: int, log: Log, window_ms: int, age_max_ms: int, now_ms: int, *, foreign: ForeignReason | None
) -> Resume:
    """An offset without its R: fold from far enough before it that whatever was open at C is seen again."""
    start = max(offset, log.low)
    reached_ms = log.stamp(start) if start < log.high else None
    if reached_ms is None and start > log.low:
        reached_ms = log.stamp(start - 1)
    replay_from = start
    if reached_ms is not None:
        asked = log.first_at(reached_ms - age_max_ms - window_ms)
        replay_from = log.low if asked is None else min(max(asked, log.low), start)
    return Resume(
        checkpoint=_begin(start, replay_from, log, window_ms, now_ms),
        read_from=max(replay_from - 1, log.low),
        fresh=False,
        foreign=foreign,
        raise_generation=True,
        blind=_blind(offset, offset, None, log) if offset < log.low else None,
    )


def _begin(offset: int, replay_from: int, log: Log, window_ms: int, now_ms: int) -> Checkpoint:
    """A checkpoint that begins under a cut; but a log that never lost a message, read from 0, has lost no evidence."""
    cut = None
    if replay_from > 0:
        cut = Cut(offset=replay_from - 1, until_ms=_log_time(replay_from, None, log, now_ms) + window_ms)
    return Checkpoint(
        offset=offset, generation=0, replay_from=replay_from, log_time_ms=None, cut=cut, lost=True, end=log.high
    )  # The generation is settled by ``Resume.in_generation``.


def _own(own: Checkpoint, log: Log, window_ms: int, now_ms: int) -> Resume:
    """A checkpoint of our own, for this log; retention may have passed it."""
    blind = None
    own = msgspec.structs.replace(own, end=log.high)
    if own.replay_from < log.low:
        blind = _blind(own.replay_from, own.offset, own.log_time_ms, log)
        cut = Cut(offset=log.low - 1, until_ms=_log_time(log.low, own.log_time_ms, log, now_ms) + window_ms)
        if own.cut is not None:
            cut = Cut(offset=max(cut.offset, own.cut.offset), until_ms=max(cut.until_ms, own.cut.until_ms))
        open_from = None if own.open_from is None or own.open_from <= log.low else own.open_from
        own = msgspec.structs.replace(
            own, offset=max(own.offset, log.low), replay_from=log.low, open_from=open_from, cut=cut, lost=True
        )
    read_from = max(own.replay_from - 1, log.low)
    return Resume(checkpoint=own, read_from=read_from, fresh=False, foreign=None, raise_generation=False, blind=blind)


def _log_time(offset: int, known_ms: int | None, log: Log, now_ms: int) -> int:
    """Log time at ``offset``: its timestamp made monotonic; of an empty log, the wall clock's time."""
    stamp = log.stamp(offset) if offset < log.high else None
    times = [t for t in (known_ms, stamp) if t is not None]
    return max(times) if stamp is not None else max([*times, now_ms])


def _blind(first: int, offset: int, since_ms: int | None, log: Log) -> Blind:
    return Blind(
        first=first,
        end=log.low,
        unjudged=max(0, log.low - offset),
        since_ms=since_ms,
        until_ms=log.stamp(log.low) if log.low < log.high else None,
    )

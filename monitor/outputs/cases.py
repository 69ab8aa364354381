"""Cases: what a person reads about a recording that is not allowed, kept as a view of two topics in SQLite.

The view is a cache. It is rebuilt from the topics when it is missing, broken or of another version, and holds the
offsets up to which it has read them in the same transaction as what they brought. Where the disk gives out, the view
goes on in memory: neither judging nor paging waits for it. What is or was not allowed is kept whole; of all else only
SID, revision, whether it is final, the hour, and the position by which the greater of two verdicts is told.

What people look for stands in narrow rows, and what is read of one case only beside them, both in the order in which
cases were first seen; so what changes together lies together. Each answer is one row of JSON, and a batch is taken in
with few statements: SQLite lets Python's lock go with every row, and beside a busy judging thread each row would wait
its turn for it.
"""

from __future__ import annotations

import re
import secrets
import sqlite3
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, NoReturn, Protocol

import msgspec
import structlog

from monitor.core.attribution import ENDED
from monitor.core.policy import ALLOWED, OUTCOMES
from monitor.core.verdict import (
    AlertLabels,
    Rejudged,
    Revision,
    RuledOut,
    Shown,
    Verdict,
    decode_verdict,
    read_instant,
    render_instant,
)

log = structlog.get_logger(__name__)

MEMORY_CASES_MAX: Final = 20_000
"""Cases kept while there is no disk, the newest; beyond it the oldest goes. Some 40 MB."""
ACTION_BYTES_MAX: Final = 64 * 1024
"""An action larger than this is none of ours and passed over."""
PAGE_MAX: Final = 50
"""Cases of one page of a list."""
ALIKE_MAX: Final = 1_000
"""How many cases that have something in common are counted; beyond it, it is "1,000 or more"."""
FEW: Final = 1_000
"""Fewer open cases than this are found by when they close; of more, all cases are gone through."""
OPEN_FOR_MAX_MS: Final = 7 * 86_400_000
"""No case is open longer after its last verdict: a conversation closes within 48 h, and nobody is told a day later."""
_SQLITE_BUSY: Final = 5
_SQLITE_SHORT_READ: Final = 522
# PERM, BUSY, LOCKED, READONLY, IOERR, FULL, CANTOPEN, NOLFS, AUTH: the disk, or somebody else who has the file.
_SQLITE_DISK: Final = frozenset({3, 5, 6, 8, 10, 13, 14, 22, 23})

ACKNOWLEDGE: Final = "acknowledge"
EXPLAIN: Final = "explain"
CLOSE: Final = "close"
REOPEN: Final = "reopen"
COMMENT: Final = "comment"
TOLD: Final = "told"

ACCEPTED: Final = "accepted"
CATEGORIES: Final = ("configuration", "stale session", "testing", "maintenance", "false positive", ACCEPTED)
"""What a case may be explained as; ``accepted`` holds until a date."""
ACKNOWLEDGED: Final = "acknowledged"


# --------------------------------------------------------------------------- actions


class CaseAction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One message of the case-actions topic, under the key ``RecordingSid/ULID``: what was done about a case, and when.

    ``kind``: ``acknowledge``, ``explain``, ``close``, ``reopen`` or ``comment`` by a person (``by``), with their
    ``text``, and of ``explain`` the ``category`` and for ``accepted`` the day (``until``) it holds to; or ``told`` by a
    process: an Alertmanager has taken the alert ``alert`` that began at ``starts_at``, about the recording disallowed
    since ``since`` at ``severity``. A kind that is not known stands in the timeline and means nothing else.
    """

    kind: str
    recording_sid: str
    at: str
    by: str | None = None
    text: str | None = None
    alert: str | None = None
    starts_at: str | None = None
    since: str | None = None
    severity: str | None = None
    category: str | None = None
    until: str | None = None


_read_action: Final = msgspec.json.Decoder(CaseAction).decode
_CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def ulid(now_ms: int) -> str:
    """A name that no other action has and that sorts by time: 48 bits of milliseconds, 80 of chance."""
    number = now_ms << 80 | secrets.randbits(80)
    return "".join(_CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))


def render_action(action: CaseAction, now_ms: int) -> tuple[str, bytes]:
    """Key and value of the message that tells an action."""
    return f"{action.recording_sid}/{ulid(now_ms)}", msgspec.json.encode(action)


def read_case_action(key: str, value: bytes) -> CaseAction | None:
    """Read an action back; None where the message is none of ours."""
    if len(value) > ACTION_BYTES_MAX:
        return None
    try:
        action = _read_action(value)
        read_instant(action.at)
    except (msgspec.DecodeError, ValueError):
        return None
    return action if key.partition("/")[0] == action.recording_sid else None


# --------------------------------------------------------------------------- cases


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one recording that is or was not allowed.

    ``seen_ms`` is when Kafka took the verdict; ``ended_ms`` when it was first known to be over, and ``cleared_ms`` when
    later evidence cleared it (both on Kafka's clock, None where not). Neither moves with later revisions. ``backlog``:
    it was found long after, whatever a later revision of the same says.
    """

    verdict: Verdict
    seen_ms: int
    ended_ms: int | None = None
    cleared_ms: int | None = None
    backlog: bool = False
    actions: tuple[CaseAction, ...] = ()

    @property
    def key(self) -> str:
        """The key on the verdict topic."""
        return self.verdict.key

    @property
    def disallowed_since(self) -> str | None:
        """Since when it is not allowed, as its verdict says."""
        return self.verdict.disallowed_since


class Before(Protocol):
    """What the earlier revisions of a verdict leave behind for its case."""

    @property
    def disallowed_since(self) -> str | None:
        """Since when it was not allowed."""

    @property
    def ended_ms(self) -> int | None:
        """When it was first known to be over."""

    @property
    def cleared_ms(self) -> int | None:
        """When it was first cleared."""

    @property
    def backlog(self) -> bool:
        """Whether it was found long after."""


def succeed(before: Case | None, verdict: Verdict, seen_ms: int) -> Case:
    """The case after another revision of its verdict."""
    return _succeed(before, verdict, seen_ms, () if before is None else before.actions)


def _succeed(before: Before | None, verdict: Verdict, seen_ms: int, actions: tuple[CaseAction, ...]) -> Case:
    over = verdict.ended_at is not None or verdict.recording_status in ENDED or verdict.final
    ended_ms = cleared_ms = None
    if over:
        ended_ms = seen_ms if before is None or before.ended_ms is None else before.ended_ms
    if verdict.outcome == ALLOWED or (verdict.disallowed_since is None and verdict.alert is not None):
        cleared_ms = seen_ms if before is None or before.cleared_ms is None else before.cleared_ms
    same = before is not None and before.disallowed_since == verdict.disallowed_since
    return Case(
        verdict=verdict,
        seen_ms=seen_ms,
        ended_ms=ended_ms,
        cleared_ms=cleared_ms,
        # A verdict becomes final when log time has caught up: that revision by itself is none of the backlog.
        backlog=verdict.backlog or (same and before is not None and before.backlog),
        actions=actions,
    )


def goes_on(case: Case) -> bool:
    """Whether it is still being recorded, as far as is known, and not allowed by now."""
    return case.ended_ms is None and case.cleared_ms is None


def handled(case: Case) -> str:
    """What people have made of a case: ``acknowledged``, a category it is explained as, or nothing yet."""
    made = ""
    for action in case.actions:
        if action.kind == ACKNOWLEDGE:
            made = made or ACKNOWLEDGED
        elif action.kind == EXPLAIN:
            made = action.category or "explained"
        elif action.kind == REOPEN:
            made = ""
    return made


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a case's timeline: when, what (a closed word), who, and more where there is more to say."""

    at: str
    what: str
    by: str | None = None
    says: str | None = None


def timeline(case: Case) -> list[Line]:
    """What happened to a case, in order of time: the recording, its verdicts, who was told, what people did."""
    verdict = case.verdict
    lines = [
        Line(at=at, what=what)
        for at, what in (
            (verdict.started_at, "recording_started"),
            (verdict.first_seen_at, "first_seen"),
            (verdict.ended_at, "recording_ended"),
        )
        if at is not None
    ]
    lines += [Line(at=told.decided_at, what=told.outcome, says=told.cause) for told in verdict.history]
    if verdict.rejudged is not None:
        lines.append(Line(at=verdict.rejudged.at, what="rejudged", says=was_before(verdict.rejudged)))
    lines.append(Line(at=verdict.decided_at, what=verdict.outcome, says=verdict.reason))
    lines += [Line(at=action.at, what=action.kind, by=action.by, says=_action_says(action)) for action in case.actions]
    return sorted(lines, key=lambda line: read_instant(line.at))


def was_before(rejudged: Rejudged) -> str:
    """What a verdict was before it was judged again, in words."""
    return f"was {rejudged.was_outcome} by rule {rejudged.was_rule}, under policy {rejudged.was_policy}"


def _action_says(action: CaseAction) -> str | None:
    until = f"until {action.until}" if action.until else None
    said = [part for part in (action.category, until, action.text, action.alert) if part]
    return ": ".join(said) or None


# --------------------------------------------------------------------------- the view


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which cases a list is to show; None and empty: all of them. ``sid`` is any SID that a verdict names."""

    open: bool | None = None
    account: str | None = None
    cause: str | None = None
    rule: str | None = None
    outcome: str | None = None
    handled: str | None = None
    """``no``: nobody has explained it; ``yes``: somebody has."""
    sid: str | None = None


class Listed(msgspec.Struct, frozen=True, array_like=True):
    """A case in a list, in the order of the columns; ``live``: the recording goes on, as far as is known."""

    live: bool
    changed_ms: int
    key: str
    closes_ms: int
    account: str
    cause: str
    rule: str
    outcome: str
    severity: str
    start_source: str
    started_at: str
    handled: str

    @property
    def place(self) -> tuple[bool, int, str]:
        """Where it stands in the list, which is in descending order of this."""
        return self.live, self.changed_ms, self.key


class Count(msgspec.Struct, frozen=True, array_like=True):
    """So many cases of a cause (or an account), so many of which go on, the last of them at ``last_ms``."""

    name: str
    count: int
    live: int
    last_ms: int


class Share(msgspec.Struct, frozen=True, array_like=True):
    """How the recordings that were first seen in an hour (``2026-11-21T08``, UTC) were judged."""

    hour: str
    allowed: int
    disallowed: int
    undetermined: int


class VerdictSeen(msgspec.Struct, frozen=True):
    """A message of the verdict topic; None is a tombstone. ``value`` is the verdict's JSON, where it is at hand."""

    key: str
    verdict: Verdict | None
    seen_ms: int
    value: bytes | None = None


class ActionSeen(msgspec.Struct, frozen=True):
    """A message of the case-actions topic: its key, and None where it is a tombstone."""

    key: str
    action: CaseAction | None


Seen = VerdictSeen | ActionSeen
Place = tuple[str, int]
"""A topic and a partition of it."""


class _Stands(msgspec.Struct, frozen=True, array_like=True):
    """What decides about what comes next for a case: of its verdict what matters then, without what it says."""

    at: tuple[int, int]
    final: bool
    share: tuple[str, str] | None
    disallowed_since: str | None
    seen_ms: int
    ended_ms: int | None
    cleared_ms: int | None
    backlog: bool
    named: tuple[int, ...]


class _Other(NamedTuple):
    """What is kept of a verdict that is no case, in the order of the columns."""

    key: str
    revision: int
    final: bool
    generation: int
    offset: int
    hour: str


class _Known:
    """What is known under one key in the midst of a batch; ``case`` is what is still to be stored, as ``value``."""

    def __init__(self) -> None:
        self.id: int | None = None
        self.stands: _Stands | None = None
        self.other: _Other | None = None
        self.actions: dict[str, CaseAction] = {}
        self.case: Case | None = None
        self.value: bytes | None = None
        self.changed_other = False

    def all_actions(self) -> tuple[CaseAction, ...]:
        """In order of time: a ULID sorts by it."""
        return tuple([self.actions[name] for name in sorted(self.actions)])


_pack: Final = msgspec.msgpack.Encoder().encode
_read_stands: Final = msgspec.msgpack.Decoder(_Stands).decode
_read_offsets: Final = msgspec.msgpack.Decoder(dict[str, dict[int, int]]).decode
_to_json: Final = msgspec.json.Encoder().encode

_read_listed: Final = msgspec.json.Decoder(list[Listed], strict=False).decode
_read_counts: Final = msgspec.json.Decoder(list[Count]).decode
_read_shares: Final = msgspec.json.Decoder(list[Share]).decode
_read_mentions: Final = msgspec.json.Decoder(list[tuple[int, int]]).decode
# Spelt out, since looking ahead for what is no account's takes half as long again.
_SID: Final = re.compile("[B-Z][A-Z][0-9a-f]{32}|A[ABD-Z][0-9a-f]{32}")
_find_sids: Final = _SID.findall
_PRIME: Final = (1 << 63) - 25  # The greatest there is below what SQLite takes for a number.

_COLUMNS: Final = ", ".join(Listed.__struct_fields__)
_PLACES: Final = ", ".join("?" * len(Listed.__struct_fields__))
_KEY: Final = Listed.__struct_fields__.index("key")
_NAMING: Final = "SELECT id FROM cases WHERE key = ? UNION SELECT id FROM mentions WHERE sid = ?"
# But for the key, or its index would be written anew as well.
_CHANGES: Final = ", ".join(f"{name} = ?" for name in Listed.__struct_fields__ if name != "key")
_TABLES: Final = """
CREATE TABLE offsets (one INTEGER PRIMARY KEY CHECK (one = 1), body BLOB NOT NULL);
CREATE TABLE cases (
    id INTEGER PRIMARY KEY, live INTEGER NOT NULL, changed_ms INTEGER NOT NULL, key TEXT NOT NULL UNIQUE,
    closes_ms INTEGER NOT NULL, account TEXT NOT NULL, cause TEXT NOT NULL, rule TEXT NOT NULL, outcome TEXT NOT NULL,
    severity TEXT NOT NULL, start_source TEXT NOT NULL, started_at TEXT NOT NULL, handled TEXT NOT NULL
);
CREATE INDEX cases_by_change ON cases (live, changed_ms);
CREATE INDEX cases_by_close ON cases (closes_ms, live, changed_ms, cause, account);
CREATE INDEX cases_by_cause ON cases (cause, live, changed_ms);
CREATE INDEX cases_by_rule ON cases (rule, live, changed_ms);
CREATE TABLE bodies (id INTEGER PRIMARY KEY, stands BLOB NOT NULL, verdict BLOB NOT NULL);
CREATE TABLE mentions (sid INTEGER NOT NULL, id INTEGER NOT NULL, PRIMARY KEY (sid, id)) WITHOUT ROWID;
CREATE TABLE others (
    key TEXT PRIMARY KEY, revision INTEGER NOT NULL, final INTEGER NOT NULL, generation INTEGER NOT NULL,
    offset INTEGER NOT NULL, hour TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE shares (
    hour TEXT PRIMARY KEY, allowed INTEGER NOT NULL, disallowed INTEGER NOT NULL, undetermined INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE actions (key TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
"""
_STORED: Final = (_Stands, Verdict, Shown, RuledOut, Revision, AlertLabels, Rejudged, CaseAction)


def version_of(*types: type[msgspec.Struct]) -> int:
    """The version of a file that holds these: where a field was added, rows written before would lack it unnoticed."""
    told = [(kind.__name__, kind.__annotations__) for kind in types]
    return zlib.crc32(repr((_TABLES, told)).encode()) & 0x7FFF_FFFF  # SQLite keeps it with a sign.


VERSION: Final = version_of(*_STORED)
_SCHEMA: Final = f"{_TABLES}PRAGMA user_version = {VERSION};"


class ViewLost(Exception):
    """What the view held is gone, and it has begun anew: read both topics again from where ``offsets`` says."""


class CaseView:
    """The cases in ``path``; of one process alone. Safe from any thread; a call may wait for the disk.

    ``source`` names the topics that it is a view of: what was kept of others is dropped. ``trouble`` says why it is
    kept in memory, None where it is on disk; ``on_trouble`` is told each time something went wrong, in a word.
    ``closes_ms`` says when a case closes, None while that is not known; whatever it depends on belongs into ``source``.
    """

    def __init__(
        self,
        path: Path,
        *,
        source: str,
        retention_ms: int,
        closes_ms: Callable[[Case], int | None] = lambda _: None,
        on_trouble: Callable[[str], None] = lambda _: None,
        memory_cases_max: int = MEMORY_CASES_MAX,
    ) -> None:
        self._path = path
        self._source = source
        self._closes_ms = closes_ms
        self._retention_ms = retention_ms
        self._on_trouble = on_trouble
        self._memory_cases_max = memory_cases_max
        self._lock = _Turns()
        self._db: sqlite3.Connection
        self._offsets: dict[str, dict[int, int]] = {}
        self._committed = self._offsets
        self._identity: tuple[int, int] | None = None
        self._size = 0
        self._last_id = 0
        self.trouble: str | None = None
        self._open()

    # What is asked.

    def offsets(self, topic: str) -> dict[int, int]:
        """Of each partition of a topic that was ever read, the next offset to read."""
        return dict(self._offsets.get(topic, {}))

    def case(self, key: str) -> Case | None:
        """One case; None where nothing about it was ever not allowed. Raises ``ViewLost``."""
        with self._lock, self._guarded():
            found = self._case(key)
        return None if found is None else found[0]

    def closes_ms(self, case: Case) -> int:
        """When a case closes, at the latest."""
        closes_ms = self._closes_ms(case)
        return case.seen_ms + OPEN_FOR_MAX_MS if closes_ms is None else closes_ms

    def cases(self, changed_after_ms: int = 0) -> Iterator[Case]:
        """All cases whose verdict came after an instant, the last first. Raises ``ViewLost``."""
        ask = "SELECT key FROM cases WHERE live IN (0, 1) AND changed_ms > ? ORDER BY changed_ms DESC, key"
        with self._lock, self._guarded():
            keys = [key for (key,) in self._db.execute(ask, (changed_after_ms,))]
        for key in keys:
            case = self.case(key)
            if case is not None:
                yield case

    def action_keys(self, key: str) -> list[str]:
        """The keys of the messages about what was done about a case. Raises ``ViewLost``."""
        ask = "SELECT key FROM actions WHERE key > ? AND key < ?"
        with self._lock, self._guarded():
            return [name for (name,) in self._db.execute(ask, (f"{key}/", f"{key}0"))]

    def page(
        self, wanted: Wanted, now_ms: int, *, after: tuple[bool, int, str] | None = None, limit: int = PAGE_MAX
    ) -> list[Listed]:
        """Cases of a list: those that go on first, then the last changed first. Raises ``ViewLost``.

        ``after`` is the ``place`` of the last one on the page before.
        """
        where, values = _conditions(wanted, now_ms)
        if after is not None:
            where.append("(live, changed_ms, key) < (?, ?, ?)")
            values += after
        listed = f"json_group_array(json_array({_COLUMNS}))"
        order = "live DESC, changed_ms DESC, key DESC LIMIT ?"
        ask = (
            f"SELECT {_COLUMNS} FROM {self._table(wanted, now_ms)} WHERE {' AND '.join(where) or '1'} ORDER BY {order}"
        )
        found = _read_listed(self._ask(f"SELECT {listed} FROM ({ask})", (*values, limit)))
        return sorted(found, key=lambda one: one.place, reverse=True)  # An aggregate promises no order.

    def _table(self, wanted: Wanted, now_ms: int) -> str:
        """Where to look: few are open, mostly, and these are found first; of many, all are gone through in order."""
        if wanted.open is not True:
            return "cases"
        ask = "SELECT count(*) FROM (SELECT 1 FROM cases WHERE closes_ms > ? LIMIT ?)"
        return "cases INDEXED BY cases_by_close" if int(self._ask(ask, (now_ms, FEW))) < FEW else "cases"

    def counts(self, by: Literal["cause", "account", "rule"], wanted: Wanted, now_ms: int) -> list[Count]:
        """Cases counted by a column, those that go on first, then the most. Raises ``ViewLost``."""
        where, values = _conditions(wanted, now_ms)
        table = "cases INDEXED BY cases_by_close" if wanted.open else "cases"
        ask = (
            f"SELECT {by} AS name, count(*) AS count, sum(live) AS live, max(changed_ms) AS last_ms"
            f" FROM {table} WHERE {' AND '.join(where) or '1'} GROUP BY {by}"
        )
        counts = _read_counts(
            self._ask(f"SELECT json_group_array(json_array(name, count, live, last_ms)) FROM ({ask})", values)
        )
        return sorted(counts, key=lambda one: (-one.live, -one.count, one.name))

    def alike(self, case: Case) -> list[tuple[str, int]]:
        """What a verdict names and verdicts of other cases name too, with how many do (at most ``ALIKE_MAX``)."""
        names = {_number(sid): sid for sid in _mentioned(case.verdict)}
        counted = "SELECT count(*) FROM (SELECT 1 FROM mentions WHERE sid = named.value AND id != own.id LIMIT ?)"
        own = "(SELECT ifnull((SELECT id FROM cases WHERE key = ?), 0) AS id) AS own"
        ask = f"SELECT json_group_array(json_array(value, ({counted}))) FROM {own}, json_each(?) AS named"
        found = _read_mentions(self._ask(ask, (ALIKE_MAX, case.key, _to_json(list(names)).decode())))
        return sorted([(names[sid], count) for sid, count in found if count], key=lambda one: (-one[1], one[0]))

    def shares(self, since: str) -> list[Share] | None:
        """How recordings were judged, hour by hour from ``since`` on; None while that is not kept (in memory).

        Whole for seven days back: older verdicts that allow are gone from the topic.
        """
        if self.trouble is not None:
            return None
        ask = "SELECT hour, allowed, disallowed, undetermined FROM shares WHERE hour >= ? ORDER BY hour"
        listed = "SELECT json_group_array(json_array(hour, allowed, disallowed, undetermined))"
        return sorted(_read_shares(self._ask(f"{listed} FROM ({ask})", (since,))), key=lambda one: one.hour)

    def _ask(self, ask: str, values: Sequence[object]) -> str:
        with self._lock, self._guarded():
            (text,) = self._db.execute(ask, tuple(values)).fetchone()
        return str(text)

    # What is told.

    def take(self, seen: Sequence[Seen], offsets: Mapping[Place, int]) -> list[Case]:
        """Take in what the topics brought, and up to where; the cases as they are now, of all that changed.

        It is shown at once, and on disk after the next ``commit``: the more is taken in between, the less of the file
        is written again and again. Raises ``ViewLost``: then it was not taken in, nor what was not committed, and the
        topics are to be read again from ``offsets``; so it is whatever else is raised.
        """
        counted: Counter[tuple[str, str]] = Counter()
        with self._lock, self._guarded(), self._whole():
            all_known = self._known_of(seen)
            for one in seen:
                known = all_known[_about(one)]
                if isinstance(one, VerdictSeen):
                    self._take_verdict(known, one, counted)
                else:
                    self._take_action(known, one)
            changed = [known for known in all_known.values() if known.case is not None]
            self._store(changed)
            if self.trouble is None:
                self._store_others(all_known)
                self._store_shares(counted)
            after = {topic: dict(partitions) for topic, partitions in self._offsets.items()}
            for (topic, partition), offset in offsets.items():
                after.setdefault(topic, {})[partition] = offset
            if self.trouble is not None:
                self._keep_few()
            self._offsets = after
        return [known.case for known in changed if known.case is not None]

    def commit(self) -> None:
        """Put on disk what was taken in. Raises ``ViewLost``."""
        with self._lock, self._guarded():
            self._commit()

    def _commit(self) -> None:
        if self._offsets is not self._committed:
            body = _sealed(self._source.encode(), _pack(self._offsets))
            self._db.execute("INSERT OR REPLACE INTO offsets VALUES (1, ?)", (body,))
        self._db.commit()
        self._committed = self._offsets

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Where it ends early, what was not committed is undone."""
        try:
            yield
        except BaseException:
            with suppress(sqlite3.Error):
                self._db.rollback()
            self._offsets = self._committed
            raise

    def forget(self, now_ms: int) -> int:
        """Drop what has not changed for the retention; how many cases that were. Raises ``ViewLost``."""
        with self._lock, self._guarded(), self._whole():
            before = now_ms - self._retention_ms
            ask = "SELECT key FROM cases WHERE live IN (0, 1) AND changed_ms < ?"
            gone = [key for (key,) in self._db.execute(ask, (before,))]
            for key in gone:
                self._drop(key)
            self._db.execute("DELETE FROM shares WHERE hour < ?", (render_instant(before)[:13],))
            self._commit()
            return len(gone)

    def look(self) -> None:
        """Notice that the file is another than it was: deleted, replaced or cut. Raises ``ViewLost``."""
        if self.trouble is not None:
            return
        with self._lock:
            try:
                found = self._path.stat()
                same = (found.st_dev, found.st_ino) == self._identity and found.st_size >= self._size
                self._size = found.st_size
            except OSError:
                same = False
            if not same:
                self._lost("replaced")

    def close(self) -> None:
        """Let go of the file; what was taken in is on disk then."""
        with self._lock, suppress(sqlite3.Error):
            self._commit()
            self._db.close()

    # One batch.

    def _known_of(self, seen: Sequence[Seen]) -> dict[str, _Known]:
        """What is known under each key that a batch is about."""
        all_known = {_about(one): _Known() for one in seen}
        keys = _to_json(list(all_known)).decode()
        named = "FROM json_each(?) AS named CROSS JOIN"
        ask = (
            f"SELECT cases.key, cases.id, stands {named} cases ON cases.key = value JOIN bodies ON bodies.id = cases.id"
        )
        for key, number, stands in self._db.execute(ask, (keys,)):
            all_known[key].id, all_known[key].stands = number, _read_stands(_opened(key.encode(), stands))
        for row in self._db.execute(f"SELECT others.* {named} others ON others.key = value", (keys,)):
            all_known[row[0]].other = _Other(*row)
        between = "actions.key > value || '/' AND actions.key < value || '0'"  # '0' is what comes after '/'.
        for name, body in self._db.execute(f"SELECT actions.key, body {named} actions ON {between}", (keys,)):
            all_known[name.partition("/")[0]].actions[name] = _read_action(_opened(name.encode(), body))
        return all_known

    def _take_verdict(self, known: _Known, seen: VerdictSeen, counted: Counter[tuple[str, str]]) -> None:
        """Put one verdict in place; ``counted`` is told of the shares."""
        verdict, before, other = seen.verdict, known.stands, known.other
        if verdict is None:
            if other is not None:
                known.other, known.changed_other = None, True
            if before is not None:
                self._drop(seen.key)
                known.id = known.stands = known.case = None
                known.actions.clear()
            return
        if before is not None and (before.at, before.final) > _rank(verdict):
            return
        if other is not None and ((other.generation, other.offset), bool(other.final)) > _rank(verdict):
            return
        share_before = before.share if before is not None else None if other is None else (ALLOWED, other.hour)
        if before is None and not is_case(verdict):
            hour = verdict.first_seen_at[:13]
            known.other = _Other(verdict.key, verdict.revision, verdict.final, *verdict.at, hour)
            known.changed_other = True
            _count(counted, share_before, (ALLOWED, hour))
            return
        if other is not None:
            known.other, known.changed_other = None, True
        share = _counted(verdict)
        _count(counted, share_before, share)
        # Topics are read side by side: what was done about it may have been read before it.
        case = _succeed(before, verdict, seen.seen_ms, known.all_actions())
        known.case, known.value = case, seen.value
        known.stands = _Stands(
            verdict.at,
            verdict.final,
            share,
            verdict.disallowed_since,
            case.seen_ms,
            case.ended_ms,
            case.cleared_ms,
            case.backlog,
            () if before is None else before.named,
        )

    def _take_action(self, known: _Known, seen: ActionSeen) -> None:
        if seen.action is None:
            self._db.execute("DELETE FROM actions WHERE key = ?", (seen.key,))
            known.actions.pop(seen.key, None)
        else:
            body = _sealed(seen.key.encode(), _to_json(seen.action))
            self._db.execute("INSERT OR REPLACE INTO actions VALUES (?, ?)", (seen.key, body))
            known.actions[seen.key] = seen.action
        if known.case is None and known.stands is not None:
            found = self._case(seen.key.partition("/")[0])
            if found is not None:
                known.case, known.value = found
        if known.case is not None:
            known.case = msgspec.structs.replace(known.case, actions=known.all_actions())

    def _store(self, all_known: Iterable[_Known]) -> None:
        """Write the cases that have changed, each once however often it did."""
        new: list[tuple[object, ...]] = []
        changed: list[tuple[object, ...]] = []
        bodies: list[tuple[int, bytes, bytes]] = []
        named: list[tuple[int, int]] = []
        not_named: list[tuple[int, int]] = []
        for known in all_known:
            case, stands = known.case, known.stands
            assert case is not None
            assert stands is not None
            value = _to_json(case.verdict) if known.value is None else known.value
            columns = self._columns(case)
            if known.id is None:
                self._last_id += 1
                known.id = self._last_id
                new.append((known.id, *columns))
            else:
                changed.append((*columns[:_KEY], *columns[_KEY + 1 :], known.id))
            numbers = {_number(sid) for sid in _mentioned(case.verdict)}
            named += [(number, known.id) for number in numbers.difference(stands.named)]
            not_named += [(number, known.id) for number in set(stands.named).difference(numbers)]
            stands = msgspec.structs.replace(stands, named=tuple(numbers))
            bodies.append((known.id, _sealed(case.key.encode(), _pack(stands)), _sealed(_pack(columns), value)))
        write = self._db.executemany
        write(f"INSERT INTO cases VALUES (?, {_PLACES})", new)
        write(f"UPDATE cases SET {_CHANGES} WHERE id = ?", changed)
        write("INSERT OR REPLACE INTO bodies VALUES (?, ?, ?)", bodies)
        write("DELETE FROM mentions WHERE sid = ? AND id = ?", not_named)
        write("INSERT OR IGNORE INTO mentions VALUES (?, ?)", sorted(named))  # Sorted: each page is met once.

    def _store_others(self, all_known: Mapping[str, _Known]) -> None:
        changed = {key: known.other for key, known in all_known.items() if known.changed_other}
        gone = [(key,) for key, other in changed.items() if other is None]
        self._db.executemany("DELETE FROM others WHERE key = ?", gone)
        kept = [other for other in changed.values() if other is not None]
        self._db.executemany("INSERT OR REPLACE INTO others VALUES (?, ?, ?, ?, ?, ?)", kept)

    def _columns(self, case: Case) -> tuple[int | str, ...]:
        verdict = case.verdict
        return msgspec.structs.astuple(
            Listed(
                live=goes_on(case),
                changed_ms=case.seen_ms,
                key=case.key,
                closes_ms=self.closes_ms(case),
                account=verdict.account_sid,
                cause=verdict.cause or "",
                rule=verdict.rule,
                outcome=verdict.outcome,
                severity=verdict.severity or "",
                start_source=verdict.start_source or "",
                started_at=verdict.started_at or verdict.first_seen_at,
                handled=handled(case),
            )
        )

    def _store_shares(self, counted: Counter[tuple[str, str]]) -> None:
        """Add what a batch has changed."""
        for (outcome, hour), change in counted.items():
            if change:
                self._db.execute("INSERT OR IGNORE INTO shares VALUES (?, 0, 0, 0)", (hour,))
                self._db.execute(f"UPDATE shares SET {outcome} = {outcome} + ? WHERE hour = ?", (change, hour))

    def _case(self, key: str) -> tuple[Case, bytes] | None:
        """A case, and the JSON of its verdict."""
        ask = f"SELECT {_COLUMNS}, stands, verdict FROM cases JOIN bodies USING (id) WHERE key = ?"
        found = self._db.execute(ask, (key,)).fetchone()
        if found is None:
            return None
        stands, value = self._open_row(found)
        between = "SELECT key, body FROM actions WHERE key > ? AND key < ? ORDER BY key"
        actions = self._db.execute(between, (f"{key}/", f"{key}0")).fetchall()
        case = Case(
            verdict=decode_verdict(value),
            seen_ms=stands.seen_ms,
            ended_ms=stands.ended_ms,
            cleared_ms=stands.cleared_ms,
            backlog=stands.backlog,
            actions=tuple([_read_action(_opened(name.encode(), body)) for name, body in actions]),
        )
        return case, value

    def _drop(self, key: str) -> None:
        ask = "SELECT bodies.id, stands FROM cases JOIN bodies USING (id) WHERE key = ?"
        found = self._db.execute(ask, (key,)).fetchone()
        if found is not None:
            number, stands = found
            named = _read_stands(_opened(key.encode(), stands)).named
            self._db.executemany("DELETE FROM mentions WHERE sid = ? AND id = ?", [(sid, number) for sid in named])
            self._db.execute("DELETE FROM cases WHERE id = ?", (number,))
            self._db.execute("DELETE FROM bodies WHERE id = ?", (number,))
        self._db.execute("DELETE FROM actions WHERE key > ? AND key < ?", (f"{key}/", f"{key}0"))

    def _keep_few(self) -> None:
        """In memory, the oldest go. They are still in the topics, and come back with the disk."""
        (count,) = self._db.execute("SELECT count(*) FROM cases").fetchone()
        if count > self._memory_cases_max:
            rows = self._db.execute("SELECT key FROM cases ORDER BY id LIMIT ?", (count - self._memory_cases_max,))
            for (key,) in rows.fetchall():
                self._drop(key)

    # The file.

    def _open(self) -> None:
        """Open the file, or begin it anew; else begin in memory."""
        for again in (False, True):
            try:
                self._connect()
                self._read_all()
                return
            except (sqlite3.Error, OSError, _Broken) as failure:
                self._disconnect()
                broken = _is_broken(failure)
                if again or not broken:
                    self._in_memory(_why(failure))
                    return
                self._tell("rebuilt", _why(failure))
                self._remove()

    def _connect(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(self._path, timeout=0.5, check_same_thread=False)
        # Exclusive: two processes with one file would take turns in telling it how far they have read.
        for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = NORMAL", "cache_size = -4096"):
            self._db.execute(f"PRAGMA {pragma}")
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        (tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if version == 0 and tables == 0:
            self._db.executescript(_SCHEMA)
        elif version != VERSION:
            raise _Broken("another version of the monitor wrote it")
        with self._db:  # Whoever may not write is told now, not with the first verdict.
            self._db.execute(f"PRAGMA user_version = {VERSION}")
        found = self._path.stat()
        self._identity, self._size = (found.st_dev, found.st_ino), found.st_size

    def _read_all(self) -> None:
        """Read every row once: SQLite has no checksums of its own, and a case that has vanished would page nobody."""
        for (said,) in self._db.execute("PRAGMA integrity_check(1)"):
            if said != "ok":
                raise _Broken(said.splitlines()[0])
        kept = self._db.execute("SELECT body FROM offsets").fetchone()
        self._offsets = {} if kept is None else _read_offsets(_opened(self._source.encode(), kept[0]))
        self._committed = self._offsets
        counts = "SELECT (SELECT count(*) FROM cases), (SELECT count(*) FROM bodies), ifnull(max(id), 0) FROM cases"
        cases, bodies, self._last_id = self._db.execute(counts).fetchone()
        if cases != bodies:
            raise _Broken("a case is not whole")
        for row in self._db.execute(f"SELECT {_COLUMNS}, stands, verdict FROM cases LEFT JOIN bodies USING (id)"):
            self._open_row(row)
        for key, body in self._db.execute("SELECT key, body FROM actions"):
            _opened(key.encode(), body)

    def _open_row(self, row: Sequence[Any]) -> tuple[_Stands, bytes]:
        """What is stored under the columns of a case."""
        live, *columns = row[:-2]
        stands = _read_stands(_opened(columns[_KEY - 1].encode(), row[-2]))
        return stands, _opened(_pack((bool(live), *columns)), row[-1])

    def _in_memory(self, why: str) -> None:
        self._db = sqlite3.connect(":memory:", check_same_thread=False)
        self._db.executescript(_SCHEMA)
        self._offsets = self._committed = {}
        self._last_id = 0
        self.trouble = why
        self._tell("memory", why)

    def _guarded(self) -> _Guard:
        return _Guard(self._lost_by)

    def _lost_by(self, failure: Exception) -> NoReturn:
        """Begin anew: on disk where only the content was at fault, else in memory."""
        if self.trouble is not None:
            raise failure  # Memory does not fail; this is a bug.
        self._lost(_why(failure), broken=_is_broken(failure))

    def _lost(self, why: str, *, broken: bool = True) -> NoReturn:
        self._disconnect()
        if broken:
            self._tell("rebuilt", why)
            self._remove()
            self._offsets = self._committed = {}
            self._open()
        else:
            self._in_memory(why)
        raise ViewLost(why)

    def _disconnect(self) -> None:
        with suppress(sqlite3.Error, AttributeError):
            self._db.close()

    def _remove(self) -> None:
        for suffix in ("", "-wal", "-shm", "-journal"):
            with suppress(OSError):
                Path(f"{self._path}{suffix}").unlink()

    def _tell(self, what: str, why: str) -> None:
        self._on_trouble(what)
        log.error(f"case_database_{what}" if what == "rebuilt" else "case_database_kept_in_memory", why=why)


class _Broken(Exception):
    """The file is not what we wrote."""


class _Turns:
    """A lock that nobody takes twice while somebody else waits: who waits for it holds the way in."""

    def __init__(self) -> None:
        self._way_in = threading.Lock()
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._way_in:
            self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class _Guard:
    """What the disk does wrong within it loses the view."""

    def __init__(self, lost: Callable[[Exception], None]) -> None:
        self._lost = lost

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, failure: BaseException | None, trace: object) -> None:
        if isinstance(failure, sqlite3.Error | _Broken):
            self._lost(failure)


def is_case(verdict: Verdict) -> bool:
    """Whether a verdict is one that a person may want to read: it is not allowed, or was not."""
    if verdict.outcome != ALLOWED or verdict.alert is not None:
        return True
    return any(earlier.outcome != ALLOWED for earlier in verdict.history)


def _about(seen: Seen) -> str:
    """The key of the case; a verdict under a key that is not its own is about what it says."""
    if isinstance(seen, VerdictSeen):
        return seen.key if seen.verdict is None else seen.verdict.key
    return seen.key.partition("/")[0]


def _rank(verdict: Verdict) -> tuple[tuple[int, int], bool]:
    """Readers take the greatest, and of equals the later message."""
    return verdict.at, verdict.final


def _mentioned(verdict: Verdict) -> set[str]:
    """The SIDs a verdict names beside its own, but for its account's, which all of the account share."""
    texts = [verdict.recording_sid, verdict.call_sid, verdict.conference_sid, verdict.reason]
    for shown in verdict.evidence:
        texts += (shown.event_id, shown.shows)
    texts += [dropped.by for dropped in verdict.ruled_out]
    texts += verdict.missing
    return {*_find_sids(" ".join([text for text in texts if text is not None]))} - {verdict.key}


def _number(sid: str) -> int:
    """A SID as the number it is looked for by: a quarter of its size, and no two of all there are have the same."""
    return int(sid, 36) % _PRIME


def _counted(verdict: Verdict) -> tuple[str, str] | None:
    """How a verdict is counted among the shares, under the name of a column; a suspicion is no recording."""
    if verdict.kind != "recording" or verdict.outcome not in OUTCOMES:
        return None
    return verdict.outcome, verdict.first_seen_at[:13]


def _count(counted: Counter[tuple[str, str]], before: tuple[str, str] | None, after: tuple[str, str] | None) -> None:
    """Count a recording, by outcome and hour, where it was not counted so already."""
    if before != after:
        if before is not None:
            counted[before] -= 1
        if after is not None:
            counted[after] += 1


def _conditions(wanted: Wanted, now_ms: int) -> tuple[list[str], list[object]]:
    """What a list is restricted to, for SQL: conditions, and the values in them."""
    where: list[str] = []
    values: list[object] = []
    if wanted.open is not None:
        where.append(f"closes_ms {'>' if wanted.open else '<='} ?")
        values.append(now_ms)
    for column in ("account", "cause", "rule", "outcome"):
        value = getattr(wanted, column)
        if value is not None:
            where.append(f"{column} = ?")
            values.append(value)
    if wanted.handled is not None:
        where.append(f"handled {'NOT IN' if wanted.handled == 'yes' else 'IN'} ('', '{ACKNOWLEDGED}')")
    if wanted.sid is not None:
        # An account's SID is in all that it has, and so among no mentions.
        is_account = wanted.sid.startswith("AC")
        where.append("account = ?" if is_account else f"id IN ({_NAMING})")
        values.append(wanted.sid)
        if not is_account:
            values.append(_number(wanted.sid) if _SID.fullmatch(wanted.sid) else None)
    return where, values


def _sealed(name: bytes, body: bytes) -> bytes:
    """Bytes under a name as they are stored: behind a checksum over both."""
    return zlib.crc32(body, zlib.crc32(name)).to_bytes(4, "big") + body


def _opened(name: bytes, stored: object) -> bytes:
    """What was sealed. Raises ``_Broken``."""
    if not isinstance(stored, bytes) or len(stored) < 5:
        raise _Broken("a row holds no bytes")
    body = stored[4:]
    if zlib.crc32(body, zlib.crc32(name)) != int.from_bytes(stored[:4], "big"):
        raise _Broken("a row is not as it was written")
    return body


def _is_broken(failure: Exception) -> bool:
    """Whether the content is at fault, so that beginning anew helps; else it is the disk, or somebody has the file."""
    if isinstance(failure, sqlite3.Error):
        # A file that ends too soon is an IOERR, too. Errors without a code are Python's, about what a column holds.
        code = getattr(failure, "sqlite_errorcode", 0)
        return code == _SQLITE_SHORT_READ or code & 0xFF not in _SQLITE_DISK
    return isinstance(failure, _Broken)


def _why(failure: Exception) -> str:
    if isinstance(failure, sqlite3.Error) and (getattr(failure, "sqlite_errorcode", 0) & 0xFF) == _SQLITE_BUSY:
        return "another process has it open"
    # The message may quote what a row holds.
    return str(failure) if str(failure).isascii() else type(failure).__name__


def told_of(case: Case) -> Iterable[CaseAction]:
    """Who was told of what the case is about now: the marks about the same beginning."""
    since = case.verdict.disallowed_since
    return (action for action in case.actions if action.kind == TOLD and action.since == since)

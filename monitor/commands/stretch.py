"""A stretch of the events topic: the messages about a SID or an account, with what is connected to them.

``export`` writes them into a file; ``replay`` and ``policy explain`` judge them where they are.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import msgspec
import typer

from monitor.core.decode import decode
from monitor.core.events import ConferenceFact, Event, ParticipantFact, RequestFact, TwimlFact
from monitor.core.values import span_ms
from monitor.inputs.files import Line
from monitor.inputs.reader import headers_of
from monitor.inputs.scan import Scan
from monitor.settings import Problem, Settings, SettingsError, kafka_client, parse_duration

_SID: Final = re.compile(r"[A-Z]{2}[0-9a-f]{32}")
# A conversation of more calls than this is not one anybody wants to look at; the file says that it was cut off.
MEMBERS_MAX: Final = 10_000


SinceOption = Annotated[
    str | None, typer.Option("--since", help="From then on: 2026-11-21T08:00:00Z, or how long ago: 4h.", metavar="WHEN")
]
UntilOption = Annotated[str | None, typer.Option("--until", help="Until then, exclusively.", metavar="WHEN")]


class TopicMessage(msgspec.Struct, frozen=True):
    """One message of the events topic."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    headers: tuple[tuple[str, bytes], ...]
    value: bytes | None


class Stretch:
    """A stretch as a source of lines: what was known of the accounts, then the messages, at their own arrivals.

    Without ``sids`` it is all there is. With them it is what is connected to them, and the last message of each of
    their partitions, whatever it says: it is how far the monitor's log time has come.
    """

    def __init__(self, settings: Settings, scan: Scan, sids: frozenset[str] = frozenset()) -> None:
        self._settings = settings
        self._scan = scan
        self._sids = connected(scan, sids, None, reach_ms=reach_ms(settings)) if sids else sids

    def read(self, on_bytes: Callable[[int], None] | None = None) -> Iterator[Line]:  # noqa: ARG002 - a topic has none.
        """Yield every message, in order within a partition. Raises OutOfReach."""
        number = 0
        accounts = accounts_of(self._scan, self._sids, None) if self._sids else None
        for value in settings_of(self._settings, accounts):
            number += 1
            yield Line(number, value, timestamp_ms=0)  # They hold by their own instants, whenever they arrived.
        naming = _naming(self._sids)
        last: dict[int, TopicMessage] = {}
        concerned: dict[int, int] = {}
        for message in _messages(self._scan):
            last[message.partition] = message
            if not self._sids or _names(naming, message):
                number += 1
                concerned[message.partition] = message.offset
                yield _line(number, message)
        for partition, offset in concerned.items():
            if last[partition].offset != offset:
                number += 1
                yield _line(number, last[partition])


@contextlib.contextmanager
def stretch_of(
    settings: Settings, sids: Iterable[str] = (), *, since: str | None = None, until: str | None = None
) -> Iterator[Stretch]:
    """The events topic as it stands now, between two instants of the command line. Raises OutOfReach."""
    now = datetime.now(UTC)
    scan = Scan(
        kafka_client(settings),
        settings.kafka.group_id,
        settings.topics.events,
        since_ms=instant_of(since, "--since", now),
        until_ms=instant_of(until, "--until", now),
    )
    try:
        yield Stretch(settings, scan, frozenset(sids))
    finally:
        scan.close()


def reach_ms(settings: Settings) -> int:
    """How far apart in time what a conference name connects may be: nothing outlives the window."""
    return span_ms(settings.window)


def _line(number: int, message: TopicMessage) -> Line:
    return Line(number, message.value, message.partition, message.offset, message.timestamp_ms, headers=message.headers)


def connected(scan: Scan, sids: frozenset[str], account: str | None, *, reach_ms: int) -> frozenset[str]:
    """The SIDs, and all that events of the stretch connect them to: their conversations.

    Also what only the name of a conference can connect: calls whose TwiML or requests name it, and conferences of that
    name, seen less than ``reach_ms`` (the window) from events that name it in what the SIDs are connected to. Names of
    what is found so lead no further: a room that is used day after day would connect its whole history.
    """
    members, names = _by_sids(scan, sids, account)
    if not names:
        return members
    by_name = members | _by_names(scan, names, reach_ms)
    return members if by_name == members else _by_sids(scan, by_name, account)[0]


def _by_sids(
    scan: Scan, sids: frozenset[str], account: str | None
) -> tuple[frozenset[str], dict[tuple[str, str], tuple[int, int]]]:
    """What shares a SID with ``sids``; and the conference names in it, by account, with the first and last arrival.

    Reads the stretch again until nothing is added; events name two members, so each pass goes one link further at
    least, and mostly to the end.
    """
    while True:
        grown = set(sids)
        names: dict[tuple[str, str], tuple[int, int]] = {}
        pattern = _naming(sids)
        for message in _messages(scan):
            if message.value is None or not _names(pattern, message):
                continue
            for event in _events(message):
                if account is None or event.account == account:
                    members = {member for member in event.members if _SID.fullmatch(member)}
                    if members & grown:
                        grown |= members
                        for name in _conference_names(event):
                            first_ms, _ = names.get((event.account, name), (message.timestamp_ms, 0))
                            names[event.account, name] = first_ms, message.timestamp_ms
        if len(grown) == len(sids) or len(grown) > MEMBERS_MAX:
            return frozenset(grown), names
        sids = frozenset(grown)


def _by_names(scan: Scan, names: dict[tuple[str, str], tuple[int, int]], reach_ms: int) -> set[str]:
    """The calls and conferences that events name together with one of these conference names, near enough in time."""
    found: set[str] = set()
    first_ms = min(first_ms for first_ms, _ in names.values()) - reach_ms
    last_ms = max(last_ms for _, last_ms in names.values()) + reach_ms
    for message in _messages(scan):
        if first_ms <= message.timestamp_ms <= last_ms:
            for event in _events(message):
                spans = [
                    names[event.account, name] for name in _conference_names(event) if (event.account, name) in names
                ]
                if any(a - reach_ms <= message.timestamp_ms <= b + reach_ms for a, b in spans):
                    found |= {member for member in event.members if _SID.fullmatch(member)}
    return found


def _events(message: TopicMessage) -> Iterator[Event]:
    return (entry for entry in decode(message.value, message.headers) if isinstance(entry, Event))


def _conference_names(event: Event) -> set[str]:
    """The names by which an event may be joined with others: what its conference is called, or one that is called."""
    return {
        fact.name
        for fact in event.facts
        if isinstance(fact, ParticipantFact | ConferenceFact | TwimlFact | RequestFact) and fact.name
    }


def select(scan: Scan, sids: frozenset[str], account: str | None) -> Iterator[TopicMessage]:
    """The messages of the stretch that name one of ``sids`` (if any) and are of ``account`` (if given)."""
    by_sid = _naming(sids) if sids else None
    by_account = _naming(frozenset({account})) if account is not None else None
    for message in _messages(scan):
        if (by_sid is None or _names(by_sid, message)) and (by_account is None or _names(by_account, message)):
            yield message


def _names(sids: re.Pattern[bytes], message: TopicMessage) -> bool:
    return bool(sids.search(b" ".join([message.value or b"", *(value for _, value in message.headers)])))


def _messages(scan: Scan) -> Iterator[TopicMessage]:
    for message in scan.read():
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        assert topic is not None
        assert partition is not None
        assert offset is not None
        headers = tuple(headers_of(message) or ())
        yield TopicMessage(topic, partition, offset, message.timestamp()[1], headers, message.value())


def settings_of(settings: Settings, accounts: set[str] | None) -> Iterator[bytes]:
    """What is known of these accounts, or of all, from the topic of account settings."""
    scan = Scan(kafka_client(settings), settings.kafka.group_id, settings.topics.account_settings)
    try:
        for message in scan.read():
            value = message.value()
            if value is not None and any(
                isinstance(entry, Event)
                and entry.setting is not None
                and (accounts is None or entry.account in accounts)
                for entry in decode(value)
            ):
                yield value
    finally:
        scan.close()


def accounts_of(scan: Scan, sids: frozenset[str], account: str | None) -> set[str]:
    """Whose events are going to be written. Read apart, because their settings stand first in the file."""
    if account is not None:
        return {account}
    found: set[str] = set()
    for message in select(scan, sids, account):
        found |= {entry.account for entry in decode(message.value, message.headers) if isinstance(entry, Event)}
    return found


def _naming(sids: frozenset[str]) -> re.Pattern[bytes]:
    return re.compile(b"|".join(sorted(sid.encode() for sid in sids)))


def instant_of(text: str | None, option: str, now: datetime) -> int | None:
    """An instant of the command line, in milliseconds: itself, or how long ago. Raises ``SettingsError``."""
    if text is None:
        return None
    with contextlib.suppress(ValueError):
        return _ms(now - parse_duration(text))
    with contextlib.suppress(ValueError):
        instant = datetime.fromisoformat(text)
        if instant.tzinfo is not None:
            return _ms(instant)
    raise wrong_usage(option, "is no instant. Write 2026-11-21T08:00:00Z, or 4h for 4 h ago")


def account_of(settings: Settings, text: str) -> str:
    """The SID of an account that the command line names by that or by its alias. Raises SettingsError."""
    if re.fullmatch("AC[0-9a-f]{32}", text):
        return text
    for account in settings.accounts:
        if account.alias == text:
            return account.sid
    known = ", ".join(account.alias for account in settings.accounts) or "none"
    raise wrong_usage("--account", f"is neither an account SID nor an alias. Known: {known}")


def wrong_usage(option: str, remedy: str) -> SettingsError:
    """What to raise where the command line makes no sense."""
    return SettingsError([Problem("command line", 0, option, remedy)])


def _ms(instant: datetime) -> int:
    return (instant - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)

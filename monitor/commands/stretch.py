"""A stretch of the events topic: the messages about a SID or an account, with what is connected to them.

``export`` writes them into a file; ``replay`` and ``policy explain`` judge them where they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import msgspec

from monitor.core.decode import decode
from monitor.core.events import Event
from monitor.inputs.reader import headers_of
from monitor.inputs.scan import Scan
from monitor.settings import Settings, kafka_client

_SID: Final = re.compile(r"[A-Z]{2}[0-9a-f]{32}")
# A conversation of more calls than this is not one anybody wants to look at; the file says that it was cut off.
MEMBERS_MAX: Final = 10_000


class TopicMessage(msgspec.Struct, frozen=True):
    """One message of the events topic."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    headers: tuple[tuple[str, bytes], ...]
    value: bytes | None


def connected(scan: Scan, sids: frozenset[str], account: str | None) -> frozenset[str]:
    """The SIDs, and all that events of the stretch connect them to: their conversations.

    Reads the stretch again until nothing is added; events name two members, so each pass goes one link further at
    least, and mostly to the end.
    """
    while True:
        grown = set(sids)
        pattern = _naming(sids)
        for message in _messages(scan):
            if message.value is None or not pattern.search(message.value):
                continue
            for entry in decode(message.value, message.headers):
                if isinstance(entry, Event) and (account is None or entry.account == account):
                    members = {member for member in entry.members if _SID.fullmatch(member)}
                    if members & grown:
                        grown |= members
        if len(grown) == len(sids) or len(grown) > MEMBERS_MAX:
            return frozenset(grown)
        sids = frozenset(grown)


def select(scan: Scan, sids: frozenset[str], account: str | None) -> Iterator[TopicMessage]:
    """The messages of the stretch that name one of ``sids`` (if any) and are of ``account`` (if given)."""
    by_sid = _naming(sids) if sids else None
    by_account = _naming(frozenset({account})) if account is not None else None
    for message in _messages(scan):
        text = b" ".join([message.value or b"", *(value for _, value in message.headers)])
        if (by_sid is None or by_sid.search(text)) and (by_account is None or by_account.search(text)):
            yield message


def _messages(scan: Scan) -> Iterator[TopicMessage]:
    for message in scan.read():
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        assert topic is not None
        assert partition is not None
        assert offset is not None
        headers = tuple(headers_of(message) or ())
        yield TopicMessage(topic, partition, offset, message.timestamp()[1], headers, message.value())


def settings_of(settings: Settings, accounts: set[str]) -> Iterator[bytes]:
    """What is known of the accounts, from the topic of account settings."""
    scan = Scan(kafka_client(settings), settings.kafka.group_id, settings.topics.account_settings)
    try:
        for message in scan.read():
            value = message.value()
            if value is not None and any(
                isinstance(entry, Event) and entry.setting is not None and entry.account in accounts
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

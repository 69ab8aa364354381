"""The compiled fast path does what the ordinary way does, bit by bit: two folds of the same messages, one with each."""

from __future__ import annotations

import itertools
import json
import random
import re
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from monitor.core.account_settings import AccountSettings
from monitor.core.compacted import SOURCES as LAYOUT
from monitor.core.conversation import Conversation
from monitor.core.fast_path import SOURCES
from monitor.core.judging import Tuning
from monitor.core.ledger import Ledger
from monitor.core.pipeline import Checkpoint, Pipeline, Publish, Told
from monitor.core.policy import built_in_policy
from monitor.core.snapshot import Saving
from monitor.core.values import AHEAD_MAX_MS
from monitor.simulator.traffic import Knobs, traffic
from tests.history import derived_of

pytestmark = pytest.mark.compiled

ROOT = Path(__file__).parents[1]


class Twins:
    """Two folds of the same messages: one has the fast path, the other has not."""

    def __init__(
        self,
        *,
        committed: int = 0,
        open_from: int | None = None,
        end: int = 0,
        window: timedelta = timedelta(minutes=30),
        entries_max: int = 40,
        kept_ms: int = 7 * 86_400_000,
        sweeps: bool = False,
        skip: frozenset[int] = frozenset(),
        **tuning: Any,
    ) -> None:
        # Short enough that conversations grow cold and close within an hour.
        window_ms = window // timedelta(milliseconds=1)
        self.tuning = msgspec.structs.replace(Tuning(), window_ms=window_ms, entries_max=entries_max, **tuning)
        self.kept_ms = kept_ms
        start = Checkpoint(
            offset=committed, generation=0, replay_from=0, log_time_ms=None, open_from=open_from, end=end
        )
        self.fast, self.plain = (
            Pipeline(
                self.tuning,
                built_in_policy(),
                AccountSettings(),
                partition=0,
                checkpoint=start,
                sweeps=sweeps,
                skip=skip,
            )
            for _ in range(2)
        )
        self.plain.fast_path = None
        if not committed:
            self.open()
        self.offset = 0
        self.taken = 0  # How many went the fast way.
        self.savings: list[Saving] = []
        self.saved = 0

    def open(self, written: Iterable[Publish] = ()) -> None:
        """The gate, over what has been written till then."""
        for pipeline in (self.fast, self.plain):
            ledger = Ledger(allowed_kept_ms=self.kept_ms, others_kept_ms=2 * self.kept_ms)
            for place, publish in enumerate(written):
                ledger.take_in(publish.key, publish.verdict, place)
            pipeline.open(ledger)

    def feed(self, stamp_ms: int, value: bytes) -> list[Told]:
        assert self.fast.fast_path is not None
        # First of all, so that whatever both remember of values is what the ordinary way has made of them.
        plain = list(self.plain.feed(self.offset, stamp_ms, value))
        told = self.fast.fast_path.feed(self.fast, self.offset, stamp_ms, value, None)
        if told is None:  # Then nothing has changed, and it may be asked again.
            told = self.fast.feed(self.offset, stamp_ms, value)
        else:
            self.taken += 1
        assert list(told) == plain, value
        assert self.fast.sweeping == self.plain.sweeping
        assert self.fast.window.cut == self.plain.window.cut
        self.offset += 1
        return list(told)

    def feed_all(self, messages: Iterable[tuple[int, bytes]]) -> None:
        for stamp_ms, value in messages:
            self.feed(stamp_ms, value)

    def disturb(self, chance: random.Random, written: list[Publish]) -> None:
        """Let something come between two messages: another policy, a setting, somebody else's verdict, a sweep."""
        what, some = chance.randrange(4), chance.random()
        for pipeline in (self.fast, self.plain):
            accounts = list(pipeline.window.accounts)
            if what == 0:
                pipeline.change_policy(built_in_policy())
            elif what == 1 and accounts:
                pipeline.change_settings(accounts[int(some * len(accounts))])
            elif what == 2 and written:
                other = written[int(some * len(written))]
                if other.verdict is not None:
                    at, outcome = (0, other.verdict.at[1] + int(some * 100)), ("allowed", "disallowed")[int(some * 2)]
                    verdict = msgspec.structs.replace(other.verdict, at=at, outcome=outcome)
                    pipeline.ledger.take_in(other.key, verdict, 1_000_000 + self.offset)
        assert list(self.fast.sweep(3)) == list(self.plain.sweep(3))

    def save(self) -> None:
        """Go on with a snapshot, or begin one if that can be."""
        if self.savings:
            done = [saving.walk(1) for saving in self.savings]
            fast, plain = (saving.take() for saving in self.savings)
            assert done[0] == done[1]
            assert fast == plain
            if done[0]:
                self.saved += not self.savings[0].broken
                self.savings.clear()
        else:
            begun = [pipeline.save("the log") for pipeline in (self.fast, self.plain)]
            self.savings += [saving for saving in begun if saving is not None]
            assert len(self.savings) != 1

    def compare(self) -> None:
        fast, plain = ([written(c) for c in pipeline.window.conversations()] for pipeline in (self.fast, self.plain))
        assert fast == plain
        assert derived_of(self.fast) == derived_of(self.plain)
        assert self.fast.checkpoint() == self.plain.checkpoint()
        assert self.fast.take_counts() == self.plain.take_counts()


def written(conversation: Conversation) -> dict[str, Any]:
    """All that a conversation holds, byte for byte."""
    fields = {name: getattr(conversation, name) for name in conversation.__struct_fields__}
    birth = conversation.birth
    fields["birth"] = (birth.offset, birth.arrived_ms, birth.beside_offset, birth.beside_ms, birth.open)
    fields["rooms"] = [(room.name, room.conference, room.first_ms, room.end_ms) for room in conversation.rooms]
    fields["notes"] = conversation.notes is not None
    return fields


def that_know(type_: bytes, *, seed: int, recorded: float, minutes: int) -> tuple[Twins, int, bytes]:
    """Twins that some messages were fed to, the stamp of the last one, and the last event of a type."""
    messages = messages_of(seed=seed, recorded=recorded, minutes=minutes)
    twins = Twins(entries_max=10_000)
    twins.feed_all(messages)
    return twins, messages[-1][0], next(value for _, value in reversed(messages) if type_ in value)


def messages_of(*, seed: int, recorded: float, rate: float = 4.0, minutes: int = 60) -> list[tuple[int, bytes]]:
    knobs = Knobs(
        seed=seed,
        rate=rate,
        duration_s=60.0 * minutes,
        accounts=7,
        recorded=recorded,
        late=0.05,
        duplicates=0.05,
    )
    return [(due_ms, value) for due_ms, _, value in traffic(knobs)]


@pytest.mark.parametrize("recorded", [0.1, 1.0])
def test_live_both_tell_the_same_and_end_in_the_same_state(recorded: float):
    twins = Twins()
    told = 0
    for count, (stamp_ms, value) in enumerate(messages_of(seed=11, recorded=recorded)):
        told += len(twins.feed(stamp_ms, value))
        if count % 1_500 == 0:
            twins.compare()
    twins.compare()
    assert told > 20


def test_what_is_open_of_a_large_account_is_found_in_its_parts():
    twins = Twins()
    for stamp_ms, value in messages_of(seed=12, recorded=0.5):
        twins.feed(stamp_ms, value)
        for account in twins.fast.window.accounts.values():
            for parted in (account.index, account.books):
                if parted.parts_count == 1:
                    parted.divide()
    twins.compare()
    indexes = [account.index for account in twins.fast.window.accounts.values()]
    assert any(len(index.values_of(part)) > 1 for index in indexes for part in range(index.parts_count))


def test_a_rebuild_ends_in_the_same_state_and_tells_the_same_when_its_gate_opens():
    messages = messages_of(seed=12, recorded=0.5)
    twins = Twins(committed=len(messages) // 2)
    for stamp_ms, value in messages[: len(messages) // 2]:
        assert twins.feed(stamp_ms, value) == []
    twins.compare()
    twins.open()
    assert sum(len(twins.feed(stamp_ms, value)) for stamp_ms, value in messages[len(messages) // 2 :]) > 20
    twins.compare()


@pytest.mark.parametrize("changed", [0.0, 0.3])
def test_a_rebuild_that_looks_back_knows_the_same_of_calls(changed: float):
    chance = random.Random(19)
    messages = messages_of(seed=19, recorded=0.5)
    sids = sids_in(messages)
    twins = Twins(committed=len(messages), open_from=len(messages) // 2, entries_max=4)
    for count, (stamp_ms, value) in enumerate(messages):
        if chance.random() < changed:
            value = tampered(value, chance, sids) if chance.random() < 0.5 else scrambled(value, chance)
        assert twins.feed(stamp_ms, value) == []
        if count == len(messages) // 2:
            twins.compare()
            assert twins.taken > (0.4 if changed else 0.7) * count  # A bucket begins every few messages.
    twins.compare()


def test_most_of_a_busy_stream_goes_the_fast_way():
    twins = Twins(window=timedelta(hours=4))
    messages = messages_of(seed=13, recorded=0.1)
    twins.feed_all(messages)
    assert twins.taken > 0.95 * len(messages)


def test_what_is_told_otherwise_than_usual_is_told_of_all_the_same():
    """Every other message has been tampered with: fields gone, of another type, of another thing, or put elsewhere."""
    chance = random.Random(14)
    messages = messages_of(seed=14, recorded=0.5, minutes=40)
    sids = sids_in(messages)
    twins = Twins()
    for count, (stamp_ms, value) in enumerate(messages):
        twins.feed(stamp_ms, tampered(value, chance, sids) if chance.random() < 0.5 else value)
        if count % 1_000 == 0:
            twins.compare()
    twins.compare()
    assert 0.3 * len(messages) < twins.taken < 0.9 * len(messages)


def sids_in(messages: list[tuple[int, bytes]]) -> list[str]:
    return sorted({text for _, value in messages[:2_000] for text in texts_of(json.loads(value)) if len(text) == 34})


def texts_of(value: object) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from texts_of(each)


ODD: list[Any] = [None, True, 0, -1, 1.5, 1 << 70, "", " ", "\xe9\u20ac\U0001f600", "x" * 300, "x" * 70_000, [], {}]


def tampered(value: bytes, chance: random.Random, sids: list[str]) -> bytes:
    """The message with one to three changes somewhere in it, mostly still JSON."""
    if chance.random() < 0.05:
        cut = chance.randrange(len(value))
        return value[:cut] + bytes([chance.randrange(256)]) + value[cut + 1 :]
    event = json.loads(value)
    for _ in range(chance.randint(1, 3)):
        places = list(_places(event))
        if not places:
            break
        holder, key = chance.choice(places)
        what = chance.randrange(10)
        if what == 0:
            del holder[key]
        elif what <= 2:
            holder[key] = chance.choice(sids)
        elif what <= 5:
            holder, key = chance.choice([(at, name) for at, name in places if isinstance(at[name], str)])
            holder[key] = chance.choice([holder[key].upper(), holder[key].lower(), f" {holder[key]}"])
        else:
            holder[key] = chance.choice(ODD)
    return json.dumps(event, ensure_ascii=chance.random() < 0.5).encode()


def _places(value: object) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield value, key
            yield from _places(each)
    elif isinstance(value, list):
        for key, each in enumerate(value):
            yield value, key
            yield from _places(each)


def test_bytes_that_nobody_would_send_are_read_as_they_always_are():
    """Every other message has been changed as bytes: what is JSON then, and says what, both must find alike."""
    chance = random.Random(16)
    messages = messages_of(seed=16, recorded=0.3, minutes=40)
    twins = Twins()
    for count, (stamp_ms, value) in enumerate(messages):
        twins.feed(stamp_ms, scrambled(value, chance) if chance.random() < 0.5 else value)
        if count % 1_000 == 0:
            twins.compare()
    twins.compare()
    assert 0.3 * len(messages) < twins.taken < 0.9 * len(messages)


PIECES: list[bytes] = [
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b'"',
        b"\\",
        b'{"',
        b'":',
        b'",',
        b'"}',
        b"[]",
        b"{}",
        b'""',
        b"0",
        b"1",
        b"-",
    ),
    *(
        b".",
        b"e",
        b"E",
        b"+",
        b"00",
        b"-0",
        b"1e5",
        b"1.5",
        b"12345678901234567890",
        b"true",
        b"false",
        b"null",
        b"nul",
    ),
    *(
        b"NaN",
        b"\\u0041",
        b"\\ud83d",
        b"\\ude00",
        b"\\u00",
        b'\\"',
        b"\\n",
        b"\\x",
        b"\n",
        b"\t",
        b"\r",
        b" ",
        b"\0",
        b"\x7f",
    ),
    *(
        b"\x80",
        b"\xc3\xa9",
        b"\xc0\xaf",
        b"\xed\xa0\x80",
        b"\xe0\x9f\xbf",
        b"\xf0\x8f\xbf\xbf",
        b"\xf4\x8f\xbf\xbf",
        b"\xf4\x90\x80\x80",
        b"\xff",
        b"\xef\xbb\xbf",
    ),
]


TWICE: list[bytes] = [
    *(b'"type":"com.twilio.voice.status-callback.call.ringing"', b'"properties":{"recording_enabled":false}'),
    *(
        b'"parameters":{"Muted":"true"}',
        b'"request":{"parameters":{}}',
        b'"payload":{}',
        b'"properties":null',
        b'"data":{}',
    ),
]
SCALAR = rb'("[^"\\]*"|\d+|true|false|null)'


def scrambled(value: bytes, chance: random.Random) -> bytes:
    """The message with one to three changes among its bytes; of some, another spelling of the same."""
    if chance.random() < 0.3:
        event = json.loads(value) if chance.random() < 0.5 else shuffled(json.loads(value), chance)
        separators = chance.choice([(",", ":"), (" , ", "\t:\r\n")])
        return json.dumps(event, indent=chance.choice([None, 1]), separators=separators).encode()
    for _ in range(chance.randint(1, 3)):
        value = chance.choice(CHANGES)(value, chance)
    return value


def shuffled(value: Any, chance: random.Random) -> Any:
    if isinstance(value, dict):
        return {key: shuffled(value[key], chance) for key in chance.sample(list(value), len(value))}
    return value


def with_bytes_changed(value: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(value) + 1)
    new = chance.choice([b"", bytes([chance.randrange(256)]), chance.choice(PIECES)])
    return value[:at] + new + value[at + chance.randrange(3) :]


def with_another_end(value: bytes, chance: random.Random) -> bytes:
    return value[: chance.randrange(len(value))] if chance.random() < 0.2 else value + chance.choice(PIECES)


def with_an_escape(value: bytes, chance: random.Random) -> bytes:
    letters = [found.start() for found in re.finditer(rb"\w", value)]
    if not letters:
        return value
    at = chance.choice(letters)
    return value[:at] + b"\\u%04x" % value[at] + value[at + 1 :]


def with_a_field_twice(value: bytes, chance: random.Random) -> bytes:
    """Or one in another place."""
    field = chance.choice([*(found[0] for found in re.finditer(rb'"\w+":' + SCALAR, value)), *TWICE * 3])
    firsts, lasts = ([found.start() for found in re.finditer(at, value)] for at in (rb'(?<=[{,])"', rb"(?<=\w.)}"))
    if firsts and chance.random() < 0.5:
        at = chance.choice(firsts)
        return value[:at] + field + b"," + value[at:]
    if lasts:
        at = chance.choice(lasts)
        return value[:at] + b"," + field + value[at:]
    return value


def with_no_object(value: bytes, chance: random.Random) -> bytes:
    """Something else where an object was."""
    objects = [
        found.end() for found in re.finditer(rb'"(data|request|parameters|response|properties|payload)":', value)
    ]
    if not objects:
        return value
    at = chance.choice(objects)
    return value[:at] + chance.choice([b"null", b"true", b'""', b"[]"]) + b',"_":' + value[at:]


def with_another_value(value: bytes, chance: random.Random) -> bytes:
    """What comes out is never far from JSON."""
    values = list(re.finditer(rb'(?<=":)' + SCALAR, value))
    if not values:
        return value
    found = chance.choice(values)
    return value[: found.start()] + b"".join(chance.choices(PIECES, k=chance.randint(1, 6))) + value[found.end() :]


CHANGES: list[Callable[[bytes, random.Random], bytes]] = [
    *(with_bytes_changed, with_another_end, with_an_escape, with_a_field_twice, with_no_object, with_another_value)
]


@pytest.mark.parametrize("field", ["unknown", "FriendlyName", "Muted", "StatusCallbackEvent"])
def test_no_value_is_taken_that_is_not_well_formed(field: str):
    """Of a conference that is known, so that nothing but the bytes could make the fast path decline."""
    chance = random.Random(17)
    twins, stamp_ms, event = that_know(b"conference.participant.updated", seed=17, recorded=0.0, minutes=3)
    taken = twins.taken
    for count in range(6_000):
        pieces = b"".join(chance.choices(PIECES, k=chance.randint(1, 5)))
        if chance.random() < 0.5:
            pieces = b'"' + pieces + b'"'
        changed = re.sub(rb'"id":"\w+"', b'"id":"VW%032x"' % count, event)
        changed = re.sub(rb'"%s":"[^"]*",' % field.encode(), b"", changed)
        told = b'"parameters":{"%s":%s,' % (field.encode(), pieces)
        twins.feed(stamp_ms, changed.replace(b'"parameters":{', told, 1))
    twins.compare()
    assert twins.taken > taken


def dates() -> Iterable[str]:
    """Dates as Twilio spells them, and near misses."""
    years = ("1999", "2000", "2026", "2027", "2028", "2100", "2199", "2200", "+026")
    clocks = ("00:00:00", "23:59:59", "24:00:00", "07:60:00", "07:30:60", "7:30:00 ", "07:30:1a")
    for year, number, day in itertools.product(years, range(14), (0, 1, 28, 29, 30, 31, 32)):
        yield f"{year}-{number:02}-{day:02}T07:30:15.250Z"
    for year, day in itertools.product(years, (0, 1, 29, 32)):
        for month in ("Jan", "Feb", "feb", "Dec", "Foo"):
            yield f"Fri, {day:02} {month} {year} 07:30:15 +0000"
    for clock in clocks:
        yield f"Fri, 27 Nov 2026 {clock} +0000"
        for rest in ("Z", ".250Z", ".25aZ", "+0000", ".25000", ".250+0100", "", ".999z"):
            yield f"2026-11-27T{clock}{rest}"
    yield from ("fri, 27 Nov 2026 07:30:15 +0000", "Friday 27 Nov 2026 07:30:15 +00", "Fri, 27 Nov 2026 07:30:15 -0000")
    yield from ("1795765911082", "0795765911082", "4795765911082", "9795765911082", "179576591108x", "1795765911", "-1")


def test_a_sid_of_another_thing_is_none_of_what_is_asked_for():
    twins = Twins()
    letters = b"ACFNWTR"
    for count, (stamp_ms, value) in enumerate(messages_of(seed=21, recorded=0.3, minutes=10)):
        before = bytes([letters[count % 7], letters[count // 7 % 7]])
        other = (
            bytes([letters[count // 2 % 7], before[1]]) if count % 2 else bytes([before[0], letters[count // 3 % 7]])
        )
        twins.feed(stamp_ms, value.replace(b'"' + before, b'"' + other).replace(b"/" + before, b"/" + other))
    twins.compare()
    assert twins.taken > 500


def test_dates_are_read_as_they_always_are():
    twins, stamp_ms, event = that_know(b"conference.participant.updated", seed=18, recorded=0.0, minutes=3)
    taken, fed = twins.taken, 0
    for fed, date in enumerate(dates(), 1):
        changed = re.sub(rb'"id":"\w+"', b'"id":"VW%032x"' % fed, event)
        twins.feed(stamp_ms, re.sub(rb'"Timestamp":"[^"]*"', b'"Timestamp":"%s"' % date.encode(), changed))
    twins.compare()
    assert taken + 0.3 * fed < twins.taken < taken + fed


def borders(pipeline: Pipeline) -> list[int]:
    """The instants at which something is different from before."""
    window, now_ms = pipeline.window, pipeline.log_time_ms or 0
    found = [window.due_ms, window.nailed.due_ms, pipeline.ledger.next_end_ms]
    found += [due[0] for due in window._due[:1]] + [grace[0] for grace in window._graces]
    found += [conversation.last_ms + window.cold_after_ms for conversation in list(window._warm)[:1]]
    oldest = window.oldest_birth()
    if oldest is not None:
        found.append(oldest.arrived_ms + window.age_max_ms)
    return sorted(at_ms for at_ms in found if 0 < at_ms - now_ms <= window.window_ms)


def test_what_is_cold_is_packed_again_after_as_much():
    """Conversations that have grown cold, each told of something longer than the last one was."""
    messages = messages_of(seed=24, recorded=0.0, minutes=5)
    event = next(value for _, value in messages if b"participant-join" in value)
    twins, stamp_ms, offset = Twins(entries_max=10_000), messages[0][0], 0

    def tell(lengths: Iterable[int]) -> None:
        nonlocal offset
        for length in lengths:
            changed = re.sub(rb"\b(CA|CF)\w{32}", rb"\g<1>%032x" % length, event)
            twins.feed(stamp_ms, re.sub(rb'"id":"\w+"', b'"id":"%0*x"' % (length, offset), changed, count=1))
            offset += 1

    tell(range(300, 480))
    stamp_ms += twins.plain.window.cold_after_ms
    tell([200] * 4 * 180)
    assert sum(conversation.cold for conversation in twins.plain.window.conversations()) == 180
    tell(range(300, 480))
    twins.compare()
    assert 0 < sum(conversation.cold for conversation in twins.plain.window.conversations()) < 180
    assert twins.taken > 800


@pytest.mark.parametrize("sweeps", [False, True])
@pytest.mark.parametrize("recorded", [0.0, 0.6])
def test_at_every_border_both_do_the_same(recorded: float, sweeps: bool):
    """Of time: stamps stand on deadlines and beside them. Of offsets: a takeover; and somebody else writes as well."""
    chance = random.Random(23)
    messages = messages_of(seed=23, recorded=recorded, minutes=25)
    window_ms, age_max_ms, now_ms = 20_000, 36_000, messages[0][0]
    log: list[tuple[int, bytes]] = []
    written: list[Publish] = []

    def bounded(**where: Any) -> Twins:
        window = timedelta(milliseconds=window_ms)
        return Twins(window=window, age_max_ms=age_max_ms, kept_ms=2 * window_ms, sweeps=sweeps, **where)

    twins = bounded()
    for count, (_, event) in enumerate(messages):
        value = event
        if count == len(messages) * 4 // 7:
            twins.compare()
            committed = count - 100
            skip = frozenset(chance.sample(range(count), 40))
            # The end is with a message that tells nothing: whoever would not look for it is late.
            end = next(at for at, (_, value) in enumerate(messages, 1) if at > count + 40 and b"call-metrics" in value)
            twins = bounded(committed=committed, end=end, skip=skip)
            lost = [w for w in written[-1:] if w.verdict is not None]
            for publish in lost:  # Its conversation is not there any more.
                assert publish.verdict is not None
                other = msgspec.structs.replace(publish.verdict, recording_sid="RE" + "0" * 32, final=False)
                written.append(msgspec.structs.replace(publish, key=other.key, verdict=other))
            for offset, (stamp_ms, before) in enumerate(log):
                if offset == committed:
                    twins.open(written)
                twins.feed(stamp_ms, before)
                if offset % 300 == 0:
                    twins.compare()
        near, beside = borders(twins.plain), chance.choice((-1, 0, 1))
        at_border = chance.random() < 0.1
        if near and at_border:
            now_ms = chance.choice(near[:3]) + beside  # The next ones: behind others nothing would be left.
        elif chance.random() < 0.002:
            now_ms += AHEAD_MAX_MS + chance.choice((0, 1))
        elif twins.plain.window.cut is not None and chance.random() < 0.02:
            now_ms += 2 * window_ms  # Till that is over, nothing goes the fast way.
        else:
            now_ms += chance.randint(0, 40)
        oldest = twins.plain.window.oldest_birth()
        if oldest is not None and abs(now_ms - oldest.arrived_ms - age_max_ms) <= 1:
            value = log[oldest.offset][1]  # What it began with comes again.
        log.append((now_ms, value))
        written += [told for told in twins.feed(now_ms, value) if isinstance(told, Publish)]
        if chance.random() < 0.02:
            twins.disturb(chance, written[-20:])
        if at_border:
            twins.compare()
        if count % 3 == 0:
            twins.save()
    twins.compare()
    assert twins.taken > 0.2 * len(messages)
    assert twins.saved > 3


def test_a_number_of_any_size_is_kept_as_it_always_is():
    """Offsets and revisions on both sides of where msgpack takes a byte more."""
    twins, _, event = that_know(b"studio.flow.execution.started", seed=27, recorded=0.3, minutes=10)
    taken, stamp_ms = twins.taken, twins.plain.log_time_ms or 0
    numbers = [(1 << bits) + more for bits in (7, 8, 16, 32) for more in (-1, 0, 1)]
    for count, number in enumerate(numbers):
        twins.offset = max(twins.offset, number)
        changed = re.sub(rb'"id":"\w+"', b'"id":"EZ%032x"' % count, event, count=1)
        twins.feed(stamp_ms, re.sub(rb'"flow_revision":[^,}]+', b'"flow_revision":%d' % number, changed))
    twins.compare()
    assert twins.taken == taken + len(numbers) - 3  # Revisions of ten digits go the ordinary way.


def test_conferences_of_one_name_stand_in_order_of_their_first_sights():
    """Whatever is told of one of them afterwards: seen before the other after all, or over."""
    twins, stamp_ms, event = that_know(b"conference.participant.updated", seed=25, recorded=0.0, minutes=3)
    account = re.findall(rb'"AccountSid":"(\w+)"', event)[0]
    event = re.sub(rb'"FriendlyName":"[^"]*"', b'"FriendlyName":"room"', event)
    taken = twins.taken
    for count, (second, conference) in enumerate(itertools.product((50, 40, 55, 30, 20, 10), (3, 2, 1))):
        changed = re.sub(rb"\b(CA|CF)\w{32}", rb"\g<1>%032x" % conference, event)
        changed = re.sub(rb'"id":"\w+"', b'"id":"VW%032x"' % count, changed, count=1)
        date = b'"Timestamp":"Mon, 02 Nov 2026 15:00:%02d +0000"' % (second + conference)
        twins.feed(stamp_ms, re.sub(rb'"Timestamp":"[^"]*"', date, changed))
        assert derived_of(twins.fast)["books"] == derived_of(twins.plain)["books"]
    assert "room" in twins.fast.window.accounts[account.decode()].books
    assert twins.taken > taken + 5


def test_of_what_a_takeover_looks_back_at_no_more_is_known_than_may_be():
    """Of a call that goes from conference to conference, and of a conference that is told of under ever other names."""
    messages = messages_of(seed=26, recorded=0.0, minutes=3)
    stamp_ms, event = next(each for each in messages if b"participant-join" in each[1])
    twins = Twins(committed=1_000, open_from=1_000)
    for count in range(200):
        changed = re.sub(rb'"id":"\w+"', b'"id":"VW%032x"' % count, event, count=1)
        if count % 2:
            changed = re.sub(rb"\bCF\w{32}", b"CF%032x" % (count // 2 % 7), changed)
        changed = re.sub(rb'"FriendlyName":"[^"]*"', b'"FriendlyName":"room %d"' % (count // 2), changed)
        twins.feed(stamp_ms + 1_000 * count, changed)
    twins.compare()
    assert twins.taken > 150


@pytest.mark.parametrize(
    ("type_", "field"),
    [
        (b"status-callback.call.", b"From"),
        (b"insights.call-summary.", b"direction"),
        (b"taskrouter.task.created", b"task_queue_name"),
        (b"conference.participant.updated", b"FriendlyName"),
        (b"studio.flow.step.ended", b"name"),
    ],
)
def test_a_text_of_any_length_is_kept_as_it_always_is(type_: bytes, field: bytes):
    """Up to what the fast path has room for, with what is written behind it, and beyond."""
    twins, stamp_ms, event = that_know(type_, seed=22, recorded=0.3, minutes=10)
    taken, fed = twins.taken, 0
    for fed, length in enumerate((*range(40), *range(250, 260), *range(3_800, 4_110), 65_535, 65_536), 1):
        changed = re.sub(rb'"id":"\w+"', b'"id":"VW%032x"' % fed, event, count=1)
        twins.feed(stamp_ms, re.sub(rb'"%s":"[^"]*"' % field, b'"%s":"%s"' % (field, b"x" * length), changed))
    twins.compare()
    assert taken + 0.2 * fed < twins.taken < taken + fed


def test_a_request_is_read_as_it_always_is():
    """Refused or not, by whatever address, with whatever it asks for."""
    twins, stamp_ms, event = that_know(b"api-request.conference-participant.modified", seed=20, recorded=0.5, minutes=5)
    taken = twins.taken
    codes = (
        b"200",
        b"399",
        b"400",
        b"404",
        b'"404"',
        b'"201"',
        b'" 404 "',
        b'""',
        b"null",
        b"true",
        b"1.5",
        b"-1",
        b"4000000000",
    )
    asked = (
        b"true",
        b'"true"',
        b'"True"',
        b'"record-from-start"',
        b'"do-not-record"',
        b'"false"',
        b"false",
        b"null",
        b"1",
        b'""',
    )
    paths = (b"", b".json", b"?Page=1", b"/x", b"0", b"%20", b"/Conferences/a-room", b"/Participants/CA", b"/Calls/CA")
    for count, (code, record, path) in enumerate(itertools.product(codes, asked, paths)):
        changed = re.sub(rb'"id":"\w+"', b'"id":"VW%032x"' % count, event)
        changed = re.sub(rb'"responseCode":\d+', b'"responseCode":' + code, changed)
        changed = changed.replace(b'"parameters":{', b'"parameters":{"ConferenceRecord":' + record + b",")
        changed = changed.replace(b'.json","parameters"', path + b'","parameters"')
        twins.feed(stamp_ms, changed)
        named = changed.replace(b"/Conferences/CF", b"/Conferences/room-").replace(b'"id":"VW', b'"id":"VX')
        twins.feed(stamp_ms, named)
    twins.compare()
    assert twins.taken > taken + 100


def test_a_recording_is_read_as_it_always_is():
    """However long it is said to be, in whatever status, of a call, of a conference, of both or of neither."""
    twins, stamp_ms, event = that_know(b"recording.processed", seed=20, recorded=0.5, minutes=5)
    taken, fed = twins.taken, 0
    lengths = (*ODD, "81", "081", "-1", -1, "-2", 12, "9999999", "10000000", "999999999", "1000000000", "1_0", "7 ")
    words = ("in-progress", "completed", "Completed", " completed", "absent", "failed", "stopped-2", "", None, 7, True)
    of = (*itertools.product((True, False), repeat=2),)
    for length, status, (of_call, of_conference) in itertools.product(lengths, words, of):
        changed = json.loads(event)
        changed["id"] = f"VW{fed:032x}"
        parameters = changed["data"]["request"]["parameters"]
        # One that is known, and ever new ones.
        parameters["RecordingSid"] = parameters["RecordingSid"] if fed % 2 else f"RE{fed:032x}"
        parameters["RecordingStatus"] = status
        parameters.pop("RecordingDuration", None)
        (parameters if fed % 3 else changed["data"])["RecordingDuration" if fed % 3 else "duration"] = length
        parameters["CallSid"] = f"CA{fed % 7:032x}" if of_call else None
        parameters["ConferenceSid"] = f"CF{fed % 5:032x}" if of_conference else None
        if fed % 11 == 0:
            parameters.pop("Timestamp", None)
        twins.feed(stamp_ms, json.dumps(changed, ensure_ascii=False).encode())
        fed += 1
    twins.compare()
    assert taken + 0.1 * fed < twins.taken < taken + fed


def test_who_is_taken_out_of_a_conference_is_read_as_it_always_is():
    """By whatever address: where that does not name both, more has to be looked for."""
    twins, stamp_ms, event = that_know(b"participant.deleted", seed=20, recorded=0.1, minutes=20)
    [address] = re.findall(rb'"url":"([^"]+)"', event)
    conference, call = re.findall(rb"(CF\w{32})|(CA\w{32})", address)
    taken = twins.taken
    addresses = (
        address,
        address.removesuffix(b".json"),
        address.replace(call[1], b"CA" + b"7" * 32),
        address.replace(call[1], call[1] + b"0"),
        address.replace(call[1], call[1][:-1]),
        address.replace(call[1], b"a-label"),
        address.replace(conference[0], conference[0] + b".json"),
        address.replace(conference[0], b"a-room"),
        address.replace(b"/Participants/", b"/Calls/"),
        address.replace(b"/Participants/", b"/Participants/x/"),
        address.replace(b"/Conferences/", b"/Rooms/"),
        address[: address.index(b"/Participants/") + 3],
        b"",
    )
    asked = (
        b"",
        b'"ConferenceSid":"CF%s",' % (b"8" * 32),
        b'"CallSid":"CA%s",' % (b"9" * 32),
        b'"Muted":"true",',
        b'"conferencerecord":"true",',  # Only who looks for more finds it.
    )
    for count, (named, also, code) in enumerate(itertools.product(addresses, asked, (b"204", b"404"))):
        changed = re.sub(rb'"id":"\w+"', b'"id":"VW%032x"' % count, event).replace(address, named)
        changed = changed.replace(b'"parameters":{', b'"parameters":{' + also).replace(b",}", b"}")
        twins.feed(stamp_ms, re.sub(rb'"responseCode":\d+', b'"responseCode":' + code, changed))
    twins.compare()
    assert taken + 10 < twins.taken < taken + 0.8 * len(addresses) * len(asked)


def test_a_dial_that_is_over_is_read_as_it_always_is():
    """With the call that was dialled or without, in a conference or not, with a recording or without."""
    twins, stamp_ms, event = that_know(b"twiml.dial.finished", seed=20, recorded=0.1, minutes=20)
    taken, fed = twins.taken, 0
    sids = [None, "", 7, f"CA{1:032x}", f"CA{2:032x}", f"CF{3:032x}", f"RE{4:032x}"]
    for dialled, conference, parent, recording in itertools.product(sids, sids, sids[2:6], (None, "", sids[-1])):
        changed = json.loads(event)
        changed["id"] = f"VW{fed:032x}"
        parameters = changed["data"]["request"]["parameters"]
        parameters |= {"DialCallSid": dialled, "ConferenceSid": conference, "ParentCallSid": parent}
        parameters["RecordingUrl" if fed % 2 else "RecordingSid"] = recording
        twins.feed(stamp_ms, json.dumps(changed).encode())
        fed += 1
    twins.compare()
    assert taken + 50 < twins.taken < taken + 0.5 * fed


@pytest.mark.parametrize("committed", [0, 1_000_000])
def test_what_nobody_reads_is_counted_as_it_always_is(committed: int):
    """Under whatever name, with whatever it says; and what is read is never taken for it."""
    twins = Twins(committed=committed)
    messages = messages_of(seed=20, recorded=0.1, minutes=10)
    twins.feed_all(messages)
    taken, stamp_ms = twins.taken, messages[-1][0]
    of_each = {json.loads(value)["type"]: value for _, value in messages}
    names: list[Any] = [
        *("com.twilio.messaging.message.sent", "COM.TWILIO.TASKROUTER.workflow.updated", "com.twilio.studio.x", " x "),
        *("", "x" * 128, "x" * 129, "\xe9\u20ac", "\U0001f600", '"', "\\", None, 7, True, {}, []),
        *[spelled for name in of_each for spelled in (name.upper(), f"{name} ", f"{name}.more", name[:-1])],
    ]
    odd = (b'{"data":null}', b'{"data":[]}', b"{}", b'{"id":{}}')
    names += [f"made.up.{number}" for number in range(260)] + names[:20]
    for count, name in enumerate(names):
        for value in (*list(of_each.values())[count % 7 :: 7], *odd):
            twins.feed(stamp_ms, json.dumps({"type": name} | json.loads(value) | {"type": name}).encode())
    twins.compare()
    assert taken + 1_000 < twins.taken


@pytest.mark.parametrize("committed", [0, 1_000_000])
def test_what_workers_do_is_told_of_as_it_always_is(committed: int):
    """It belongs to no conversation, but may be the first message of a bucket; and an account must be named."""
    twins = Twins(committed=committed)
    messages = messages_of(seed=20, recorded=0.1, minutes=10)
    twins.feed_all(messages)
    taken, stamp_ms = twins.taken, messages[-1][0]
    event = next(value for _, value in messages if b"worker.activity.update" in value)
    instants: tuple[Any, ...] = (None, "", 0, stamp_ms, str(stamp_ms), "2026-10-01T10:00:00Z", "soon", {})
    accounts: tuple[Any, ...] = (None, f"AC{1:032x}", f"CA{1:032x}", [])
    for late, own, other, account, another in itertools.product((0, 70_000), instants, instants, accounts, accounts):
        changed = json.loads(event)
        changed["data"] |= {"timestamp": other, "account_sid": another}
        changed["data"]["payload"] |= {"timestamp_ms": own, "account_sid": account}
        stamp_ms += late
        twins.feed(stamp_ms, json.dumps(changed).encode())
    twins.compare()
    assert taken + 100 < twins.taken


def test_a_message_that_changes_nothing_leaves_nothing_behind():
    """Neither what is declined nor what is taken may hold on to anything: a reference too many is a leak for ever."""
    messages = messages_of(seed=15, recorded=0.1, minutes=5)
    twins = Twins()
    twins.feed_all(messages)
    last_ms = messages[-1][0]
    repeats = [value for _, value in messages[-200:]]

    def again() -> None:
        for value in repeats:
            twins.fast.feed(twins.offset, last_ms, value)
            twins.offset += 1

    for _ in range(70):  # Duplicates are remembered up to a bound.
        again()
    tracemalloc.start()
    again()
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(20):
        again()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 20_000, "4,000 messages"


def test_what_was_built_from_another_version_of_its_source_is_not_used(tmp_path: Path):
    """As after `git pull` without `make setup`."""
    shutil.copytree(ROOT / "monitor", tmp_path / "monitor", ignore=shutil.ignore_patterns("__pycache__"))
    names = "compacted.COMPILED, fast_path.COMPILED, shortening.COMPILED"
    script = f"from monitor.core import compacted, fast_path, shortening; print({names})"
    assert printed(script, tmp_path) == "True True True"
    of_native = [(name, "True False True") for name in SOURCES if name not in LAYOUT]
    for name, used in (
        *of_native,
        *((name, "False False True") for name in LAYOUT),
        ("shortener.pyx", "True True False"),
    ):
        source = tmp_path / "monitor" / "core" / name
        as_built = source.read_text()
        source.write_text(as_built + "# Another version.\n")
        assert printed(script, tmp_path) == used
        source.write_text(as_built)


def printed(script: str, place: Path) -> str:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=place)
    return done.stdout.strip()

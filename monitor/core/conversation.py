"""A conversation and what it keeps: evidence as bytes, which are read back only to judge.

Evidence is kept as one bytes object a conversation, appended to, so that a quiet conversation costs bytes and not
objects. What joins, bounds and closes conversations is the window.
"""

from __future__ import annotations

import re
from binascii import crc32, crc_hqx
from collections import Counter
from collections.abc import Iterable, Iterator
from operator import itemgetter
from struct import Struct
from typing import Final, cast

import msgspec

from monitor.core.compacted import COMPILED, compacted
from monitor.core.events import (
    AnyFact,
    CallFact,
    ConferenceFact,
    ExecutionFact,
    ParticipantFact,
    RecordingFact,
    RequestFact,
    StepFact,
    TaskFact,
    TwimlFact,
)
from monitor.core.nailed import Notes, View, place_of
from monitor.core.packing import digits_of, pack, unpack
from monitor.core.readers import EVENT_TYPES
from monitor.core.shortening import DIGITS

DIGEST_BYTES: Final = 6  # Of two events that are none of each other's repeats, one pair in 10**14 looks like it.
AGAIN_MAX: Final = 64  # So many repeated arrivals of one event, the last ones, are remembered.

# One bit a kind of fact; what may change a conclusion is a set of kinds.
KIND: Final[dict[type, int]] = {
    kind: 1 << place
    for place, kind in enumerate(
        (
            RecordingFact,
            ParticipantFact,
            ConferenceFact,
            TwimlFact,
            RequestFact,
            TaskFact,
            ExecutionFact,
            StepFact,
            CallFact,
        )
    )
}
EVERY_KIND: Final = (1 << len(KIND)) - 1
PLACES: Final = KIND[ParticipantFact] | KIND[ConferenceFact]
IN_FOCUS: Final = PLACES | KIND[TaskFact] | KIND[ExecutionFact] | KIND[StepFact]  # Of these only some can matter.
PROPERTIES: Final = KIND[CallFact] | KIND[TaskFact]  # Known without a time.


class Kept(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """An event as the window keeps it; ``type`` is a number where it is in the table of types."""

    occurred_ms: int
    offset: int
    id: bytes | None  # As ``id_as_kept`` makes it.
    type: int | str
    facts: tuple[AnyFact, ...]

    @property
    def event_id(self) -> str | None:
        """The event's id as it was told."""
        if self.id is None:
            return None
        letter, rest = self.id[:1], self.id[1:]
        return rest.decode(errors="surrogatepass") if letter == b"=" else _PREFIXES[letter] + rest.hex()

    @property
    def type_name(self) -> str:
        """The event's type, in our spelling."""
        return self.type if isinstance(self.type, str) else EVENT_TYPES[self.type]


_PREFIXES: Final = {b"E": "EZ", b"V": "VW"}
_USUAL_ID: Final = re.compile("(?:EZ|VW)[0-9a-f]{32}")


def id_as_kept(event_id: str | None) -> bytes | None:
    """An event's id in few bytes: a letter for its prefix and the sixteen that its digits stand for.

    Nothing packs such digits any further, and in text they would be half of what is kept of an event. Ids that are
    not told as Twilio's usually are stand behind a sign of their own.
    """
    if event_id is None:
        return None
    if _USUAL_ID.fullmatch(event_id):
        return event_id[:1].encode() + bytes.fromhex(event_id[2:])
    return b"=" + event_id.encode(errors="surrogatepass")


_pack_digest = Struct(">IH").pack
encode: Final = msgspec.msgpack.Encoder().encode
_decode_kept = msgspec.msgpack.Decoder(tuple[Kept, ...]).decode
_decode_properties = msgspec.msgpack.Decoder(tuple[CallFact | TaskFact | int, ...]).decode
_decode_property = msgspec.msgpack.Decoder(CallFact | TaskFact).decode


def stamp_of(bucket: int) -> bytes:
    """A bucket as it stands behind each property: msgpack's eight bytes, whatever the number."""
    return b"\xcf" + bucket.to_bytes(8, "big")


STAMP_BYTES: Final = len(stamp_of(0))
_TOLD_LATE: Final = Struct(f">I{STAMP_BYTES}s")  # Where a stamp stands among packed properties, and what it is now.
_ARRIVAL: Final = Struct(f">{DIGEST_BYTES}sQQ")  # Of which event, at which offset, in which bucket.
# How many of the packed bytes are evidence, under how many members they are, and how many digests come first: those of
# events of which no id is packed.
PACKED_HEAD: Final = Struct(">IBH")
_DIGESTS_BEFORE_MAX: Final = 0xFFFF
_PACKED_UNDER_MAX: Final = 32  # So many members, about 1 kB: what is further back is seldom referred to.


def read_noted(view: View) -> tuple[Kept, ...]:
    """The events that a conversation sees through its guests."""
    kept = view.kept()
    return _decode_kept(_array(b"".join(kept), len(kept)))


def read_noted_properties(view: View) -> tuple[CallFact | TaskFact, ...]:
    """What a conversation sees through its guests that is known without a time."""
    return tuple(map(_decode_property, view.properties()))


def _array(blob: bytes, count: int) -> bytes:
    """Concatenated msgpack values as one msgpack array."""
    return b"\xdd" + count.to_bytes(4, "big") + blob


@compacted
class Birth(msgspec.Struct, gc=False, order=True):
    """Where and when a conversation began, in order of that; it stays true while one that holds it is open.

    ``beside_offset`` and ``beside_ms`` are those of the oldest birth that was open then: whatever the conversation can
    ever have met began no earlier.
    """

    offset: int
    arrived_ms: int
    beside_offset: int
    beside_ms: int
    open: bool = True


@compacted
class Seen(msgspec.Struct, frozen=True, gc=False):
    """When a recording, or a suspected conference, was first seen: its arrival, and its order of appearance.

    The order is that of ``offset`` and ``index``, the place inside the message.
    """

    sid: str
    arrived_ms: int
    offset: int
    index: int

    def before(self, other: Seen) -> bool:
        """Whether this is the earlier sight of the two."""
        return (self.offset, self.index) < (other.offset, other.index)


@compacted
class NamedRoom(msgspec.Struct, array_like=True, gc=False, eq=False):
    """A conference under a name: when it was first seen, and when it ended as far as is known."""

    name: str
    conference: str
    first_ms: int
    end_ms: int | None

    def see(self, first_ms: int, end_ms: int | None) -> bool:
        """Take in another sight of it; whether that says more than was known."""
        earlier = first_ms < self.first_ms
        if earlier:
            self.first_ms = first_ms
        later = end_ms is not None and (self.end_ms is None or end_ms > self.end_ms)
        if later:
            self.end_ms = end_ms
        return earlier or later


class Lookout(msgspec.Struct, frozen=True, gc=False):
    """Which sights of a call can still change a conclusion: those up to ``until_ms``.

    Not those in conference ``but_in``, where it is known to have been; there only those before ``before_ms``.
    """

    call: str
    until_ms: int
    but_in: str | None
    before_ms: int


class Focus(msgspec.Struct, frozen=True, gc=False):
    """Of facts of relevant kinds, only these can still change a conclusion.

    ``everywhere``: wherever any call was. Else what ``calls`` says, the ends of conferences up to ``ends_until_ms``;
    with ``names`` that a conference has a name, with ``rooms`` also when one of a name was first seen and ended.
    ``recorded`` are the conferences that recordings are of: none of them is only suspected. ``executions`` are those
    of Studio of which nothing after an instant counts. ``meant``: of TwiML and requests of guests only those for these
    conference names; None: all.
    """

    everywhere: bool
    calls: tuple[Lookout, ...]
    ends_until_ms: int
    names: bool
    rooms: bool
    recorded: tuple[str, ...]
    executions: tuple[tuple[str, int], ...]
    meant: tuple[str, ...] | None = None


@compacted
class Conversation(msgspec.Struct, gc=False, eq=False):
    """What belongs together. ``members`` are its SIDs.

    ``ids`` holds ``DIGEST_BYTES`` of each event id seen, but of those that came before it was ``packed``, which stand
    there.

    ``properties`` has, behind each, when it was last told. It and ``evidence`` are what has been kept since the rest
    was packed: most conversations of a window are over, and wait for nothing but late events.
    """

    account: str
    members: tuple[str, ...]
    birth: Birth
    last_ms: int
    bucket: int  # Of deadlines, that it is filed under; the true deadline is ``last_ms`` + window.
    truncated: bool
    evidence: bytes = b""
    kept: int = 0
    properties: bytes = b""
    properties_kept: int = 0
    told_late: bytes = b""  # The stamps of properties that were told again when they had been packed.
    packed: bytes = b""  # Earlier evidence and properties, compressed.
    cold: bool = False
    ids: bytes = b""
    recordings: tuple[Seen, ...] = ()
    suspects: tuple[Seen, ...] = ()  # Conferences that Insights says had recording on.
    claims: list[tuple[str, int, str]] | None = None  # TwiML that waits for its conference: name, instant, member.
    rooms: tuple[NamedRoom, ...] = ()  # Conferences with a name.
    called: list[str] | None = None  # Conference names that TwiML of its calls, or requests for them, hold.
    by_name: bool = False  # What it is joined with may rest on the names that other conversations hold.
    relevant: int = EVERY_KIND  # The kinds of facts that can still change what was last concluded from it.
    focus: Focus | None = None  # Of the facts of some kinds only these; None: every one.
    waiting: bool = True  # The end of a grace can change what was last concluded.
    open: bool = True
    epoch: int = 0  # The last snapshot that it was written for, or born after.
    conferences: int = 0  # Of its members, so many are conferences.
    again: bytes = b""  # When duplicates arrived, in order: see ``arrive_again``.
    guests: dict[str, int] | None = None  # Nailed-up calls it has met, and since when (a bucket).
    notes: Notes | None = None  # Where these are noted.
    place: int = 0  # Among those of its bucket.
    swept: int = 0  # The last change after which it was judged: see ``core/sweep``.

    def read_evidence(self) -> tuple[Kept, ...]:
        """Everything kept with a time, in order of arrival within each merged part."""
        evidence = self.evidence
        if self.packed:
            evidence = self._unpacked()[0] + evidence
        return _decode_kept(_array(evidence, self.kept))

    def read_properties(self) -> tuple[CallFact | TaskFact, ...]:
        """What is known without a time: of calls and of tasks."""
        return tuple([fact for fact, _ in self.read_stamped()])

    def read_stamped(self) -> list[tuple[CallFact | TaskFact, int]]:
        """What is known without a time, and when it was last told (a bucket)."""
        stamped = iter(_decode_properties(_array(self.all_properties(), 2 * self.properties_kept)))
        return cast("list[tuple[CallFact | TaskFact, int]]", list(zip(stamped, stamped, strict=True)))

    def all_properties(self) -> bytes:
        """The properties as they are kept, packed ones too."""
        return self._unpacked()[1] + self.properties if self.packed else self.properties

    def tell_again(self, encoded: bytes, stamp: bytes) -> bool:
        """Take down that something known without a time was told again; whether it is known at all."""
        told = self.all_properties() if self.packed else self.properties
        place = told.find(encoded)
        if place < 0:
            return False
        end = place + len(encoded)
        if told.startswith(stamp, end):
            return True
        packed = len(told) - len(self.properties)
        if end < packed:  # To pack again for this would cost more than all else that a late event does.
            late = dict(_TOLD_LATE.iter_unpack(self.told_late)) | {end: stamp}
            self.told_late = b"".join([_TOLD_LATE.pack(*one) for one in late.items()])
        else:
            self.properties = told[packed:end] + stamp + told[end + STAMP_BYTES :]
        return True

    def arrive_again(self, event_id: str, offset: int, bucket: int, most: int) -> None:
        """Take down that a duplicate has arrived in a bucket; beyond ``most`` of all events the earliest are lost."""
        told = self.arrivals_again(event_id)
        if told and told[-1][1] == bucket:
            return  # A rebuild begins with the first message of a bucket.
        arrivals = [*_ARRIVAL.iter_unpack(self.again), (digest_of(event_id), offset, bucket)]
        if len(told) >= AGAIN_MAX:
            arrivals.remove((digest_of(event_id), *told[0]))
        self.again = _write_arrivals(arrivals[-most:])

    def arrivals_again(self, event_id: str) -> list[tuple[int, int]]:
        """At which offsets, and in which buckets, an event has arrived again, in order."""
        if not self.again:
            return []
        digest = digest_of(event_id)
        return [(offset, bucket) for which, offset, bucket in _ARRIVAL.iter_unpack(self.again) if which == digest]

    def add_member(self, sid: str) -> None:
        """Have one more member."""
        self.members += (sid,)

    def own(self, sid: str) -> str:
        """The text that it holds already for one of its members: a second one would take 96 B."""
        return next((member for member in self.members if member == sid), sid)

    def room(self, name: str, conference: str) -> NamedRoom | None:
        """A conference of it under a name; of those it has few."""
        for room in self.rooms:
            if room.conference == conference and room.name == name:
                return room
        return None

    def view(self) -> View | None:
        """What it sees through its guests; None where it has none."""
        return None if self.guests is None or self.notes is None else self.notes.view(self.guests)

    def pack(self) -> None:
        """Compress what is kept; a quiet conversation costs little and can still be read.

        Until it is unpacked, others may follow its first members, but none of these may leave.
        """
        self.unpack()
        under = self.members[:_PACKED_UNDER_MAX]
        packed = pack(self.evidence + self.properties, under)
        ids = without(self.ids, digests_of(digits_of(packed)))
        before, self.ids = ids[: _DIGESTS_BEFORE_MAX * DIGEST_BYTES], ids[_DIGESTS_BEFORE_MAX * DIGEST_BYTES :]
        head = PACKED_HEAD.pack(len(self.evidence), len(under), len(before) // DIGEST_BYTES)
        self.packed = head + before + packed
        self.evidence = self.properties = b""

    def cool(self) -> None:
        """Nothing has come for long, and hardly anything will: take as little as can be, until it takes in much.

        What can still matter is known again once something has come and was judged: what is told of tasks leaves it
        cold, however much that is.
        """
        self.pack()
        self.cold = True
        self.lose_focus()

    def lose_focus(self) -> None:
        """Let all of the relevant kinds matter. What still comes, and is little, is judged for nothing, mostly.

        But of a call that is nailed up more comes for hours.
        """
        if self.guests is None:
            self.focus = None

    def unpack(self) -> None:
        """Undo ``pack``."""
        if self.packed:
            evidence, properties = self._unpacked()
            self.evidence = evidence + self.evidence
            self.properties = properties + self.properties
            self.ids += self._packed_ids()
            self.packed = self.told_late = b""

    def has_had(self, digest: bytes) -> bool:
        """Whether an event with this digest has come."""
        return digest != b"" and (holds(self.ids, digest) or (self.packed != b"" and holds(self._packed_ids(), digest)))

    def all_ids(self) -> bytes:
        """The digests of all events that have come."""
        return self.ids + self._packed_ids() if self.packed else self.ids

    def _packed_ids(self) -> bytes:
        """The digests of the events that came before it was packed."""
        border = self._packed_from()
        return self.packed[PACKED_HEAD.size : border] + digests_of(digits_of(memoryview(self.packed)[border:]))

    def _packed_from(self) -> int:
        """Where, behind the digests, begins what was packed."""
        before: int = PACKED_HEAD.unpack_from(self.packed)[2]
        return PACKED_HEAD.size + before * DIGEST_BYTES

    def _unpacked(self) -> tuple[bytes, bytes]:
        """What is packed: evidence, and properties with the stamps that they have by now."""
        border, members, _ = PACKED_HEAD.unpack_from(self.packed)
        kept = unpack(memoryview(self.packed)[self._packed_from() :], self.members[:members])
        properties = kept[border:]
        for at, stamp in _TOLD_LATE.iter_unpack(self.told_late):
            properties = properties[:at] + stamp + properties[at + STAMP_BYTES :]
        return kept[:border], properties


def has_seen(sights: Iterable[Seen], sid: str) -> bool:
    """Whether one of the recordings, or suspects, is this; of those a conversation has few."""
    for seen in sights:  # noqa: SIM110 - a generator would take three times as long.
        if seen.sid == sid:
            return True
    return False


def earliest(one: tuple[Seen, ...], other: tuple[Seen, ...]) -> tuple[Seen, ...]:
    """The recordings, or suspects, of two conversations, each as it was first seen."""
    if not one or not other:
        return one or other
    merged = {seen.sid: seen for seen in one}
    for seen in other:
        mine = merged.get(seen.sid)
        if mine is None or seen.before(mine):
            merged[seen.sid] = seen
    return tuple(merged.values())


def merge_arrivals(one: bytes, other: bytes) -> bytes:
    """When the duplicates of two conversations arrived (``Conversation.again``), in order."""
    return _write_arrivals(sorted([*_ARRIVAL.iter_unpack(one), *_ARRIVAL.iter_unpack(other)], key=itemgetter(1)))


def _write_arrivals(arrivals: Iterable[tuple[bytes, int, int]]) -> bytes:
    return b"".join([_ARRIVAL.pack(*arrival) for arrival in arrivals])


def shows_recording(fact: AnyFact) -> bool:
    """Whether a fact says that something was recorded: such are kept beyond the bound."""
    return isinstance(fact, RecordingFact) or (isinstance(fact, ConferenceFact) and fact.recording_on is True)


def digest_of(event_id: str) -> bytes:
    """A few bytes that stand for an event's id, the same in every process, because snapshots hold them.

    They are of the id as it is kept, but for the letter in front: so those of what is packed follow from it. Nobody is
    kept from making up two ids that collide: whoever can write events can leave them out as well.
    """
    kept = id_as_kept(event_id)
    assert kept is not None
    return _checksums(kept[1:])


def _checksums(kept: bytes) -> bytes:
    """Two over different polynomials: what differs in a few bits always differs in them.

    They take a fifth of the time of a cryptographic digest.
    """
    return _pack_digest(crc32(kept), crc_hqx(kept, 0))


def plainly_digests_of(digits: bytes) -> bytes:
    """The digests of ids of the usual kind, by the digits of all of them."""
    return b"".join([_checksums(digits[at : at + DIGITS]) for at in range(0, len(digits), DIGITS)])


def plainly_without(ids: bytes, gone: bytes) -> bytes:
    """Digests less others, each as often as it is among these."""
    counts = Counter(_each_digest(gone))
    left = []
    for digest in _each_digest(ids):
        if counts[digest]:
            counts[digest] -= 1
        else:
            left.append(digest)
    return b"".join(left)


def _each_digest(ids: bytes) -> Iterator[bytes]:
    for at in range(0, len(ids), DIGEST_BYTES):
        yield ids[at : at + DIGEST_BYTES]


digests_of, without = plainly_digests_of, plainly_without
if COMPILED:
    from monitor.core import compact

    digests_of, without = compact.digests_of, compact.without


def holds(ids: bytes, digest: bytes) -> bool:
    """Whether one of the digests in ``ids`` is ``digest``; a match across a border is none."""
    return place_of(ids, digest, DIGEST_BYTES) >= 0

"""The ledger: what is published in one partition of the verdict topic, remembered in a few bytes a verdict."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Hashable, Iterable, Iterator
from heapq import heappop, heappush
from itertools import chain
from math import isqrt
from typing import Final, Generic, NamedTuple, TypeVar

import msgspec

from monitor.core.compacted import Table
from monitor.core.emptying import emptied
from monitor.core.parted import PARTS, Parted
from monitor.core.verdict import Published, Verdict, decode_verdict, encode_verdict, goes_on, read_instant, remember


class NotReadBack(Exception):
    """A verdict could not be read back: to be raised by ``fetch``. The core is not at fault, and the next can wait."""


class _Head(NamedTuple):
    """What every question about a published verdict begins with; all that is kept of one that is settled."""

    finding: int  # Digest of the finding that led to it; 0 where not known.
    place: int  # Its offset in the verdict topic; -1 while that is not known.
    offset: int
    generation: int
    flags: int

    @property
    def at(self) -> tuple[int, int]:
        return self.generation, self.offset

    @property
    def final(self) -> bool:
        return bool(self.flags & _FINAL)


class Words(NamedTuple):
    """What an open verdict says in words: many say the same, so that each such set is kept once, and has a number.

    ``alert`` has the fields of ``AlertLabels``, ``history`` outcome and cause of each revision that is told of. Whose
    account it is has a number of its own: else there would be as many sets as accounts, times what is said of each.
    """

    outcome: str
    cause: str | None
    alert: tuple[str, str, str | None, str, str | None] | None
    history: tuple[tuple[str, str | None], ...]


class Rest(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What else is kept of an open verdict: of ``Published`` all that neither its head says nor its words.

    ``history`` holds revision and instant.
    """

    account: int
    words: int
    content: int
    revision: int
    rests_from: int
    decided_at: int | str
    backlog: bool
    disallowed_since: int | str | None
    history: tuple[tuple[int, int | str], ...]


_FINAL: Final = 1
_SUSPICION: Final = 2
LATER: Final = 4  # It may be kept for longer than was set down when its recording was first settled.
_GOES_ON: Final = 8  # The recording does.
_NO_PLACE: Final = -1
ENTRY_FORMAT: Final = "<qqqIB"
_HEAD: Final = struct.Struct(ENTRY_FORMAT)
_FINDING: Final = struct.Struct("<q")
_PLACE: Final = struct.Struct("<q")
_AT: Final = struct.Struct("<qI")  # Offset and generation.
_AT_AT: Final = _FINDING.size + _PLACE.size
_FLAGS_AT: Final = _HEAD.size - 1
_pack_rest = msgspec.msgpack.Encoder().encode
_read_rest = msgspec.msgpack.Decoder(Rest).decode
_SHORT_BYTES: Final = 17  # A SID: its number, and what it is of.
_PART_AT: Final = 15  # The byte of it that says in which part it is.
_RECORD_AT: Final = struct.Struct(f"<{_SHORT_BYTES}s{_AT_AT}x{_AT.format[1:]}x")  # Of a record its SID and ``_AT``.
_RECORD: Final = struct.Struct(f"<{_SHORT_BYTES}s{ENTRY_FORMAT[1:]}")
SETTLED_BYTES: Final = _RECORD.size - _FINDING.size  # What ``Ledger.dump_part`` takes for a settled verdict.
YOUNG_MIN: Final = 16
YOUNG_PART: Final = 16  # So small a share of a run waits beside it.
_NOT_FOUND: Final = _FINDING.pack(0)
OPEN_KEYS_EACH: Final = 2_000
HOUR_MS: Final = 3_600_000
NEVER_MS: Final = 1 << 62


_Value = TypeVar("_Value", bound=Hashable)


class _Numbered(Generic[_Value]):
    """Values that are few, each with the number that it was given when it was first met."""

    __slots__ = ("_numbers", "known")

    def __init__(self, known: Iterable[_Value] = ()) -> None:
        self.known = list(known)  # By number.
        self._numbers = {value: number for number, value in enumerate(self.known)}

    def number(self, value: _Value) -> int:
        number = self._numbers.get(value)
        if number is None:
            number = self._numbers[value] = len(self.known)
            self.known.append(value)
        return number


class _Settled:
    """Entries of one size by SID: in each part a sorted run of bytes, and beside it those that have come since.

    There are as many as recordings in a retention, and in a dictionary each would take three times as much.
    """

    __slots__ = ("_odd", "_old", "_young", "size")

    def __init__(self) -> None:
        self._old = [b""] * PARTS
        self._young: tuple[dict[bytes, bytes], ...] = tuple({} for _ in range(PARTS))
        self._odd: dict[str, bytes] = {}  # Of keys that are no number.
        self.size = 0

    def get(self, short: bytes | str) -> bytes | None:
        if isinstance(short, str):
            return self._odd.get(short)
        part = short[_PART_AT]
        entry = self._young[part].get(short)
        if entry is None and (at := self._place(part, short)) is not None:
            entry = self._old[part][at + _SHORT_BYTES : at + _RECORD.size]
        return entry

    def put(self, short: bytes | str, entry: bytes) -> None:
        self.pop(short)
        self.size += 1
        if isinstance(short, str):
            self._odd[short] = entry
            return
        part = short[_PART_AT]
        young = self._young[part]
        young[short] = entry
        if len(young) > max(YOUNG_MIN, len(self._old[part]) // _RECORD.size // YOUNG_PART):
            self._old[part] = b"".join(self.records(part))
            young.clear()

    def pop(self, short: bytes | str) -> None:
        if isinstance(short, str):
            self.size -= self._odd.pop(short, None) is not None
            return
        part = short[_PART_AT]
        if self._young[part].pop(short, None) is not None:
            self.size -= 1
        elif (at := self._place(part, short)) is not None:
            old = self._old[part]
            self._old[part] = old[:at] + old[at + _RECORD.size :]
            self.size -= 1

    def records(self, part: int) -> list[bytes]:
        """Number and entry of all in a part, in order."""
        old = self._old[part]
        records = [old[at : at + _RECORD.size] for at in range(0, len(old), _RECORD.size)]
        records += [short + entry for short, entry in self._young[part].items()]
        return sorted(records)

    @property
    def young(self) -> Iterable[dict[bytes, bytes]]:
        """Those that have come since, by part."""
        return self._young

    def odd(self) -> dict[str, bytes]:
        """Those whose key is no number."""
        return self._odd

    def load(self, run: bytes) -> None:
        """Take in what ``records`` gave of a part that is empty, one behind the other."""
        if run:
            self._old[run[_PART_AT]] = run
            self.size += len(run) // _RECORD.size

    def positions(self) -> Iterator[tuple[bytes | str, int, int]]:
        """Of each what it is under, its offset and its generation."""
        runs = chain.from_iterable(map(_RECORD_AT.iter_unpack, self._old))
        beside = chain(self._odd.items(), *[young.items() for young in self._young])
        return chain(runs, ((short, *_AT.unpack_from(entry, _AT_AT)) for short, entry in beside))

    def _place(self, part: int, short: bytes) -> int | None:
        """Where in its part's run an entry begins. SIDs are random: their first bytes say about where that must be."""
        old, size = self._old[part], _RECORD.size
        count = len(old) // size
        about = int.from_bytes(short[:4], "big") * count >> 32
        reach = 4 + 2 * isqrt(count)
        low, high = max(0, about - reach), min(count, about + reach)
        if low and old[low * size : low * size + _SHORT_BYTES] > short:
            low = 0
        if high < count and old[high * size : high * size + _SHORT_BYTES] < short:
            high = count
        while low < high:  # ``bytes.find`` takes twice as long.
            middle = low + high >> 1
            if old[middle * size : middle * size + _SHORT_BYTES] < short:
                low = middle + 1
            else:
                high = middle
        at = low * size
        return at if old[at : at + _SHORT_BYTES] == short else None


def _head(entry: bytes) -> _Head:
    return _Head._make(_HEAD.unpack_from(entry))


def _rest(entry: bytes) -> Rest:
    return _read_rest(entry[_HEAD.size :])


def _place_of(entry: bytes) -> int:
    place: int = _PLACE.unpack_from(entry, _FINDING.size)[0]
    return place


class Ledger:
    """What is published in one partition of the verdict topic: the last verdict of each recording.

    Of an open verdict it keeps what decides what may follow it, of a final one next to nothing, both as bytes: there
    are as many of the one as recordings in a window, of the other as in a retention. ``fetch`` reads a whole one back
    by its key and its offset in the verdict topic, which only what is rare needs: a late change of a final verdict,
    evidence that was lost, a former owner that writes late. Where it can not, it raises NotReadBack. A verdict is kept
    whole until its offset is known, and without ``fetch`` for good.
    """

    def __init__(
        self,
        fetch: Callable[[str, int], bytes] | None = None,
        *,
        allowed_kept_ms: int = 7 * 86_400_000,
        others_kept_ms: int = 400 * 86_400_000,
    ) -> None:
        self._fetch = fetch
        self.kept_ms = allowed_kept_ms, others_kept_ms  # How long a final verdict is kept: allowed, and any other.
        self._entries: Parted[bytes] = Table()  # A head, and of whose account and what else is remembered.
        self._entries.divide()
        self._settled = _Settled()  # Final and to be read back: only the head.
        self._whole: dict[str, Verdict | bytes] = {}
        self._awaited: dict[str, int] = {}  # Writes of ours that have not been placed yet, under each key.
        # What was read meanwhile that is lesser: where, and whether it was a tombstone.
        self._met: dict[str, tuple[int, bool]] = {}
        self._names = _Numbered[str]()  # Each account that was ever met.
        self._words = _Numbered[Words]()  # Whatever was ever said.
        self._ends = _Ends()
        self._outlived: set[str] = set()  # Of which a final verdict is gone whose end is still set down.
        # Of each generation the greatest offset, and whose verdict that is (key or SID); None: to be looked for.
        self._greatest: dict[int, tuple[int, bytes | str]] | None = {}
        self.next_end_ms = NEVER_MS  # No final verdict has been kept long enough before this instant.
        self.heard: list[tuple[str, str]] = []  # Whose verdicts somebody else wrote: account and key.
        self.restored = False  # Whether it began with a snapshot, so that nobody has read what it knows.
        self.owned = False  # Whether the fold that this belongs to decides what is published.

    def __len__(self) -> int:
        return len(self._entries) + self._settled.size

    def dismantle(self) -> Iterator[None]:
        """Let go of all it holds, a little with each step; nothing may be asked of it any more."""
        return emptied((*self._entries.bulk(), self._whole, *self._settled.young))

    def take_in(self, key: str, verdict: Verdict | None, place: int) -> bytes | None:
        """Take in one message of the verdict topic; the bytes to write back where something lesser stands behind them.

        The greatest (``at``, ``final``) holds, of equals the later message. None is a tombstone, which has no position:
        once the partition is ours, what is not final outlives one of somebody else. Where what is known stands behind
        the message, nothing need be written back; where it is on its way, ``placed`` will tell.
        """
        entry = self._entry(key)
        known = None if entry is None else _head(entry)
        if verdict is None:
            in_front = known is not None and _NO_PLACE < known.place < place
            if self.owned and known is not None and not (known.final and in_front):
                return self._stands(key, known, place, over_tombstone=True)
            self.withdraw(key)
            return None
        behind = known is not None and known.place > place
        if known is not None and (known.at, known.final, behind) > (verdict.at, verdict.final, False):
            return self._stands(key, known, place, over_tombstone=False)
        ours = known is not None and known.at == verdict.at  # Perhaps: a final one and its late change share a place.
        try:
            head = _HEAD.pack(0, place, verdict.at[1], verdict.at[0], self._flags_of(key, verdict, entry))
            settled = verdict.final and self._fetch is not None and not ours  # Of such only the head is kept.
            rest = b"" if settled else self._rest_of(verdict)
            end_ms = self._end_ms(verdict) if verdict.final else NEVER_MS
        except (OverflowError, TypeError, ValueError, struct.error):
            return None  # Somebody else's, with a number or an instant that none of ours has.
        if ours and known is not None and entry is not None and (known.place == place or entry[_HEAD.size :] == rest):
            self._lies_at(key, entry, place)  # Our own, come round.
            return None
        self._put(key, verdict, head + rest, entry, end_ms)
        self._awaited.pop(key, None)
        self._met.pop(key, None)
        self._lies_at(key, head + rest, place)
        if self.owned:  # Else all that was ever published, for nobody: what is open is compared when the fold opens.
            self.heard.append((verdict.account_sid, key))
        return encode_verdict(verdict) if behind else None  # What is lesser was acknowledged before this was read.

    def take_heard(self) -> list[tuple[str, str]]:
        """Whose verdicts somebody else has written since the last time: account and key."""
        heard, self.heard = self.heard, []
        return heard

    def placed(self, key: str, at: tuple[int, int], place: int) -> bytes | None:
        """Note where in the verdict topic the verdict decided ``at`` lies: from there it can be read back.

        To be told of every write, in order: a final verdict and its late change may share an ``at``. The bytes to write
        back where something lesser, read before this was told, turns out to stand behind it.
        """
        entry = self._entry(key)
        if entry is None:
            return None
        awaited = self._awaited.pop(key, 0) - 1
        if awaited > 0:
            self._awaited[key] = awaited
            return None
        if _AT.unpack_from(entry, _AT_AT) != (at[1], at[0]):
            return None
        met_at, over_tombstone = self._met.pop(key, (_NO_PLACE, False))
        head, back = _head(entry), None
        if place < met_at:
            if over_tombstone and head.final:
                self.withdraw(key)
                return None
            back = self._bytes(key, head)
        self._lies_at(key, entry, place)
        return back

    def stands_in_front(self, key: str, at: tuple[int, int], place: int) -> bool:
        """Whether what is published was decided later than what lies at ``place``, and stands in front of it."""
        entry = self._entry(key)
        return entry is not None and self.ahead(key, at) and _NO_PLACE < _place_of(entry) < place

    def published(self, key: str) -> Verdict | None:
        """The verdict that is published about a recording or a suspected conference, whole: it may have to be read."""
        whole = self._whole.get(key)
        if isinstance(whole, Verdict):
            return whole
        entry = self._entry(key)
        return None if entry is None else decode_verdict(self._bytes(key, _head(entry)))

    def last(self, key: str) -> Published | None:
        """What is remembered of the verdict that is published; of a settled one that is read back."""
        entry = self._entries.get(key)
        if entry is not None:
            return self._published(entry)
        verdict = self.published(key)
        return None if verdict is None else remember(verdict)

    def account_if_open(self, key: str) -> str | None:
        """Of whose account a published verdict is that is not final; None where there is none."""
        entry = self._entries.get(key)
        if entry is None or _head(entry).final:
            return None
        return self._names.known[_rest(entry).account]

    def is_final(self, key: str) -> bool:
        """Whether a final verdict is published."""
        entry = self._entry(key)
        return entry is not None and bool(entry[_FLAGS_AT] & _FINAL)

    def is_suspicion(self, key: str) -> bool:
        """Whether what is published under ``key`` is a suspicion."""
        entry = self._entry(key)
        return entry is not None and bool(entry[_FLAGS_AT] & _SUSPICION)

    def knows(self, key: str) -> bool:
        """Whether anything is published under ``key``."""
        return self._entry(key) is not None

    def ahead(self, key: str, at: tuple[int, int]) -> bool:
        """Whether what is published was decided later than ``at``."""
        entry = self._entry(key)
        if entry is None:
            return False
        offset, generation = _AT.unpack_from(entry, _AT_AT)
        return (generation, offset) > at

    def unchanged(self, key: str, digest: int) -> bool:
        """Whether the very finding of this digest led to what is published."""
        entry = self._entry(key)
        return entry is not None and entry.startswith(_FINDING.pack(digest))

    def note(self, key: str, digest: int) -> None:
        """Remember the digest of the finding behind what is published."""
        entry = self._entry(key)
        if entry is not None:
            self._replace(key, _FINDING.pack(digest) + entry[_FINDING.size :])

    def publish(self, verdict: Verdict, digest: int, over: Published | None = None) -> None:
        """Take in a verdict of our own that is about to be written, over one of which ``over`` is remembered."""
        key = verdict.key
        entry = self._entry(key)
        rest = self._rest_of(verdict, over)
        head = _HEAD.pack(digest, _NO_PLACE, verdict.at[1], verdict.at[0], self._flags_of(key, verdict, entry))
        self._put(key, verdict, head + rest, entry, self._end_ms(verdict) if verdict.final else NEVER_MS)
        self._awaited[key] = self._awaited.get(key, 0) + 1

    def withdraw(self, key: str) -> None:
        """Forget what was published under ``key``: a tombstone is about to be written."""
        if self.is_final(key):
            self._outlived.add(key)
        self._leaves_position(key)
        if key in self._entries:
            del self._entries[key]
        else:
            self._settled.pop(_short(key))
        self._whole.pop(key, None)
        self._awaited.pop(key, None)
        self._met.pop(key, None)

    def open_keys(self) -> Iterator[str]:
        """Whose verdicts are not final, in order of the SIDs; where there are many, some parts of them after others.

        What is published meanwhile may be among them or not.
        """
        found: list[str] = []
        for part in range(self._entries.parts_count):
            found += [key for key, entry in self._entries.items_of(part) if not entry[_FLAGS_AT] & _FINAL]
            if len(found) >= OPEN_KEYS_EACH:
                yield from sorted(found)
                found = []
        yield from sorted(found)

    def ended(self, log_time_ms: int) -> Iterator[str]:
        """Yield, withdrawn, the final verdicts that have been kept long enough."""
        for key in self._ends.until(log_time_ms):
            ends = self.is_final(key) and not self._goes_on(key, log_time_ms)
            if ends:
                self.withdraw(key)
            self._outlived.discard(key)
            if ends:
                yield key
        self.next_end_ms = self._ends.next_ms

    def _goes_on(self, key: str, log_time_ms: int) -> bool:
        """Whether a verdict is kept for longer, since it was rejudged, or replaced, after its end had been set down."""
        entry = self._entry(key)
        if entry is None or not entry[_FLAGS_AT] & LATER:
            return False
        verdict = self.published(key)
        assert verdict is not None
        end_ms = self._end_ms(verdict)
        if end_ms <= log_time_ms:
            return False
        self._ends.add(end_ms, key)
        return True

    def _end_ms(self, verdict: Verdict) -> int:
        """Until when a final verdict is kept; one that was rejudged as long as any, for it tells that it was."""
        short = verdict.outcome == "allowed" and verdict.rejudged is None
        return read_instant(verdict.decided_at) + self.kept_ms[not short]

    def going_on(self, part: int) -> Iterator[tuple[str, str, str]]:
        """Of each open verdict of one of its ``PARTS`` whose recording goes on: key, account and outcome."""
        for key, entry in self._entries.items_of(part):
            if entry[_FLAGS_AT] & _GOES_ON:
                rest = _rest(entry)
                yield key, self._names.known[rest.account], self._words.known[rest.words].outcome

    def greatest_offset(self, generation: int) -> int | None:
        """The greatest offset at which a verdict of ``generation`` was decided."""
        greatest = self._find_greatest().get(generation)
        return None if greatest is None else greatest[0]

    def greatest_generation(self) -> int | None:
        """The greatest generation that has published anything."""
        return max(self._find_greatest(), default=None)

    # ----------------------------------------------------------------- what a snapshot takes and gives

    def unplaced(self) -> list[str]:
        """Whose verdicts are on their way: not known to lie anywhere yet."""
        return [
            key
            for key in self._whole
            if (entry := self._entries.get(key)) is not None and _place_of(entry) == _NO_PLACE
        ]

    def dump_part(self, number: int, below: int) -> tuple[list[tuple[str, bytes]], bytes]:
        """What one of its ``PARTS`` knows of verdicts that lie below an offset of their topic, for ``load``.

        Open verdicts by key; settled ones packed. What is ``unplaced`` is left out; and once it is placed, it may turn
        up in a part that was dumped before.
        """
        whole = [
            (key, entry[_FINDING.size :])
            for key, entry in self._entries.items_of(number)
            if _NO_PLACE < _place_of(entry) < below
        ]
        odd = self._settled.odd().items() if number == 0 else ()
        whole += [(key, entry[_FINDING.size :]) for key, entry in odd if _place_of(entry) < below]
        settled = [
            record[:_SHORT_BYTES] + record[_SHORT_BYTES + _FINDING.size :]
            for record in self._settled.records(number)
            if _place_of(record[_SHORT_BYTES:]) < below
        ]
        return whole, b"".join(settled)

    def dump_placed(self, key: str, below: int) -> tuple[bool, bytes | None]:
        """The same of one verdict: whether it is placed, and what is known of it if it lies below."""
        entry = self._entry(key)
        if entry is None:
            return True, None
        place = _place_of(entry)
        return place != _NO_PLACE, entry[_FINDING.size :] if _NO_PLACE < place < below else None

    def dump_ends(self) -> tuple[dict[int, bytearray], list[tuple[int, str]]]:
        """Until when final verdicts are kept: by the hour, which may still grow, and one by one."""
        return self._ends.held()

    def dump_numbered(self) -> tuple[list[str], list[Words]]:
        """The accounts, and the words, that the entries of open verdicts refer to by number."""
        return list(self._names.known), list(self._words.known)

    def load(self, whole: Iterable[tuple[str, bytes]], settled: bytes) -> int:
        """Take in what a part has dumped, into a ledger that nothing was read into; how many verdicts."""
        count = 0
        for key, entry in whole:
            if len(entry) == _HEAD.size - _FINDING.size:
                self._settled.put(_short(key), _NOT_FOUND + entry)
            else:
                self._entries[key] = _NOT_FOUND + entry
            self._note_position(key, *_AT.unpack_from(entry, _AT_AT - _FINDING.size))
            count += 1
        records = [
            settled[at : at + _SHORT_BYTES] + _NOT_FOUND + settled[at + _SHORT_BYTES : at + SETTLED_BYTES]
            for at in range(0, len(settled), SETTLED_BYTES)
        ]
        run = b"".join(records)
        self._settled.load(run)
        for short, offset, generation in _RECORD_AT.iter_unpack(run):
            self._note_position(short, offset, generation)
        return count + len(records)

    def load_ends(self, hours: Iterable[tuple[int, bytes]], due: Iterable[tuple[int, str]]) -> None:
        """Take in what ``dump_ends`` gave, of verdicts that were loaded as final ones: of others it will be read."""
        known = [
            (hour, b"".join([ending for ending in _each(endings) if self._is_final(ending)])) for hour, endings in hours
        ]
        self._ends.load(known, [(end_ms, key) for end_ms, key in due if self.is_final(key)])
        self.next_end_ms = self._ends.next_ms

    def _is_final(self, ending: bytes) -> bool:
        """The same of whose end is set down; nearly all of these are settled."""
        return self._settled.get(_ending_short(ending)) is not None or self.is_final(_ending_key(ending))

    def load_numbered(self, names: Iterable[str], words: Iterable[Words]) -> None:
        """Take in what ``dump_numbered`` gave."""
        self.restored = True
        self._names, self._words = _Numbered(names), _Numbered(words)

    # ----------------------------------------------------------------- inside

    def _find_greatest(self) -> dict[int, tuple[int, bytes | str]]:
        if self._greatest is None:
            self._greatest = {}
            for short, offset, generation in self._settled.positions():
                self._note_position(short, offset, generation)
            for key, entry in self._entries.items():
                self._note_position(key, *_AT.unpack_from(entry, _AT_AT))
        return self._greatest

    def _note_position(self, whose: bytes | str, offset: int, generation: int) -> None:
        """A verdict has this position: to look for the greatest of a million takes half a second."""
        if self._greatest is not None:
            known = self._greatest.get(generation)
            if known is None or offset > known[0]:
                self._greatest[generation] = offset, whose

    def _leaves_position(self, key: str) -> None:
        """A verdict is about to have another position, or none."""
        if self._greatest is not None:
            names = key, _short(key)
            if any(whose in names for _, whose in self._greatest.values()):
                self._greatest = None

    def _entry(self, key: str) -> bytes | None:
        entry = self._entries.get(key)
        return entry if entry is not None or not self._settled.size else self._settled.get(_short(key))

    def _flags_of(self, key: str, verdict: Verdict, known: bytes | None) -> int:
        """``known``: the entry that it comes over."""
        flags = (_FINAL if verdict.final else 0) | (_SUSPICION if verdict.kind == "suspicion" else 0)
        if goes_on(verdict):
            flags |= _GOES_ON
        ended_before = (known is not None and known[_FLAGS_AT] & _FINAL) or key in self._outlived
        return flags | LATER if verdict.rejudged is not None or (verdict.final and ended_before) else flags

    def _replace(self, key: str, entry: bytes) -> None:
        if key in self._entries:
            self._entries[key] = entry
        else:
            self._settled.put(_short(key), entry)

    def _rest_of(self, verdict: Verdict, over: Published | None = None) -> bytes:
        """What stands behind the head of an open verdict's entry; ``over``: which it was published over."""
        published = remember(verdict, over)
        said = tuple([(outcome, cause) for _, outcome, cause, _ in published.history])
        # In the order of the fields: by name it would cost several times as much, for every verdict.
        return _pack_rest(
            (
                self._names.number(verdict.account_sid),
                self._words.number(Words(published.outcome, published.cause, published.alert, said)),
                published.content,
                published.revision,
                published.rests_from,
                published.decided_at,
                published.backlog,
                published.disallowed_since,
                [(revision, decided_at) for revision, _, _, decided_at in published.history],
            )
        )

    def _published(self, entry: bytes) -> Published:
        """What ``_rest_of`` was made of."""
        head, rest = _head(entry), _rest(entry)
        words = self._words.known[rest.words]
        return Published(
            head.at,
            head.final,
            bool(head.flags & _SUSPICION),
            rest.content,
            rest.revision,
            words.outcome,
            words.cause,
            rest.rests_from,
            rest.decided_at,
            rest.backlog,
            rest.disallowed_since,
            words.alert,
            tuple(
                [
                    (revision, outcome, cause, decided_at)
                    for (revision, decided_at), (outcome, cause) in zip(rest.history, words.history, strict=True)
                ]
            ),
        )

    def _put(self, key: str, verdict: Verdict, entry: bytes, known: bytes | None, end_ms: int) -> None:
        if known is not None:
            offset, generation = _AT.unpack_from(known, _AT_AT)
            if generation != verdict.at[0] or offset > verdict.at[1]:
                self._leaves_position(key)
            if key not in self._entries:
                self._settled.pop(_short(key))
        self._entries[key] = entry
        self._note_position(key, verdict.at[1], verdict.at[0])
        self._whole[key] = verdict if self._fetch is not None else encode_verdict(verdict)
        if verdict.final and (known is None or not known[_FLAGS_AT] & _FINAL):
            self._ends.add(end_ms, key)
            self.next_end_ms = self._ends.next_ms
        elif not verdict.final and known is not None and known[_FLAGS_AT] & _FINAL:
            self._outlived.add(key)

    def _lies_at(self, key: str, entry: bytes, place: int) -> None:
        """Note the place of a verdict: what can be read back need not be kept."""
        placed = entry[: _FINDING.size] + _PLACE.pack(place) + entry[_AT_AT:]
        if self._fetch is None:
            self._replace(key, placed)
            return
        self._whole.pop(key, None)
        if entry[_FLAGS_AT] & _FINAL:
            if key in self._entries:
                del self._entries[key]
            self._settled.put(_short(key), placed[: _HEAD.size])
        else:
            self._entries[key] = placed

    def _stands(self, key: str, known: _Head, place: int, *, over_tombstone: bool) -> bytes | None:
        """What is to be written back, as what is known stands and something lesser was read at ``place``."""
        if known.place == _NO_PLACE:
            self._met[key] = place, over_tombstone
        return self._bytes(key, known) if _NO_PLACE < known.place < place else None

    def _bytes(self, key: str, head: _Head) -> bytes:
        whole = self._whole.get(key)
        if whole is not None:
            return whole if isinstance(whole, bytes) else encode_verdict(whole)
        assert self._fetch is not None
        assert head.place != _NO_PLACE
        return self._fetch(key, head.place)


_is_usual = re.compile("(?:RE|CF)[0-9a-f]{32}").fullmatch


def _short(key: str) -> bytes | str:
    """A SID in half the bytes; any other key as it is."""
    return bytes.fromhex(key[2:]) + key[:1].encode() if _is_usual(key) else key


class _Ends:
    """When final verdicts have been kept long enough: by the hour, and sorted only once their hour has come.

    There are as many as recordings in a year, and a tuple in a heap for each would take more than all else about it.
    """

    def __init__(self) -> None:
        self.next_ms = NEVER_MS  # Nothing ends before this instant.
        self._hours: dict[int, bytearray] = {}
        self._order: list[int] = []
        self._due: list[tuple[int, str]] = []

    def add(self, end_ms: int, key: str) -> None:
        hour, rest_ms = divmod(end_ms, HOUR_MS)
        if not _is_usual(key):
            heappush(self._due, (end_ms, key))
            self.next_ms = min(self.next_ms, end_ms)
            return
        self._of(hour).extend(_ENDING.pack(rest_ms, key[:2].encode(), bytes.fromhex(key[2:])))

    def _of(self, hour: int) -> bytearray:
        endings = self._hours.get(hour)
        if endings is None:
            endings = self._hours[hour] = bytearray()
            heappush(self._order, hour)
            self.next_ms = min(self.next_ms, hour * HOUR_MS)
        return endings

    def held(self) -> tuple[dict[int, bytearray], list[tuple[int, str]]]:
        return dict(self._hours), list(self._due)

    def load(self, hours: Iterable[tuple[int, bytes]], due: Iterable[tuple[int, str]]) -> None:
        for hour, endings in hours:
            if endings:
                self._of(hour).extend(endings)
        for each in due:
            heappush(self._due, each)
        self._see_next()

    def _see_next(self) -> None:
        due_ms = self._due[0][0] if self._due else NEVER_MS
        self.next_ms = min(due_ms, self._order[0] * HOUR_MS if self._order else NEVER_MS)

    def until(self, now_ms: int) -> Iterator[str]:
        """Yield what ends at or before an instant, in order of its end."""
        while self._order and self._order[0] * HOUR_MS <= now_ms:
            hour = heappop(self._order)
            for ending in _each(self._hours.pop(hour)):
                heappush(self._due, (hour * HOUR_MS + int.from_bytes(ending[:4], "little"), _ending_key(ending)))
        while self._due and self._due[0][0] <= now_ms:
            yield heappop(self._due)[1]
        self._see_next()


ENDING_FORMAT: Final = "<I2s16s"  # Milliseconds of the hour, and a SID.
_ENDING: Final = struct.Struct(ENDING_FORMAT)
ENDING_BYTES: Final = _ENDING.size


def _each(endings: bytes | bytearray) -> Iterator[bytes]:
    for at in range(0, len(endings), _ENDING.size):
        yield bytes(endings[at : at + _ENDING.size])


def _ending_short(ending: bytes) -> bytes:
    return ending[6:] + ending[4:5]


def _ending_key(ending: bytes) -> str:
    return ending[4:6].decode() + ending[6:].hex()

"""What became of a history, seen from outside: from the verdict topic, the group's commits and the simulator's truth.

Nothing of the monitor is asked or imported. `tests.verify` says what may stand on a verdict topic at all; here is
counted what an interruption must not do: lose a verdict, change one, or tell again what was safely told.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from monitor.simulator.compare import compare, key_of
from monitor.simulator.truth import Counts, Header, Line, RecordingTruth
from tests.verify import Message, Verdict, content, holding, place, read_topic, verdict_of, verify_verdicts

COMMITS_TOPIC = "__consumer_offsets"
# What an owner writes on its verdicts: a token of its own for each takeover.
BY = "by"


# When a verdict was first told depends on who was there to tell it; that it was told does not.
_OF_THE_MOMENT = frozenset({"disallowed_since", "alert"})


class Commit(NamedTuple):
    """One offset commit as the broker keeps it, and when it was taken."""

    partition: int
    offset: int
    metadata: str
    timestamp_ms: int

    @property
    def generation(self) -> int | None:
        """In which generation of the partition it was made; None where a tool made it."""
        return msgspec.json.decode(self.metadata)["g"] if self.metadata else None


class Tally(msgspec.Struct, kw_only=True):
    """What became of one history. The lists hold a line for each case, for whoever looks into it.

    ``lost``: recordings without a verdict, or whose last one is not final although their window has closed.
    ``different``: verdicts unlike the truth (or, in a history that lost evidence, stronger than it allows), about
    recordings that never were, or that an uninterrupted run over the same messages says otherwise.
    ``repeated``: verdicts told again although the commit that covers them had been taken before.
    ``faults``: whatever else must not stand on the topics. ``again`` counts repeats inside the last commit, and
    ``superseded`` what a process wrote after another had taken its partition: both are allowed.
    ``live_s``: after each fault, seconds until all partitions had judged what stood in them at its end; None: never.
    """

    verdicts: int = 0
    lost: list[str] = []
    different: list[str] = []
    repeated: list[str] = []
    faults: list[str] = []
    again: int = 0
    superseded: int = 0
    harm: int = 0
    live_s: list[float | None] = []

    @property
    def passed(self) -> bool:
        """Whether nothing was lost, changed, repeated or wrong, and everything came to life again."""
        return not (self.lost or self.different or self.repeated or self.faults or None in self.live_s)

    def add(self, other: Tally) -> None:
        """Add another history's."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Mark(NamedTuple):
    """The end of a fault: when (by the broker's clock), and where the partitions ended then."""

    at_ms: int
    ends: Mapping[int, int]


def read_commits(bootstrap: str, group: str, topic: str) -> list[Commit]:
    """The commits of a group about a topic, in the order in which the broker took them.

    Kafka keeps them as messages of a topic of its own; the layout is that of OffsetCommitKey and OffsetCommitValue in
    Kafka's sources (group-coordinator/src/main/resources/common/message).
    """
    found = []
    for message in read_topic(bootstrap, COMMITS_TOPIC):
        # Binary, and valid UTF-8 all the same: its numbers and lengths are below 128 for names as short as ours.
        key = (message.key or "").encode()
        if not key or message.value is None or struct.unpack_from(">h", key)[0] > 1:
            continue  # A tombstone, or what the group is made of.
        whose, at = _text(key, 2)
        about, at = _text(key, at)
        if (whose, about) == (group, topic):
            partition = struct.unpack_from(">i", key, at)[0]
            found.append(Commit(partition, *_committed(message.value), message.timestamp_ms))
    return found


def _committed(value: bytes) -> tuple[int, str]:
    version, offset = struct.unpack_from(">hq", value)
    at = 10 + (4 if version >= 3 else 0)  # The leader's epoch came with version 3.
    if version >= 4:  # Flexible: a length is one more than it is, seven bits to a byte.
        size, shift = 0, 0
        while True:
            size |= (value[at] & 0x7F) << shift
            shift += 7
            at += 1
            if not value[at - 1] & 0x80:
                break
        metadata = value[at : at + size - 1].decode()
    else:
        metadata = _text(value, at)[0]
    return offset, metadata.rstrip("\0")  # Python's client sends the zero at the end of C's strings as well.


def _text(data: bytes, at: int) -> tuple[str, int]:
    (size,) = struct.unpack_from(">h", data, at)
    return data[at + 2 : at + 2 + size].decode(), at + 2 + size


def judge(
    messages: Sequence[Message],
    commits: Sequence[Commit],
    truth: Iterable[Line],
    *,
    marks: Sequence[Mark] = (),
    straight: Mapping[str, Verdict] | None = None,
    weakened: frozenset[str] = frozenset(),
    unfinished: frozenset[str] = frozenset(),
    others: bool = False,
) -> Tally:
    """Judge a history that has come to rest with all its windows closed.

    ``straight`` is what an uninterrupted run over the same messages ends with; None: there is none to compare with.
    ``weakened`` are keys whose evidence the history itself took away: undetermined is right about them whatever the
    truth, and none of them may be allowed that is disallowed. Of ``unfinished`` ones even silence is right.
    ``others``: whether there was more in the topic than the truth knows of, so that more verdicts than its are right.
    """
    holds = holding(messages)
    findings = verify_verdicts(messages)
    tally = Tally(verdicts=len(holds), faults=[fault for fault in findings.faults if not _by_loss(fault, weakened)])
    strict = [line for line in truth if not _weak(line, weakened)]
    weak = [line for line in truth if _weak(line, weakened)]
    aside = {key for line in weak for key in _keys(line)}
    compared = compare(strict, {key: verdict for key, verdict in holds.items() if key not in aside})
    for wrong in compared.wrong:
        (tally.lost if ": no verdict," in wrong else tally.different).append(wrong)
    if not others:
        tally.different += [f"{key}: nobody recorded it" for key in compared.invented]
    for line in weak:
        assert isinstance(line, RecordingTruth)
        _judge_weak(line, holds, tally, silence_is_right=key_of(line) in unfinished)
    known = {key for line in [*strict, *weak] for key in _keys(line)}
    tally.lost += [f"{key}: not final" for key, verdict in holds.items() if key in known and not verdict["final"]]
    if straight is not None:
        tally.different += unlike_straight(holds, straight)
    _count_repeats(messages, findings.repeats, commits, tally)
    tally.harm = len(marks)
    tally.live_s = [live_again(messages, commits, mark) for mark in marks]
    return tally


def _by_loss(fault: str, weakened: frozenset[str]) -> bool:
    """Whether it is no fault in a history that took the evidence away: its first sight may have been in it."""
    return fault.endswith("first seen later than before") and fault.partition(": ")[0].split()[-1] in weakened


def _weak(line: Line, weakened: frozenset[str]) -> bool:
    return isinstance(line, RecordingTruth) and not weakened.isdisjoint(_keys(line))


def _keys(line: Line) -> set[str]:
    """The keys under which there may be a verdict about it."""
    if isinstance(line, Header | Counts):
        return set()
    return {key for key in (line.recording_sid, line.conference_sid) if key is not None}


def _judge_weak(line: RecordingTruth, holds: Mapping[str, Verdict], tally: Tally, *, silence_is_right: bool) -> None:
    """Hold a verdict on lesser evidence against the truth: it may know less, and must claim nothing that is not so."""
    key = key_of(line)
    verdict = holds.get(key) if key is not None else None
    if verdict is None:
        if not silence_is_right and line.kind == "recording" and "recording_sid" not in line.untold:
            tally.lost.append(f"{key} ({line.scene}): no verdict, truly {line.outcome}, {line.cause}")
    elif verdict["outcome"] not in (line.outcome, "undetermined"):
        tally.different.append(f"{key} ({line.scene}): {verdict['outcome']} on less evidence, truly {line.outcome}")


def unlike_straight(holds: Mapping[str, Verdict], straight: Mapping[str, Verdict]) -> list[str]:
    """Where an uninterrupted run over the very same messages ends otherwise; places in the log included."""
    unlike = []
    for key in sorted(holds.keys() | straight.keys()):
        here, there = holds.get(key), straight.get(key)
        if here is None or there is None:
            unlike.append(f"{key}: {'no verdict' if here is None else 'a verdict'}, uninterrupted the other way round")
            continue
        mine, other = content(here), content(there)
        fields = {name for name in mine if mine[name] != other.get(name) and name not in _OF_THE_MOMENT}
        if here["at"][0] != there["at"][0]:
            fields.discard("rests_from")  # Where offsets may be those of another log, it says no more than that.
        if fields:
            unlike.append(f"{key}: unlike an uninterrupted run in {', '.join(sorted(fields))}")
    return unlike


def _count_repeats(
    messages: Sequence[Message], repeats: Sequence[Message], commits: Sequence[Commit], tally: Tally
) -> None:
    """Tell apart what was told again because nobody could know, out of time, and against a commit taken before."""
    order = _takeovers(messages)
    latest: dict[int, int] = {}
    unanswered: dict[tuple[int, str | None], int] = {}  # Of a key: verdicts of somebody superseded, not written over.
    excused = set()
    for message in messages:
        partition, key = message.partition, (message.partition, message.key)
        number = order[_takeover(message)]
        if number < latest.get(partition, -1):
            tally.superseded += 1
            excused.add((partition, message.offset))
            unanswered[key] = unanswered.get(key, 0) + 1
            continue
        latest[partition] = number
        if unanswered.get(key):
            # An owner puts its own over each lesser verdict it sees, whatever else has come between.
            excused.add((partition, message.offset))
            unanswered[key] -= 1
    for message in repeats:
        if (message.partition, message.offset) in excused:
            continue
        verdict = verdict_of(message)
        if verdict is None:
            tally.again += 1  # A tombstone over a tombstone.
            continue
        # Offsets of another generation are those of another log.
        taken = (
            commit.offset
            for commit in commits
            if commit.partition == message.partition
            and commit.timestamp_ms < message.timestamp_ms
            and commit.generation == verdict["at"][0]
        )
        covered = max(taken, default=0)
        if verdict["at"][1] < covered:
            where = f"{message.partition}:{message.offset} {message.key}"
            tally.repeated.append(f"{where}: decided at {verdict['at'][1]}, told again when {covered} was committed")
        else:
            tally.again += 1


def _takeover(message: Message) -> tuple[int, bytes]:
    return message.partition, message.headers.get(BY, b"")


def _takeovers(messages: Sequence[Message]) -> dict[tuple[int, bytes], int]:
    """Number the takeovers of each partition in their order: by their first words, but for whom these came too late.

    Who was stopped between taking a partition and its first verdict writes that when another has long taken it. It has
    decided nothing that the other has not come past, and the other goes on.
    """
    told: dict[tuple[int, bytes], list[tuple[int, tuple[int, int]]]] = {}
    for number, message in enumerate(messages):
        verdict = verdict_of(message)
        told.setdefault(_takeover(message), []).append((number, (0, 0) if verdict is None else place(verdict)[0]))
    order: dict[int, list[tuple[int, bytes]]] = {}
    for takeover, all_of_it in told.items():
        earlier = order.setdefault(takeover[0], [])
        (first, _), reached = all_of_it[0], max(at for _, at in all_of_it)
        outlived = bool(earlier) and any(number > first and at > reached for number, at in told[earlier[-1]])
        earlier.insert(len(earlier) - outlived, takeover)
    return {takeover: number for takeovers in order.values() for number, takeover in enumerate(takeovers)}


def live_again(messages: Sequence[Message], commits: Sequence[Commit], mark: Mark) -> float | None:
    """Seconds from a fault's end until each partition had judged all that stood in it then; None: one never did.

    A verdict decided at the last of it or later shows that, and so does a commit behind it.
    """
    signs: dict[int, int] = {}
    for message in messages:
        verdict = verdict_of(message)
        if verdict is None or message.timestamp_ms < mark.at_ms:
            continue
        if place(verdict)[0][1] >= mark.ends.get(message.partition, 0) - 1:
            _earlier(signs, message.partition, message.timestamp_ms)
    for commit in commits:
        if commit.timestamp_ms >= mark.at_ms and commit.offset >= mark.ends.get(commit.partition, 0):
            _earlier(signs, commit.partition, commit.timestamp_ms)
    if any(partition not in signs for partition in mark.ends):
        return None
    return max((at - mark.at_ms) / 1000 for at in signs.values())


def _earlier(signs: dict[int, int], partition: int, at_ms: int) -> None:
    signs[partition] = min(at_ms, signs.get(partition, at_ms))

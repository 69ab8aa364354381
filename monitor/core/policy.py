"""The policy: which recordings are allowed. Rules in order, and the first that is true decides.

A rule is true, false or open. Open means that what is still unknown could make it either; so a verdict is drawn the
moment no open rule can change the outcome any more, and not before. Everything is compiled once, at load: judging is
a walk over closures. Reading the file, and telling a person what is wrong with it, is ``inputs/policy_file``.

To add a condition: one field of ``Subject`` and one line of ``CONDITIONS``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, tzinfo
from operator import attrgetter
from typing import Final

import msgspec

from monitor.core.attribution import CAUSES, START_SOURCES, STATUSES
from monitor.core.events import FOUND_BY_LISTING, FOUND_BY_STREAM, FOUND_BY_VERB

ALLOWED: Final = "allowed"
DISALLOWED: Final = "disallowed"
UNDETERMINED: Final = "undetermined"
OUTCOMES: Final = (ALLOWED, DISALLOWED, UNDETERMINED)

ENFORCE: Final = "enforce"
OBSERVE: Final = "observe"
SHADOW: Final = "shadow"
POLICY_MODES: Final = (ENFORCE, OBSERVE)
RULE_MODES: Final = (ENFORCE, SHADOW)

SEVERITIES: Final = ("critical", "warning", "info")

# What a verdict names as its rule where no rule of the file decided; no rule may have such a name.
RULE_DEFAULT: Final = "default"
RULE_WHEN_OPEN: Final = "when_open"
RULE_SUSPICION: Final = "suspicion"
RESERVED_NAMES: Final = (RULE_DEFAULT, RULE_WHEN_OPEN, RULE_SUSPICION)

FOUND_BY: Final = (FOUND_BY_STREAM, FOUND_BY_VERB, FOUND_BY_LISTING)

# Calls say inbound, outbound-api and outbound-dial; Voice Insights has underscores and the two directions of a trunk.
DIRECTIONS: Final = (
    "inbound",
    "outbound",
    "outbound-api",
    "outbound-dial",
    "trunking-originating",
    "trunking-terminating",
)

MINUTES_OF_DAY: Final = 24 * 60
MINUTES_OF_WEEK: Final = 7 * MINUTES_OF_DAY

# Instants that can be shown in every time zone; a date from outside may lie anywhere.
_FIRST_SECOND: Final = -62_135_596_800 + 86_400
_LAST_SECOND: Final = 253_402_300_799 - 86_400


class Values(msgspec.Struct, frozen=True, gc=False):
    """What is known of one attribute of a recording.

    ``complete=False``: more may come, so that none of the known ones matches says nothing yet.
    """

    known: tuple[str, ...]
    complete: bool


ABSENT: Final = Values((), complete=True)
OPEN: Final = Values((), complete=False)


class Subject(msgspec.Struct, frozen=True, gc=False):
    """A recording as the policy sees it. ``alias`` is the account's name in the settings, None where it has none."""

    account: str
    alias: str | None
    started_ms: int
    cause: Values
    start_source: Values
    conference_name: Values
    callback_url: Values
    direction: Values
    from_: Values
    to: Values
    queue: Values
    worker: Values
    status: Values
    found_by: Values


class Hours(msgspec.Struct, frozen=True):
    """A span of local time. ``days`` count from 0 = Monday and are those on which the span begins.

    From ``from_minute`` of the day up to, not including, ``to_minute`` (at most 1440); where ``to_minute`` is not the
    greater, the span ends on the next day.
    """

    days: tuple[int, ...]
    from_minute: int
    to_minute: int
    zone: tzinfo


class RuleDocument(msgspec.Struct, frozen=True, kw_only=True):
    """One rule as it is written, checked and in plain values.

    ``when`` holds for each named condition its values, any of which will do; ``expires_ms`` is the first start of a
    recording to which the rule no longer applies.
    """

    name: str
    outcome: str
    when: Mapping[str, tuple[str, ...]] = {}
    hours: tuple[Hours, ...] = ()
    severity: str | None = None
    reason: str | None = None
    team: str | None = None
    runbook_url: str | None = None
    expires_ms: int | None = None
    mode: str = ENFORCE


class PolicyDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A policy as it is written, checked and in plain values."""

    name: str = "policy"
    mode: str = ENFORCE
    default: str = DISALLOWED
    when_open: str = UNDETERMINED
    rules: tuple[RuleDocument, ...] = ()


class Judgement(msgspec.Struct, frozen=True):
    """What the policy says of a recording; ``outcome`` None means that it is still open.

    ``rule`` is the one that decided, or ``default``, or ``when_open``. ``shadow`` names the rules in shadow mode that
    are true: they are counted and decide nothing.
    """

    outcome: str | None
    rule: str
    severity: str | None = None
    reason: str | None = None
    team: str | None = None
    runbook_url: str | None = None
    shadow: tuple[str, ...] = ()


class Answer(msgspec.Struct, frozen=True):
    """What one rule says of a recording, condition by condition; None means open."""

    rule: str
    answer: bool | None
    outcome: str
    conditions: tuple[tuple[str, bool | None], ...]
    mode: str


Answering = Callable[[Subject], bool | None]
Matching = Callable[[str], bool]


# --- Conditions -------------------------------------------------------------------------------------------------------


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """How a condition is answered: which values of the subject it reads, and how they compare.

    ``words``: the closed set its values come from; without it they are free text, in which ``*`` stands for any text.
    ``usual``: the spellings known so far of a set that is open: another is possible, but more likely a slip.
    ``normal`` is applied to both sides before they are compared. ``also``: what a value in a policy stands for besides
    itself. ``private``: the values may be telephone numbers or names of people, which no message may repeat.
    ``always``: every recording has a value, so ``*`` asks for nothing.
    """

    read: Callable[[Subject], Values]
    words: tuple[str, ...] = ()
    usual: tuple[str, ...] = ()
    normal: Callable[[str], str] | None = None
    also: Mapping[str, tuple[str, ...]] = {}
    url: bool = False
    private: bool = False
    always: bool = False


_SID: Final = re.compile(r"[A-Za-z]{2}[0-9A-Fa-f]{32}")


def _sid(text: str) -> str:
    """Spell a SID as Twilio does; a name stays as it is, for names differ by case."""
    return text[:2].upper() + text[2:].lower() if len(text) == 34 and _SID.fullmatch(text) else text


def _direction(text: str) -> str:
    """Spell a direction in one way: ``outbound_api`` of Voice Insights is ``outbound-api`` of the call."""
    return text.lower().replace("_", "-")


def _account(subject: Subject) -> Values:
    names = (subject.account,) if subject.alias is None else (subject.account, subject.alias)
    return Values(names, complete=True)


# fmt: off
CONDITIONS: Final[Mapping[str, Condition]] = {
    "account": Condition(read=_account, normal=_sid, always=True),
    "cause": Condition(read=attrgetter("cause"), words=CAUSES),
    "start_source": Condition(read=attrgetter("start_source"), usual=START_SOURCES, normal=str.lower),
    "conference_name": Condition(read=attrgetter("conference_name")),
    "callback_url": Condition(read=attrgetter("callback_url"), url=True),
    # Calls say in which of two ways they are outbound; people mean either.
    "direction": Condition(
        read=attrgetter("direction"), usual=DIRECTIONS, normal=_direction, also={"outbound": ("outbound-*",)}
    ),
    "from": Condition(read=attrgetter("from_"), private=True),
    "to": Condition(read=attrgetter("to"), private=True),
    "queue": Condition(read=attrgetter("queue"), normal=_sid),
    "worker": Condition(read=attrgetter("worker"), normal=_sid, private=True),
    "status": Condition(read=attrgetter("status"), words=STATUSES),
    "found_by": Condition(read=attrgetter("found_by"), words=FOUND_BY),
}
# fmt: on

HOURS: Final = "hours"
EXPIRES: Final = "expires"


def matcher(name: str, patterns: Iterable[str]) -> Matching:
    """Compile the values of one condition into one test. ``name`` is a key of ``CONDITIONS``.

    The test takes time linear in the length of the text for each pattern, whatever the text is: it comes from
    outsiders.
    """
    condition = CONDITIONS[name]
    spelt = _spelt(condition, patterns)
    if condition.url:
        return _url_matcher(spelt)
    words = frozenset(text for text in spelt if condition.words or "*" not in text)
    globs = [text for text in spelt if text not in words]
    prefixes = tuple(text[:-1] for text in globs if text.find("*") == len(text) - 1)
    others = [text for text in globs if text[:-1] not in prefixes]
    normal, tests = condition.normal, list[Matching]()
    if words:
        tests.append(words.__contains__)
    if prefixes:
        tests.append(lambda text: text.startswith(prefixes))
    if others:
        match = re.compile("|".join(map(_glob, others)), re.DOTALL).match
        tests.append(lambda text: match(text) is not None)
    if len(tests) == 1:
        [test] = tests
        return test if normal is None else (lambda text: test(normal(text)))

    def matches(text: str) -> bool:
        if normal is not None:
            text = normal(text)
        return any(test(text) for test in tests)

    return matches


def _spelt(condition: Condition, patterns: Iterable[str]) -> list[str]:
    """Spell the values of a condition in the one way in which they are compared, with what they stand for besides."""
    spelt = [condition.normal(pattern) if condition.normal else pattern for pattern in patterns]
    return spelt + [other for text in spelt for other in condition.also.get(text, ())]


def _glob(pattern: str, any_text: str = ".", end: str = r"\Z") -> str:
    """Translate a glob into a regular expression; ``any_text`` is the class of characters that ``*`` stands for.

    The text between two stars is sought once, at its first place, and never again (an atomic group): giving that
    place up could not help, for whatever follows would be found behind a later place too. Plain ``.*a.*b`` tries every
    pair of places.
    """
    first, *middle = (re.escape(part) for part in pattern.split("*"))
    if not middle:
        return first + end
    last = middle.pop()
    return first + "".join(f"(?>{any_text}*?{part})" for part in middle if part) + f"{any_text}*{last}{end}"


def _url_glob(pattern: str) -> str:
    """Translate the glob of a URL: case is ignored in scheme and host, and a ``*`` in the host stays in the host.

    Otherwise ``https://*.example.com/*`` would match ``https://elsewhere.test/.example.com/``. A pattern that names no
    host in full is matched as plain text: without ``://`` by case, with no ``/`` after the host in any case.
    """
    scheme, separator, rest = pattern.partition("://")
    host, slash, path = rest.partition("/")
    if not separator:
        return _glob(pattern)
    if not slash:
        return f"(?i:{_glob(pattern)})"
    # The host is one atomic piece up to its slash: within it there is no slash to give up.
    return f"(?i:{_glob(scheme + separator + host, '[^/?#]', '/')})" + _glob(path)


def _url_match(patterns: Iterable[str]) -> Callable[[str], re.Match[str] | None]:
    return re.compile("|".join(map(_url_glob, patterns)), re.DOTALL).match


def _url_matcher(patterns: Iterable[str]) -> Matching:
    """Match a URL as it is, or without its query."""
    match = _url_match(patterns)

    def matches(url: str) -> bool:
        if match(url) is not None:
            return True
        bare, question, _ = url.partition("?")
        return bool(question) and match(bare) is not None

    return matches


def _compile_condition(name: str, patterns: Sequence[str]) -> Answering:
    read = CONDITIONS[name].read
    if CONDITIONS[name].words:
        none_in = frozenset(patterns).isdisjoint

        def answer_word(subject: Subject) -> bool | None:
            values = read(subject)
            if none_in(values.known):
                return False if values.complete else None
            return True

        return answer_word
    matches = matcher(name, patterns)

    def answer(subject: Subject) -> bool | None:
        values = read(subject)
        for value in values.known:
            if matches(value):
                return True
        return False if values.complete else None

    return answer


def week(hours: Iterable[Hours]) -> bytes:
    """Spread spans of local time, all of one zone, over the minutes of a week from Monday 00:00: 1 where one holds."""
    minutes = bytearray(MINUTES_OF_WEEK)
    for span in hours:
        length = span.to_minute - span.from_minute
        if length <= 0:
            length += MINUTES_OF_DAY
        for day in span.days:
            begin = day * MINUTES_OF_DAY + span.from_minute
            for minute in range(begin, begin + length):
                minutes[minute % MINUTES_OF_WEEK] = 1  # A span that begins on Sunday may end on Monday.
    return bytes(minutes)


def _weeks(hours: Iterable[Hours]) -> list[tuple[tzinfo, bytes]]:
    """Gather the spans of each zone into one week."""
    zones: dict[tzinfo, list[Hours]] = {}
    for span in hours:
        zones.setdefault(span.zone, []).append(span)
    return [(zone, week(spans)) for zone, spans in zones.items()]


def _compile_hours(hours: Iterable[Hours]) -> Answering:
    """Compile local hours. An instant has one local time, so a clock put forward or back needs no thought here."""
    weeks = _weeks(hours)

    def answer(subject: Subject) -> bool:
        second = min(max(subject.started_ms // 1000, _FIRST_SECOND), _LAST_SECOND)
        for zone, minutes in weeks:
            local = datetime.fromtimestamp(second, zone)
            if minutes[local.weekday() * MINUTES_OF_DAY + local.hour * 60 + local.minute]:
                return True
        return False

    return answer


def _compile_expires(expires_ms: int) -> Answering:
    return lambda subject: subject.started_ms < expires_ms


# --- Rules ------------------------------------------------------------------------------------------------------------


def all_of(answers: Iterable[bool | None]) -> bool | None:
    """Kleene conjunction: one False settles it, else one None leaves it open."""
    result: bool | None = True
    for answer in answers:
        if answer is False:
            return False
        if answer is None:
            result = None
    return result


class Rule:
    """A compiled rule: its document, and its conditions in the order they are asked.

    That is the order of their cost, for a False ends the asking.
    """

    __slots__ = ("answer", "conditions", "document", "judgement")

    def __init__(self, document: RuleDocument) -> None:
        self.document: Final = document
        conditions: list[tuple[str, Answering]] = []
        if document.expires_ms is not None:
            conditions.append((EXPIRES, _compile_expires(document.expires_ms)))
        names = sorted(document.when, key=_cost)
        conditions += [(name, _compile_condition(name, document.when[name])) for name in names]
        if document.hours:
            conditions.append((HOURS, _compile_hours(document.hours)))
        self.conditions: Final = tuple(conditions)
        self.answer: Final = _compile_all([answering for _, answering in conditions])
        self.judgement: Final = Judgement(
            document.outcome,
            document.name,
            severity_of(document.outcome, document.severity),
            document.reason,
            document.team,
            document.runbook_url,
        )


def _cost(name: str) -> int:
    """Order conditions by what they cost: words, free text, an account with its alias, a URL matched twice."""
    condition = CONDITIONS[name]
    return 0 if condition.words else 3 if condition.url else 2 if condition.always else 1


def _compile_all(conditions: Sequence[Answering]) -> Answering:
    """Join conditions so that the first False ends the asking."""
    if len(conditions) == 1:
        return conditions[0]  # Most rules ask for one thing.

    def answer(subject: Subject) -> bool | None:
        result: bool | None = True
        for condition in conditions:
            one = condition(subject)
            if one is False:
                return False
            if one is None:
                result = None
        return result

    return answer


def severity_of(outcome: str, severity: str | None = None) -> str | None:
    """Say how much an outcome weighs: None when allowed, and for what is disallowed what its rule says."""
    if outcome == DISALLOWED:
        return severity or "critical"
    return None if outcome == ALLOWED else "warning"


class Policy:
    """A compiled policy. It holds no state: the same subject always gets the same answer.

    ``hash`` is ``sha256:`` and the SHA-256 of the text it was written in.
    """

    __slots__ = ("_deciding", "_default", "_shadow", "default", "hash", "mode", "name", "rules", "when_open")

    def __init__(self, document: PolicyDocument, hash_: str) -> None:
        self.name: Final = document.name
        self.mode: Final = document.mode
        self.hash: Final = hash_
        self.default: Final = document.default
        self.when_open: Final = document.when_open
        self.rules: Final = tuple(Rule(rule) for rule in document.rules)
        self._deciding: Final = tuple((r.answer, r.judgement) for r in self.rules if r.document.mode != SHADOW)
        self._shadow: Final = tuple((r.answer, r.document.name) for r in self.rules if r.document.mode == SHADOW)
        self._default: Final = Judgement(document.default, RULE_DEFAULT, severity_of(document.default))

    def runbook_of(self, rule: str) -> str | None:
        """The runbook that a rule names, by the rule's name; None where it names none."""
        return next((r.document.runbook_url for r in self.rules if r.document.name == rule), None)

    def judge(self, subject: Subject) -> Judgement:
        """Judge a recording by what is known of it; outcome None where what is not known could change it.

        The first true rule decides. Open rules before it could still take its place; where each of them has the same
        outcome, that does not matter, and the rule that is certain gives its name.
        """
        judgement = self._decide(subject)
        if self._shadow:
            shadow = tuple(name for answer, name in self._shadow if answer(subject))
            if shadow:
                return msgspec.structs.replace(judgement, shadow=shadow)
        return judgement

    def _decide(self, subject: Subject) -> Judgement:
        possible: str | None = None  # The one outcome of the open rules so far.
        for answer, judgement in self._deciding:
            certain = answer(subject)
            if certain is False:
                continue
            if possible is not None and possible != judgement.outcome:
                return _STILL_OPEN
            if certain:
                return judgement
            possible = judgement.outcome
        return self._default if possible is None or possible == self.default else _STILL_OPEN

    def settle(self, *, truncated: bool) -> Judgement:
        """Say what becomes of a recording that is open to the end.

        Never allowed on *truncated* evidence: what was not seen might have forbidden it.
        """
        outcome = UNDETERMINED if truncated and self.when_open == ALLOWED else self.when_open
        return Judgement(outcome, RULE_WHEN_OPEN, severity_of(outcome))

    def explain(self, subject: Subject) -> tuple[Answer, ...]:
        """Answer every condition of every rule, in order, those too that judging never came to."""
        answers = []
        for rule in self.rules:
            conditions = tuple((name, answering(subject)) for name, answering in rule.conditions)
            certain = all_of(one for _, one in conditions)
            answers.append(
                Answer(rule.document.name, certain, rule.document.outcome, conditions, mode=rule.document.mode)
            )
        return tuple(answers)


_STILL_OPEN: Final = Judgement(None, RULE_WHEN_OPEN)


def compile_policy(document: PolicyDocument, source: bytes) -> Policy:
    """Compile a policy that has been checked; ``source`` is the text it was written in, for its hash."""
    return Policy(document, f"sha256:{hashlib.sha256(source).hexdigest()}")


# --- Which rule leaves nothing to which -------------------------------------------------------------------------------

# A character no value has (Unicode's private use), so that it can only be matched by a star.
_ANY: Final = "\ue000"


def covers(earlier: RuleDocument, later: RuleDocument) -> bool:
    """Say whether ``earlier`` is true of everything ``later`` is true of; False where that cannot be told.

    For globs it can be told: put a character nobody else has for each star of the narrower one. The wider one matches
    that text only with its own stars, and those match whatever else may stand there.
    """
    if earlier.expires_ms is not None and (later.expires_ms is None or later.expires_ms > earlier.expires_ms):
        return False
    if earlier.hours and not _covers_hours(earlier.hours, later.hours):
        return False
    return all(
        _asks_nothing(name, patterns) or (name in later.when and _covers_patterns(name, patterns, later.when[name]))
        for name, patterns in earlier.when.items()
    )


def is_unconditional(rule: RuleDocument) -> bool:
    """Say whether a rule is true of every recording."""
    return covers(rule, RuleDocument(name="", outcome=rule.outcome))


def _asks_nothing(name: str, patterns: Iterable[str]) -> bool:
    return CONDITIONS[name].always and any(not pattern.strip("*") for pattern in patterns)


def _covers_patterns(name: str, earlier: Sequence[str], later: Sequence[str]) -> bool:
    condition = CONDITIONS[name]
    narrow = _spelt(condition, later)
    if condition.words:
        return set(narrow) <= set(earlier)
    texts = [pattern.replace("*", _ANY) for pattern in narrow]
    if not condition.url:
        return all(map(matcher(name, earlier), texts))
    match = _url_match(_spelt(condition, earlier))
    for text in texts:
        bare, question, _ = text.partition("?")
        # Only where no star comes before it is this the question mark at which a URL is cut.
        if not (match(text) or (question and _ANY not in bare and match(bare))):
            return False
    return True


def _covers_hours(earlier: Sequence[Hours], later: Sequence[Hours]) -> bool:
    weeks = dict(_weeks(earlier))
    if any(0 not in minutes for minutes in weeks.values()):
        return True  # All the week, in whatever zone.
    return bool(later) and all(
        zone in weeks and all(mine >= theirs for mine, theirs in zip(weeks[zone], minutes, strict=True))
        for zone, minutes in _weeks(later)
    )


# --- The policy without a file ----------------------------------------------------------------------------------------

BUILT_IN_POLICY: Final = """\
# Only recordings that were started explicitly through the API are allowed.
# https://support.twilio.com/hc/en-us/articles/46867407476891-Flex-Calls-Still-Being-Recorded-After-Disabling-Call-Recording
policy: only-explicit-api
mode: enforce
default: disallowed
when_open: undetermined
rules:
  - name: explicit-api-start
    outcome: allowed
    when: {cause: api_call_recording}
    reason: It was started explicitly through the API.
  - name: no-media-kept
    outcome: disallowed
    severity: warning
    when: {status: [absent, failed]}
    reason: It was started although it should not have been, but left no media.
"""

BUILT_IN_DOCUMENT: Final = PolicyDocument(
    name="only-explicit-api",
    mode=ENFORCE,
    default=DISALLOWED,
    when_open=UNDETERMINED,
    rules=(
        RuleDocument(
            name="explicit-api-start",
            outcome=ALLOWED,
            when={"cause": ("api_call_recording",)},
            reason="It was started explicitly through the API.",
        ),
        RuleDocument(
            name="no-media-kept",
            outcome=DISALLOWED,
            severity="warning",
            when={"status": ("absent", "failed")},
            reason="It was started although it should not have been, but left no media.",
        ),
    ),
)


def built_in_policy() -> Policy:
    """Compile the policy that holds where no file is given."""
    return compile_policy(BUILT_IN_DOCUMENT, BUILT_IN_POLICY.encode())

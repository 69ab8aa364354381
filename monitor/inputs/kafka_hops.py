"""The hops to Kafka, for ``doctor``: name, port, TLS, who we are, rights, group, and what stands in the events topic.

The first hops are gone without Kafka's client, which says of all of them only that no broker answers. Nothing is
written and nothing committed. Each hop ends within ``HOP_S``, whatever does not answer.
"""

from __future__ import annotations

import contextlib
import queue
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
from confluent_kafka import Consumer, ConsumerGroupState, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclOperation  # What `confluent_kafka.admin` has but does not export.

from monitor.core.decode import Headers, account_of, decode
from monitor.core.events import Event
from monitor.core.readers import TICK
from monitor.hops import Hop
from monitor.inputs.reader import logger, reader_properties, shared_properties
from monitor.inputs.topics import Names

HOP_S: Final = 5.0
PORT: Final = 9092
EXPIRES_SOON_S: Final = 14 * 86_400
LOOKED_AT: Final = 200
"""Messages at the end of each partition."""
TICK_AGE_MAX_S: Final = 60.0
EVENT_AGE_MAX_S: Final = 86_400.0
SKEW_MAX_S: Final = 5.0

T = TypeVar("T")

# What OpenSSL calls the reasons for refusing a certificate (X509_V_ERR_…).
_EXPIRED: Final = 10
_NOT_YET: Final = 9
_UNKNOWN_AUTHORITY: Final = frozenset({2, 18, 19, 20, 21})
_OTHER_NAME: Final = frozenset({62, 63, 64})


def within(seconds: float, ask: Callable[[], T]) -> T:
    """What ``ask`` returns or raises, if it does so in time; else TimeoutError, and it is left to itself."""
    answers: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put((ask(), None))
        except BaseException as failure:
            answers.put((None, failure))

    threading.Thread(target=run, daemon=True).start()
    try:
        answer, failure = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError from None
    if failure is not None:
        raise failure
    return answer  # type: ignore[return-value]  # None only where ``ask`` returned that.


# --- To the broker ---------------------------------------------------------------------------------------------------


def network(client: Mapping[str, object]) -> Iterator[Hop]:
    """Of each bootstrap server: its name, its port, its certificate."""
    for server in str(client["bootstrap.servers"]).split(","):
        host, port = _host_and_port(server)
        address, hop = _resolve(server, host, port)
        yield hop
        if address is None:
            continue
        hop = _connect(server, address)
        yield hop
        if hop.result == "pass":
            yield _tls(server, host, address, client)


def _host_and_port(server: str) -> tuple[str, int]:
    match = re.fullmatch(r"(?:\w+://)?\[?(.+?)\]?(?::(\d+))?", server)
    assert match is not None, "the settings have checked it"
    return match[1], int(match[2] or PORT)


def _resolve(server: str, host: str, port: int) -> tuple[tuple[str, int] | None, Hop]:
    name = f"kafka {server} name"
    try:
        found = within(HOP_S, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    except TimeoutError:
        return None, Hop(name, "unreachable", "no name server answered", "Look at the resolver of this machine.")
    except OSError:
        remedy = "Mend kafka.bootstrap_servers, or the name server's entry."
        return None, Hop(name, "unreachable", f"{host} has no address", remedy)
    addresses = sorted({str(info[4][0]) for info in found})
    return (addresses[0], port), Hop(name, "pass", ", ".join(addresses))


def _connect(server: str, address: tuple[str, int]) -> Hop:
    name = f"kafka {server} port"
    try:
        socket.create_connection(address, HOP_S).close()
    except TimeoutError:
        says = f"nothing answers within {HOP_S:g} s: a firewall drops it, or the machine is down"
        return Hop(name, "unreachable", says, "Open the way from here to the broker's port.")
    except OSError as error:
        remedy = "Is the broker up, and is this the port of one of its listeners?"
        return Hop(name, "unreachable", f"{error.strerror or error}".lower(), remedy)
    return Hop(name, "pass", "open")


def _tls(server: str, host: str, address: tuple[str, int], client: Mapping[str, object]) -> Hop:
    name = f"kafka {server} tls"
    if "SSL" not in str(client.get("security.protocol", "plaintext")).upper():
        return Hop(name, "not asked", "kafka.client has a security.protocol without TLS")
    try:
        context = _context(client)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "not a certificate or key that can be read"
        remedy = "Look at ssl.ca.location, ssl.certificate.location and ssl.key.location of kafka.client."
        return Hop(name, "fail", f"our own certificates: {why}".lower(), remedy)
    try:
        with socket.create_connection(address, HOP_S) as plain, context.wrap_socket(plain, server_hostname=host) as tls:
            certificate = tls.getpeercert() or {}
            version = tls.version()
    except ssl.SSLCertVerificationError as error:
        return _distrusted(name, host, error)
    except TimeoutError:
        remedy = "Is this the port of a TLS listener, and is the broker well?"
        return Hop(name, "unreachable", f"no handshake within {HOP_S:g} s", remedy)
    except OSError as error:
        why = (getattr(error, "reason", None) or error.strerror or str(error)).lower().replace("_", " ")
        remedy = "This listener speaks no TLS, or none that we do: name another port, or another security.protocol."
        return Hop(name, "fail", f"no handshake: {why}", remedy)
    if context.verify_mode is ssl.CERT_NONE:
        remedy = "Leave out enable.ssl.certificate.verification, and name the authority by ssl.ca.location."
        return Hop(name, "warn", f"{version}; the broker's certificate is not checked", remedy)
    left_s = ssl.cert_time_to_seconds(str(certificate["notAfter"])) - time.time()
    if left_s < EXPIRES_SOON_S:
        says = f"{version}; the broker's certificate expires in {left_s / 86_400:.1f} days"
        return Hop(name, "warn", says, "Have it renewed.")
    return Hop(name, "pass", f"{version}, certificate good for {left_s / 86_400:.0f} days")


def _context(client: Mapping[str, object]) -> ssl.SSLContext:
    """TLS as librdkafka's properties say it. Raises OSError, ValueError."""
    location = client.get("ssl.ca.location")
    authority = None if location in (None, "probe") else str(location)
    pem = client.get("ssl.ca.pem")
    context = ssl.create_default_context(cafile=authority, cadata=None if pem is None else str(pem))
    context.check_hostname = str(client.get("ssl.endpoint.identification.algorithm", "https")).lower() != "none"
    if str(client.get("enable.ssl.certificate.verification", "true")).lower() == "false":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if "ssl.certificate.location" in client:
        key = client.get("ssl.key.location")
        password = client.get("ssl.key.password")
        context.load_cert_chain(
            str(client["ssl.certificate.location"]),
            None if key is None else str(key),
            # Never the terminal's: without one OpenSSL would ask whoever sits there.
            password=lambda: "" if password is None else str(password),
        )
    return context


def _distrusted(name: str, host: str, error: ssl.SSLCertVerificationError) -> Hop:
    why = error.verify_code
    if why in (_EXPIRED, _NOT_YET):
        when = "has expired" if why == _EXPIRED else "is not valid yet"
        return Hop(name, "fail", f"the broker's certificate {when}", "Have it renewed; look at the clocks too.")
    if why in _OTHER_NAME:
        remedy = "Name the broker in kafka.bootstrap_servers as its certificate does, or have it made for this name."
        return Hop(name, "fail", f"the broker's certificate is for another name than {host}", remedy)
    if why in _UNKNOWN_AUTHORITY:
        remedy = "Name the authority that signed it by ssl.ca.location."
        return Hop(name, "fail", "nobody we trust has signed the broker's certificate", remedy)
    return Hop(name, "fail", f"the broker's certificate is refused: {error.verify_message}", "Have it renewed.")


def login(client: Mapping[str, object]) -> Hop:
    """Whether Kafka's own client comes in, with the name and password, the token or the certificate of the settings."""
    mechanism = client.get("sasl.mechanisms", client.get("sasl.mechanism"))
    name = f"kafka login {mechanism}" if mechanism else "kafka protocol"
    errors: list[KafkaError] = []
    properties: dict[str, Any] = {
        **shared_properties(client, consumes=False),
        "error_cb": errors.append,
        "socket.connection.setup.timeout.ms": round(HOP_S * 1000),
    }
    try:
        asking = AdminClient(properties, logger=logger)
    except KafkaException as failure:
        says = f"Kafka's client refuses its settings: {failure.args[0].str()}"
        return Hop(name, "fail", says, "Mend kafka.client; see librdkafka's CONFIGURATION.md.")
    ends = time.monotonic() + HOP_S
    while time.monotonic() < ends:
        try:
            brokers = asking.list_topics(timeout=1.0).brokers
        except KafkaException:
            asking.poll(0.1)
            if any(map(_telling, errors)):
                break
        else:
            return Hop(name, "pass", f"{len(brokers)} brokers: " + ", ".join(map(str, brokers.values())))
    return _refused(name, str(mechanism), errors)


def _telling(error: KafkaError) -> bool:
    """Whether it says why we are not let in. That our certificate is refused may be said only after the handshake."""
    return error.code() in (KafkaError._AUTHENTICATION, KafkaError._SSL) or "alert" in error.str()


def _refused(name: str, mechanism: str, errors: list[KafkaError]) -> Hop:
    said = next(filter(_telling, errors), None)
    text = "" if said is None else said.str()
    known = re.search(r"supported mechanisms: ([A-Z0-9,_ -]+)", text)
    if known is not None or "nsupported SASL mechanism" in text:
        knows = f": it knows {known[1].strip()}" if known else ""
        remedy = "Set sasl.mechanisms to one of them."
        return Hop(name, "fail", f"the broker does not know the mechanism {mechanism}{knows}", remedy)
    if said is not None and said.code() == KafkaError._AUTHENTICATION:
        if mechanism == "OAUTHBEARER":
            remedy = (
                "Look at sasl.oauthbearer.* of kafka.client: does the token endpoint know this client and its secret?"
            )
            return Hop(name, "fail", "the broker refuses the token, or there is none", remedy)
        remedy = "Look at sasl.username and the file of sasl.password: are they this broker's?"
        return Hop(name, "fail", "the broker refuses the user or password", remedy)
    if said is not None:
        certificate = "certificate" in text.lower() and "verify failed" not in text
        says = "the broker refuses our certificate" if certificate else "no TLS connection could be made"
        remedy = "Is it one the broker trusts, and does ssl.certificate.location name it? See the hops before."
        return Hop(name, "fail", says, remedy)
    remedy = "Is security.protocol that of this listener? Do its advertised.listeners resolve and answer from here?"
    return Hop(name, "unreachable", f"no broker answers Kafka's client within {HOP_S:g} s", remedy)


# --- In the cluster --------------------------------------------------------------------------------------------------

_READ, _WRITE, _DESCRIBE = AclOperation.READ, AclOperation.WRITE, AclOperation.DESCRIBE_CONFIGS


def rights(client: Mapping[str, object], names: Names, group_id: str) -> Iterator[Hop]:
    """What the brokers say that we may do, without trying it."""
    needed = {
        names.events: (_READ, _WRITE, _DESCRIBE),
        names.verdicts: (_READ, _WRITE, _DESCRIBE),
        names.case_actions: (_READ, _WRITE, _DESCRIBE),
        names.account_settings: (_READ, _WRITE, _DESCRIBE),
        names.quarantine: (_WRITE, _DESCRIBE),
    }
    properties: dict[str, Any] = shared_properties(client, consumes=False)
    asking = AdminClient(properties, logger=logger)
    asked = asking.describe_topics(
        TopicCollection(list(needed)), include_authorized_operations=True, request_timeout=HOP_S
    )
    for topic, operations in needed.items():
        name = f"rights on {topic}"
        try:
            may = asked[topic].result(HOP_S).authorized_operations
        except (KafkaException, TimeoutError) as failure:
            yield _not_described(name, failure)
            continue
        lacking = [operation for operation in operations if may is not None and operation not in may]
        if may is None:
            yield Hop(name, "not asked", "this cluster does not tell what we may do")
        elif lacking:
            words = ", ".join(operation.name.title().replace("_", "") for operation in lacking)
            remedy = f"Grant {words} on topic {topic}; `recording-monitor topics check` lists all."
            yield Hop(name, "fail", f"the user lacks {words}", remedy)
        else:
            yield Hop(name, "pass", "all that is needed")
    yield _group(asking, group_id)


def _not_described(name: str, failure: Exception) -> Hop:
    error = failure.args[0] if isinstance(failure, KafkaException) else None
    code = error.code() if isinstance(error, KafkaError) else None
    if code in (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED):
        remedy = "Grant it; `recording-monitor topics check` lists all."
        return Hop(name, "fail", "the user may not even see it (Describe)", remedy)
    if code == KafkaError.UNKNOWN_TOPIC_OR_PART:
        return Hop(name, "not asked", "it is not there, or the user may not see it")
    return Hop(name, "not asked", "this cluster does not answer the question")


def _group(asking: AdminClient, group_id: str) -> Hop:
    name = f"group {group_id}"
    try:
        asked = asking.describe_consumer_groups([group_id], include_authorized_operations=True, request_timeout=HOP_S)
        found = asked[group_id].result(HOP_S)
    except (KafkaException, TimeoutError) as failure:
        error = failure.args[0] if isinstance(failure, KafkaException) else None
        if isinstance(error, KafkaError) and error.code() == KafkaError.GROUP_ID_NOT_FOUND:
            return Hop(name, "warn", "nobody has ever joined it", "Start `recording-monitor run`.")
        return _not_described(name, failure)
    may = found.authorized_operations
    if may is not None and _READ not in may:
        return Hop(name, "fail", "the user lacks Read", f"Grant Read on group {group_id}.")
    if not found.members:
        remedy = "Start `recording-monitor run`."
        state = found.state.name.lower() if isinstance(found.state, ConsumerGroupState) else "empty"
        return Hop(name, "warn", f"{state}: no process is in it, so nothing is judged", remedy)
    return Hop(name, "pass", f"{found.state.name.lower()}, {len(found.members)} processes")


class _Seen(NamedTuple):
    """A message at the end of the events topic."""

    partition: int
    at_s: float
    stamped_by_broker: bool
    key: bytes | None
    value: bytes
    headers: Headers


class _SentAt(msgspec.Struct):
    sent_at: datetime


class _Tick(msgspec.Struct):
    data: _SentAt


def events(client: Mapping[str, object], topic: str, group_id: str) -> Iterator[Hop]:
    """What has come last: lag, events, keys, ticks, and what the stamps say of the clocks."""
    properties: dict[str, Any] = {**reader_properties(client, group_id), "fetch.wait.max.ms": 10}
    consumer = Consumer(properties, logger=logger)
    try:
        partitions = sorted(consumer.list_topics(topic, HOP_S).topics[topic].partitions)
        if not partitions:
            yield Hop(f"messages in {topic}", "not asked", "it is not there, or the user may not see it")
            return
        places = [TopicPartition(topic, partition) for partition in partitions]
        bounds = {place.partition: consumer.get_watermark_offsets(place, HOP_S) for place in places}
        yield _lag(consumer, topic, places, bounds)
        seen = _last(consumer, topic, bounds)
    except KafkaException as failure:
        yield _not_described(f"messages in {topic}", failure)
        return
    finally:
        consumer.close()
    ticks = [message for message in seen if TICK.encode() in message.value]
    theirs = [message for message in seen if TICK.encode() not in message.value]
    yield _newest(topic, theirs, seen)
    yield _keys(topic, theirs)
    yield _ticks(topic, ticks)
    yield _clocks(topic, seen, ticks)


def _lag(consumer: Consumer, topic: str, places: list[TopicPartition], bounds: Mapping[int, tuple[int, int]]) -> Hop:
    name = f"lag in {topic}"
    known = {place.partition: place.offset for place in consumer.committed(places, HOP_S) if place.error is None}
    lag = sum(high - known[partition] for partition, (_, high) in bounds.items() if known.get(partition, -1) >= 0)
    without = sum(known.get(partition, -1) < 0 for partition in bounds)
    if without:
        remedy = "Is `recording-monitor run` up? A partition has its first commit seconds after it is taken."
        return Hop(name, "warn", f"{without} of {len(bounds)} partitions were never committed", remedy)
    return Hop(name, "pass", f"{lag} messages behind what was committed last")


def _last(consumer: Consumer, topic: str, bounds: Mapping[int, tuple[int, int]]) -> list[_Seen]:
    left = {partition for partition, (low, high) in bounds.items() if low < high}
    consumer.assign([TopicPartition(topic, p, max(bounds[p][0], bounds[p][1] - LOOKED_AT)) for p in left])
    seen: list[_Seen] = []
    ends = time.monotonic() + HOP_S
    while left and time.monotonic() < ends:
        for message in consumer.consume(1000, 0.1):
            error, partition = message.error(), message.partition()
            if error is not None:
                if error.code() != KafkaError._PARTITION_EOF:
                    raise KafkaException(error)
                left.discard(-1 if partition is None else partition)
                continue
            kind, timestamp_ms = message.timestamp()
            key: Any = message.key()
            headers: Any = message.headers() or []
            assert partition is not None
            seen.append(_Seen(partition, timestamp_ms / 1000, kind == 2, key, message.value() or b"", headers))
    return seen


def _newest(topic: str, theirs: list[_Seen], seen: list[_Seen]) -> Hop:
    name = f"events in {topic}"
    if not theirs:
        says = f"none among the last {LOOKED_AT} messages of each partition" if seen else "it is empty"
        return Hop(name, "warn", says, "Does the bridge write to it, and do Twilio's subscriptions send to the bridge?")
    age_s = max(0.0, time.time() - max(message.at_s for message in theirs))
    if age_s > EVENT_AGE_MAX_S:
        remedy = "Does the bridge write to it, and do Twilio's subscriptions send to the bridge?"
        return Hop(name, "warn", f"the last came {age_s / 3600:.0f} h ago", remedy)
    return Hop(name, "pass", f"the last came {age_s:.0f} s ago")


def _keys(topic: str, theirs: list[_Seen]) -> Hop:
    name = f"keys in {topic}"
    places: dict[str, set[int]] = {}
    wrong = 0
    for message in theirs:
        account = account_of(message.value, message.headers) or _first_account(message)
        if account is not None:
            places.setdefault(account, set()).add(message.partition)
            wrong += message.key != account.encode()
    remedy = f"Key by account SID, or copy it: `recording-monitor rekey --from {topic} --to NEW --create`."
    split = sum(len(partitions) > 1 for partitions in places.values())
    if split:
        says = f"{split} of {len(places)} accounts are in several partitions: each is judged by halves"
        return Hop(name, "fail", says, remedy)
    if wrong:
        says = f"{wrong} of the last {len(theirs)} messages are not keyed by their account, though none is split yet"
        return Hop(name, "warn", says, remedy)
    if not places:
        return Hop(name, "not asked", "no message says whose it is")
    return Hop(name, "pass", f"{len(places)} accounts, each in one partition under its own key")


def _first_account(message: _Seen) -> str | None:
    found = (entry.account for entry in decode(message.value, message.headers) if isinstance(entry, Event))
    return next((account for account in found if account), None)


def _ticks(topic: str, ticks: list[_Seen]) -> Hop:
    name = f"ticks in {topic}"
    remedy = "Is `recording-monitor run` up, and may it write to the topic?"
    if not ticks:
        return Hop(name, "warn", "none: nothing shows that the way through works", remedy)
    age_s = max(0.0, time.time() - max(message.at_s for message in ticks))
    if age_s > TICK_AGE_MAX_S:
        return Hop(name, "warn", f"the last is {age_s:.0f} s old; one is due every 10 s", remedy)
    return Hop(name, "pass", f"the last is {age_s:.0f} s old")


def _clocks(topic: str, seen: list[_Seen], ticks: list[_Seen]) -> Hop:
    """The broker stamps on arrival: a tick is as old as its way was long, and nothing has come in the future."""
    name = "clocks"
    stamped = [message for message in seen if message.stamped_by_broker]
    if not stamped:
        says = f"the broker stamps nothing in {topic} (CreateTime), or nothing is there"
        return Hop(name, "not asked", says)
    remedy = "Have both keep their time by NTP."
    ahead_s = max(message.at_s for message in stamped) - time.time()
    if ahead_s > SKEW_MAX_S:
        return Hop(name, "warn", f"the broker's clock is {ahead_s:.0f} s ahead of ours", remedy)
    ways = []
    for message in ticks:
        if message.stamped_by_broker:
            with contextlib.suppress(msgspec.DecodeError):
                sent_at = msgspec.json.decode(message.value, type=_Tick).data.sent_at
                ways.append(message.at_s - sent_at.replace(tzinfo=sent_at.tzinfo or UTC).timestamp())
    if ways and abs(min(ways, key=abs)) > SKEW_MAX_S:
        says = f"the broker's clock is {min(ways, key=abs):+.0f} s off that of whoever writes the ticks"
        return Hop(name, "warn", says, remedy)
    return Hop(name, "pass", "the broker's agrees with ours" + (" and with the ticks'" if ways else ""))

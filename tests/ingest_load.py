"""What is done to a bridge under load, and what must be true afterwards; short in the tests, longer under torture.

The sender is Twilio: it repeats what is not answered 200. So two things can be asked: is everything it was told is safe
in the topic, and did it have to throw anything away?
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Final, NamedTuple, Self
from urllib.parse import urlsplit

from tests.broker import RealBroker
from tests.forging import forge
from tests.torture.brokers import ProxiedBroker
from tests.webhooks import ACCOUNT, OTHER, PUBLIC, Ingest, Request, Sender, dumped, event, post, posted

SLOW_HEAD: Final = b"POST /twilio/events HTTP/1.1\r\nHost: hooks.example.com\r\n"


class Outcome(NamedTuple):
    """What came of a history."""

    acknowledged: int
    lost: list[str]
    refused: list[int]
    again: int
    unanswered: int


def steady(count: int, per_second: float, *, batch: int = 3) -> Iterator[Request]:
    """Requests of some events each, of two accounts, at a steady rate: whoever takes one waits for it."""
    began = time.monotonic()
    for number in range(count):
        ahead = began + number / per_second - time.monotonic()
        if ahead > 0:
            time.sleep(ahead)
        events = [event(batch * number + n, (ACCOUNT, OTHER)[n % 2]) for n in range(batch)]
        yield posted(dumped(events))


def judge(bridge: Ingest, sender: Sender) -> Outcome:
    """Compare what was acknowledged with what is in the topic."""
    held = b"\n".join(bridge.values())
    lost = []
    numbers = 0
    for request in sender.acknowledged:
        for sid in _recordings(request.body):
            numbers += 1
            if sid not in held:
                lost.append(sid.decode())
    return Outcome(numbers, lost, [status for status, _ in sender.refused], sender.again, sender.unanswered)


def _recordings(body: bytes) -> list[bytes]:
    return [part[:34] for part in body.split(b'"RecordingSid": "')[1:]]


def broker_away(directory: Path, *, away_s: float, load_s: float, per_second: float) -> Outcome:
    """A bridge under load whose broker is killed, and comes back after a while."""
    broker = RealBroker(directory / "broker")
    broker.start()
    try:
        with Ingest(broker, directory / "bridge") as bridge:
            # Twilio has no bound on connections; each of these waits for seconds while the broker is away.
            requests = steady(round(load_s * per_second), per_second)
            with Sender(lambda: bridge.address, requests, threads=16) as sender:
                time.sleep(load_s / 5)
                broker.kill()
                time.sleep(away_s)
                broker.start()
            return judge(bridge, sender)
    finally:
        broker.kill()
        broker.remove_data()


def bridge_killed(broker: RealBroker, directory: Path, *, kills: int, load_s: float, per_second: float) -> Outcome:
    """A bridge under load that is killed and started again, on the same address."""
    bridge = Ingest(broker, directory / "bridge").start()
    try:
        requests = steady(round(load_s * per_second), per_second)
        with Sender(lambda: bridge.address, requests, threads=8) as sender:
            for _ in range(kills):
                time.sleep(load_s / (kills + 1))
                bridge.kill()
                bridge.start()
        return judge(bridge, sender)
    finally:
        bridge.kill()


def bad_network(directory: Path, chance: Random, *, faults: int, fault_s: float, per_second: float) -> Outcome:
    """A bridge under load whose way to the broker holds, loses, slows and refuses what it carries, in turn."""
    with (
        ProxiedBroker(directory / "broker") as broker,
        Ingest(broker, directory / "bridge", bootstrap=broker.proxy.address) as bridge,
    ):
        proxy = broker.proxy
        deeds: list[Callable[[], object]] = [
            proxy.hold,
            partial(proxy.hold, to_broker=False),  # It is written, and nobody hears of it.
            proxy.hold_writes,
            partial(proxy.cut, refuse=True),
            partial(proxy.slow, latency_s=0.3, bytes_per_s=200_000),
        ]
        load_s = 1.5 * faults * fault_s
        requests = steady(round(load_s * per_second), per_second)
        with Sender(lambda: bridge.address, requests, threads=16) as sender:
            for number in range(faults):
                time.sleep(fault_s / 2)
                deeds[(number + chance.randrange(len(deeds))) % len(deeds)]()
                time.sleep(fault_s)
                proxy.heal()
                proxy.cut()
        return judge(bridge, sender)


def forgeries(broker: RealBroker, directory: Path, chance: Random, count: int) -> list[int]:
    """Send requests that nobody signed; the answers other than 403, and 200 for each that came into the topic."""
    with Ingest(broker, directory) as bridge:
        assert bridge.post(posted(b"[]")) == 200
        answers = [bridge.post(forge(chance, number)) for number in range(count)]
        return [*(status for status in answers if status != 403), *(200 for _ in bridge.messages())]


# --- Whoever wants to fill its memory, or to keep it from others


def connected(address: str) -> socket.socket:
    target = urlsplit(address)
    return socket.create_connection((target.hostname or "", target.port or 0), timeout=60)


def slow_bodies(address: str, count: int, for_s: float) -> None:
    """Signed requests whose bodies come a byte at a time; each is answered before Twilio would hang up."""
    connections = []
    for number in range(count):
        request = posted(dumped([event(900_000 + number)]))
        headers = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        connection = connected(address)
        head = f"POST {request.path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(request.body)}\r\n{headers}\r\n"
        connection.sendall(head.encode())
        connections.append((connection, request.body))
    ends = time.monotonic() + for_s
    place = 0
    while time.monotonic() < ends:
        for connection, body in connections:
            with contextlib.suppress(OSError):
                connection.sendall(body[place : place + 1])
        place += 1
        time.sleep(0.2)
    for connection, _ in connections:
        connection.close()


def slow_heads(address: str, count: int, for_s: float) -> None:
    """Connections that never get to the end of their headers."""
    connections = [connected(address) for _ in range(count)]
    ends = time.monotonic() + for_s
    for connection in connections:
        connection.sendall(SLOW_HEAD)
    while time.monotonic() < ends:
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.sendall(b"X-A: b\r\n")
        time.sleep(0.5)
    for connection in connections:
        connection.close()


def endless_body(address: str, size: int, *, chunked: bool, signed: bool, packed: bool = False) -> int:
    """Send a body of a size as far as it is taken; the status it was answered with, 0 where the line was cut."""
    request = posted(b"[]")
    headers = [f"{name}: {value}" for name, value in request.headers.items() if signed or "Signature" not in name]
    headers.append("Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}")
    if packed:
        headers.append("Content-Encoding: gzip")
    piece = _BOMB if packed else b" " * 65_536
    with contextlib.closing(connected(address)) as connection:
        connection.sendall("\r\n".join([f"POST {request.path} HTTP/1.1", "Host: x", *headers, "", ""]).encode())
        sent = 0
        with contextlib.suppress(OSError):
            while sent < size:
                connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
                sent += len(piece)
                connection.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    told = connection.recv(64)
                    return int(told.split()[1]) if told else 0
                connection.settimeout(60)
            connection.settimeout(60)
            told = connection.recv(64)
            return int(told.split()[1]) if told else 0
        return 0


def _bomb(size: int) -> bytes:
    deflate = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join([*(deflate.compress(b"\0" * 1_048_576) for _ in range(size >> 20)), deflate.flush()])


_BOMB: Final = _bomb(100 << 20)


class Bystander:
    """Somebody who goes on posting genuine events while others misbehave; ``seconds`` is how long each took."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._post, daemon=True)
        self.seconds: list[float] = []
        self.statuses: list[int] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _post(self) -> None:
        number = 500_000
        while not self._stop.is_set():
            number += 1
            request = posted(dumped([event(number)]))
            began = time.monotonic()
            self.statuses.append(post(self._address, request))
            self.seconds.append(time.monotonic() - began)
            time.sleep(0.02)


def together(deeds: Iterable[Callable[[], object]]) -> list[object]:
    """Do all of it at the same time; what each came to."""
    found: list[object] = []

    def do(deed: Callable[[], object]) -> None:
        found.append(deed())

    threads = [threading.Thread(target=do, args=(deed,), daemon=True) for deed in deeds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def large_array(elements: int) -> Request:
    """One request of many elements, none of which is an event."""
    return posted(b"[" + b",".join(b'{"n":%d}' % number for number in range(elements)) + b"]", public=PUBLIC)

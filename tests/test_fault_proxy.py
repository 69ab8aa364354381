"""The bad network of the torture run does the harm it says it does, and no other."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest

from tests.fault_proxy import FaultProxy

SILENCE_S = 0.3


@pytest.fixture
def echo():
    """A server that says back what it hears."""
    server = socket.create_server(("127.0.0.1", 0))

    def answer(client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            while heard := client.recv(65536):
                client.sendall(heard)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(server.accept()[0],), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield server.getsockname()
    server.close()


@pytest.fixture
def proxy(echo):
    with FaultProxy() as made:
        made.target = echo
        yield made


def connect(proxy: FaultProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=60)


def said_back(client: socket.socket, data: bytes) -> bytes:
    client.sendall(data)
    return heard(client, len(data))


def heard(client: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        got += client.recv(size - len(got)) or pytest.fail("the connection ended")
    return got


def carried(proxy: FaultProxy, expected: int) -> int:
    """What it has carried, once it is as much as expected: a byte is counted after it has arrived."""
    deadline = time.monotonic() + 60
    while proxy.carried < expected and time.monotonic() < deadline:
        time.sleep(0.01)
    return proxy.carried


def silent(client: socket.socket) -> bool:
    client.settimeout(SILENCE_S)
    try:
        client.recv(1)
    except TimeoutError:
        return True
    finally:
        client.settimeout(60)
    return False


def test_all_bytes_pass_unchanged_in_both_directions(proxy):
    data = bytes(range(256)) * 4096
    with connect(proxy) as client:
        threading.Thread(target=client.sendall, args=(data,), daemon=True).start()
        assert heard(client, len(data)) == data
    assert carried(proxy, 2 * len(data)) == 2 * len(data)


def test_a_connection_made_before_the_target_is_known_waits_for_it(echo):
    with FaultProxy() as proxy, connect(proxy) as client:
        client.sendall(b"early")
        assert silent(client)
        proxy.target = echo
        assert heard(client, 5) == b"early"


def test_what_is_held_arrives_once_it_flows_again_and_in_order(proxy):
    with connect(proxy) as client:
        assert said_back(client, b"one") == b"one"
        proxy.hold()
        client.sendall(b"two")
        assert silent(client)
        client.sendall(b"three")
        proxy.heal()
        assert heard(client, 8) == b"twothree"


def test_one_direction_may_be_held_alone(proxy):
    with connect(proxy) as client:
        assert said_back(client, b"one") == b"one"
        proxy.hold(to_broker=False)
        client.sendall(b"two")
        assert silent(client)
        assert carried(proxy, 9) == 9  # The broker has heard it.
        proxy.heal()
        assert heard(client, 3) == b"two"


def test_only_produce_requests_are_held_where_writes_are(proxy):
    def request(kind: int) -> bytes:
        return (8).to_bytes(4, "big") + kind.to_bytes(2, "big") + b"\0\1what"

    proxy.hold_writes()
    with connect(proxy) as reader, connect(proxy) as writer:
        assert said_back(reader, request(1)) == request(1)
        writer.sendall(request(0))
        assert silent(writer)
        writer.sendall(request(1))  # Behind it, on the same connection.
        assert silent(writer)
        proxy.heal()
        assert heard(writer, 24) == request(0) + request(1)


def test_a_new_connection_is_held_as_well(proxy):
    proxy.hold()
    with connect(proxy) as client:
        client.sendall(b"one")
        assert silent(client)


def test_a_cut_resets_what_is_open_and_lets_new_connections_through(proxy):
    with connect(proxy) as client:
        assert said_back(client, b"one") == b"one"
        assert proxy.cut() == 1
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    with connect(proxy) as again:
        assert said_back(again, b"two") == b"two"


def test_what_a_cut_connection_held_never_arrives(proxy):
    with connect(proxy) as client:
        assert said_back(client, b"one") == b"one"
        proxy.hold()
        client.sendall(b"two")
        assert silent(client)
        proxy.cut()
        proxy.heal()
    with connect(proxy) as again:
        assert said_back(again, b"three") == b"three"
    assert carried(proxy, 16) == 16


def test_a_refusing_proxy_lets_nobody_in_until_it_is_healed(proxy):
    proxy.cut(refuse=True)
    with contextlib.suppress(ConnectionResetError), connect(proxy) as client:
        assert client.recv(1) == b""
    proxy.heal()
    with connect(proxy) as again:
        assert said_back(again, b"two") == b"two"


def test_a_slow_connection_takes_at_least_the_latency_of_both_directions(proxy):
    proxy.slow(latency_s=0.1)
    with connect(proxy) as client:
        begun = time.monotonic()
        assert said_back(client, b"one") == b"one"
        assert time.monotonic() - begun >= 0.2  # Never a bound from above: the machine may be busy.


def test_a_target_that_is_not_there_ends_the_connection(proxy):
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        proxy.target = nobody.getsockname()
    with contextlib.suppress(ConnectionResetError), connect(proxy) as client:
        assert client.recv(1) == b""


def test_the_connections_are_counted_while_they_last(proxy):
    with connect(proxy) as client:
        assert said_back(client, b"one") == b"one"
        assert proxy.connections == 1
    deadline = time.monotonic() + 60
    while proxy.connections and time.monotonic() < deadline:
        time.sleep(0.01)
    assert proxy.connections == 0

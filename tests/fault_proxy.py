"""A bad network on loopback: a TCP proxy whose connections can be slowed, held, reset and refused while they are used.

A broker advertises the proxy's address to its clients, so that all they say goes through it. What is *held* is not
lost: a connection keeps its bytes and delivers them, late, once it flows again, as TCP does when a route comes back.
That is also how a verdict written long ago reaches the broker after another owner has taken over.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self, TypeVar

T = TypeVar("T")

_CHUNK: Final = 64 * 1024
# A request begins with its size in four bytes and its kind in two (Kafka's protocol, request header); 0 is Produce.
_PRODUCE: Final = b"\0\0"
# Reset instead of a polite end: the other side learns of it at once, and what was on its way is gone.
_RESET: Final = struct.pack("ii", 1, 0)


class FaultProxy:
    """A proxy on a free port of 127.0.0.1, from construction until ``close`` or the end of ``with``.

    It listens before it knows where to: a broker has to be told of ``port`` before it can say its own. Connections
    made before ``target`` is set wait for it. All methods may be called from any thread and have taken effect when
    they return.
    """

    def __init__(self) -> None:
        self._target: tuple[str, int] | None = None
        self.carried = 0  # Bytes delivered in either direction, over all connections.
        self._to_broker = True  # Whether bytes flow to the broker, and to the client.
        self._to_client = True
        self._writes = True
        self._refusing = False
        self._latency_s = 0.0
        self._bytes_per_s: float | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._changed = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._thread.start()
        listening = asyncio.start_server(self._accept, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(listening, self._loop).result(10)
        self.port: Final[int] = self._server.sockets[0].getsockname()[1]

    @property
    def address(self) -> str:
        """What clients connect to."""
        return f"127.0.0.1:{self.port}"

    @property
    def target(self) -> tuple[str, int] | None:
        """Where the bytes go, from the next connection on."""
        return self._target

    @target.setter
    def target(self, target: tuple[str, int]) -> None:
        def set_target() -> None:
            self._target = target
            self._change()

        self._on_loop(set_target)

    @property
    def connections(self) -> int:
        """How many clients are connected now."""
        return self._on_loop(lambda: len(self._writers) // 2)

    def heal(self) -> None:
        """Be a good network again; what was held flows."""

        def heal() -> None:
            self._to_broker = self._to_client = self._writes = True
            self._refusing = False
            self._latency_s, self._bytes_per_s = 0.0, None
            self._change()

        self._on_loop(heal)

    def slow(self, *, latency_s: float, bytes_per_s: float | None = None) -> None:
        """Deliver every piece so much later, and at most so many bytes a second in each direction."""

        def slow() -> None:
            self._latency_s, self._bytes_per_s = latency_s, bytes_per_s

        self._on_loop(slow)

    def hold(self, *, to_broker: bool = True, to_client: bool = True) -> None:
        """Let nothing through in the directions named, old connections and new: a black hole."""

        def hold() -> None:
            self._to_broker, self._to_client = not to_broker, not to_client
            self._change()

        self._on_loop(hold)

    def hold_writes(self) -> None:
        """Hold what Kafka's clients write, and let them read: each connection that begins a Produce request."""

        def hold() -> None:
            self._writes = False

        self._on_loop(hold)

    def cut(self, *, refuse: bool = False) -> int:
        """Reset every connection, and say how many; what they held is lost. ``refuse``: reset new ones too."""

        def cut() -> int:
            self._refusing = refuse
            cut = len(self._writers) // 2
            for writer in list(self._writers):
                _reset(writer)
            return cut

        return self._on_loop(cut)

    def close(self) -> None:
        """Reset what is open and stop listening; a second call does nothing."""
        if not self._thread.is_alive():
            return

        async def close() -> None:
            self._server.close()
            for writer in list(self._writers):
                _reset(writer)
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # On the loop.

    def _on_loop(self, what: Callable[[], T]) -> T:
        async def run() -> T:
            return what()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    def _change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _accept(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        to_broker: asyncio.StreamWriter | None = None
        try:
            if self._refusing:
                return
            while self._target is None:
                await self._changed.wait()
            try:
                from_broker, to_broker = await asyncio.open_connection(*self._target)
            except OSError:
                return  # The broker is not there: neither is its proxy.
            self._writers |= {to_client, to_broker}
            ways = (
                asyncio.create_task(self._carry(from_client, to_broker, lambda: self._to_broker, to_broker=True)),
                asyncio.create_task(self._carry(from_broker, to_client, lambda: self._to_client, to_broker=False)),
            )
            # One side's end is the other's: a half-open connection is no fault that Kafka's protocol knows.
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except asyncio.CancelledError:
            pass  # The proxy closes. Passed on, asyncio would print each as a failure.
        finally:
            for writer in (to_client, to_broker):
                if writer is not None:
                    self._writers.discard(writer)
                    _reset(writer)
            self._tasks.discard(task)

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flows: Callable[[], bool], *, to_broker: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                # Read first and then held: the sender's side of the connection is as healthy as it looks to him.
                if self._latency_s:
                    await asyncio.sleep(self._latency_s)
                if self._bytes_per_s:
                    await asyncio.sleep(len(data) / self._bytes_per_s)
                while not flows() or (to_broker and not self._writes and data[4:6] == _PRODUCE):
                    await self._changed.wait()
                writer.write(data)
                await writer.drain()
                self.carried += len(data)


def _reset(writer: asyncio.StreamWriter) -> None:
    carrier = writer.get_extra_info("socket")
    if carrier is not None and carrier.fileno() >= 0:
        with contextlib.suppress(OSError):
            carrier.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()

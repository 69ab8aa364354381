"""Questions to the broker: what is asked is answered, and nothing of it is kept."""

from __future__ import annotations

import ctypes
import os

import pytest
from confluent_kafka import Producer

from monitor.inputs.reader import Questions, reader_properties
from tests.broker import RealBroker, produce, unique_name


class _Mallinfo2(ctypes.Structure):
    """https://man7.org/linux/man-pages/man3/mallinfo.3.html."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks"),
            "keepcost",
        )
    )


def allocated() -> int:
    """What the C library has given out, in bytes: all of librdkafka's, and nothing of Python's small objects."""
    ask = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if ask is None:
        pytest.skip("only glibc 2.33 and newer say what they have given out")
    ask.restype = _Mallinfo2
    told = ask()
    return int(told.uordblks + told.hblkhd)


def test_of_what_was_fetched_ahead_for_a_question_nothing_is_kept(broker: RealBroker):
    topic = broker.new_topic("asked")
    client: dict[str, str] = {"bootstrap.servers": broker.bootstrap}
    producer = Producer({**client, "compression.type": "lz4"})
    for _ in range(20_000):
        produce(producer, topic, b"." * 900 + os.urandom(100))
    producer.flush(30)
    questions = Questions(reader_properties(client, unique_name("asking")))
    try:
        assert questions.bounds(topic, 0) == (0, 20_000)  # Connected: what that takes is not counted.
        before = allocated()
        for offset in (0, 5_000, 10_000):
            found = questions.at_or_after(topic, 0, offset)
            assert found is not None
            assert found.offset() == offset
            del found
            assert allocated() - before < 2 << 20
        messages, whole = questions.run(topic, 0, 3_000, 3_100, 30.0)
        assert whole
        assert [message.offset() for message in messages] == list(range(3_000, 3_100))
        del messages
        assert allocated() - before < 2 << 20
    finally:
        questions.close()

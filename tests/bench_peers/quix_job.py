"""The simple job in Quix Streams: decode, filter, a stateful function, filter, to a topic.

What the job is not about is filtered out before the stateful step, which is the expensive one. ``changelog`` says
whether the state has its changelog topic (Quix's default, needed to survive the loss of the machine) or only RocksDB.
"""

from __future__ import annotations

import os
import sys
import tempfile
from typing import Any

from quixstreams import Application  # type: ignore[import-not-found]
from quixstreams.models import Serializer  # type: ignore[import-not-found]
from simple_job import PARTICIPANT, encode, judge, read  # type: ignore[import-not-found]


class Encoded(Serializer):  # type: ignore[misc]  # Quix Streams is not in this environment.
    """Writes a verdict with the encoder all Python jobs use."""

    def __call__(self, value: Any, ctx: Any) -> bytes:  # noqa: ARG002 - the signature is theirs.
        """Called for each verdict."""
        return bytes(encode(value))


def remembered(found: Any, state: Any) -> Any:
    """Keep the conference of the call that is the message's key, or look it up and judge."""
    kind, parameters = found
    if kind == PARTICIPANT:
        if parameters.call_sid is not None and parameters.conference_sid is not None:
            state.set("conference", parameters.conference_sid)
        return None
    return judge(parameters, state.get("conference") if parameters.call_sid is not None else None)


def run(bootstrap: str, source: str, target: str, *, changelog: bool) -> None:
    """Do the job until killed."""
    with tempfile.TemporaryDirectory(prefix="quix-") as state:
        application = Application(
            broker_address=bootstrap,
            consumer_group=f"quix-{os.getpid()}",
            auto_offset_reset="earliest",
            commit_interval=1.0,
            state_dir=state,
            use_changelog_topics=changelog,
            auto_create_topics=changelog,
            loglevel="WARNING",
            consumer_extra_config={"fetch.queue.backoff.ms": 2},
            producer_extra_config={"linger.ms": 5, "compression.type": "lz4"},
        )
        events = application.topic(source, key_deserializer="str", value_deserializer="bytes")
        verdicts = application.topic(target, key_serializer="str", value_serializer=Encoded())
        stream = application.dataframe(events)
        stream = stream.apply(read).filter(lambda found: found is not None)
        stream = stream.apply(remembered, stateful=True).filter(lambda verdict: verdict is not None)
        stream.to_topic(verdicts, key=lambda verdict: verdict.recording_sid)
        application.run()


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2], sys.argv[3], changelog=sys.argv[4] == "changelog")

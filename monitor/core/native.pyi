from collections.abc import Sequence

from monitor.core.pipeline import Pipeline, Told
from monitor.core.window import Window

BUILT_FROM: int

class FastPath:
    def __init__(self, window: Window) -> None: ...
    def feed(
        self,
        pipeline: Pipeline,
        offset: int,
        timestamp_ms: int,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]] | None,
    ) -> Sequence[Told] | None: ...

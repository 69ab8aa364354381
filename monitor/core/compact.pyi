from typing import TypeVar

from monitor.core.parted import Parted

_T = TypeVar("_T")

BUILT_FROM: int
Table = Parted

def digests_of(digits: bytes) -> bytes: ...
def without(ids: bytes, gone: bytes) -> bytes: ...
def twin(struct: type[_T]) -> type[_T]: ...

"""Reading ahead: what comes next is made in a thread while the one before it is used.

Decoding, colour conversion and encoding leave Python alone, so that a decoder and an encoder keep two cores busy. This file does not know
what it passes on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["DEPTH", "ahead"]

Item = TypeVar("Item")
DEPTH = 4
"""Items that are ready or being made: enough to even out what takes now longer, now shorter; each may be a large frame."""
_END = object()


def ahead(items: Iterable[Item], depth: int = DEPTH) -> Iterator[Item]:
    """The same items in the same order, ``depth`` of them made before they are asked for, in one thread.

    What ``items`` raises is raised where its turn comes. Whoever stops early has ``items`` closed.
    """
    made = iter(items)
    pool = ThreadPoolExecutor(1, thread_name_prefix="ahead")
    try:
        waiting = deque(pool.submit(next, made, _END) for _ in range(depth))
        while (item := waiting.popleft().result()) is not _END:
            waiting.append(pool.submit(next, made, _END))
            yield item  # type: ignore[misc]
    finally:
        pool.shutdown(cancel_futures=True)
        close = getattr(made, "close", None)
        if close is not None:
            close()

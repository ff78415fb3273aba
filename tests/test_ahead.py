"""Reading ahead: the same items, errors where they belong, and nothing left open."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivesim.io.ahead import ahead


@given(st.lists(st.integers()), st.integers(1, 6))
def test_the_same_items_in_the_same_order(items: list[int], depth: int) -> None:
    assert list(ahead(items, depth)) == items


def test_items_are_made_elsewhere_before_they_are_asked_for() -> None:
    third, threads = threading.Event(), set()

    def items() -> Iterator[int]:
        for number in range(3):
            threads.add(threading.get_ident())
            if number == 2:
                third.set()
            yield number

    coming = ahead(items(), depth=3)
    assert next(coming) == 0
    assert third.wait(10), "the third item was not begun while the first was held"
    assert list(coming) == [1, 2] and threads.isdisjoint({threading.get_ident()}) and len(threads) == 1


def test_an_error_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    coming = ahead(items())
    assert next(coming) == 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(coming)
    assert next(coming, None) is None


def test_who_stops_early_leaves_nothing_open() -> None:
    closed = threading.Event()

    def items() -> Iterator[int]:
        try:
            yield from range(1000)
        finally:
            closed.set()

    coming = ahead(items())
    assert next(coming) == 0
    coming.close()  # type: ignore[attr-defined]
    assert closed.is_set()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]

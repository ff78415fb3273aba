"""The sign test over pairs against counts worked out by hand."""

from __future__ import annotations

import pytest

from drivesim.eval.paired import compare


def test_all_pairs_won() -> None:
    found = compare([2, 3, 4, 5, 6, 7, 8, 9], [1] * 8)
    assert (found.wins, found.pairs, found.mean) == (8, 8, 4.5)
    assert found.p_value == pytest.approx(0.5**8)


def test_half_the_pairs_say_nothing() -> None:
    found = compare([1, 0, 1, 0], [0, 1, 0, 1])
    assert (found.wins, found.pairs) == (2, 4)
    assert found.p_value == pytest.approx(11 / 16)


def test_ties_and_unknown_pairs_are_left_out() -> None:
    found = compare([1, 2, float("nan")], [1, 1, 0])
    assert (found.wins, found.pairs, found.mean) == (1, 1, 1.0)
    assert compare([1], [1]).p_value == 1.0


def test_pairs_need_partners() -> None:
    with pytest.raises(ValueError, match="equally many values, not 1 and 2"):
        compare([1], [1, 2])

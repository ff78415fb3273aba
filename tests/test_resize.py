"""The resizing rules of the feature networks: TF1's against cases worked by hand and a slow twin, and what is refused at the door."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drivesim.errors import DrivesimError
from drivesim.eval.networks.resize import RESIZES, NetworkInputError, antialiased_bilinear, check_bytes, tf1_bilinear


def row(*values: float) -> torch.Tensor:
    return torch.tensor(values)[None, None, None]


def slow_tf1(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """(c, h, w) pixel by pixel in float32, written from the rule's words: out pixel i lies at i * in / out."""
    channels, tall, wide = picture.shape
    out = np.empty((channels, height, width), np.float32)
    for i in range(height):
        y = np.float32(i) * (np.float32(tall) / np.float32(height))
        for j in range(width):
            x = np.float32(j) * (np.float32(wide) / np.float32(width))
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, tall - 1), min(x0 + 1, wide - 1)
            dy, dx = y - np.float32(y0), x - np.float32(x0)
            p = picture.astype(np.float32)
            top = p[:, y0, x0] + (p[:, y0, x1] - p[:, y0, x0]) * dx
            bottom = p[:, y1, x0] + (p[:, y1, x1] - p[:, y1, x0]) * dx
            out[:, i, j] = top + (bottom - top) * dy
    return out


@pytest.mark.parametrize(
    ("values", "width", "expected"),
    [
        ((0, 10), 4, (0, 5, 10, 10)),  # positions 0, 0.5, 1, 1.5: past the last pixel it is repeated
        ((0, 10, 20, 30), 2, (0, 20)),  # every second pixel, nothing averaged
        ((0, 10, 30), 2, (0, 20)),  # positions 0, 1.5
        ((7,), 3, (7, 7, 7)),
        ((1, 2, 3), 3, (1, 2, 3)),
    ],
)
def test_tf1_rule_by_hand(values: tuple[float, ...], width: int, expected: tuple[float, ...]) -> None:
    across = tf1_bilinear(row(*values), 1, width)
    assert across.flatten().tolist() == list(expected)
    down = tf1_bilinear(row(*values).transpose(-1, -2), width, 1)
    assert down.flatten().tolist() == list(expected)


sizes = st.integers(1, 13)


@settings(max_examples=40, deadline=None)
@given(sizes, sizes, sizes, sizes, st.integers(0, 99))
def test_tf1_rule_equals_its_slow_twin_bit_for_bit(tall: int, wide: int, height: int, width: int, seed: int) -> None:
    picture = np.random.default_rng(seed).integers(0, 256, (3, tall, wide), dtype=np.uint8)
    fast = tf1_bilinear(torch.from_numpy(picture)[None], height, width)[0].numpy()
    assert fast.dtype == np.float32
    assert np.array_equal(fast, slow_tf1(picture, height, width))


def test_tf1_rule_is_not_the_pixel_centre_rule() -> None:
    """The two look at places up to half an input pixel apart: an FID of one is not an FID of the other."""
    picture = torch.randint(0, 256, (1, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    centred = torch.nn.functional.interpolate(picture.float(), (37, 37), mode="bilinear", align_corners=False)
    assert (tf1_bilinear(picture, 37, 37) - centred).abs().max() > 10


@pytest.mark.parametrize("rule", RESIZES)
def test_flat_pictures_stay_flat(rule: str) -> None:
    flat = torch.full((2, 3, 20, 40), 77, dtype=torch.uint8)
    assert RESIZES[rule](flat, 9, 9).sub(77).abs().max() < 1e-4


def test_only_the_antialiased_rule_smooths() -> None:
    noise = torch.randint(0, 256, (1, 3, 256, 512), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    assert tf1_bilinear(noise, 64, 64).std() > 50
    assert antialiased_bilinear(noise, 64, 64).std() < 25


@pytest.mark.parametrize(
    ("frames", "ndim", "word"),
    [
        (torch.zeros(1, 3, 8, 8), 4, "uint8"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.int64), 4, "uint8"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), 4, "shape"),
        (torch.zeros(1, 8, 8, 3, dtype=torch.uint8), 4, "three colours"),
        (torch.zeros(0, 3, 8, 8, dtype=torch.uint8), 4, "empty"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), 5, "(b, t, 3, h, w)"),
        (torch.zeros(1, 2, 1, 8, 8, dtype=torch.uint8), 5, "(b, t, 3, h, w)"),
    ],
)
def test_other_frames_are_refused(frames: torch.Tensor, ndim: int, word: str) -> None:
    with pytest.raises(NetworkInputError) as refusal:
        check_bytes(frames, ndim)
    assert word in str(refusal.value)
    assert isinstance(refusal.value, DrivesimError) and isinstance(refusal.value, ValueError)

"""How recorded frames move, against pictures whose motion is known, and training that is held against it."""

from __future__ import annotations

import lightning as L
import numpy as np
import pytest
import torch
from torch import Tensor
from toy_checkpoint import toy_interpolator

from drivesim.models.frame_interpolator import Between
from drivesim.training.filmed_motion import LEAST, filmed_motion
from drivesim.training.interpolator_module import InterpolatorModule, motion_apart
from drivesim.training.learning_rate import Optimization

HEIGHT, WIDTH, FRAMES = 64, 128, 5


def texture(height: int, width: int, seed: int = 0) -> Tensor:
    """Blobs of a few pixels, (3, height, width) in [-1, 1]."""
    coarse = torch.rand(1, 3, height // 4, width // 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0].clamp(-1, 1)


def moving(x: int, y: int) -> Tensor:
    """A window (1, t, 3, H, W) of a wide picture whose contents move by x and y pixels a frame."""
    picture, margin = texture(HEIGHT + 64, WIDTH + 64), 32
    rows = [(margin - y * frame, margin - x * frame) for frame in range(FRAMES)]
    return torch.stack([picture[:, top : top + HEIGHT, left : left + WIDTH] for top, left in rows])[None]


@pytest.mark.parametrize(("x", "y"), [(0, 0), (2, 0), (-3, 1), (1, -2)])
def test_a_shift_is_found_and_trusted(x: int, y: int) -> None:
    motion, trusted = filmed_motion(moving(x, y))
    assert motion.shape == (1, 2, HEIGHT, WIDTH) and trusted.shape == (1, 1, HEIGHT, WIDTH)
    inner = (..., slice(12, -12), slice(12, -12))
    wanted = torch.tensor([4.0 * x, 4.0 * y])[:, None, None]
    assert (motion[0][inner] - wanted).abs().mean() < 0.3
    assert trusted[inner].mean() > 0.95


def test_flow_is_not_trusted_where_frames_have_nothing_to_do_with_each_other() -> None:
    unlike = torch.stack([texture(HEIGHT, WIDTH, seed) for seed in range(FRAMES)])[None]
    assert filmed_motion(unlike)[1].mean() < 0.7 * filmed_motion(moving(1, 0))[1].mean()


def test_windows_without_motion_to_find_are_refused() -> None:
    assert filmed_motion(torch.zeros(1, 2, 3, LEAST, LEAST))[0].abs().max() == 0
    for shape in ((1, 1, 3, 64, 64), (1, 5, 3, LEAST - 1, 64), (1, 5, 3, 64, LEAST - 1)):
        with pytest.raises(ValueError, match="16 pixels high and wide or more"):
            filmed_motion(torch.zeros(shape))


def test_right_motion_is_not_apart_and_none_is_as_far_as_things_moved() -> None:
    frames = moving(2, 0)
    filmed, trusted = filmed_motion(frames)
    cells = torch.nn.functional.avg_pool2d(filmed * trusted, 4) / torch.nn.functional.avg_pool2d(trusted, 4).clamp(min=1e-6)
    told = torch.zeros(1, 1, HEIGHT // 4, WIDTH // 4)
    apart, learned, shown = motion_apart(Between(frames, cells, told), frames)
    assert apart == pytest.approx(0, abs=1e-5) and learned == pytest.approx(float(shown), rel=1e-5)
    apart, learned, shown = motion_apart(Between(frames, torch.zeros_like(cells), told), frames)
    assert apart == pytest.approx(4.0, abs=0.5) and learned == 0 and shown == pytest.approx(8.0, abs=0.5)  # x by 8 pixels, y by none
    told[...] = 1  # boxes say it all: nothing is asked of the network
    assert motion_apart(Between(frames, torch.zeros_like(cells), told), frames) == (0, 0, 0)


def test_training_takes_up_the_pace_that_was_filmed() -> None:
    torch.manual_seed(0)
    frames = torch.cat([moving(2, 0), moving(2, 0).flip(-2)])[..., ::2, ::2]
    batch = {"frames": ((frames + 1) * 127.5).round().to(torch.uint8), "labels": {"fps": torch.full((2, FRAMES), 7.5)}}
    paces = []
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        module = InterpolatorModule(toy_interpolator(), Optimization(lr=3e-3, warmup_steps=1), ema_decay=0.5, motion_weight=weight)
        loader = torch.utils.data.DataLoader([batch] * 40, batch_size=None)
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
        L.Trainer(max_steps=40, accelerator="cpu", **quiet).fit(module, loader)  # type: ignore[arg-type]
        with torch.no_grad():
            between = module.average.between(frames[:, 0], frames[:, -1], batch["labels"], FRAMES)
            _, learned, shown = motion_apart(between, frames)
            paces.append(float(learned / shown))
    assert np.isfinite(paces).all() and 0.8 < paces[1] < 1.2 and abs(paces[1] - 1) <= abs(paces[0] - 1)

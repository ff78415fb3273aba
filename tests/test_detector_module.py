"""Training the detector: targets that decode back to the boxes, what is left out of the loss, robustness draws, and a run at toy size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hydra
import lightning as L
import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from drivesim.datasets.clips import ClipDataset, FrameReader
from drivesim.datasets.datamodule import ClipDataModule
from drivesim.datasets.sources.synthetic import make_road_world
from drivesim.datasets.windows import Window, WindowSpec
from drivesim.errors import UsageError
from drivesim.io.checkpoints import load_network
from drivesim.models.detector import BoxDetector, Predictions, box_iou, decode
from drivesim.shapes import as_floats
from drivesim.training.detector_module import DetectorModule, detector_losses, encode, left_alone, soften
from drivesim.training.learning_rate import Optimization
from drivesim.training.run import train

NAN = float("nan")


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("detector") / "road"
    make_road_world(folder, clips=6, seconds=4, fps=7.5, height=64, width=128, seed=0)
    return folder


def boxes_of(*rows: tuple[float, float, float, float, float], limit: int = 8) -> Tensor:
    """Rows of category, x1, y1, x2, y2 as one frame's array (1, limit, 6)."""
    table = torch.zeros(1, limit, 6)
    table[..., 0] = -1
    for number, row in enumerate(rows):
        table[0, number, :5] = torch.tensor(row)
    return table


def targets_of(boxes: Tensor, known: bool = True, height: int = 64, width: int = 128):
    return encode(boxes, torch.full((len(boxes),), known), height, width)


def perfect(boxes: Tensor, height: int = 64, width: int = 128) -> Predictions:
    """What a network that has learned everything would say."""
    targets = targets_of(boxes, height=height, width=width)
    return Predictions(torch.logit(targets.heat.clamp(1e-4, 1 - 1e-4)), targets.edges, torch.zeros(len(boxes)))


sizes = st.floats(0.06, 0.35)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 0.6), st.floats(0, 0.6), sizes, sizes), min_size=1, max_size=1))
def test_a_box_comes_back_from_its_targets(drawn: list[tuple[int, float, float, float, float]]) -> None:
    category, x, y, wide, high = drawn[0]
    (found,) = decode(perfect(boxes_of((category, x, y, x + wide, y + high))), 0.5, 10)
    assert found.category.tolist() == [category]
    assert found.xyxy[0].tolist() == pytest.approx([x, y, x + wide, y + high], abs=0.01)


def test_boxes_of_a_frame_come_back_and_losses_vanish() -> None:
    rows = [(0, 0.1, 0.5, 0.2, 0.7), (1, 0.5, 0.3, 0.9, 0.9), (5, 0.3, 0.5, 0.36, 0.8)]
    boxes = boxes_of(*rows)
    made = perfect(boxes)
    (found,) = decode(made, 0.5, 10)
    overlaps = box_iou(torch.tensor([row[1:] for row in rows]), found.xyxy)
    assert len(found) == 3 and (overlaps.amax(1) > 0.99).all()
    losses = detector_losses(made, targets_of(boxes), torch.tensor([NAN]))
    assert losses["giou"].item() == pytest.approx(0, abs=1e-5) and losses["edges"].item() == pytest.approx(0, abs=1e-5)
    assert losses["night"].item() == 0


def test_every_box_has_its_peak_even_where_centres_meet() -> None:
    far, near = (0, 0.20, 0.40, 0.80, 0.60), (1, 0.40, 0.25, 0.60, 0.75)
    targets = targets_of(boxes_of(far, near))
    assert (targets.heat == 1).sum() == 2
    cell = (targets.heat[0, 1] == 1).nonzero()[0]
    width = targets.edges[0, 0, cell[0], cell[1]] + targets.edges[0, 2, cell[0], cell[1]]
    assert width.item() == pytest.approx(0.2 * 128)  # the nearer one's edges


def test_nothing_is_learned_where_nobody_looked() -> None:
    boxes = boxes_of((0, 0.1, 0.5, 0.3, 0.8))
    targets = targets_of(boxes, known=False)
    assert not targets.counts.any() and not targets.weight.any()
    made = Predictions(torch.randn(1, 6, 16, 32), torch.rand(1, 4, 16, 32) + 0.1, torch.zeros(1))
    losses = detector_losses(made, targets, torch.tensor([NAN]))
    assert all(value.item() == 0 for value in losses.values())


def test_a_known_frame_without_boxes_teaches_that_there_is_none() -> None:
    targets = targets_of(boxes_of())
    assert targets.counts.all() and not targets.heat.any() and not targets.weight.any()


def test_low_and_hidden_boxes_are_left_alone() -> None:
    hidden, low, near = (0, 0.42, 0.4, 0.5, 0.6), (0, 0.1, 0.5, 0.2, 0.53), (1, 0.4, 0.3, 0.7, 0.9)
    boxes = boxes_of(hidden, low, near)
    assert left_alone(boxes)[0, :3].tolist() == [True, True, False]
    targets = targets_of(boxes)
    assert (targets.heat == 1).sum() == 1
    assert targets.counts[0, 0, 8, 4] == 0  # inside the low box: neither right nor wrong
    assert targets.counts[0, 0, 0, 0] == 1 and targets.weight.count_nonzero() > 0


def test_the_nearer_box_is_not_hidden_by_the_farther_one() -> None:
    assert left_alone(boxes_of((1, 0.4, 0.3, 0.7, 0.9), (0, 0.42, 0.4, 0.5, 0.92)))[0, :2].tolist() == [False, False]


def test_time_of_day_counts_where_it_is_known() -> None:
    made = Predictions(torch.full((2, 6, 16, 32), -9.0), torch.ones(2, 4, 16, 32), torch.tensor([20.0, -20.0]))
    boxes = boxes_of().repeat(2, 1, 1)
    days = ([1.0, 0.0], [0.0, 1.0], [NAN, NAN])
    right, wrong, unknown = (detector_losses(made, targets_of(boxes), torch.tensor(day))["night"] for day in days)
    assert right < 1e-6 < 1 < wrong and unknown == 0


def test_gradients_reach_every_weight() -> None:
    torch.manual_seed(0)
    network = BoxDetector(widths=(8, 8, 16), blocks=(1, 1, 1), neck=8)
    boxes = boxes_of((0, 0.1, 0.5, 0.3, 0.8)).repeat(2, 1, 1)
    losses = detector_losses(network(torch.randn(2, 3, 64, 128)), targets_of(boxes), torch.ones(2))
    torch.stack(list(losses.values())).sum().backward()
    dead = [name for name, weight in network.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert not dead


# pictures that are not crisp


def test_no_blur_and_no_noise_change_nothing() -> None:
    frames = torch.rand(4, 3, 16, 32) * 2 - 1
    assert torch.allclose(soften(frames, 0.0, 0.0, torch.Generator().manual_seed(0)), frames, atol=1e-5)


def test_blur_softens_about_half_of_the_frames_and_repeats_by_seed() -> None:
    frames = torch.rand(64, 3, 16, 32) * 2 - 1
    one, other = (soften(frames, 2.0, 0.0, torch.Generator().manual_seed(5)) for _ in range(2))
    changed = (one - frames).abs().amax((1, 2, 3)) > 0.02
    assert torch.equal(one, other) and 16 < changed.sum() < 48
    assert (one[changed].std((1, 2, 3)) < frames[changed].std((1, 2, 3))).all()


def test_noise_stays_in_range() -> None:
    noisy = soften(torch.ones(8, 3, 16, 16), 0.0, 0.5, torch.Generator().manual_seed(0))
    assert noisy.max() <= 1 and noisy.min() < 1


# halves of the data


def test_the_halves_share_no_drive_and_leave_none_out(road: Path) -> None:
    trained = []
    for half in (0, 1):
        data = ClipDataModule(road, 1, 64, 128, train_split=None, val_split=None, half=half)
        data.setup()
        (dataset,) = data.train_clips
        trained.append({clip_id for clip_id, length in zip(dataset.clip_ids, dataset.usable, strict=True) if length})
        assert "its drive belongs to the other half" in data.served[0].left_out
        assert len(data.val_clips[0].faults) == 0
    assert not trained[0] & trained[1] and len(trained[0] | trained[1]) == 6


def test_an_unknown_half_is_refused(road: Path) -> None:
    with pytest.raises(UsageError, match="half must be 0, 1 or null"):
        ClipDataModule(road, 1, 64, 128, half=2)


# the whole


def toy(**more: Any) -> DetectorModule:
    torch.manual_seed(0)
    return DetectorModule(BoxDetector(widths=(16, 24), blocks=(1, 1), neck=16), Optimization(lr=5e-3, warmup_steps=1), **more)


def test_a_few_frames_are_learned_by_heart(road: Path) -> None:
    dataset = ClipDataset(road)
    reader = FrameReader([dataset], WindowSpec(2, 64, 128, (1.875,)))
    samples = [reader.read(Window(0, clip, 0, 4, 1.875), None) for clip in range(4)]
    frames = torch.cat([sample["frames"] for sample in samples])
    labels = {name: torch.cat([sample["labels"][name] for sample in samples]) for name in ("boxes", "boxes_known", "time_of_day")}
    module, floats = toy(), as_floats(frames)
    targets = encode(labels["boxes"], labels["boxes_known"], 64, 128)
    adam = torch.optim.AdamW(module.network.parameters(), lr=5e-3)
    for _ in range(80):
        loss = torch.stack(list(detector_losses(module.network(floats), targets, labels["time_of_day"]).values())).sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
    found = module.network.eval().detect(frames, 0.4)  # type: ignore[operator]
    kept = [boxes[(boxes[:, 0] >= 0) & ~alone] for boxes, alone in zip(labels["boxes"], left_alone(labels["boxes"]), strict=True)]
    pairs = zip(kept, found, strict=True)
    hits = [box_iou(boxes[:, 1:5], one.xyxy).amax(1) > 0.5 if len(one) else boxes[:, 0] < -1 for boxes, one in pairs]
    assert torch.cat(hits).float().mean() > 0.8
    assert [one.night > 0.5 for one in found] == (labels["time_of_day"] == 1).tolist()


def test_toy_experiment_trains_exports_and_goes_on(road: Path, tmp_path: Path) -> None:
    words = ["experiment=toy/detector", f"data=[{road}]", f"out={tmp_path}", "trainer.val_check_interval=2", "trainer.limit_val_batches=1"]
    for steps in (2, 3):
        with hydra.initialize_config_module("drivesim.configs", version_base="1.3"):
            config = hydra.compose("train", [*words, f"trainer.max_steps={steps}"])
        L.seed_everything(config.seed, verbose=False)
        parts = {name: instantiate(config[name], _convert_="all") for name in ("module", "datamodule", "trainer", "callbacks", "loggers")}
        assert train(**parts) == tmp_path
        assert parts["module"].batches == steps
    assert isinstance(load_network(tmp_path / "detector"), BoxDetector)
    assert list((tmp_path / "runs" / "detector" / "pictures").glob("detections_*.png"))


def test_the_judge_and_the_filter_can_be_told_apart() -> None:
    with hydra.initialize_config_module("drivesim.configs", version_base="1.3"):
        config = hydra.compose("train", ["experiment=mini/detector", "data=[clips]"])
    assert config.seed == config.module.seed == config.datamodule.seed == 1
    assert config.datamodule.half == 0 and config.datamodule.height == 128


def test_pictures_show_labelled_and_found_boxes(road: Path) -> None:
    data = ClipDataModule(road, 2, 64, 128, batch_size=2, train_split=None, val_split=None)
    data.setup()
    batch = next(iter(data.val_dataloader()))
    drawn = toy().pictures(batch)["detections"]
    plain = as_floats(batch["frames"])
    assert drawn.shape == plain.shape and np.isfinite(drawn.numpy()).all()
    assert not torch.equal(drawn, plain)

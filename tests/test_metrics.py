"""The metric objects: equal to torchmetrics', to the plain functions, and to themselves over two processes; the network is let alone."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from drivesim.errors import DrivesimError
from drivesim.eval.frechet import frechet_distance
from drivesim.eval.kernel import kernel_distance
from drivesim.eval.metrics import EachFrame, FrechetDistance, KernelDistance

KINDS = (FrechetDistance, KernelDistance)
FUNCTIONS = {FrechetDistance: frechet_distance, KernelDistance: kernel_distance}
both = pytest.mark.parametrize("kind", KINDS)


class Quadrants(nn.Module):
    """Mean colour of the four quarters of a clip through a small mix: uint8 (b, t, 3, h, w) -> (b, 5). Normalisation and dropout would
    betray train mode."""

    name, hash, preprocessing = "quadrants", "0" * 64, "x/255"
    num_features, min_frames = 5, 1

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.dropout, self.mix = nn.BatchNorm1d(12), nn.Dropout(0.5), nn.Linear(12, 5)

    def forward(self, frames: Tensor) -> Tensor:
        means = nn.functional.adaptive_avg_pool2d(frames.float().mean(1) / 255, 2).flatten(1)
        return self.mix(self.dropout(self.norm(means)))


def clips(seed: int, count: int, bright: int = 255) -> Tensor:
    return torch.randint(0, bright, (count, 3, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def fed(kind: type, **more) -> FrechetDistance | KernelDistance:
    metric = kind(Quadrants(), **more)
    for batch in clips(0, 30).split(7):
        metric.update(batch, real=True)
    for batch in clips(1, 40, 200).split(9):
        metric.update(batch, real=False)
    return metric


def rows(seed: int, count: int, bright: int = 255) -> Tensor:
    with torch.no_grad():
        return Quadrants().eval()(clips(seed, count, bright))


# what they compute


@both
def test_equals_the_plain_function(kind: type):
    value = fed(kind).compute()
    assert value.dtype == torch.float64 and value.ndim == 0
    assert float(value) == pytest.approx(FUNCTIONS[kind](rows(0, 30), rows(1, 40, 200)), rel=1e-6)


def test_equals_torchmetrics():
    ours, theirs = FrechetDistance(Quadrants()), FrechetInceptionDistance(feature=Quadrants().eval())
    for metric in (ours, theirs):
        for seed, real in ((0, True), (1, False)):
            for batch in clips(seed, 40, 200 + 55 * real).split(10):
                metric.update(batch, real=real)
    assert float(ours.compute()) == pytest.approx(float(theirs.compute().detach()), rel=1e-5)  # theirs is rounded to float32


@both
def test_forward_only_takes_in(kind: type):
    metric, other = kind(Quadrants()), fed(kind)
    assert metric(clips(0, 30), real=True) is None
    assert metric(clips(1, 40, 200), real=False) is None
    assert float(metric.compute()) == pytest.approx(float(other.compute()), rel=1e-6)


# reset


@both
def test_reset_forgets(kind: type):
    metric = fed(kind)
    metric.reset()
    metric.update(clips(1, 5), real=False)
    with pytest.raises(DrivesimError, match="at least 2 rows"):
        metric.compute()


@both
def test_real_side_can_outlive_a_reset(kind: type):
    metric = fed(kind, reset_real_features=False)
    value = float(metric.compute())
    for _ in range(2):
        metric.reset()
        metric.update(clips(1, 40, 200), real=False)
    assert float(metric.compute()) == pytest.approx(value, rel=1e-9)


# the network


@both
def test_network_is_no_part(kind: type):
    network = Quadrants().train()
    metric = kind(network)
    owner = nn.ModuleDict({"metric": metric})
    owner.train()
    assert not network.training
    assert not owner.state_dict() and not list(owner.parameters()) and metric.network is network
    network.train()  # somebody else did it
    before = network.norm.running_mean.clone()
    metric.update(clips(0, 4), real=True)
    assert not network.training and torch.equal(network.norm.running_mean, before)


@both
def test_no_gradient_is_kept(kind: type):
    metric = kind(Quadrants())
    with torch.enable_grad():
        metric.update(clips(0, 4), real=True)
    states = [value[0] if isinstance(value, list) and value else value for value in metric.metric_state.values()]
    assert not any(isinstance(state, Tensor) and state.requires_grad for state in states)


@both
def test_copies_and_pickles(kind: type):
    metric = fed(kind)
    for copy in (metric.clone(), pickle.loads(pickle.dumps(metric))):
        assert float(copy.compute()) == float(metric.compute())
        assert copy.network is not metric.network


def test_sums_stay_float64_when_the_owner_is_converted():
    metric = fed(FrechetDistance)
    nn.ModuleDict({"metric": metric}).half()
    assert metric.real_sums.dtype == torch.float64 and next(metric.network.parameters()).dtype == torch.float32
    metric.update(clips(2, 4), real=True)


class Single(nn.Module):
    """A network of single frames, which refuses more."""

    name, hash, preprocessing, num_features, min_frames = "single", "1" * 64, "x/255", 3, 1

    def forward(self, frames: Tensor) -> Tensor:
        assert frames.shape[1] == 1
        return frames[:, 0].float().mean((-2, -1)) / 255


def test_each_frame_is_shown_alone():
    windows = clips(0, 6)
    every = EachFrame(Single())
    assert every.num_features == 3 and every.name == "single"
    assert torch.equal(every(windows), windows.flatten(0, 1).float().mean((-2, -1)) / 255)
    metric = FrechetDistance(every)
    metric.update(windows, real=True)
    assert int(metric.real_sums[0, 0]) == 18


# over processes


def _rank(rank: int, out: str) -> None:
    """Each process sees some of the windows, and only one of them generated ones."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{out}/meeting", rank=rank, world_size=2)
    values = {}
    for kind in KINDS:
        metric = kind(Quadrants())
        metric.update(clips(0, 30)[rank * 11 : 11 + rank * 19], real=True)
        if rank:
            metric.update(clips(1, 40, 200), real=False)
        values[kind.__name__] = float(metric.compute())
        metric.update(clips(2, 2), real=True)  # and what was merged is not merged again
        values[f"{kind.__name__} again"] = float(metric.compute())
    torch.save(values, f"{out}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_are_one(tmp_path: Path):
    """Copies of this one, which need not load everything again; they meet over a file, because a free port may be taken in between."""
    torch.multiprocessing.start_processes(_rank, (str(tmp_path),), nprocs=2, start_method="fork")
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert first == second
    for kind in KINDS:
        wanted = FUNCTIONS[kind](rows(0, 30), rows(1, 40, 200))
        assert first[kind.__name__] == pytest.approx(wanted, rel=1e-6)
        more = torch.cat([rows(0, 30), rows(2, 2), rows(2, 2)])
        assert first[f"{kind.__name__} again"] == pytest.approx(FUNCTIONS[kind](more, rows(1, 40, 200)), rel=1e-6)


# bad input


@both
@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (torch.rand(2, 3, 3, 8, 8), "must be uint8"),
        (torch.zeros(2, 3, 1, 8, 8, dtype=torch.uint8), "three colours"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), "shape"),
        (torch.zeros(0, 3, 3, 8, 8, dtype=torch.uint8), "empty axis"),
    ],
)
def test_frames_of_another_kind(kind: type, frames: Tensor, message: str):
    with pytest.raises(DrivesimError, match=message):
        kind(Quadrants()).update(frames, real=True)


@both
def test_networks_that_do_not_say_their_width_or_say_it_wrong(kind: type):
    with pytest.raises(DrivesimError, match="add an attribute num_features"):
        kind(nn.Identity())
    network = Quadrants()
    network.num_features = 7
    with pytest.raises(DrivesimError, match=r"said \(n, 7\) features and gave \(4, 5\)"):
        kind(network).update(clips(0, 4), real=True)


@both
def test_too_few_windows(kind: type):
    metric = kind(Quadrants())
    metric.update(clips(0, 5), real=True)
    metric.update(clips(1, 1), real=False)
    with pytest.raises(DrivesimError, match="at least 2 rows of features on each side, got 1"):
        metric.compute()


def test_features_that_are_not_finite():
    network = Quadrants()
    nn.init.constant_(network.mix.weight, np.nan)
    with pytest.raises(DrivesimError, match="4 of 4 feature rows are not finite"):
        FrechetDistance(network).update(clips(0, 4), real=True)

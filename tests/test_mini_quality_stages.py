"""The stages part of mini_quality: recordings stay themselves through a first stage that loses nothing, and each rung makes more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmark_scripts import benchmark
from standins import StandIn
from toy_checkpoint import make_refining
from toys import write_toy_checkpoint

from drivesim.datasets.sources.synthetic import make_road_world
from drivesim.eval.frechet import frechet_distance
from drivesim.io.checkpoints import load_checkpoint

stages, sets, table, looks = (benchmark(f"mini_quality_{name}") for name in ("stages", "sets", "table", "look"))


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sets, "feature_network", lambda name: StandIn(name=name))
    make_road_world(tmp_path / "held", clips=5, seconds=5.5, height=32, width=64)
    checkpoint = load_checkpoint(write_toy_checkpoint(tmp_path / "weights"))
    return sets.Bench(checkpoint, [tmp_path / "held"], "train", [], tmp_path / "work", resamples=20)


def test_each_rung_makes_more_of_the_picture(bench: Any) -> None:
    found = stages.stages(bench, 2, 17, None)
    rungs = found["rungs"]
    assert list(rungs) == ["recorded", "decoder", "linear", "crossfade", "interpolation", "everything"]
    assert found["n"] == 2 and found["spans"] == 2
    assert all(len(told[name]) == 4 for told in rungs.values() for name in ("sharpness", "change"))
    rows = list(table._stages(found))
    assert len(rows) == 5 and all(row.value is not None and row.met is None for row in rows)


def test_rungs_keep_what_is_given(bench: Any) -> None:
    """Keyframes of the rungs between are those of the reconstruction, and everything is made of labels alone in the last one."""
    simulator = stages.Simulator(bench.checkpoint, bench.settings(None))
    maker = stages._Maker(simulator, stages.Task(0, 17))
    assert not set(maker.rungs) & set(stages.REFINED)
    (span,) = stages.spans(bench.data, "train", 17)[:1]
    shown = {name: rung(maker, span) for name, rung in stages.RUNGS.items()}
    assert {frames.shape for frames in shown.values()} == {(17, 32, 64, 3)} and all(frames.dtype == np.uint8 for frames in shown.values())
    simulator.autoencoder.decoder_temporal = torch.nn.ModuleList()  # so that neighbours do not matter to a decoded keyframe
    shown = {name: rung(maker, span) for name, rung in stages.RUNGS.items()}
    for name in ("linear", "crossfade", "interpolation"):
        np.testing.assert_array_equal(shown[name][::4], shown["decoder"][::4])
    assert not np.array_equal(shown["everything"][0], shown["decoder"][0])


def test_a_linear_mix_passes_through_its_keyframes() -> None:
    ramp = torch.arange(4.0).view(-1, 1, 1, 1).expand(4, 2, 3, 3)
    mixed = stages.linear_between(ramp)
    torch.testing.assert_close(mixed[:, 0, 0, 0], torch.arange(13) / 4)
    assert torch.equal(mixed[::4], ramp)


def test_what_a_distance_is_made_of_adds_up_to_it() -> None:
    """Two clouds that differ by a shift in each part, and by twice the deviation of one feature."""
    draws = torch.randn(400, 33, generator=torch.Generator().manual_seed(0))
    shift = torch.zeros(33)
    shift[2], shift[20], shift[32] = 1.0, 2.0, 3.0
    wider = torch.ones(33)
    wider[5] = 2.0
    moved = (draws - draws.mean(0)) * wider + draws.mean(0) + shift
    told = stages.made_of(moved.numpy(), draws.numpy(), frechet_distance(moved, draws))
    assert told == pytest.approx({"look": 1.0, "motion": 4.0, "way": 9.0, "spread": float(draws[:, 5].var())}, abs=0.02)


def test_figures_in_closed_form() -> None:
    grey = [np.full((9, 4, 6, 3), 100, np.uint8)]
    flat = stages.by_place(grey)
    assert flat == {"sharpness": [0.0] * 4, "change": [0.0] * 4}
    pulsing = [np.stack([np.full((4, 6, 3), 151 if number % 4 == 0 else 100, np.uint8) for number in range(9)])]
    assert stages.by_place(pulsing)["change"] == pytest.approx([0.2, 0, 0, 0.2])
    assert stages.psnr([grey[0] + 51], grey) == pytest.approx(20 * np.log10(5), abs=1e-4)
    assert stages.psnr(grey, grey) > 100


def test_rungs_without_the_refiner_do_not_go_through_it(bench: Any) -> None:
    make_refining(bench.checkpoint.folder)
    checkpoint = load_checkpoint(bench.checkpoint.folder)
    maker = stages._Maker(stages.Simulator(checkpoint, bench.settings(None)), stages.Task(0, 17))
    (span,) = stages.spans(bench.data, "train", 17)[:1]
    assert maker.rungs == list(stages.RUNGS)
    for name in ("interpolation", "everything"):
        plain, refined = (stages.RUNGS[f"{name}{end}"](maker, span) for end in ("", "_refined"))
        assert (plain != refined).any(axis=(1, 2, 3)).all()


# what made frames look like


def test_a_fault_is_known_by_the_damage_it_is_like() -> None:
    """Clip features whose looks are moved along one axis, by a damage and by the fault alike, and along another one."""
    recorded = np.random.default_rng(0).normal(size=(50, 33))
    along, across = np.zeros(33), np.zeros(33)
    along[3], across[7], along[20] = 2.0, 1.0, 9.0  # what is beyond the looks does not count
    same = looks.beside_damage(recorded + 3 * along, recorded, recorded + along)
    assert same["cosine"] == pytest.approx(1) and same["look"] == pytest.approx(36) and same["moved"] == pytest.approx(4)
    assert looks.beside_damage(recorded + along, recorded, recorded + across)["cosine"] == pytest.approx(0, abs=1e-9)
    assert looks.beside_damage(recorded + along, recorded, recorded)["cosine"] is None
    flat = looks.beside_damage(recorded / 2, recorded, recorded)
    assert flat["made_various"] == pytest.approx(0.5) and flat["various"] == pytest.approx(1)


@pytest.mark.parametrize(("length", "octave"), [(3, 0), (6, 1), (12, 2), (24, 3), (48, 4)])
def test_a_wave_is_found_in_its_octave(length: float, octave: int) -> None:
    """A wave in any direction lies in the octave of its length, there alone (the longest ones are wide in a frame that fades), and is as
    strong as it is high."""
    y, x = np.mgrid[:128, :256]
    for angle in (0.0, 0.7, np.pi / 2):
        phase = 2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / length
        weak, strong = (looks.wave_powers(np.rint(128 + height * np.sin(phase))[None, ..., None].repeat(3, -1).astype(np.uint8))
                        for height in (20, 60))  # fmt: skip
        assert strong.argmax() == octave and strong[octave] > (100 if length < 20 else 2) * np.delete(strong, octave).max()
        assert strong[octave] / weak[octave] == pytest.approx(9, rel=0.04)


def test_every_damage_damages() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 128, 256, 3), dtype=np.uint8)
    before = frames.copy()
    for name, damage in looks.DAMAGE.items():
        damaged = damage(frames)
        assert damaged.shape == frames.shape and damaged.dtype == np.uint8, name
        assert (damaged != frames).any() and np.array_equal(frames, before), name
    assert {"blur 2", "noise 8", "light times 1.15"} <= looks.DAMAGE.keys()

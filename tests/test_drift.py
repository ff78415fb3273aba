"""Drift over time: what grows is seen to grow, what stays is not accused, and one clip alone has no interval."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from drivesim.errors import UsageError
from drivesim.eval.cache import FeatureCache
from drivesim.eval.drift import DriftRules, drift_report, long_clips
from drivesim.eval.drift_distances import Resampling, frechet_change, kernel_change, ratio_of_change
from drivesim.eval.events import fingerprint
from drivesim.eval.footage import Footage
from drivesim.eval.frame_rows import SIGNALS, FrameRows
from drivesim.eval.frechet import frechet_distance
from drivesim.eval.kernel import kernel_distance
from drivesim.eval.signals import measure
from drivesim.io.video import write_video

FPS = 7.5
RULES = DriftRules(bin_s=2.0, span_s=6.0, least_s=12.0, size=(16, 32), codec="lossless", real_every=1, resamples=60)


@pytest.fixture(autouse=True)
def drawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than judging: only tests marked by asking for ``plot`` draw."""
    if "plot" not in request.fixturenames:
        monkeypatch.setattr("drivesim.eval.drift.plot_drift", lambda report, path: None)


@pytest.fixture
def plot(tmp_path: Path) -> Path:
    return tmp_path / "drift.png"


class Colours:
    """Mean colours of the four quarters of a frame, and how often the network was asked."""

    name, hash, preprocessing, num_features, min_frames = "random-colours", "c0", "none", 12, 1

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, frames: Tensor) -> Tensor:
        assert frames.dtype == torch.uint8 and frames.shape[1] == 1
        self.calls += 1
        return torch.nn.functional.adaptive_avg_pool2d(frames[:, 0].float() / 64 - 2, 2).flatten(1)


def drive(seed: int, seconds: float, drift: float = 0.0) -> np.ndarray:
    """uint8 (t, 16, 32, 3): coarse colours that wander about a mean, which rises by ``drift`` grey levels a second."""
    rng = np.random.default_rng([seed, 1])
    frames = round(seconds * FPS)
    field = 12 * rng.normal(size=(4, 8, 3))
    made = np.empty((frames, 4, 8, 3))
    for index in range(frames):
        field = 0.6 * field + 0.8 * 12 * rng.normal(size=field.shape)
        made[index] = 100 + field + drift * index / FPS
    return made.clip(0, 255).astype(np.uint8).repeat(4, 1).repeat(4, 2)


def footage(name: str, seeds: range, seconds: float = 24, drift: float = 0.0) -> Footage:
    return Footage.from_frames(name, [drive(seed, seconds, drift) for seed in seeds], FPS)


@pytest.fixture(scope="module")
def real() -> Footage:
    return footage("real", range(100, 108), 12)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    """What one test has measured the next need not measure again."""
    return FeatureCache(tmp_path_factory.mktemp("kept"))


def normal(seed: int, rows: int, shift: float = 0.0) -> np.ndarray:
    return shift + np.random.default_rng(seed).normal(size=(rows, 5))


def test_changes_are_the_differences_of_the_distances() -> None:
    first, last = [normal(seed, 30) for seed in range(3)], [normal(seed, 30, 0.5) for seed in range(10, 13)]
    real = [normal(20, 25), normal(21, 40)]
    resampling = Resampling(["a", "b", "c"], ["x", "y"], resamples=20)
    whole = [np.concatenate(rows) for rows in (first, last, real)]
    kernel = kernel_change(first, last, real, resampling)
    assert kernel.value == pytest.approx(kernel_distance(whole[1], whole[2]) - kernel_distance(whole[0], whole[2]), rel=1e-9)
    frechet = frechet_change(first, last, real, resampling)
    assert frechet.value == pytest.approx(frechet_distance(whole[1], whole[2]) - frechet_distance(whole[0], whole[2]), rel=1e-9)
    assert kernel.low < kernel.high and frechet.low < frechet.high


def test_ratio_is_of_the_means() -> None:
    ratio = ratio_of_change(np.array([1.0, 3.0]), np.array([4.0, 4.0]), Resampling(["a", "b"], ["x", "y"], resamples=20))
    assert ratio.value == 2.0
    assert np.isnan(ratio_of_change(np.zeros(2), np.ones(2), Resampling(["a", "b"], ["x", "y"], resamples=20)).value)


def test_spans_of_other_clips_are_refused() -> None:
    with pytest.raises(UsageError, match="give one of each"):
        kernel_change([normal(0, 4)], [normal(0, 4)], [normal(0, 4)], Resampling(["a", "b"], ["x"]))


def test_rows_of_a_shot_hold_features_fingerprints_and_signals() -> None:
    frames = drive(0, 2)
    rows = FrameRows(Colours(), len(frames))
    (row,) = rows(torch.from_numpy(frames).permute(0, 3, 1, 2)[None])
    assert row.shape == (rows.num_features,)
    seen, signals = rows.seen(row.numpy()), measure(frames)
    assert seen.features == pytest.approx(Colours()(torch.from_numpy(frames).permute(0, 3, 1, 2)[:, None]).numpy())
    assert seen.cells == pytest.approx(np.stack([fingerprint(frame) for frame in frames]))
    for name in SIGNALS:
        assert seen.signals[name] == pytest.approx(getattr(signals, name))


def test_the_network_may_judge_every_so_many_th_frame() -> None:
    frames, network = torch.from_numpy(drive(0, 2)).permute(0, 3, 1, 2)[None], Colours()
    every, some = FrameRows(network, 15), FrameRows(network, 15, every=4)
    first, second = every.seen(every(frames)[0].numpy()), some.seen(some(frames)[0].numpy())
    assert (second.features == first.features[::4]).all() and (second.cells == first.cells).all()
    assert every.hash != some.hash != FrameRows(network, 16, every=4).hash


def test_rows_need_frames_and_a_network_of_frames() -> None:
    rows, clips = FrameRows(Colours(), 5), Colours()
    clips.min_frames = 16
    with pytest.raises(UsageError, match="of 5 frames"):
        rows(torch.zeros(1, 4, 3, 16, 32, dtype=torch.uint8))
    with pytest.raises(UsageError, match="single frames"):
        FrameRows(clips, 16)
    with pytest.raises(UsageError, match="at least 2"):
        FrameRows(Colours(), 1)


def test_steady_clips_do_not_drift(real: Footage, kept: FeatureCache, tmp_path: Path, plot: Path) -> None:
    report = drift_report(footage("made", range(6)), real, Colours(), tmp_path, rules=RULES, cache=kept)
    for change in report["last_minus_first"].values():
        assert change["low"] <= 0 <= change["high"]
    bins = [(row["start_s"], row["end_s"], row["n"], row["clips"]) for row in report["bins"]]
    assert bins == [(2 * number, 2 * number + 2, 90, 6) for number in range(12)]
    assert all(abs(row["kernel"]) < 0.05 for row in report["bins"])
    signal = report["signals"]["brightness"]
    assert len(signal["times_s"]) == len(signal["mean"]) == len(signal["low"]) == len(signal["high"]) == 12
    assert signal["times_s"][0] == 1.0
    assert all(low <= mean <= high for low, mean, high in zip(signal["low"], signal["mean"], signal["high"], strict=True))
    assert signal["last_over_first"]["value"] == pytest.approx(1, abs=0.05)
    assert signal["real"]["mean"] == pytest.approx(signal["mean"][0], abs=0.05)
    assert report["events"] == {"freezes": [], "cuts": [], "repeats": [], "minutes": pytest.approx(6 * 24 / 60)}
    assert plot.stat().st_size > 10_000
    assert report["span_s"] == 6.0 and report["clips"] == 6


def test_clips_that_grow_brighter_drift(real: Footage, kept: FeatureCache, tmp_path: Path) -> None:
    report = drift_report(footage("made", range(6), drift=2.0), real, Colours(), tmp_path, rules=RULES, cache=kept)
    for change in report["last_minus_first"].values():
        assert change["low"] > 0
    for kind in ("kernel", "frechet"):
        values = [row[kind] for row in report["bins"]]
        assert values[-1] > values[6] > values[1]
    ratio = report["signals"]["brightness"]["last_over_first"]
    assert ratio["low"] > 1.2 and ratio["value"] == pytest.approx(142 / 106, rel=0.05)


def test_one_clip_has_no_interval(real: Footage, kept: FeatureCache, tmp_path: Path, plot: Path) -> None:
    report = drift_report(footage("made", range(1), drift=2.0), real, Colours(), tmp_path, rules=RULES, cache=kept)
    for change in (*report["last_minus_first"].values(), report["signals"]["sharpness"]["last_over_first"]):
        assert np.isfinite(change["value"]) and np.isnan([change["low"], change["high"]]).all()
    assert np.isnan(report["signals"]["brightness"]["low"]).all()
    assert any("one clip only" in mark for mark in report["marks"])
    assert plot.exists()


def test_shorter_spans_and_mixed_lengths_are_marked(real: Footage, kept: FeatureCache, tmp_path: Path) -> None:
    mixed = [drive(0, 24), drive(1, 25), drive(2, 16), drive(3, 8)]
    report = drift_report(Footage.from_frames("made", mixed, FPS), real, Colours(), tmp_path, rules=replace(RULES, span_s=8.0), cache=kept)
    assert report["clips"] == 3 and report["span_s"] == 8.0
    assert [row["clips"] for row in report["bins"]] == [3] * 8 + [2] * 4
    assert any("differ in length" in mark for mark in report["marks"])
    short = drift_report(footage("made", range(2), 14), real, Colours(), tmp_path, rules=replace(RULES, span_s=8.0), cache=kept)
    assert short["span_s"] == 6.0 and any("is of 6 s each" in mark for mark in short["marks"])


def test_events_are_told_with_their_clip(real: Footage, kept: FeatureCache, tmp_path: Path) -> None:
    frozen = drive(1, 24)
    frozen[60:90] = frozen[60]
    made = Footage.from_frames("made", [drive(0, 24), frozen], FPS)
    (freeze,) = drift_report(made, real, Colours(), tmp_path, rules=RULES, cache=kept)["events"]["freezes"]
    assert freeze == {"clip_id": "clip_000001", "start_s": 8.0, "end_s": 12.0}


def test_a_clip_that_breaks_off_is_named_and_left_out(real: Footage, kept: FeatureCache, tmp_path: Path) -> None:
    for seed in range(3):
        write_video(tmp_path / "videos" / f"{seed}.mp4", drive(seed, 24), FPS)
    whole = (tmp_path / "videos" / "1.mp4").read_bytes()
    made = Footage.open([tmp_path / "videos"])
    (tmp_path / "videos" / "1.mp4").write_bytes(whole[: len(whole) // 2])
    report = drift_report(made, real, Colours(), tmp_path / "out", rules=RULES, cache=kept)
    assert report["clips"] == 2
    assert any(mark.startswith("drift: 1 was left out") for mark in report["marks"])


def test_a_clip_at_another_rate_is_named_and_left_out(real: Footage, kept: FeatureCache, tmp_path: Path) -> None:
    made = footage("made", range(2))
    odd = replace(made.clips[0], clip_id="odd", fps=10.0)
    report = drift_report(replace(made, clips=(*made.clips, odd)), real, Colours(), tmp_path, rules=RULES, cache=kept)
    assert report["clips"] == 2 and "drift: odd was left out: no frames at 7.5 fps" in report["marks"]


def test_a_second_time_asks_the_network_nothing(real: Footage, tmp_path: Path) -> None:
    network, made, cache = Colours(), footage("made", range(2)), FeatureCache(tmp_path / "cache")
    reports = [drift_report(made, real, network, tmp_path, rules=RULES, cache=cache)]
    calls = network.calls
    reports.append(drift_report(made, real, network, tmp_path, rules=RULES, cache=cache))
    assert network.calls == calls > 0
    assert json.dumps(reports[0]) == json.dumps(reports[1])


def test_without_a_long_clip_there_is_no_drift(real: Footage, kept: FeatureCache, tmp_path: Path) -> None:
    short = footage("made", range(2), 6)
    assert long_clips(short, 12) == [] and len(long_clips(short, 6)) == 2
    with pytest.raises(UsageError, match="made: no clip of at least 12 s"):
        drift_report(short, real, Colours(), tmp_path, rules=RULES, cache=kept)
    with pytest.raises(UsageError, match="short: no window of 16 frames"):
        drift_report(footage("made", range(2)), footage("short", range(2), 1), Colours(), tmp_path, rules=RULES, cache=kept)

"""The ablation table: its statistics, its pairing by seed, its refusals, and that every variant is a configuration there is."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmark_scripts import benchmark
from omegaconf import OmegaConf
from toy_checkpoint import make_checkpoint

from drivesim.boxes import Boxes
from drivesim.commands.config import compose
from drivesim.errors import UsageError
from drivesim.labels import LabelTrack
from drivesim.models.detector import Detections
from drivesim.models.unet import ImageUNet
from drivesim.recipes import build

ablations, table, samples = benchmark("ablations"), benchmark("ablations_table"), benchmark("ablations_samples")
training, variants = benchmark("ablations_training"), benchmark("ablations_variants")
STAGES = [(name, variant.stage, variant.words) for name, variant in variants.VARIANTS.items() if variant.stage]
STAGES += [(name, "2_image", variant.image) for name, variant in variants.VARIANTS.items() if variant.image]
STAGES += [(folder, stage, words) for folder, stages in variants.SHARED.items() for stage, words in stages.items()]


@pytest.mark.parametrize(("name", "stage", "words"), STAGES, ids=[f"{name}-{stage}" for name, stage, _ in STAGES])
def test_every_variant_is_a_configuration_that_resolves(name: str, stage: str, words: tuple[str, ...], tmp_path: Path) -> None:
    config = compose("train", [*training.common(stage, tmp_path, [tmp_path], 3, 8, tmp_path / "cost.json"), *words])
    assert config.stage == stage and config.trainer.max_steps == 8 and config.module.seed == 3
    assert config.module.optimization.warmup_steps == 2
    for part in ("module", "datamodule", "callbacks", "loggers"):
        told = json.dumps(OmegaConf.to_container(config[part], resolve=True))
        assert "???" not in told, f"{name}: something of {part} is still to be given"
    assert set(config.callbacks) == {"last", "export", "cost"}


def test_attention_stands_at_every_place_of_the_image_network() -> None:
    network = build({"_target_": variants.UNET, "channels": 8, **variants.LATENT})
    assert isinstance(network, ImageUNet)
    assert list(network.sites()) == variants.RESIDUAL and list(network.attention_sites()) == variants.ATTENTION


def test_comparisons_name_what_there_is() -> None:
    for comparison in table.COMPARISONS:
        for name, asked in (comparison.first, comparison.second):
            variant = variants.VARIANTS[name]
            others = ("reconstruction", "enlarged", *(["samples"] if variant.image else []))
            assert asked in (variant.conditions if variant.kind == "video" else others), comparison.title
    titles = [comparison.title for comparison in table.COMPARISONS]
    assert len(set(titles)) == len(titles)


def test_interval_is_students() -> None:
    found = table.spread([1.0, 2.0, 3.0])
    assert found.mean == 2 and found.half == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert math.isnan(table.spread([5.0]).half)


@pytest.mark.parametrize(
    ("mean", "half", "paper", "wanted"),
    [
        (1.0, 0.5, (2.0, 1.0), "same"), (1.0, 0.5, (1.0, 2.0), "differs"), (-1.0, 0.5, (1.0, 2.0), "same"),
        (0.4, 0.5, (2.0, 1.0), "within noise"), (1.0, 0.5, None, "higher"), (-1.0, 0.5, None, "lower"),
        (1.0, math.nan, (2.0, 1.0), "unknown: one seed"),
    ],
)  # fmt: skip
def test_verdicts(mean: float, half: float, paper: tuple[float, float] | None, wanted: str) -> None:
    assert table.verdict(table.Spread(mean, half, 3), paper) == wanted


def result(variant: str, seed: int, asked: str, fvd: float, **more: Any) -> dict[str, Any]:
    metrics = {"fvd": fvd, "kvd": fvd / 10, "fd": 2 * fvd, "kd": fvd / 5}
    own = {"steps": 8, "windows_a_step": 4, "frames_a_window": 18, "weights": 10, "trained_weights": 5, "gflop_a_step": 2.0, "gflop": 16.0,
           "cpu_s": 3.0}  # fmt: skip
    return {
        "variant": variant, "seed": seed, "judged": {asked: metrics}, "steps": 8, "windows": 4, "data": ["sim"], "held_out": ["sim test"],
        "machine": "none", "date": "2026-01-01", "cost": {"shared": {"1_autoencoder": own}, "own": own}, **more,
    }  # fmt: skip


def test_differences_are_taken_seed_by_seed() -> None:
    """Seeds differ by hundreds, the pairs by one: unpaired, nothing could be said."""
    noise = [100.0, 300.0, 700.0]
    results = [result("carried", seed, "2 frames", noise[seed]) for seed in range(3)]
    results += [result("encoder", seed, "2 frames", noise[seed] + 1 + 0.01 * seed) for seed in range(3)]
    (row,) = (row for row in table.compared(table.rows_of(results)) if row["title"] == "context by encoder - carried")
    cell = row["metrics"]["fvd"]
    assert cell["mean"] == pytest.approx(1.01) and cell["half"] < 0.03 and cell["verdict"] == "higher" and cell["seeds"] == 3


def test_only_common_seeds_are_paired_but_what_is_not_trained_goes_with_all() -> None:
    results = [result("carried", 0, "2 frames", 1.0), *(result("encoder", seed, "2 frames", 2.0) for seed in range(3))]
    results += [result("decoder_stage_1", 0, "reconstruction", 5.0)]
    results += [result("decoder_video", seed, "reconstruction", 1.0 + seed) for seed in range(3)]
    rows = {row["title"]: row["metrics"]["fvd"] for row in table.compared(table.rows_of(results))}
    assert rows["context by encoder - carried"]["seeds"] == 1
    decoder = rows["video decoder - stage 1's"]
    assert decoder["seeds"] == 3 and decoder["mean"] == pytest.approx(-3.0) and decoder["paper"] == [32.94, 390.88]


def test_results_of_two_kinds_make_no_table() -> None:
    with pytest.raises(UsageError, match="differ in steps: 16, 8"):
        table.rows_of([result("carried", 0, "2 frames", 1.0), result("encoder", 0, "2 frames", 1.0, steps=16)])
    with pytest.raises(UsageError, match="no finished variant"):
        table.rows_of([])


def test_the_page_is_written_from_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "results").mkdir()
    for seed in range(3):
        for name, fvd in {"carried": 1.0, "pixel": 0.5 + 0.01 * seed}.items():
            (tmp_path / "results" / f"{name}-{seed}.json").write_text(json.dumps(result(name, seed, "2 frames", fvd)))
    page = tmp_path / "docs" / "page.md"
    args = argparse.Namespace(out=tmp_path, results=tmp_path / "all.json", page=page, plot=tmp_path / "docs" / "images" / "plot.png")
    ablations.table(args)
    text = page.read_text()
    assert "| pixel space - latents | -0.49 ± 0.025 | 105.39 (639.56 - 534.17) | differs | -0.98 ± 0.05 | 11.44 (59.7 - 48.26) |" in text
    assert "differs: pixel space - latents (fvd); pixel space - latents (fd)." in text
    assert "(images/plot.png)" in text and args.plot.stat().st_size > 0
    assert json.loads(args.results.read_text())["metrics"]["fvd"] == "fvd_lite0_4x16_64x128_lossless"
    assert capsys.readouterr().out.strip() == text.strip()


def test_finished_ones_are_skipped_and_other_settings_refused(tmp_path: Path) -> None:
    told = {"steps": 8, "windows": 4, "data": ["sim"], "held_out": ["sim test"]}
    path = tmp_path / "results" / "decoder_stage_1-0.json"
    path.parent.mkdir()
    path.write_text(json.dumps(result("decoder_stage_1", 0, "reconstruction", 1.0)))
    workshop = training.Workshop(tmp_path, (tmp_path / "nowhere",), variants.Plan(8))
    ablations.finish(workshop, None, "decoder_stage_1", 2, told, keep=False)  # would train and read clips otherwise
    with pytest.raises(UsageError, match=r"decoder_stage_1-0.json: was made with steps = 8, not 9"):
        ablations.finish(workshop, None, "decoder_stage_1", 0, {**told, "steps": 9}, keep=False)


def test_training_of_other_length_is_not_taken_over(tmp_path: Path) -> None:
    cost = tmp_path / "shared" / "latent" / "cost_1_autoencoder.json"
    cost.parent.mkdir(parents=True)
    cost.write_text(json.dumps({"steps": 3}))
    with pytest.raises(UsageError, match=r"trained for 3 steps, not 16"):
        training.Workshop(tmp_path, (tmp_path,), variants.Plan(8)).shared("latent")


def test_unknown_variants_are_named(tmp_path: Path) -> None:
    args = argparse.Namespace(threads=1, only=["carry"])
    with pytest.raises(UsageError, match="no variant named carry; there are carried, pixel"):
        ablations.run(args)


def test_rows_of_other_metrics_stand_in_one_table() -> None:
    """Samples of latents have no PSNR."""
    latents = {"reconstruction": {"psnr_db": 20.0, "ap50": 0.5}, "samples": {"ap50": 0.25}}
    results = [{**result("latents_8", seed, "samples", 0.0), "judged": latents} for seed in range(2)]
    own = results[0]["cost"]["own"]
    text = table.markdown(table.rows_of(results), [], {"latents_8": {"own": own, "image": {**own, "gflop": 5000.0}}})
    assert "| `latents_8`: 8 channels | reconstruction | 20 | 0.5 | 2 |" in text
    assert "| `latents_8`: 8 channels | samples |  | 0.25 | 2 |" in text
    assert "| `latents_8`, image network on it | 8 | 4 x 18 | 0.00M | 2.0 | 5.00 | 3 | 0.02 |" in text


def told(frames: int) -> dict[str, torch.Tensor]:
    """One car of half the picture's height in every frame; in the last frame nobody knows."""
    rows = np.arange(frames)
    cars = Boxes(rows, rows, np.zeros(frames, np.int64), np.tile(np.array([0.25, 0.25, 0.5, 0.75], np.float32), (frames, 1)), rows < 0)
    known = rows < frames - 1
    values = {name: np.full(frames, value, np.float32) for name, value in {"time_of_day": 1.0, "crowdedness": 1.0}.items()}
    return {name: torch.from_numpy(value) for name, value in LabelTrack(7.5, values, cars, known).arrays().items()}


def test_samples_follow_from_seed_and_row_whoever_is_beside_them(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "toy")
    labels = told(18)
    made = samples.made_frames(tmp_path / "toy", labels, (32, 64), seed=1)
    assert made.dtype == torch.uint8 and made.shape == (18, 3, 32, 64)
    alone = samples.made_frames(tmp_path / "toy", {name: value[:2] for name, value in labels.items()}, (32, 64), seed=1)
    assert (made[:2].int() - alone.int()).abs().max() <= 1
    assert not torch.equal(made[0], made[1])
    assert not torch.equal(made[:2], samples.made_frames(tmp_path / "toy", told(2), (32, 64), seed=2))


@pytest.mark.parametrize(("left", "wanted"), [(0.25, 1.0), (0.6, 0.0)])
def test_samples_are_held_against_the_boxes_that_were_asked_for(left: float, wanted: float, monkeypatch: pytest.MonkeyPatch) -> None:
    box = torch.tensor([[left, 0.25, left + 0.25, 0.75]])

    class Detector:
        def detect(self, frames: torch.Tensor, threshold: float, limit: int) -> list[Detections]:
            return [Detections(box, torch.tensor([0.9]), torch.tensor([0]), 0.0) for _ in frames]

    monkeypatch.setattr(samples.Judge, "load", lambda: argparse.Namespace(detector=Detector()))
    assert samples.ap50(torch.zeros(4, 3, 32, 64, dtype=torch.uint8), told(4), ["a"] * 4) == pytest.approx(wanted)

"""Memory asked for, memory predicted, sizes chosen: larger rooms never give smaller sizes, and too small ones are told what would do."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from benchmark_scripts import benchmark
from omegaconf import DictConfig

from drivesim import cli
from drivesim.commands.config import compose
from drivesim.commands.fitting import fit_config
from drivesim.commands.presets import untrained
from drivesim.errors import UsageError
from drivesim.io.checkpoints import Checkpoint
from drivesim.simulation.budget import BATCHES, CHUNKS, EFFICIENCY, MEASURED, bytes_of, fit, peak, shown
from drivesim.simulation.cost import Costs, described
from drivesim.simulation.settings import RolloutSettings
from drivesim.simulation.upsample import UpsamplerSettings

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "memory_model.json"
MIB = 2**20


@pytest.fixture(scope="module")
def mini() -> Costs:
    made = untrained("mini")
    return Costs(made.networks, made.settings, RolloutSettings.of(made.settings["rollout"]), UpsamplerSettings(network="upsampler_fast"))


@pytest.fixture(scope="module")
def small(mini: Costs) -> Costs:
    """Without upsampling."""
    return mini.resized(mini.settings, None)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return benchmark("untrained").write_untrained("toy", tmp_path_factory.mktemp("toy"))


@pytest.mark.parametrize(
    ("text", "size"),
    [("16GB", 16 * 10**9), ("900MB", 900 * 10**6), ("8GiB", 8 * 2**30), ("1.5 gb", 1_500_000_000), ("512mib", 512 * MIB), ("1TB", 10**12)],
)
def test_amounts_of_memory(text: str, size: int) -> None:
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "16", "GB", "16 apples", "-3GB", "0GB", "1e3MB", "16GBs", "None"])
def test_what_is_no_amount_of_memory(text: str) -> None:
    with pytest.raises(UsageError, match="fit must be an amount of memory such as 16GB, 900MB or 8GiB"):
        bytes_of(text)


@pytest.mark.parametrize("size", [1, 899_000_001, 10**9, 1_234_567_890, 16 * 10**9])
def test_shown_amounts_are_never_less(size: int) -> None:
    assert size <= bytes_of(shown(size)) <= 1.1 * size + 10**6


def test_constants_are_those_that_were_measured() -> None:
    found = json.loads(RESULTS.read_text(encoding="utf-8"))["fitted"]
    cpu = MEASURED["cpu"]
    assert (cpu.base, cpu.margin) == pytest.approx((found["base"], found["margin"]), abs=MIB)
    assert (cpu.overhead, EFFICIENCY) == pytest.approx((found["overhead"], found["efficiency"]), abs=0.006)


def test_the_model_covers_every_rollout_that_was_measured() -> None:
    cpu = MEASURED["cpu"]
    for run in json.loads(RESULTS.read_text(encoding="utf-8"))["runs"]:
        assert cpu.base + run["weights"] + run["waiting"] + cpu.overhead * run["live"] + cpu.margin >= 0.999 * run["peak"], run["name"]


def test_more_room_never_gives_less(small: Costs) -> None:
    least = peak(small.resized(replace(small.settings, batch=1, decode_frames=1), None), "cpu")
    earlier = (0, 0)
    for room in [least + extra * MIB for extra in (0, 10, 30, 60, 120, 250, 500, 4000)]:
        found = fit(small, room, "cpu")
        sizes = (found.settings.batch, found.settings.decode_frames)
        assert found.peak <= room and all(now >= before for now, before in zip(sizes, earlier, strict=True))
        assert found.settings.precision == "float32", "half precision is slow on a CPU"
        earlier = sizes
    assert earlier == (8, 32)


def test_too_little_says_the_least_that_works(small: Costs) -> None:
    with pytest.raises(UsageError, match=r"fit=100MB is too little for this rollout: the least that works is \d+MB$") as raised:
        fit(small, 100 * 10**6, "cpu")
    named = re.search(r"works is (\w+)", str(raised.value))
    assert named is not None
    assert fit(small, bytes_of(named[1]), "cpu").peak <= bytes_of(named[1])


def test_a_gpu_gets_half_precision_before_small_batches(small: Costs) -> None:
    full = fit(small, 10**12, "cuda")
    assert (full.settings.batch, full.settings.decode_frames, full.settings.precision) == (BATCHES[0], CHUNKS[0], "float32")
    tight = fit(small, full.peak - 1, "cuda")
    assert tight.settings.precision == "bfloat16" and tight.peak < full.peak
    kept = fit(small, full.peak - 1, "cuda", given=["precision"])
    assert kept.settings.precision == "float32" and kept.settings.batch < BATCHES[0]


def test_upsampling_goes_by_tiles_where_frames_do_not_fit(mini: Costs) -> None:
    whole = fit(mini, 10**12, "cpu")
    assert whole.upsampling is not None and whole.upsampling.tile == 0
    tight = fit(mini, whole.peak - 50 * MIB, "cpu")
    assert tight.upsampling is not None and tight.upsampling.tile > 0 and tight.peak < whole.peak
    with pytest.raises(UsageError, match="with tile as given"):
        fit(mini, whole.peak // 2, "cpu", given=["tile"])


def composed(*words: str) -> DictConfig:
    return compose("rollout", words)


def test_what_the_user_gave_stays_and_the_rest_is_written_down(toy: Checkpoint) -> None:
    config = composed("fit=16GB", "rollout.batch=3")
    told = fit_config(config, toy, RolloutSettings.of(toy.settings["rollout"], batch=3), None, "cpu")
    assert config.fit is None and (config.rollout.batch, config.rollout.decode_frames, config.rollout.precision) == (3, 32, "float32")
    assert told.startswith("about ") and "of 16.0GB: rollout.batch=3 rollout.decode_frames=32 rollout.precision=float32" in told


def test_costs_of_a_folder_are_those_of_its_networks(toy: Checkpoint) -> None:
    assert set(described(toy)) == set(toy.networks)


@pytest.mark.parametrize(("amount", "said"), [("lots", "such as 16GB"), ("1MB", "the least that works is")])
def test_bad_amounts_on_the_command_line(amount: str, said: str, toy: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "out"
    words = ["rollout", "--minutes", "0.01", "--checkpoint", str(toy.folder), "--device", "cpu", "--out", str(out), "--fit", amount]
    assert cli.main(words) == 2
    caught = capsys.readouterr()
    assert said in caught.err and caught.err.count("\n") == 1 and not out.exists()


def test_fit_on_the_command_line(toy: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "out"
    words = ["rollout", "--minutes", "0.01", "--checkpoint", str(toy.folder), "--device", "cpu", "--out", str(out), "--fit", "4GB"]
    assert cli.main([*words, "rollout.decode_frames=3"]) == 0
    assert "rollout.decode_frames=3" in capsys.readouterr().out
    assert json.loads((out / "rollout.json").read_text())["settings"]["batch"] == 8

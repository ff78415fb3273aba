"""The doctor looks without touching: what it prints, with a machine, weights and judges that are there or are not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from benchmark_scripts import benchmark

from drivesim import cli
from drivesim.commands import doctor
from drivesim.commands.config import compose
from drivesim.errors import DrivesimError
from drivesim.io.checkpoints import file_hash, load_checkpoint
from drivesim.simulation.speed import measured_rate


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return benchmark("untrained").write_untrained("toy", tmp_path_factory.mktemp("toy")).folder


def missing(name: str) -> None:
    """A judge that is not there."""
    if name.startswith("i3d"):
        raise DrivesimError("no weights for it: put this file there")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "measured_rate", lambda *args: 100e9)
    monkeypatch.setattr("hydra.utils.get_method", lambda target: missing)


@pytest.mark.usefixtures("quick")
def test_everything_is_told(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--device", "cpu", "--checkpoint", str(toy), "presets=[]"]) == 0
    out = capsys.readouterr().out
    for heading in ("\nmachine\n", "\nweights\n", "\njudges\n", "\nneeds and speed: a prediction, from 100 GFLOP/s"):
        assert heading in out
    assert torch.__version__ in out and re.search(r"h264 \(x264\)\s+works", out)
    assert re.search(rf"prediction\s+{file_hash(toy / 'prediction.safetensors')[:12]}", out)
    assert re.search(r"lite0-frames\s+found", out) and re.search(r"i3d-kinetics-400\s+no weights for it: put this file there", out)
    assert re.search(r"32x64 7.5 fps, 4/2 steps: \d+MB; 1 min of video in \d+ s\n", out)
    assert re.search(r"128x256 7.5 fps, 4/2/\d+ steps: \d+MB; 1 min of video in \d+ s\n", out)


@pytest.mark.usefixtures("quick")
def test_both_qualities_are_predicted(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--device", "cpu", "--checkpoint", str(toy), "presets=[]", "minutes=60"]) == 0
    needs = capsys.readouterr().out.partition("needs and speed")[2]
    model = load_checkpoint(toy).settings
    steps = {"fast": (model["prediction_fast"]["calls"], model["interpolation_fast"]["calls"]),
             "full": (model["rollout"]["steps_keyframes"], model["rollout"]["steps_interpolation"])}  # fmt: skip
    for quality, (keyframes, interpolation) in steps.items():
        assert re.search(rf" {quality} +32x64 \S+ fps, {keyframes}/{interpolation} steps", needs), quality


@pytest.mark.usefixtures("quick")
def test_a_preset_without_weights_is_still_predicted(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--device", "cpu", "presets=[toy]", "minutes=2"]) == 0
    out = capsys.readouterr().out
    assert "not in the package; train it: drivesim train experiment=toy/1_autoencoder" in out
    assert re.search(r"toy full +32x64 .*2 min of video in \d+ s, if it were trained", out)


def test_the_configuration_names_judges_that_there_are() -> None:
    target, config = "drivesim.eval.features.feature_network", compose("command/doctor")
    assert config.judges["_target_"] == target
    lines = dict(doctor.judges(compose("command/doctor", ["judges.names=[lite0-clips]"])))
    assert lines == {"lite0-clips": "found"}


def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--device", "tpu"]) == 2
    assert cli.main(["doctor", "prests=[mini]"]) == 2
    assert capsys.readouterr().err.count("\n") == 2


def test_a_disk_that_cannot_encode_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise DrivesimError("no libx264")

    monkeypatch.setattr(doctor, "write_video", broken)
    assert doctor.encodes() == "does not work: no libx264"


def test_the_rate_is_a_rate() -> None:
    assert 1e8 < measured_rate(seconds=0.05) < 1e14


@pytest.mark.parametrize(("seconds", "shown"), [(12.4, "12 s"), (119, "119 s"), (600, "10 min"), (7200, "2 hours"), (864000, "10 days")])
def test_durations(seconds: float, shown: str) -> None:
    assert doctor._long(seconds) == shown


def test_what_was_fetched_is_counted(tmp_path: Path) -> None:
    assert doctor.fetched(tmp_path / "none") == doctor.fetched(tmp_path) == "none are kept"
    (tmp_path / "state").mkdir()
    with (tmp_path / "state" / "clip.mp4").open("wb") as file:
        file.truncate(3 * 2**29)  # takes no room
    assert doctor.fetched(tmp_path) == f"1.5 GiB in {tmp_path}, which may be removed to free it"

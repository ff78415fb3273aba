"""fast and full: which network serves which pass, how those of few calls are sampled, and what cannot be asked of them."""

from __future__ import annotations

import json
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toy_checkpoint import make_checkpoint, make_fast

from drivesim import cli
from drivesim.diffusion.denoiser import window_denoiser
from drivesim.diffusion.frame_mask import Known
from drivesim.diffusion.noise import zero_terminal_cosine
from drivesim.diffusion.objective import EndPoints
from drivesim.diffusion.samplers import renoise
from drivesim.errors import DrivesimError, UsageError
from drivesim.io.checkpoints import WORSE, Checkpoint, CheckpointError, load_checkpoint, save_network, save_settings
from drivesim.labels import Scenario
from drivesim.recipes import build
from drivesim.simulation.cost import Costs, described
from drivesim.simulation.fill import Context, Filler, PassSettings, draw_noise
from drivesim.simulation.quality import pass_networks, qualities_of, rollout_settings
from drivesim.simulation.settings import RolloutSettings
from drivesim.simulation.simulator import Simulator

PLAIN = {"autoencoder", "image", "prediction", "interpolation"}
DRIVE = Scenario(4.0, time_of_day="day", crowdedness=4.0, seed=3)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return make_checkpoint(tmp_path_factory.mktemp("plain"), guidance=1.5, label_guidance=2.0)


@pytest.fixture(scope="module")
def both(plain: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("both") / "weights"
    shutil.copytree(plain.folder, folder)
    return make_fast(folder)


def changed(checkpoint: Checkpoint, folder: Path, without: tuple[str, ...] = (), **entries: Any) -> Checkpoint:
    """A copy that lacks some networks, and of which model.json says more."""
    shutil.copytree(checkpoint.folder, folder)
    for path in (path for name in without for path in folder.glob(f"{name}.*")):
        path.unlink()
    save_settings(folder, {**checkpoint.settings, **entries})
    return load_checkpoint(folder)


class Kept:
    """A journal that remembers what it is given."""

    def __init__(self) -> None:
        self.pieces: dict[int, torch.Tensor] = {}

    def load(self, number: int) -> torch.Tensor | None:
        return None

    def save(self, number: int, latents: torch.Tensor) -> None:
        self.pieces[number] = latents


def video_of(checkpoint: Checkpoint, quality: str | None = None, **wishes: Any) -> np.ndarray:
    return np.concatenate([step.frames for step in Simulator(checkpoint, rollout_settings(checkpoint, quality, **wishes)).run(DRIVE)])


# which network serves


def test_what_is_taken_where_nobody_asks(plain: Checkpoint, both: Checkpoint) -> None:
    assert (qualities_of(plain.networks), qualities_of(both.networks)) == (("full",), ("fast", "full"))
    assert rollout_settings(plain).quality == "full" and rollout_settings(both).quality == "fast"
    assert qualities_of({"image_fast", "prediction_fast", "interpolation"}) == ("fast",)


def test_full_is_what_the_checkpoint_was_before(plain: Checkpoint, both: Checkpoint) -> None:
    assert rollout_settings(both, "full") == rollout_settings(plain) == RolloutSettings.of(plain.settings["rollout"])
    assert np.array_equal(video_of(both, "full"), video_of(plain))


def test_fast_networks_bring_their_calls_and_no_guidance(both: Checkpoint) -> None:
    settings = rollout_settings(both, steps_keyframes=3)
    assert (settings.steps_image, settings.steps_keyframes, settings.steps_interpolation) == (4, 3, 1)
    assert (settings.guidance, settings.label_guidance) == (1, 1)
    assert Simulator(both, settings).passes() == {
        "image": {"network": "image_fast", "sampler": "renoise", "steps": 4},
        "keyframes": {"network": "prediction_fast", "sampler": "renoise", "steps": 3},
        "interpolation": {"network": "interpolation_fast", "sampler": "renoise", "steps": 1},
    }


def test_a_pass_without_a_fast_network_is_as_it_was(both: Checkpoint, tmp_path: Path) -> None:
    mixed = changed(both, tmp_path / "mixed", without=("image_fast", "prediction_fast"))
    fast, full = (Simulator(mixed, rollout_settings(mixed, quality)) for quality in ("fast", "full"))
    assert fast.passes()["keyframes"] == full.passes()["keyframes"] and fast.passes()["image"] == full.passes()["image"]
    assert fast.passes()["interpolation"]["network"] == "interpolation_fast"
    assert (fast.settings.guidance, fast.settings.label_guidance) == (1.5, 2.0)
    keyframes = [video_of(mixed, quality, fps=1.875) for quality in ("fast", "full")]
    assert np.array_equal(*keyframes)


def test_guidance_of_a_plain_pass_does_not_reach_a_fast_one(both: Checkpoint, tmp_path: Path) -> None:
    mixed = changed(both, tmp_path / "mixed", without=("prediction_fast", "image_fast", "interpolation_fast"))
    shutil.copy(both.folder / "image_fast.json", tmp_path / "mixed")
    shutil.copy(both.folder / "image_fast.safetensors", tmp_path / "mixed")
    settings = rollout_settings(mixed)
    serving = pass_networks(mixed.settings, mixed.networks, "fast")
    assert serving["image"].settings(settings, "image") == PassSettings("renoise", 4)
    assert serving["keyframes"].settings(settings, "keyframes") == settings.of_pass("keyframes")
    assert settings.of_pass("keyframes").label_guidance == 2.0


def test_a_folder_of_fast_networks_alone_rolls_out(both: Checkpoint, tmp_path: Path) -> None:
    alone = changed(both, tmp_path / "alone", without=("image", "prediction", "interpolation"))
    assert np.array_equal(video_of(alone), video_of(both))
    with pytest.raises(CheckpointError, match=r"missing image.safetensors, .*interpolation.json; .*experiment=mini/2_image"):
        Simulator(alone, rollout_settings(alone, "full"))
    (alone.folder / "image_fast.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"missing image.safetensors, image.json; "):
        load_checkpoint(alone.folder)


def test_the_plain_interpolation_may_be_of_one_call(both: Checkpoint, tmp_path: Path) -> None:
    entry = {**both.settings["interpolation_fast"], "calls": 1, "noise": 0}
    alone = changed(both, tmp_path / "alone", without=("interpolation_fast",), interpolation=entry)
    beside = changed(both, tmp_path / "beside", interpolation=entry)  # an older network of few calls is not asked
    for direct, quality in product((alone, beside), ("fast", "full")):
        told = Simulator(direct, rollout_settings(direct, quality)).passes()["interpolation"]
        assert told == {"network": "interpolation", "sampler": "renoise", "steps": 1}


def test_an_entry_without_calls_says_how_a_plain_network_is_to_be_read(plain: Checkpoint, tmp_path: Path) -> None:
    noise = {"schedule": zero_terminal_cosine(50).recipe, "parameterization": "velocity"}
    changed_schedule = changed(plain, tmp_path / "own", interpolation={**noise, "known": EndPoints().recipe})
    serving = pass_networks(changed_schedule.settings, changed_schedule.networks, "full")
    assert (serving["interpolation"].calls, len(serving["interpolation"].schedule)) == (None, 50)
    assert len(serving["keyframes"].schedule) == 1000
    assert not np.array_equal(*(video_of(checkpoint, steps_interpolation=3) for checkpoint in (changed_schedule, plain)))


# how it is sampled


@torch.inference_mode()
def test_a_window_is_renoise_called_by_hand(both: Checkpoint) -> None:
    simulator = Simulator(both, rollout_settings(both))
    values = torch.randn(1, 10, *simulator.latent_shape, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(10)[None] < 2
    labels = {"fps": torch.full((1, 10), 1.875)}
    made = simulator.fill("keyframes", [5], [7], values.shape[1:], labels, Context(values, mask))

    noise = [draw_noise([5], "keyframes", [7], values.shape[1:], part) for part in range(5)]
    known = Known(values, mask, torch.tensor([0.05]), noise[1])
    denoiser = window_denoiser(both.network("prediction_fast"), "velocity", labels, known)
    by_hand = renoise(denoiser, noise[0], zero_terminal_cosine().grid(4), lambda step: noise[2 + step])
    assert torch.equal(made, by_hand) and torch.equal(made[:, :2], values[:, :2])


class Zero(nn.Module):
    """Says that there is nothing: velocity 0 at pure noise."""

    context = "slots"

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor, sigma: Tensor, labels: Any, context: Tensor | None = None) -> Tensor:
        self.seen.append(x.clone())
        return torch.zeros_like(x)


def test_one_that_begins_without_noise_is_handed_known_frames_alone() -> None:
    network, values = Zero(), torch.randn(2, 5, 2, 3, 4, generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([True, False, False, False, True]).expand(2, 5)
    filler = Filler(zero_terminal_cosine(), "velocity", torch.device("cpu"), scale=0.0)
    made = filler(network, "interpolation_1", [0, 0], [0, 1], values.shape[1:], {}, PassSettings("renoise", 1), Context(values, mask))
    assert torch.equal(made[:, [0, -1]], values[:, [0, -1]]) and not made[:, 1:-1].any()
    assert len(network.seen) == 1 and torch.equal(network.seen[0], torch.where(mask[..., None, None, None], values, 0.0))


def test_noise_of_a_window_depends_on_neither_batch_nor_history() -> None:
    together, alone = Zero(), Zero()
    filler, how = Filler(zero_terminal_cosine(), "velocity", torch.device("cpu")), PassSettings("renoise", 3)
    filler(together, "interpolation_1", [0, 0, 0], [4, 5, 6], (5, 2, 3, 4), {}, how)
    filler(alone, "interpolation_1", [0], [5], (5, 2, 3, 4), {}, how)
    assert len(alone.seen) == 3
    assert all(torch.equal(many[1:2], one) for many, one in zip(together.seen, alone.seen, strict=True))
    first, second, third = alone.seen
    assert not torch.equal(second, third) and not torch.equal(first, second), "every step has noise of its own"


def test_how_the_work_is_cut_does_not_show(both: Checkpoint) -> None:
    difference = video_of(both).astype(int) - video_of(both, batch=3, decode_frames=5).astype(int)
    assert np.abs(difference).max() <= 1


# what cannot be asked


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"guidance": 2.0}, r"rollout.guidance=2.0: .* built into prediction_fast by .*--quality full"),
        ({"label_guidance": 2.0}, r"rollout.label_guidance=2.0: .* image_fast and prediction_fast "),
        ({"guided_labels": "boxes"}, r"rollout.guided_labels=boxes: .* image_fast and prediction_fast "),
        ({"guidance_parallel": 0.5}, r"rollout.guidance_parallel=0.5: .* image_fast and prediction_fast "),
        ({"steps_interpolation": 2}, r"interpolation_fast begins without noise, .* not 2: take rollout.steps_interpolation=1"),
        ({"sampler": "ddim"}, r"rollout.sampler=ddim: .*--quality full"),
        ({"quality": "quick"}, r"quality must be fast or full, not 'quick'"),
        ({"step_keyframes": 2}, r"did you mean rollout.steps_keyframes\?"),
    ],
)
def test_wishes_that_few_calls_cannot_fulfil(both: Checkpoint, wishes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        rollout_settings(both, **wishes)


def test_wishes_that_change_nothing_are_none(both: Checkpoint) -> None:
    unasked = rollout_settings(both, guidance=1.0, label_guidance=1, guided_labels="all", sampler=None, steps_image=4)
    assert unasked == rollout_settings(both)


def test_fast_where_there_is_none_says_how_to_make_it(plain: Checkpoint) -> None:
    with pytest.raises(UsageError, match=r"\(toy\) holds no networks of few calls: .*drivesim train experiment=toy/3_prediction_fast"):
        rollout_settings(plain, "fast")


def test_a_fast_network_that_nothing_is_said_of(both: Checkpoint, tmp_path: Path) -> None:
    silent = changed(both, tmp_path / "silent", interpolation_fast={"noise": 1.0})
    with pytest.raises(DrivesimError, match=r"model.json does not say calls of the network interpolation_fast"):
        rollout_settings(silent)


@pytest.mark.parametrize("name", ["interpolation", "interpolation_fast"])
def test_a_network_of_a_kind_that_is_gone_is_refused(both: Checkpoint, tmp_path: Path, name: str) -> None:
    entry = {**both.settings["interpolation_fast"], "known": {**EndPoints().recipe, "detail": 0.5}}
    old = changed(both, tmp_path / "old", **{name: entry})
    message = rf"network {name} is of a kind that is gone .*remove {name}\.\* .*experiment=toy/4_interpolation_frames"
    with pytest.raises(DrivesimError, match=message):
        rollout_settings(old, "fast" if name.endswith("fast") else "full")
    whole = changed(both, tmp_path / "whole", **{name: {**entry, "known": {**entry["known"], "detail": None}}})
    assert rollout_settings(whole).quality == "fast", "null says nothing"


# a student that opens rollouts itself


@pytest.fixture(scope="module")
def opening(both: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Without image_fast, but with a prediction_fast that begins rollouts."""
    entry = {**both.settings["prediction_fast"], "opens": True}
    found = changed(both, tmp_path_factory.mktemp("opening") / "weights", without=("image_fast", "prediction_fast"), prediction_fast=entry)
    save_network(found.folder / "prediction_fast", both.network("prediction_fast"), {"stage": "toy"})
    return load_checkpoint(found.folder)


def test_a_rollout_begins_with_a_window_of_which_nothing_is_known(opening: Checkpoint) -> None:
    simulator = Simulator(opening, rollout_settings(opening))
    assert simulator.passes()["image"] == {"network": "prediction_fast", "sampler": "renoise", "steps": 4}
    journal = Kept()
    next(simulator.run(DRIVE, journal=journal))
    told = simulator.labels(DRIVE).at(range(10), 1.875).arrays(simulator.settings.max_boxes)
    labels = {name: torch.from_numpy(values[None]) for name, values in told.items()}
    with torch.inference_mode():  # as a rollout is made; with gradients norms go another way, to other last bits
        window = simulator.fill("image", [DRIVE.seed], [0], (10, *simulator.latent_shape), labels)
    assert torch.equal(journal.pieces[0], window[0, :1])
    assert not torch.equal(window[0, 1:9], journal.pieces[1][:8]), "the rest of it is made again, with the first frame known"


def test_an_opening_student_is_used_for_nothing_else_and_only_where_it_is_wanted(opening: Checkpoint, both: Checkpoint) -> None:
    assert Simulator(opening, rollout_settings(opening, "full")).passes()["image"]["network"] == "image"
    silent = {**opening.settings, "prediction_fast": both.settings["prediction_fast"]}
    assert pass_networks(silent, opening.networks, "fast")["image"].name == "image"
    beside = {**both.settings, "prediction_fast": opening.settings["prediction_fast"]}
    assert pass_networks(beside, both.networks, "fast")["image"].name == "image_fast"
    with pytest.raises(UsageError, match="built into prediction_fast by distillation"):
        rollout_settings(opening, label_guidance=2.0)


def test_an_opening_window_costs_what_any_window_costs(opening: Checkpoint) -> None:
    costs = Costs(described(opening), opening.settings, rollout_settings(opening), None)
    assert costs.image() == costs.keyframes() and "image" not in costs.networks
    assert costs.flop(60.0)["image"] == 4 * costs.keyframes().flop


# a worse version to be led away from


@pytest.fixture(scope="module")
def led(plain: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """With worse versions of image and prediction, other random weights, that model.json wants to be led away from."""
    found = changed(plain, tmp_path_factory.mktemp("led") / "weights", rollout={**plain.settings["rollout"], "autoguidance": 2.0})
    for name, worse in WORSE.items():
        network = plain.network(name)
        other = build(network.recipe)
        other.load_state_dict({key: 0.9 * value for key, value in network.state_dict().items()})
        save_network(found.folder / worse, other, {"stage": "toy"}, without={"image.": "image_worse"} if name == "prediction" else None)
    return load_checkpoint(found.folder)


def test_both_passes_are_led_away_from_their_worse_networks(led: Checkpoint, plain: Checkpoint) -> None:
    def first(scale: float, stage: str) -> torch.Tensor:
        plainly = {"steps_image": 1, "steps_keyframes": 1, "guidance": 1, "label_guidance": 1}
        simulator = Simulator(led, rollout_settings(led, autoguidance=scale, **plainly))
        shape = (1 if stage == "image" else 10, *simulator.latent_shape)
        return simulator.fill(stage, [3], [0], shape, {})

    for stage in ("image", "keyframes"):  # one call answers noise alone, so what is added is the scale times one difference
        once, twice, thrice = (first(scale, stage) for scale in (1.0, 2.0, 3.0))
        assert (twice - once).abs().max() > 1e-3
        torch.testing.assert_close(thrice - once, 2 * (twice - once), atol=1e-4, rtol=1e-4)
    assert rollout_settings(led).autoguidance == 2.0
    assert Simulator(plain, rollout_settings(plain)).worse == {}
    assert set(Simulator(led, rollout_settings(led)).worse) == {"image", "keyframes"}


def test_autoguidance_needs_worse_networks(plain: Checkpoint, both: Checkpoint) -> None:
    with pytest.raises(UsageError, match="holds no image_worse or prediction_worse"):
        rollout_settings(plain, autoguidance=3.0)
    with pytest.raises(UsageError, match="built into image_fast and prediction_fast by distillation"):
        rollout_settings(both, autoguidance=3.0)


def test_costs_count_the_worse_networks(led: Checkpoint, plain: Checkpoint) -> None:
    with_it, without = (Costs(described(led), led.settings, rollout_settings(led, autoguidance=scale), None) for scale in (2.0, 1.0))
    assert set(with_it.networks) - set(without.networks) == set(WORSE.values())
    here, there = with_it.flop(60.0), without.flop(60.0)
    assert here["image"] == pytest.approx(1.5 * there["image"]), "guided about labels, so two calls become three"
    assert here["keyframes"] == pytest.approx(4 / 3 * there["keyframes"]), "and three become four"
    assert here["interpolation"] == there["interpolation"]


# on disk and on the command line


def test_costs_count_the_calls_of_the_quality(both: Checkpoint) -> None:
    fast, full = (Costs(described(both), both.settings, rollout_settings(both, quality), None) for quality in ("fast", "full"))
    assert set(full.networks) == PLAIN and set(fast.networks) == {"autoencoder", *(f"{name}_fast" for name in PLAIN - {"autoencoder"})}
    assert fast.keyframes() == full.keyframes(), "the toys are of one size"
    windows = full.flop(60.0)["keyframes"] / full.keyframes().flop / (2 * 3)  # two steps, guided twice
    assert fast.flop(60.0)["keyframes"] == pytest.approx(windows * 4 * fast.keyframes().flop)


def test_rollout_json_tells_and_a_resumed_rollout_keeps_it(both: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    words = ["rollout", "--checkpoint", str(both.folder), "--device", "cpu", "--out", str(out), "--minutes", "0.05"]
    assert cli.main([*words, "--quality", "full"]) == 0
    told = json.loads((out / "rollout.json").read_text())
    assert told["settings"]["quality"] == "full" and told["passes"]["keyframes"] == {
        "network": "prediction", "sampler": "dpmpp_2m", "steps": 2,
    }  # fmt: skip
    assert cli.main([*words, "--overwrite"]) == 0
    told = json.loads((out / "rollout.json").read_text())
    assert told["settings"]["quality"] == "fast" and told["passes"]["keyframes"]["network"] == "prediction_fast"
    assert cli.main([*words, "--overwrite", "rollout.guidance=2"]) == 2
    assert "--quality full" in capsys.readouterr().err


def test_another_quality_does_not_go_on_with_a_rollout(
    both: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    words = ["rollout", "--checkpoint", str(both.folder), "--device", "cpu", "--minutes", "0.1", "--out", str(out)]
    with monkeypatch.context() as patched:
        patched.setattr("drivesim.commands.rollout._show", stop)  # after the first piece of video
        assert cli.main([*words, "rollout.decode_frames=8"]) == 130
    capsys.readouterr()
    assert cli.main(["rollout", "--resume", "--out", str(out), "--quality", "full"]) == 2
    assert "settings.quality fast (now full)" in capsys.readouterr().err
    assert cli.main(["rollout", "--resume", "--out", str(out)]) == 0
    assert json.loads((out / "rollout.json").read_text())["settings"]["quality"] == "fast"


@pytest.mark.parametrize("guided", [True, False])
def test_a_student_of_an_unguided_teacher_is_guided_like_any_network(guided: bool) -> None:
    entry = {"calls": 4, "sampler": "ddim", "guided": guided}
    model = {"schedule": zero_terminal_cosine().recipe, "parameterization": "velocity", "prediction_fast": entry}
    names = ["image", "prediction", "interpolation", "prediction_fast"]
    chosen = RolloutSettings(guidance=1.5, label_guidance=2.0, steps_keyframes=4)
    told = pass_networks(model, names, "fast")["keyframes"].settings(chosen, "keyframes")
    assert (told.sampler, told.steps) == ("ddim", 4)
    assert (told.guidance, told.label_guidance) == ((1.0, 1.0) if guided else (1.5, 2.0))

"""The refiner: nothing changes while it is new, what it is trained on is what a rollout would make, and rollouts go through it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import torch.nn.functional as nnf
from hypothesis import given
from hypothesis import strategies as st
from test_simulator import difference, frames_of, scenario
from torch import Tensor, nn
from toy_checkpoint import HEIGHT, WIDTH, make_checkpoint, make_fast, make_moving, make_refining, toy_refiner

from drivesim.diffusion.noise import zero_terminal_cosine
from drivesim.diffusion.objective import DiffusionObjective, FirstFrames
from drivesim.errors import DrivesimError, UsageError
from drivesim.io.checkpoints import Checkpoint, load_checkpoint, save_network
from drivesim.models.conditioning import within_rows
from drivesim.models.detector import BoxDetector, Predictions
from drivesim.models.discriminator import ClipDiscriminator, FeatureDiscriminator, PatchDiscriminator3d
from drivesim.models.refiner import AROUND, MARGIN, SOFT, _bands, _inside, luminance, without_alternation
from drivesim.shapes import as_bytes, as_floats
from drivesim.simulation.cost import AGAIN, Costs, described
from drivesim.simulation.quality import rollout_settings
from drivesim.simulation.simulator import Simulator
from drivesim.training.adversarial import adversarial
from drivesim.training.export import trained_detector
from drivesim.training.learning_rate import Optimization
from drivesim.training.refiner_module import Glance, RefinerModule, blurred
from drivesim.training.window_maker import MadeWindow, WindowMaker

GAPS = 2


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("plain")
    make_checkpoint(folder)
    make_fast(folder, {})
    return make_moving(folder)


@pytest.fixture(scope="module")
def refining(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("refining")
    make_checkpoint(folder)
    make_moving(folder)
    return make_refining(folder)


def simulator(checkpoint: Checkpoint, **wishes: Any) -> Simulator:
    return Simulator(checkpoint, rollout_settings(checkpoint, **wishes))


def maker_of(checkpoint: Checkpoint, **settings: Any) -> WindowMaker:
    objective = DiffusionObjective(zero_terminal_cosine(), "velocity", FirstFrames((0.0, 0.5, 0.5)))
    networks = [checkpoint.network(name) for name in ("autoencoder", "prediction_fast", "interpolation")]
    return WindowMaker(*networks, objective, **{"gaps": GAPS, **settings})


def batch_of(windows: int = 2, frames: int = 37, seed: int = 0) -> dict[str, Any]:
    draws = torch.Generator().manual_seed(seed)
    boxes = torch.tensor([0, 0.25, 0.25, 0.5, 0.75, 3.0]).repeat(windows, frames, 1, 1)
    labels = {
        "boxes": boxes, "boxes_known": torch.ones(windows, frames, dtype=torch.bool), "fps": torch.full((windows, frames), 7.5),
        "time_of_day": torch.zeros(windows, frames),
    }  # fmt: skip
    return {"frames": torch.randint(256, (windows, frames, 3, HEIGHT, WIDTH), generator=draws, dtype=torch.uint8), "labels": labels}


# the network


def test_a_new_refiner_changes_nothing() -> None:
    frames, labels = as_floats(batch_of()["frames"][0]), {name: value[0] for name, value in batch_of()["labels"].items()}
    assert torch.equal(toy_refiner()(frames), frames) and torch.equal(toy_refiner()(frames, labels), frames)
    with pytest.raises(ValueError, match="divisible by 8"):
        toy_refiner()(frames[..., :-2])


def test_a_refiner_changes_light_and_no_colour() -> None:
    """Whatever its weights are, all three channels of a pixel change by the same."""
    network, frames = toy_refiner(), torch.rand(2, 3, HEIGHT, WIDTH) * 2 - 1
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.1 * torch.randn_like(weight)
        change = network(frames, {"time_of_day": torch.tensor([0.0, 1.0])}) - frames
    assert change.abs().mean() > 0.01 and torch.allclose(change, luminance(change).expand_as(change), atol=1e-5)
    assert torch.allclose(luminance(torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)), torch.tensor(0.299))


def test_a_refiner_adds_no_pattern_that_alternates() -> None:
    row, column = (torch.arange(size) % 2 * 2.0 - 1 for size in (HEIGHT, WIDTH))
    for pattern in (row[:, None].expand(HEIGHT, WIDTH), column.expand(HEIGHT, WIDTH), row[:, None] * column):
        assert without_alternation(pattern[None, None])[..., 2:-2, 2:-2].abs().max() < 1e-6
    even = torch.full((2, 1, HEIGHT, WIDTH), 0.3)
    assert torch.allclose(without_alternation(even), even, atol=1e-6)
    wave = torch.sin(torch.arange(WIDTH) * torch.pi / 4).expand(1, 1, HEIGHT, WIDTH)
    assert without_alternation(wave)[..., 8:-8].std() / wave[..., 8:-8].std() == pytest.approx(0.98, abs=0.01)


@given(top=st.integers(0, 127), height=st.integers(1, 128), left=st.floats(0, 0.8))
def test_the_rows_that_are_looked_at_again_hold_the_boxes_of_their_frame(top: int, height: int, left: float) -> None:
    """Rows in multiples, AROUND rows beside the box where the picture has them; in those rows, the box lies where it lay in the picture."""
    boxes, bottom = torch.full((2, 3, 6), -1.0), min(top + height, 128)
    boxes[1, 0] = torch.tensor([0, left, top / 128, left + 0.2, bottom / 128, 7])
    labels = {"boxes": boxes, "boxes_known": torch.ones(2, dtype=torch.bool)}
    inside = _inside(labels, (128, 256))
    ((first, after), places), *others = _bands(inside, 16).items()
    assert places == [1] and not others and first % 16 == after % 16 == 0
    assert first <= max(top - AROUND, 0) and after >= min(bottom + AROUND, 128)
    assert after - first <= height + 2 * (AROUND + MARGIN + SOFT + 16)
    cut = {**labels, "boxes": within_rows(boxes, first / 128, after / 128)}
    assert torch.allclose(_inside(cut, (after - first, 256))[1], inside[1, :, first:after], atol=1e-4)


@torch.no_grad()
def test_a_frame_looks_as_it_does_whoever_is_beside_it() -> None:
    """Frames with boxes in different rows, and one without."""
    network = toy_refiner().eval()
    for parameter in network.parameters():
        parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    frames = torch.rand(3, 3, 128, 64, generator=torch.Generator().manual_seed(2)) * 2 - 1
    boxes = torch.full((3, 2, 6), -1.0)
    boxes[0, 0], boxes[1, 0] = torch.tensor([0, 0.2, 0.4, 0.6, 0.5, 1]), torch.tensor([0, 0.1, 0.8, 0.3, 0.95, 1])
    labels = {"boxes": boxes, "boxes_known": torch.ones(3, dtype=torch.bool), "time_of_day": torch.zeros(3, dtype=torch.long)}
    twice = network.looked(frames, labels, 2)
    assert torch.equal(twice[2], network(frames, labels)[2])
    for place in range(3):
        alone = network.looked(frames[place : place + 1], {name: value[place : place + 1] for name, value in labels.items()}, 2)
        assert torch.allclose(alone[0], twice[place], atol=1e-5)


@torch.no_grad()
def test_looking_again_changes_boxes_alone(refining: Checkpoint) -> None:
    """Two looks are one outside boxes, and one upon the other well inside; without boxes, one."""
    network: Any = refining.network("refiner")
    frames, labels = as_floats(batch_of()["frames"][0, :3]), {name: value[0, :3] for name, value in batch_of()["labels"].items()}
    once, twice = network(frames, labels), network.looked(frames, labels, 2)
    upon = network(once.clamp(-1, 1), labels)
    assert torch.equal(network.looked(frames, labels), once) and (upon - once).abs().max() > 0.01
    inside = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    inside[HEIGHT // 4 : HEIGHT * 3 // 4, WIDTH // 4 : WIDTH // 2] = True  # the box of batch_of
    reach = MARGIN + SOFT // 2
    near = nnf.max_pool2d(inside[None].float(), 2 * reach + 1, 1, reach)[0] > 0
    assert torch.allclose(twice[..., inside], upon[..., inside], atol=1e-5)
    assert torch.equal(twice[..., ~near], once[..., ~near])
    for without in ({**labels, "boxes_known": torch.zeros_like(labels["boxes_known"])}, {"time_of_day": labels["time_of_day"]}):
        assert torch.equal(network.looked(frames, without, 3), network(frames, without))
    assert torch.equal(network.looked(frames, None, 2), network(frames))


def test_a_critic_with_pretrained_features_trains_its_towers_alone() -> None:
    features = _Features()
    critic = ClipDiscriminator(PatchDiscriminator3d(4, 1), FeatureDiscriminator(features, (4, 6), width=8)).train()
    made, frames = (torch.rand(2, 3, 3, 16, 32) for _ in range(2))
    labels = {name: value[:, :3] for name, value in batch_of()["labels"].items()}
    made.requires_grad_()
    displeased, hinge = adversarial(critic, made, frames, labels, torch.tensor([0, 2]))
    displeased.backward(retain_graph=True)
    assert made.grad is not None and (made.grad[:, [0, 2]].abs().sum((0, 2, 3, 4)) > 0).all()
    hinge.backward()
    assert all(weight.grad is not None for weight in (*critic.clips.parameters(), *critic.frames.towers.parameters()))
    assert all(weight.grad is None and not weight.requires_grad for weight in features.parameters()) and not features.training


def test_what_pretrained_networks_see_has_no_patterns_of_single_pixels() -> None:
    columns = torch.arange(32) % 2 * 2.0 - 1
    stripes, grey = columns.expand(1, 3, 16, 32), torch.full((1, 3, 16, 32), 0.3)
    assert blurred(stripes)[..., 2:-2].abs().max() < 0.12 and torch.allclose(blurred(grey), grey, atol=1e-6)
    step = (torch.arange(32) >= 16).float().expand(1, 3, 16, 32)
    seen = blurred(step)
    assert torch.allclose(seen[..., :13], torch.zeros(())) and torch.allclose(seen[..., 19:], torch.ones(())) and seen.shape == step.shape


@given(st.integers(0, 8), st.integers(0, 8))
def test_a_glance_sees_boxes_where_they_are(x: int, y: int) -> None:
    """A white box stays white, and everything around it black, wherever the frame is seen from."""
    frames = torch.zeros(1, 1, 3, HEIGHT, WIDTH)
    frames[..., 12:20, 24:40] = 1.0
    labels = {"boxes": torch.tensor([[[[0, 24 / WIDTH, 12 / HEIGHT, 40 / WIDTH, 20 / HEIGHT, 1.0]]]])}
    glance = Glance(x, y)
    seen, (box,) = glance.of(frames), glance.labels(labels, (HEIGHT, WIDTH))["boxes"][0, 0]
    assert seen.shape == (1, 1, 3, HEIGHT - 8, WIDTH - 8)
    left, top, right, bottom = (round(float(edge * size)) for edge, size in zip(box[1:5], (WIDTH - 8, HEIGHT - 8) * 2, strict=True))
    assert (seen[..., top:bottom, left:right] == 1).all() and seen.sum() == 3 * (bottom - top) * (right - left) == 3 * 8 * 16


class _Bright(nn.Module):
    """A detector that takes what is bright for a car."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, frames: Tensor) -> Predictions:
        light = nn.functional.avg_pool2d(frames.mean(1, keepdim=True), 4)
        score = torch.cat([8 * light, light.new_full((len(light), 5, *light.shape[-2:]), -9.0)], dim=1)
        return Predictions(score + self.bias, light.new_full((len(light), 4, *light.shape[-2:]), 8.0), light.mean((1, 2, 3)) - 9)


class _Features(nn.Module):
    """Three scales, of which the last two are looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(ins, outs, 3, 2, 1) for ins, outs in ((3, 2), (2, 4), (4, 6)))

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for layer in self.layers:
            x = layer(x)
            maps.append(x)
        return maps


# what it is trained on


def test_known_keyframes_come_back_as_they_are_decoded_and_motion_fills_the_rest(plain: Checkpoint) -> None:
    objective = DiffusionObjective(zero_terminal_cosine(), "velocity", FirstFrames((0.0, 0.0, 1.0)))
    networks = {name: plain.network(name) for name in ("autoencoder", "prediction_fast", "interpolation")}
    maker = WindowMaker(*networks.values(), objective, gaps=9)
    batch = batch_of()
    frames = as_floats(batch["frames"])
    window = maker(frames, batch["labels"], torch.Generator().manual_seed(1))
    assert window.made.shape == window.recorded.shape == (2, 37, 3, HEIGHT, WIDTH) and torch.equal(window.recorded, frames)
    latents = networks["autoencoder"].encode(frames[:, [0, 4]].flatten(0, 1))  # type: ignore[operator]
    decoded = networks["autoencoder"].decode(latents[:, None])[:, 0]  # type: ignore[operator]
    assert torch.allclose(window.made[:, [0, 4]].flatten(0, 1), decoded, atol=1e-5)
    told = {name: value[:, :5] for name, value in batch["labels"].items()}
    between = networks["interpolation"](window.made[:, 0], window.made[:, 4], told, 5)
    assert torch.allclose(window.made[:, :5], between, atol=1e-5)
    assert not torch.allclose(window.made[:, 8], frames[:, 8], atol=0.1)


def test_stretches_keep_their_labels_and_their_draws(plain: Checkpoint) -> None:
    batch = batch_of()
    batch["labels"]["ego_speed_mps"] = torch.arange(37.0).expand(2, 37)
    firsts = set()
    for seed in range(8):
        one, again = (maker_of(plain)(as_floats(batch["frames"]), batch["labels"], torch.Generator().manual_seed(seed)) for _ in range(2))
        assert torch.equal(one.made, again.made)
        first = int(one.labels["ego_speed_mps"][0, 0])
        assert torch.equal(one.recorded, as_floats(batch["frames"])[:, first : first + 9])
        firsts.add(first)
    assert len(firsts) > 1 and firsts <= set(range(0, 29, 4))


@pytest.mark.parametrize(("starts", "left"), [((1, 0, 0, 0), 0.0), ((0, 0, 0, 1), 0.92)])
def test_how_much_of_a_recording_is_left(plain: Checkpoint, starts: tuple[float, ...], left: float) -> None:
    batch = batch_of()
    window = maker_of(plain, starts=starts)(as_floats(batch["frames"]), batch["labels"], torch.Generator().manual_seed(0))
    assert torch.allclose(window.left, torch.full((2,), left), atol=5e-3)


def test_what_a_maker_cannot_do_is_said(plain: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="4 calls have 4 levels"):
        maker_of(plain, starts=(1.0,))
    batch = batch_of(frames=7)
    with pytest.raises(UsageError, match="not 7"):
        maker_of(plain)(as_floats(batch["frames"]), batch["labels"], torch.Generator())
    make_checkpoint(tmp_path)
    latent = load_checkpoint(tmp_path)
    objective = DiffusionObjective(zero_terminal_cosine(), "velocity", FirstFrames())
    with pytest.raises(UsageError, match="4_interpolation_frames"):
        WindowMaker(latent.network("autoencoder"), latent.network("prediction"), latent.network("interpolation"), objective)


def test_windows_are_made_by_a_sampler_that_there_is(plain: Checkpoint) -> None:
    with pytest.raises(UsageError, match=r"sampler must be one of .*, not 'euler'"):
        maker_of(plain, sampler="euler")
    frames, labels = as_floats(batch_of()["frames"]), batch_of()["labels"]
    made = [maker_of(plain, sampler=name)(frames, labels, torch.Generator().manual_seed(1)).made for name in ("ddim", "dpmpp_2m")]
    assert made[0].shape == made[1].shape and not torch.equal(*made)


# training


def test_training_follows_the_detector_and_leaves_the_helpers_alone(plain: Checkpoint, tmp_path: Path) -> None:
    """With the detector's wish alone its loss falls; detector, maker and features are not in the checkpoint and do not move."""
    torch.manual_seed(0)
    detector: Any = _Bright()
    critic = ClipDiscriminator(PatchDiscriminator3d(4, 1), FeatureDiscriminator(_Features(), (4, 6), width=8))
    module = RefinerModule(
        toy_refiner(), maker_of(plain, starts=(1, 0, 0, 0)), Optimization(lr=3e-3, warmup_steps=1), 0.5, detector=detector, critic=critic,
        detector_weight=1.0, mean_weight=0.0, pixel_weight=0.0, adversarial_weight=0.0,
    )  # fmt: skip
    before = {name: value.clone() for name, value in module.state_dict().items()}
    batch = batch_of()
    loader = torch.utils.data.DataLoader([batch] * 25, batch_size=None)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = L.Trainer(max_steps=25, accelerator="cpu", **quiet)  # type: ignore[arg-type]
    losses = []
    for _ in range(2):
        with torch.no_grad():
            window = module._window(batch, torch.Generator().manual_seed(0))
            losses.append(float(module._unconfirmed(module._refined(module.average, window, window.labels), window)))
        if len(losses) == 1:
            trainer.fit(module, loader)
    assert losses[1] < 0.9 * losses[0]
    after = module.state_dict()
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"network", "average", "critic"}
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert {name.split(".")[0] for name in kept} == {"network", "average", "critic"}
    assert not any(name.startswith("critic.frames.features") for name in kept)
    assert set(module.parts()) == {"refiner"}


def test_pixels_are_drawn_to_the_recording_as_far_as_it_is_left(plain: Checkpoint) -> None:
    module = RefinerModule(toy_refiner(), maker_of(plain), Optimization(lr=1e-3), detector_weight=0.0, mean_weight=0.0, pixel_weight=2.0)
    made, recorded = torch.zeros(2, 3, 3, 16, 32), torch.ones(2, 3, 3, 16, 32)
    window = MadeWindow(made, recorded, {}, torch.tensor([0.0, 0.75]))
    for refined, wanted in ((made, (0.0 + 0.75) / 2), (recorded, (1.0 + 0.25) / 2)):
        terms = module._wishes(refined, window, torch.tensor([0]), Glance(0, 0))
        assert float(terms["pixels"]) == pytest.approx(2 * wanted) and float(terms["mean"]) == 0


def test_the_critic_learns_first_and_pushes_later(plain: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    critic = ClipDiscriminator(PatchDiscriminator3d(4, 1), FeatureDiscriminator(_Features(), (4, 6), width=8))
    module = RefinerModule(toy_refiner(), maker_of(plain), Optimization(lr=1e-3), critic=critic, critic_from=2, adversarial_from=4)
    told: list[dict[str, float]] = []
    monkeypatch.setattr(module, "log_dict", lambda values: told.append({name: float(value) for name, value in values.items()}))
    monkeypatch.setattr(module, "log", lambda *arguments, **more: None)
    for step in (1, 2, 4):
        monkeypatch.setattr(RefinerModule, "global_step", step)
        module.training_step(batch_of(), 0)
    assert "train/critic" not in told[0] and told[1]["train/critic"] > 0 == told[1]["train/adversarial"]
    assert told[2]["train/adversarial"] != 0


def test_pictures_show_recorded_made_and_refined(plain: Checkpoint) -> None:
    module = RefinerModule(toy_refiner(), maker_of(plain), Optimization(lr=1e-3))
    rows = module.pictures(batch_of())["samples"]
    assert rows.shape == (6, 9, 3, HEIGHT, WIDTH) and torch.equal(rows[1], rows[2])
    recorded, made = module.windows(batch_of(), 0)
    assert torch.equal(recorded, rows[0::3]) and torch.equal(made, rows[2::3].clamp(-1, 1))


def test_a_detector_that_is_not_there(tmp_path: Path) -> None:
    assert trained_detector(None) is None and isinstance(trained_detector("teacher"), BoxDetector)
    with pytest.raises(DrivesimError, match=r"experiment=PRESET/detector out="):
        trained_detector(tmp_path)
    save_network(tmp_path / "detector", BoxDetector((8, 8), (1, 1), neck=8), {})
    assert isinstance(trained_detector(tmp_path), BoxDetector)


# rollouts


@pytest.mark.parametrize("fps", [7.5, 30.0])
def test_a_refined_rollout_may_begin_at_any_frame(refining: Checkpoint, fps: float) -> None:
    machine = simulator(refining, fps=fps, decode_frames=8, batch=3)
    whole = frames_of(list(machine.run(scenario(8.0))))
    for first in (1, len(whole) // 2, len(whole) - 1):
        late = list(machine.run(scenario(8.0), first_frame=first))
        assert late[0].first_frame == first and np.array_equal(frames_of(late), whole[first:])


def test_keyframes_go_through_it_with_their_labels_and_the_others_are_moved_from_them(refining: Checkpoint) -> None:
    machine, unrefined = (simulator(refining, refine=refine, refine_looks=2, decode_frames=8) for refine in (True, False))
    assert machine.passes()["refinement"]["network"] == "refiner" and "refinement" not in unrefined.passes()
    frames, before = (frames_of(list(one.run(scenario(4.0)))) for one in (machine, unrefined))
    assert (frames != before).any(axis=(1, 2, 3)).all()
    whole = range(0, 29)  # what lies between keyframes that are shown
    labels = {name: torch.from_numpy(value) for name, value in machine.labels(scenario(4.0)).at(whole, 7.5).arrays(32).items()}
    network: Any = refining.network("refiner")
    with torch.inference_mode():
        floats = as_floats(torch.from_numpy(before[0:29:4])).permute(0, 3, 1, 2)
        keyframes = network.looked(floats, {name: value[::4] for name, value in labels.items()}, 2)
        rows = 4 * torch.arange(7)[:, None] + torch.arange(5)
        told = {name: value[rows] for name, value in labels.items()}
        moved = refining.network("interpolation")(keyframes[:-1], keyframes[1:], told, 5)[:, :-1].flatten(0, 1)
    wanted = as_bytes(torch.cat([moved, keyframes[-1:]])).permute(0, 2, 3, 1).numpy()
    assert np.abs(wanted.astype(int) - frames[:29]).max() <= 4  # what was refined there had not been rounded to bytes before


@pytest.mark.parametrize("settings", [{"batch": 1}, {"decode_frames": 3}])
def test_how_the_work_is_cut_does_not_show(refining: Checkpoint, settings: dict[str, int]) -> None:
    assert difference(list(simulator(refining).run(scenario())), list(simulator(refining, **settings).run(scenario()))) <= 1


def test_a_rollout_looks_as_often_as_it_is_told(refining: Checkpoint) -> None:
    once, twice = (simulator(refining, refine_looks=looks) for looks in (1, 2))
    assert [one.passes()["refinement"]["steps"] for one in (once, twice)] == [1, 2]
    assert not np.array_equal(*(frames_of(list(one.run(scenario()))) for one in (once, twice)))
    settings = [rollout_settings(refining, refine_looks=looks) for looks in (1, 2)]
    flop = [Costs(described(refining), refining.settings, one, None).flop(4.0)["refinement"] for one in settings]
    assert flop[1] == pytest.approx((1 + AGAIN) * flop[0])
    with pytest.raises(UsageError, match=r"refine_looks must be a whole number from 1, not 0"):
        rollout_settings(refining, refine_looks=0)


def test_latents_that_are_diffused_are_decoded_and_refined(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    checkpoint = make_refining(tmp_path)
    frames, before = (frames_of(list(simulator(checkpoint, refine=refine).run(scenario()))) for refine in (True, False))
    assert (frames != before).any(axis=(1, 2, 3)).all()


def test_its_cost_is_counted(refining: Checkpoint) -> None:
    networks = described(refining)
    costs = [Costs(networks, refining.settings, rollout_settings(refining, refine=refine), None) for refine in (True, False)]
    assert [("refinement" in cost.flop(4.0)) for cost in costs] == [True, False]
    assert costs[0].flop(4.0)["refinement"] == simulator(refining).plan(scenario(4.0)).keyframes * costs[0].refinement().flop
    assert "refiner" in costs[0].weights and "refiner" not in costs[1].weights
    assert costs[0].batch_live(8) >= costs[0].refinement_live(8) > costs[0].refinement_live(2)
    with pytest.raises(UsageError, match="refine must be true or false"):
        rollout_settings(refining, refine="no")

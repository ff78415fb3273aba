"""Frames between frames by motion: exact motion of boxes and pictures, identities of a new network, training, and whole rollouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_simulator import difference, frames_of, scenario
from torch import Tensor
from toy_checkpoint import HEIGHT, WIDTH, make_checkpoint, make_moving, toy_interpolator

from drivesim.diffusion.samplers import NonFiniteError
from drivesim.errors import DrivesimError
from drivesim.io.checkpoints import Checkpoint, load_checkpoint, save_network
from drivesim.models.frame_interpolator import EVENNESS, REACH, STIFF, FrameInterpolator, box_motion, mixed, straight, warped
from drivesim.shapes import as_bytes
from drivesim.simulation.cost import Costs, described
from drivesim.simulation.quality import rollout_settings
from drivesim.simulation.simulator import Simulator
from drivesim.training.interpolator_module import InterpolatorModule
from drivesim.training.learning_rate import Optimization

EMPTY = [-1.0] * 6


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("moving")
    make_checkpoint(folder)
    return make_moving(folder)


def simulator(checkpoint: Checkpoint, **wishes: Any) -> Simulator:
    return Simulator(checkpoint, rollout_settings(checkpoint, **wishes))


def pictures(seed: int = 0, count: int = 1) -> Tensor:
    return torch.rand(count, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def labels_of(*rows: list[list[float]]) -> dict[str, Tensor]:
    """Boxes of one window, a list of rows for each frame."""
    most = max(len(frame) for frame in rows)
    boxes = torch.tensor([[[*frame, *[EMPTY] * (most - len(frame))] for frame in rows]])
    return {"boxes": boxes, "boxes_known": torch.ones(1, len(rows), dtype=torch.bool)}


# motion


@given(st.integers(-6, 6), st.integers(-6, 6))
def test_warping_by_whole_pixels_is_shifting(x: int, y: int) -> None:
    frame = pictures()
    motion = torch.tensor([x, y], dtype=torch.float32).view(1, 2, 1, 1).expand(1, 2, HEIGHT, WIDTH)
    inner = warped(frame, motion)[:, :, 8:-8, 8:-8]
    assert torch.allclose(inner, frame[:, :, 8 + y : HEIGHT - 8 + y, 8 + x : WIDTH - 8 + x], atol=1e-5)


def test_a_box_keeps_its_pixels_and_grows_with_them() -> None:
    here, there = [0, 0.25, 0.25, 0.5, 0.5, 7], [0, 0.5, 0.25, 1.0, 0.75, 7]
    said = box_motion(np.array([here]), np.array([EMPTY, there]), (HEIGHT, WIDTH))
    inside = said[2] == 1
    rows, columns = np.nonzero(inside)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (8, 15, 16, 31)
    x, y = columns + 0.5 + said[0][inside], rows + 0.5 + said[1][inside]
    assert np.allclose(x, 32 + 2 * (columns + 0.5 - 16), atol=1e-4) and np.allclose(y, 8 + 2 * (rows + 0.5 - 8), atol=1e-4)
    assert not said[:, ~inside].any()


def test_the_nearer_box_hides_the_farther_one_even_where_it_goes_unmatched() -> None:
    far, near = [0, 0.0, 0.25, 0.75, 0.75, 1], [0, 0.5, 0.25, 0.75, 0.75, 2]
    both = box_motion(np.array([far, near]), np.array([far, [0, 0.25, 0.25, 0.5, 0.75, 2]]), (HEIGHT, WIDTH))
    assert (both[0, :, : WIDTH // 2] == 0).all() and np.allclose(both[0, 8:24, WIDTH // 2 : 48], -WIDTH / 4)
    alone = box_motion(np.array([far, near]), np.array([far]), (HEIGHT, WIDTH))
    assert alone[2, 8:24, : WIDTH // 2].all() and not alone[2, :, WIDTH // 2 :].any()


def test_a_box_cut_by_the_border_is_held_at_its_free_edge() -> None:
    cut, whole = [0, 0.0, 0.25, 0.25, 0.75, 7], [0, 0.25, 0.375, 0.5, 0.625, 7]
    said = box_motion(np.array([cut]), np.array([whole]), (HEIGHT, WIDTH))
    rows, columns = np.nonzero(said[2])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (8, 23, 0, 15)
    assert np.allclose(said[2, rows, columns], 0.25)  # half as high there, so half as wide: a quarter of the detail
    assert np.allclose(columns + 0.5 + said[0, rows, columns], 32 + (columns + 0.5 - 16) / 2, atol=1e-4)
    assert np.allclose(rows + 0.5 + said[1, rows, columns], 12 + (rows + 0.5 - 8) / 2, atol=1e-4)


def test_what_lies_beyond_the_border_in_the_other_frame_is_not_taken_from_there() -> None:
    whole, cut = [0, 0.25, 0.25, 0.5, 0.5, 7], [0, 0.75, 0.25, 1.0, 0.5, 7]
    leaving = [0, 0.875, 0.25, 1.0, 0.5, 7]
    assert (box_motion(np.array([whole]), np.array([cut]), (HEIGHT, WIDTH))[2, 8:16, 16:32] == 1).all()
    half = box_motion(np.array([whole]), np.array([leaving]), (HEIGHT, WIDTH))
    assert (half[2, 8:16, 16:24] == 1).all() and not half[:, :, 24:].any()


def test_a_box_cut_on_two_sides_says_nothing() -> None:
    corner, whole = [0, 0.0, 0.5, 0.25, 1.0, 7], [0, 0.25, 0.25, 0.5, 0.5, 7]
    wide = [0, 0.0, 0.25, 1.0, 0.5, 7]
    for here, there in [(corner, whole), (whole, corner), (wide, whole)]:
        assert not box_motion(np.array([here]), np.array([there]), (HEIGHT, WIDTH)).any()


@pytest.mark.parametrize("box", [[0, 0.2, 0.2, 0.2, 0.9, 1], [0, -0.5, -0.5, -0.1, -0.1, 1], [0, 1.2, 0.1, 1.5, 0.5, 1], EMPTY])
def test_boxes_without_pixels_say_nothing(box: list[float]) -> None:
    assert not box_motion(np.array([box]), np.array([box]), (HEIGHT, WIDTH)).any()


# the network


def test_a_new_network_mixes_in_time() -> None:
    first, last = pictures(0, 2), pictures(1, 2)
    made = toy_interpolator()(first, last)
    assert torch.equal(made[:, 0], first) and torch.equal(made[:, -1], last)
    odds = 3.0**EVENNESS  # of the nearer side, three quarters and one quarter of the way
    for frame, share in ((1, 1 / (1 + odds)), (2, 0.5), (3, odds / (1 + odds))):
        assert torch.allclose(made[:, frame], mixed(first, last, torch.full((2, 1, 1, 1), share)), atol=1e-6)


@given(st.integers(0, 100))
def test_a_straight_motion_is_found_through_what_the_places_say(seed: int) -> None:
    """Exactly where all say the same; as the least-squares fit of numpy where they do not."""
    draws = torch.Generator().manual_seed(seed)
    place = torch.tensor([0.25, 0.5, 0.75]).repeat(2)
    ways = torch.stack([-place, 1 - place], dim=1)
    whole = torch.randn(2, 2, 3, 4, generator=draws).repeat_interleave(3, dim=0)
    said = ways[:, :, None, None, None] * whole[:, None]
    assert torch.allclose(straight(said, ways, 3), whole, atol=1e-5)
    said = torch.randn(6, 2, 2, 3, 4, generator=draws)
    fitted = np.linalg.lstsq(ways[:3].flatten()[:, None].numpy(), said[:3].flatten(0, 1).flatten(1).numpy(), rcond=None)[0]
    assert torch.allclose(straight(said, ways, 3)[0].flatten(), torch.from_numpy(fitted[0]), atol=1e-5)


def test_what_the_network_says_of_one_cell_alone_moves_little() -> None:
    """With the first frame alone trusted: motion that all cells say is what the picture is warped by; what a single cell says counts as the
    mean over STIFF x STIFF cells."""
    network, size, place = toy_interpolator(), 64, torch.tensor([0.25, 0.5, 0.75])
    frames = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)).expand(3, -1, -1, -1)
    every = torch.zeros(3, 8, size, size)
    every[:, 0], every[:, 2] = -place[:, None, None] / REACH, (1 - place)[:, None, None] / REACH
    every[:, 4] = -50
    one = every.clone()
    one[:, :4] = 0
    one[:, :4, 32:36, 32:36] = every[:, :4, 32:36, 32:36]
    for out, pixels, around in ((every, 1.0, slice(None)), (one, STIFF**-2, slice(32, 36))):
        steady = network._straight(out, place, 3)
        moved = network._composed(frames, frames, steady, out, torch.zeros(3, 2, 3, size, size), place)
        motion = torch.zeros(3, 2, size, size)
        motion[:, 0] = -pixels * place[:, None, None]
        assert torch.allclose(moved[..., around, around], warped(frames, motion)[..., around, around], atol=1e-5)


@given(st.floats(0, 1))
def test_where_both_sides_agree_or_are_smooth_a_mix_is_linear(place: float) -> None:
    trust, same = torch.full((1, 1, 1, 1), place), pictures(2)
    assert torch.allclose(mixed(same, same, trust), same, atol=1e-5)
    dark, ramp = torch.full((1, 3, HEIGHT, WIDTH), -0.5), torch.linspace(-1, 1, WIDTH).expand(1, 3, HEIGHT, WIDTH)
    inner = (mixed(dark, ramp, trust) - torch.lerp(dark, ramp, place))[..., 8:-8]
    assert inner.abs().max() < 1e-4


@given(st.floats(0.05, 0.95), st.integers(0, 100))
def test_a_mix_of_unlike_sides_keeps_the_energy_of_their_detail(place: float, seed: int) -> None:
    """Noise without any likeness: a linear mix has (1 - p)^2 + p^2 of its energy, half of it in the middle."""
    first, last = 0.5 * pictures(seed), 0.5 * pictures(seed + 1000)
    made = mixed(first, last, torch.full((1, 1, 1, 1), place))
    wanted = (1 - place) * first.var() + place * last.var()
    assert made.var() / wanted == pytest.approx(1, abs=0.15)
    assert made.var() > torch.lerp(first, last, place).var()


def test_frames_moved_by_half_a_pixel_stay_sharp() -> None:
    """Waves of six pixels, moved by half of one: bilinear sampling takes a seventh of their height, cubic adds a thirty-fifth."""
    wave = torch.sin(torch.arange(WIDTH) * torch.pi / 3).expand(1, 3, HEIGHT, WIDTH)
    half = torch.tensor([0.5, 0.0]).view(1, 2, 1, 1).expand(1, 2, HEIGHT, WIDTH)
    assert warped(wave, half)[..., 8:-8].std() / wave[..., 8:-8].std() == pytest.approx(1, abs=0.04)


def test_a_new_network_moves_boxes() -> None:
    """A car that drives 48 pixels to the right, over a grey road: in the middle it has driven 24, and all of it is there."""
    first, last = (torch.zeros(1, 3, HEIGHT, WIDTH) for _ in range(2))
    car = pictures()[0, :, 8:16, 16:24]
    first[0, :, 8:16, 4:12] = last[0, :, 8:16, 52:60] = car
    row = [[0, 0.0625 + 0.75 * place, 0.25, 0.1875 + 0.75 * place, 0.5, 3.0] for place in (0, 0.25, 0.5, 0.75, 1)]
    made = toy_interpolator()(first, last, labels_of(*[[box] for box in row]))
    assert torch.allclose(made[0, 2, :, 8:16, 28:36], car, atol=1e-5)


def test_a_vehicle_that_one_known_frame_lacks_comes_from_the_other() -> None:
    first, last = torch.full((1, 3, HEIGHT, WIDTH), -1.0), torch.full((1, 3, HEIGHT, WIDTH), 1.0)
    box = [0, 0.25, 0.25, 0.5, 0.5, 3.0]
    made = toy_interpolator()(first, last, labels_of([box], [box], [box], [box], []))
    assert (made[0, 2, :, 8:16, 16:32] < -0.9).all() and torch.allclose(made[0, 2, :, 20:, :], torch.zeros(()), atol=1e-5)


def test_boxes_that_nobody_knows_move_nothing() -> None:
    box = [0, 0.25, 0.25, 0.5, 0.5, 3.0]
    moved = [0, 0.5, 0.25, 0.75, 0.5, 3.0]
    told = labels_of([box], [box], [box], [box], [moved])
    told["boxes_known"][:] = False
    first, last = pictures(0), pictures(1)
    assert torch.equal(toy_interpolator()(first, last, told), toy_interpolator()(first, last))


def test_windows_of_other_lengths(checkpoint: Checkpoint) -> None:
    network = checkpoint.network("interpolation")
    assert network(pictures(), pictures(1), None, 3).shape == (1, 3, 3, HEIGHT, WIDTH)
    with pytest.raises(ValueError, match="nothing between the ends of 2 frames"):
        network(pictures(), pictures(1), None, 2)


# training


def test_training_learns_a_motion_that_no_box_tells() -> None:
    """Stripes that move two pixels a frame: after some steps the middle is nearer to the truth than any mix of the ends."""
    torch.manual_seed(0)
    columns = torch.arange(WIDTH, dtype=torch.float32)
    clip = torch.stack([torch.sin((columns - 2 * frame) * 0.4).expand(3, HEIGHT, WIDTH) for frame in range(5)])
    batch = {"frames": ((clip[None] + 1) * 127.5).to(torch.uint8), "labels": {"fps": torch.full((1, 5), 7.5)}}
    module = InterpolatorModule(toy_interpolator(), Optimization(lr=3e-3, warmup_steps=1), ema_decay=0.5)
    loader = torch.utils.data.DataLoader([batch] * 60, batch_size=None)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    L.Trainer(max_steps=60, accelerator="cpu", **quiet).fit(module, loader)  # type: ignore[arg-type]
    truth, (_, made) = clip[2], module.windows(batch, 0)
    mixed = torch.lerp(clip[0], clip[4], 0.5)
    assert (made[0, 2] - truth).abs().mean() < 0.5 * (mixed - truth).abs().mean()
    assert module.settings() == {"interpolation": {"calls": 1, "noise": 0.0}} and set(module.parts()) == {"interpolation"}


# rollouts


@pytest.mark.parametrize("fps", [7.5, 30.0])
def test_a_rollout_may_begin_at_any_frame(checkpoint: Checkpoint, fps: float) -> None:
    machine = simulator(checkpoint, fps=fps, decode_frames=8)
    whole = frames_of(list(machine.run(scenario(8.0))))
    assert len(whole) == round(8 * fps)
    for first in (1, len(whole) // 2, len(whole) - 1):
        late = list(machine.run(scenario(8.0), first_frame=first))
        assert late[0].first_frame == first and np.array_equal(frames_of(late), whole[first:])


def test_keyframes_are_decoded_once_each_and_shown_as_they_are(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    machine, shown = simulator(checkpoint), []
    decode = machine.autoencoder.decode
    monkeypatch.setattr(machine.autoencoder, "decode", lambda latents: shown.append(decode(latents)[0]) or decode(latents))
    frames = frames_of(list(machine.run(scenario(4.2))))
    assert [len(one) for one in shown] == [1] * len(shown) and len(shown) >= 9
    keyframes = as_bytes(torch.cat(shown)).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(frames[::4], keyframes[: len(frames[::4])])
    assert all((frames[number] != frames[number - number % 4]).any() for number in range(len(frames)) if number % 4)


@pytest.mark.parametrize("settings", [{"batch": 1}, {"decode_frames": 3}])
def test_how_the_work_is_cut_does_not_show(checkpoint: Checkpoint, settings: dict[str, int]) -> None:
    assert difference(list(simulator(checkpoint).run(scenario())), list(simulator(checkpoint, **settings).run(scenario()))) <= 1


def test_what_serves_a_pass_is_said(checkpoint: Checkpoint) -> None:
    assert simulator(checkpoint).passes()["interpolation"] == {"network": "interpolation", "sampler": "motion", "steps": 1}
    with pytest.raises(DrivesimError, match="moves frames, it makes no latents"):
        simulator(checkpoint).fill("interpolation_1", [0], [0], (5, 4, 8, 16), {})


def test_costs_follow_from_decoding_keyframes_alone(checkpoint: Checkpoint, tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    networks = described(checkpoint)
    cost = Costs(networks, checkpoint.settings, rollout_settings(checkpoint), None)
    short, long = cost.flop(4.0), cost.flop(8.0)
    assert cost.moves and short.keys() == {"image", "keyframes", "interpolation", "decode"}
    keyframes = [simulator(checkpoint).plan(scenario(seconds)).keyframes for seconds in (4.0, 8.0)]
    assert long["decode"] / short["decode"] == pytest.approx(keyframes[1] / keyframes[0])
    other = load_checkpoint(tmp_path)
    assert not Costs(described(other), other.settings, rollout_settings(other), None).moves


def test_numbers_gone_wrong_stop_the_rollout(checkpoint: Checkpoint, tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    make_moving(tmp_path)
    network: FrameInterpolator = load_checkpoint(tmp_path).network("interpolation")  # type: ignore[assignment]
    with torch.no_grad():
        network.motion.output.bias.fill_(torch.nan)
    save_network(tmp_path / "interpolation", network, {})
    with pytest.raises((DrivesimError, NonFiniteError), match=r"not finite|non-finite"):
        list(simulator(load_checkpoint(tmp_path)).run(scenario(3.0)))

"""Scenario -> frames and labels, with tiny random networks: order, labels, reproducibility, chunked decoding, bad numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only
from toy_checkpoint import HEIGHT, WIDTH, make_checkpoint

from drivesim.diffusion.samplers import NonFiniteError
from drivesim.errors import DrivesimError, UsageError
from drivesim.io.checkpoints import Checkpoint
from drivesim.labels import BoxTrack, Scenario
from drivesim.simulation.fill import PassSettings
from drivesim.simulation.plan import decode_chunks
from drivesim.simulation.settings import RolloutSettings
from drivesim.simulation.simulator import Simulator, Step, pick_device


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return make_checkpoint(tmp_path_factory.mktemp("toy"))


def simulator(checkpoint: Checkpoint, **settings: Any) -> Simulator:
    return Simulator(checkpoint, RolloutSettings.of(checkpoint.settings["rollout"], **settings))


def scenario(duration_s: float = 6.0, seed: int = 0, **labels: Any) -> Scenario:
    times = np.arange(0, duration_s + 1, 0.5)
    left = 0.05 + 0.01 * times
    car = BoxTrack(1, "car", times, np.stack([left, left * 0 + 0.4, left + 0.2, left * 0 + 0.7], axis=1).astype(np.float32))
    return Scenario(duration_s, **{"time_of_day": "day", "ego_speed_mps": 8.0, **labels}, tracks=(car,), seed=seed)


def frames_of(steps: list[Step]) -> np.ndarray:
    return np.concatenate([step.frames for step in steps])


def difference(a: list[Step], b: list[Step]) -> int:
    return int(np.abs(frames_of(a).astype(int) - frames_of(b).astype(int)).max())


@pytest.mark.parametrize(("fps", "frames"), [(1.875, 11), (7.5, 45), (30.0, 180)])
def test_every_frame_comes_once_with_its_labels(checkpoint: Checkpoint, fps: float, frames: int) -> None:
    drive = scenario()
    steps = list(simulator(checkpoint, fps=fps, decode_frames=13).run(drive))
    assert [step.first_frame for step in steps] == list(range(0, frames, 13))
    assert frames_of(steps).shape == (frames, HEIGHT, WIDTH, 3) and frames_of(steps).dtype == np.uint8
    whole = drive.label_track(frames, fps)
    for step in steps:
        assert len(step.labels) == len(step.frames) and step.labels.fps == fps and step.labels.boxes_known.all()
        expected = whole.take(range(step.first_frame, step.first_frame + len(step.frames)), fps)
        assert np.allclose(step.labels.boxes.xyxy, expected.boxes.xyxy, atol=1e-6)
        assert np.array_equal(step.labels.values["crowdedness"], expected.values["crowdedness"])


@pytest.mark.parametrize("duration_s", [1 / 7.5, 2 / 7.5, 0.7, 5.0])
def test_short_rollouts(checkpoint: Checkpoint, duration_s: float) -> None:
    assert len(frames_of(list(simulator(checkpoint).run(scenario(duration_s))))) == round(duration_s * 7.5)


def test_a_rollout_is_reproducible_to_the_bit_and_seeds_differ(checkpoint: Checkpoint) -> None:
    first, again = (list(simulator(checkpoint, guidance=1.5).run(scenario(seed=3))) for _ in range(2))
    assert difference(first, again) == 0
    assert difference(first, list(simulator(checkpoint, guidance=1.5).run(scenario(seed=4)))) > 0


def test_a_longer_rollout_begins_like_a_shorter_one(checkpoint: Checkpoint) -> None:
    short, long = (frames_of(list(simulator(checkpoint).run(scenario(seconds)))) for seconds in (6.0, 12.0))
    assert np.array_equal(short[:32], long[:32]), "as far as the first keyframe window lies within both"


def test_labels_matter(checkpoint: Checkpoint) -> None:
    day, night = (list(simulator(checkpoint).run(scenario(time_of_day=name))) for name in ("day", "night"))
    assert difference(day, night) > 0


@pytest.mark.parametrize(("name", "value"), [("batch", 3), ("decode_frames", 5), ("decode_frames", 1)])
def test_how_the_work_is_cut_does_not_show(checkpoint: Checkpoint, name: str, value: int) -> None:
    assert difference(list(simulator(checkpoint).run(scenario())), list(simulator(checkpoint, **{name: value}).run(scenario()))) <= 1


@pytest.mark.parametrize("name", ["image", "prediction", "interpolation"])
@torch.inference_mode()
def test_one_call_of_many_windows_is_many_calls_of_one(checkpoint: Checkpoint, name: str) -> None:
    machine, calls = simulator(checkpoint), []
    network = getattr(machine, name)
    hook = network.register_forward_pre_hook(lambda _, inputs: calls.append(inputs))
    next(machine.run(scenario()))
    hook.remove()
    x, *more = tree_map_only(Tensor, lambda value: value[:1], calls[-1])
    many = torch.randn(5, *x.shape[1:], generator=torch.Generator().manual_seed(0))
    together = network(many, *tree_map_only(Tensor, lambda value: value.expand(5, *value.shape[1:]), more))
    assert torch.allclose(torch.cat([network(one[None], *more) for one in many]), together, atol=1e-3)


@torch.inference_mode()
def test_chunked_decode_equals_all_at_once(checkpoint: Checkpoint) -> None:
    autoencoder = checkpoint.network("autoencoder")
    overlap = int(autoencoder.receptive_frames)
    assert overlap > 0, "a test without temporal layers would prove nothing"
    latents = torch.randn(1, 23, 4, 8, 16, generator=torch.Generator().manual_seed(0))
    whole = autoencoder.decode(latents)[0]
    for size in (1, 4, 10):
        parts = [autoencoder.decode(latents[:, one.first_in : one.last_in], one.kept)[0] for one in decode_chunks(23, size, overlap)]
        assert torch.allclose(torch.cat(parts), whole, atol=1e-4)
        short = [autoencoder.decode(latents[:, one.first : one.last])[0] for one in decode_chunks(23, size, overlap)]
        assert not torch.allclose(torch.cat(short), whole, atol=1e-4), "without overlap it must not hold"


def test_diffusion_in_pixel_space(tmp_path: Path) -> None:
    start = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    steps = list(simulator(make_checkpoint(tmp_path / "pixels", pixels=True)).run(scenario(3.0), start))
    assert len(frames_of(steps)) == round(3.0 * 7.5)
    assert np.array_equal(steps[0].frames[0], start), "the first stage changes nothing"


def test_a_start_picture_is_the_first_frame(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    start = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    machine = simulator(checkpoint, decode_frames=1)
    with torch.inference_mode():
        encoded = machine.autoencoder.encode(torch.from_numpy(start)[None].permute(0, 3, 1, 2).float() / 127.5 - 1)
    kept: list[Tensor] = []
    decode = machine.autoencoder.decode

    def watched(latents: Tensor, wanted: slice) -> Tensor:
        kept.append(latents)
        return decode(latents, wanted)

    monkeypatch.setattr(machine.autoencoder, "decode", watched)
    next(machine.run(scenario(), start))
    assert torch.allclose(kept[0][0, 0], encoded[0], atol=1e-6)


class Spy:
    """Remembers what a network was told, and passes it on."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.calls: list[tuple[Tensor, Tensor, dict[str, Tensor]]] = []
        network.register_forward_pre_hook(self._look)

    def _look(self, network: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        self.calls.append(inputs[:3])


def test_a_start_clip_counts_as_two_known_keyframes(checkpoint: Checkpoint) -> None:
    machine = simulator(checkpoint, context_level=0.25)
    spy, start = Spy(machine.prediction), np.zeros((2, HEIGHT, WIDTH, 3), np.uint8)
    assert len(frames_of(list(machine.run(scenario(), start)))) == 45
    _, sigma, labels = spy.calls[0]
    assert (sigma[0] == 0.25).tolist() == [True] * 2 + [False] * 8
    assert labels["boxes_known"][0].tolist() == [False] + [True] * 9, "nobody said what was in the picture before frame 0"


def test_networks_are_told_their_frame_rate_and_the_boxes_of_their_frames(checkpoint: Checkpoint) -> None:
    machine, drive = simulator(checkpoint, fps=30.0), scenario()
    assert machine.interpolation is not None
    key, between = Spy(machine.prediction), Spy(machine.interpolation)
    list(machine.run(drive))
    assert {float(labels["fps"].unique()) for _, _, labels in key.calls} == {1.875}
    assert {float(labels["fps"].unique()) for _, _, labels in between.calls} == {7.5, 30.0}
    sigma, labels = key.calls[2][1:]  # two steps a window: the first call of the second window, keyframes 8..17
    assert (sigma[0] == np.float32(0.05)).tolist() == [True] * 2 + [False] * 8
    expected = drive.labels_at(np.minimum(np.arange(8, 18) / 1.875, 179 / 30), 1.875)
    assert np.allclose(labels["boxes"][0, :, 0, 1:5].cpu(), expected.boxes.xyxy, atol=1e-6)
    assert all((sigma[:, [0, -1]] == 0).all() for _, sigma, _ in between.calls), "both ends of an interpolation window are known"


def test_frames_come_as_soon_as_they_can(checkpoint: Checkpoint) -> None:
    machine = simulator(checkpoint, decode_frames=16)
    spy = Spy(machine.prediction)
    steps = machine.run(scenario(60.0))
    next(steps)
    assert len(spy.calls) == 2, "one window (of two steps) is enough for the first 16 frames"
    next(steps)
    next(steps)
    assert len(spy.calls) == 4


def test_a_network_gone_wrong_stops_the_rollout(tmp_path: Path) -> None:
    machine = simulator(make_checkpoint(tmp_path / "broken"), decode_frames=16)
    steps = machine.run(scenario(60.0))
    next(steps)
    with torch.no_grad():
        for weight in machine.prediction.parameters():
            weight.fill_(torch.nan)
    with pytest.raises(NonFiniteError, match="pass keyframes, windows"):
        list(steps)


def test_a_decoder_gone_wrong_stops_the_rollout(tmp_path: Path) -> None:
    machine = simulator(make_checkpoint(tmp_path / "broken"))
    with torch.no_grad():
        machine.autoencoder.decoder.conv_out.bias.fill_(torch.nan)
    with pytest.raises(DrivesimError, match="non-finite frames 0 to"):
        list(machine.run(scenario()))


def test_settings() -> None:
    assert RolloutSettings.of({"guidance": 3.0}, fps=None, guidance=2.0) == RolloutSettings(guidance=2.0)
    for bad, message in (
        ({"guidanse": 1}, "did you mean rollout.guidance?"), ({"sampler": "euler"}, "ddim, dpmpp_2m"), ({"steps_image": 0}, "steps_image"),
        ({"context_level": 1.0}, "context_level"), ({"guidance": float("nan")}, "guidance"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=message.replace("?", r"\?")):
            RolloutSettings.of(bad)


def test_bad_requests(checkpoint: Checkpoint) -> None:
    with pytest.raises(UsageError, match=r"1\.875, 7\.5, 30"):
        simulator(checkpoint, fps=12.0).plan(scenario())
    with pytest.raises(UsageError, match="seed"):
        simulator(checkpoint).run(scenario(seed=-1))
    with pytest.raises(UsageError, match="start"):
        simulator(checkpoint).run(scenario(), np.zeros((7, 9, 3), np.uint8))
    with pytest.raises(UsageError, match="auto, cpu or cuda"):
        pick_device("gpu9")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="--device cpu"):
            pick_device("cuda")


def test_each_pass_takes_its_own_settings() -> None:
    settings = RolloutSettings(steps_image=3, steps_keyframes=4, steps_interpolation=5, guidance=1.5, label_guidance=2.0, context_level=0.1)
    assert settings.of_pass("image") == PassSettings("dpmpp_2m", 3, label_guidance=2.0)
    assert settings.of_pass("keyframes") == PassSettings("dpmpp_2m", 4, 1.5, 2.0, 0.1)
    assert settings.of_pass("interpolation_1") == settings.of_pass("interpolation_2") == PassSettings("dpmpp_2m", 5)

"""Rollouts made side by side, and futures that branch off: the same frames as alone, up to where they may differ."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_checkpoint import HEIGHT, WIDTH, make_checkpoint

from drivesim.errors import UsageError
from drivesim.labels import BoxTrack, Branch, Scenario
from drivesim.simulation.plan import plan_rollout
from drivesim.simulation.settings import RolloutSettings
from drivesim.simulation.simulator import Drive, Simulator, Step

FPS = 7.5


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Simulator:
    checkpoint = make_checkpoint(tmp_path_factory.mktemp("toy"), fps=FPS)
    return Simulator(checkpoint, RolloutSettings.of(checkpoint.settings["rollout"]))


def scenario(seed: int = 0, duration_s: float = 3.0, **more: object) -> Scenario:
    car = BoxTrack(1, "car", np.array([0.0, duration_s]), np.array([[0.2, 0.4, 0.5, 0.7], [0.4, 0.4, 0.7, 0.7]], np.float32))
    return Scenario(duration_s, "night" if seed % 2 else "day", tracks=(car,), seed=seed, **more)  # type: ignore[arg-type]


def frames_of(steps: list[Step]) -> np.ndarray:
    assert [step.first_frame for step in steps] == list(np.cumsum([0, *(len(step.frames) for step in steps)])[:-1])
    return np.concatenate([step.frames for step in steps])


def test_side_by_side_is_as_alone(simulator: Simulator) -> None:
    shot = np.random.default_rng(0).integers(0, 255, (2, HEIGHT, WIDTH, 3), np.uint8)
    drives = [Drive(scenario(0, 7.0)), Drive(scenario(1, 2.0)), Drive(scenario(2, 11.0), shot[:1]), Drive(scenario(3, 7.0), shot)]
    together: dict[int, list[Step]] = {}
    for row, step in simulator.run_many(drives):
        together.setdefault(row, []).append(step)
    for row, drive in enumerate(drives):
        alone = list(simulator.run(drive.scenario, drive.start))
        assert np.abs(frames_of(together[row]).astype(int) - frames_of(alone)).max() <= 1, f"rollout {row}: last bits at most"
        assert len(together[row]) == len(alone)
        assert np.array_equal(together[row][0].labels.boxes.xyxy, alone[0].labels.boxes.xyxy)


def test_one_network_call_makes_a_window_of_each(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, list[int], list[int]]] = []
    fill = simulator.fill

    def counted(stage: str, seeds: list[int], windows: list[int], *rest: object) -> torch.Tensor:
        calls.append((stage, list(seeds), list(windows)))
        return fill(stage, seeds, windows, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(simulator, "fill", counted)
    list(simulator.run_many([Drive(scenario(4, 7.0)), Drive(scenario(5, 2.0)), Drive(scenario(6, 7.0))]))
    keyframes = [call for call in calls if call[0] == "keyframes"]
    assert keyframes == [("keyframes", [4, 5, 6], [0, 0, 0]), ("keyframes", [4, 6], [1, 1])]
    assert [call for call in calls if call[0] == "image"] == [("image", [4, 5, 6], [0, 0, 0])]


def test_nothing_to_make(simulator: Simulator) -> None:
    assert list(simulator.run_many([])) == []
    with pytest.raises(UsageError, match="seed must be"):
        simulator.run_many([Drive(scenario(0)), Drive(scenario(-1))])


def test_branches_are_the_same_drive_up_to_where_they_part(simulator: Simulator) -> None:
    stem, seconds = scenario(0, 14.0), 14.0
    window = simulator.plan(stem).branching(4.0)
    part = (window.made.start - 1) * 4  # the frame of the last keyframe that they share
    assert part / FPS == pytest.approx(4.8), "nine keyframes after the first one, at 1.875 a second"
    first, second = (replace(stem, branch=Branch(4.0, seed)) for seed in (101, 102))
    frames = {name: frames_of(list(simulator.run(one))) for name, one in {"stem": stem, "first": first, "second": second}.items()}
    shared = part + 1 - simulator.autoencoder.receptive_frames
    assert len(frames["stem"]) == round(seconds * FPS)
    for name in ("first", "second"):
        assert np.array_equal(frames[name][:shared], frames["stem"][:shared]), "to the bit"
        assert not np.array_equal(frames[name][part + 4 :], frames["stem"][part + 4 :])
    assert not np.array_equal(frames["first"][part + 4 :], frames["second"][part + 4 :])
    assert np.array_equal(frames_of(list(simulator.run(replace(stem, branch=Branch(4.0, 0))))), frames["stem"]), "its own seed: no branch"


def test_where_a_branch_may_begin() -> None:
    plan = plan_rollout(20.0, 7.5)
    assert [plan.branching(at_s).made.start - 1 for at_s in (0.0, 0.1, 4.8, 4.9)] == [0, 9, 9, 17]
    with pytest.raises(UsageError, match=r"no keyframe window after 19\.5 s"):
        plan.branching(19.5)

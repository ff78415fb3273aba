"""``drivesim rollout``: flags -> scenario -> simulator -> recorder, with a progress bar.

Everything the user said is checked before anything is written. This file joins the parts; it does not know how any of them works.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from drivesim.commands.branches import begun_with, run_branches
from drivesim.commands.config import as_override, compose
from drivesim.commands.fitting import fit_config
from drivesim.commands.upsample import upsampler_settings
from drivesim.errors import UsageError
from drivesim.io.checkpoints import Checkpoint, load_checkpoint
from drivesim.labels import LABELS, Scenario
from drivesim.simulation.edits.branches import futures
from drivesim.simulation.inputs import read_boxes, read_start
from drivesim.simulation.quality import rollout_settings
from drivesim.simulation.recording.recorder import Progress, Recording, check_folder, finished, record
from drivesim.simulation.recording.state import read_state
from drivesim.simulation.scenes.sampling import TrackBank, sample_scenario
from drivesim.simulation.settings import RolloutSettings
from drivesim.simulation.simulator import Simulator, pick_device
from drivesim.simulation.upsample import Upsampler

__all__ = ["next_folder", "run", "scenario_of"]

GROUPS = ("rollout", "upsampling")
FILES = ("checkpoint", "boxes", "start")
"""Settings that may name a file or a folder."""


def run(flags: Mapping[str, Any], words: Sequence[str]) -> int:
    """Make one rollout; returns the exit code.

    Args:
        flags: by the names of ``configs/rollout.yaml``, None = not given. words: ``key=value`` overrides, applied after them.

    Raises:
        UsageError: a value that cannot be.   DrivesimError: whatever the parts raise.
    """
    given = [*(as_override(name, value) for name, value in flags.items() if value is not None), *words]
    config = compose("rollout", given)
    if config.resume and config.out is not None and config.branch is None and (begun := begun_with(Path(config.out))) is not None:
        config = compose("rollout", [*(as_override(name, value) for name, value in begun.items()), *given])
    if _branches(config) > 1 and config.branch is None:
        return run_branches(config, _asked(config), Path(config.out or next_folder(Path("rollouts"))), run)
    if config.resume:
        out = _folder_to_resume(config)
        done = finished(out)
        if done is not None:
            print(f"{out} is finished, {done.frames / done.fps:.1f} s of video: nothing to do\n{_next_steps(done)}")
            return 0
        config = _as_begun(out, config, given)
    duration_s = _duration(config.minutes)
    for name, label in LABELS.items():
        label.encode(config[name])
    out = check_folder(config.out or next_folder(Path("rollouts")), config.overwrite or config.resume)
    device = pick_device(str(config.device))
    checkpoint = load_checkpoint(str(config.checkpoint))
    config.rollout.quality = _settings(config, checkpoint).quality  # from here on chosen, and kept for whoever resumes
    if config.fit is not None:
        enlarging = upsampler_settings(config, checkpoint) if config.upsample else None
        print(fit_config(config, checkpoint, _settings(config, checkpoint), enlarging, device.type))
    simulator = Simulator(checkpoint, _settings(config, checkpoint), device)
    scenario = scenario_of(config, checkpoint, duration_s, simulator.settings.fps)
    start = None if config.start is None else read_start(config.start, simulator.height, simulator.width, simulator.keyframe_fps)
    scenario = _future(config, checkpoint, simulator, scenario, start)
    stage = _upsampler(config, checkpoint, simulator, scenario.seed) if config.upsample else None
    with tqdm(total=simulator.plan(scenario).frames, unit="frame", disable=None, dynamic_ncols=True) as bar:
        made = record(
            simulator, scenario, out, start=start, overwrite=config.overwrite, resume=config.resume, stage=stage,
            progress=lambda now: _show(bar, now), asked=_asked(config), report=_told(config, stage),
        )  # fmt: skip
    print(_summary(made, checkpoint))
    return 0


def _folder_to_resume(config: DictConfig) -> Path:
    if config.overwrite:
        raise UsageError("--resume goes on with a rollout and --overwrite replaces it: give one of them")
    if config.out is None:
        raise UsageError("--resume needs --out, the folder of the rollout to go on with")
    return check_folder(config.out, overwrite=True)


def _as_begun(out: Path, config: DictConfig, given: Sequence[str]) -> DictConfig:
    """What the unfinished rollout in ``out`` was asked for, with what is ``given`` now on top; record() refuses what does not agree."""
    state = read_state(out)
    if state is None:
        print(f"{out} holds no state to resume: beginning anew, {config.minutes:g} min of {config.checkpoint} with seed {config.seed}")
        return config
    return compose("rollout", [*(as_override(name, value) for name, value in state.asked.items()), *given])


def _asked(config: DictConfig) -> dict[str, Any]:
    """Every setting that is not null, by its dotted key; files by paths that hold from anywhere."""
    nested = OmegaConf.to_container(config)
    assert isinstance(nested, dict)
    flat = {str(key): value for key, value in nested.items() if not isinstance(value, dict)}
    flat |= {f"{group}.{key}": value for group in GROUPS for key, value in nested[group].items()}
    for name in FILES:
        if flat[name] is not None and Path(flat[name]).exists():
            flat[name] = str(Path(flat[name]).resolve())
    return {key: value for key, value in flat.items() if value is not None and key not in ("out", "overwrite", "resume")}


def scenario_of(config: DictConfig, checkpoint: Checkpoint, duration_s: float, fps: float) -> Scenario:
    """What should happen: the labels asked for, and boxes from a file or, when none is given, from the checkpoint's track bank."""
    labels = {name: config[name] for name in LABELS}
    seed = int(config.seed)
    if seed < 0:
        raise UsageError(f"seed must be a whole number from 0, not {seed}")
    if config.boxes is not None:
        return Scenario(duration_s, **labels, tracks=read_boxes(config.boxes, duration_s, fps), seed=seed)
    if not checkpoint.tracks.is_file():
        print(f"{checkpoint.folder} holds no track bank (tracks.parquet): boxes are unknown; give --boxes to ask for some")
        return Scenario(duration_s, **labels, seed=seed)
    return sample_scenario(TrackBank.load(checkpoint.tracks), duration_s, **labels, seed=seed)


def _branches(config: DictConfig) -> int:
    """How many futures; raises UsageError unless ``branch`` is one of them and ``branch_at`` a time."""
    count, branch, at_s = config.branches, config.branch, config.branch_at
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise UsageError(f"branches must be a whole number from 1, not {count}")
    if branch is not None and not (isinstance(branch, int) and 1 <= branch <= count):
        raise UsageError(f"branch must be a number from 1 to {count}, the number of branches, not {branch}")
    if at_s is not None and not (isinstance(at_s, int | float) and math.isfinite(at_s) and at_s >= 0):
        raise UsageError(f"branch_at must be seconds from 0, not {at_s}")
    return int(count)


def _future(config: DictConfig, checkpoint: Checkpoint, simulator: Simulator, stem: Scenario, start: np.ndarray | None) -> Scenario:
    """The future of ``stem`` that ``config.branch`` numbers; traffic that nobody gave is another one in each."""
    if config.branch is None:
        return stem
    window = simulator.plan(stem, 1 if start is None else len(start)).branching(float(config.branch_at or 0.1))
    at_s = (window.made.start - 1) / simulator.keyframe_fps
    drawn = config.boxes is None and checkpoint.tracks.is_file()
    labels = {name: getattr(stem, name) for name in LABELS} if drawn else {}
    bank = TrackBank.load(checkpoint.tracks) if drawn else None
    sampled = None if bank is None else lambda seed: sample_scenario(bank, stem.duration_s, **labels, seed=seed)
    return futures(stem, int(config.branches), at_s, sampled)[int(config.branch) - 1]


def next_folder(parent: Path) -> Path:
    """``parent/001`` or the first number after it that is free."""
    number = 1
    while (parent / f"{number:03d}").exists():
        number += 1
    return parent / f"{number:03d}"


def _duration(minutes: Any) -> float:
    if not (isinstance(minutes, int | float) and math.isfinite(minutes) and minutes > 0):
        raise UsageError(f"minutes must be a positive number, not {minutes}")
    return 60.0 * minutes


def _settings(config: DictConfig, checkpoint: Checkpoint) -> RolloutSettings:
    wishes = OmegaConf.to_container(config.rollout)
    assert isinstance(wishes, dict)
    return rollout_settings(checkpoint, **{"fps": config.fps, **wishes})


def _upsampler(config: DictConfig, checkpoint: Checkpoint, simulator: Simulator, seed: int) -> Upsampler:
    asked, rollout = upsampler_settings(config, checkpoint), simulator.settings
    chosen = replace(asked, precision=asked.precision or rollout.precision, compile=asked.compile or rollout.compile)
    return Upsampler(checkpoint, chosen, simulator.device, seed, simulator.stopwatch)


def _told(config: DictConfig, stage: Upsampler | None) -> dict[str, Any]:
    """What rollout.json shall say beside what the recorder knows."""
    told: dict[str, Any] = {} if config.start is None else {"start": _from_anywhere(config.start)}
    return told if stage is None else {**told, "upsampling": {**asdict(stage.settings), "network": stage.name}}


def _from_anywhere(place: str) -> str:
    """A path that holds from anywhere; a URL does as it is."""
    return place if "://" in place else str(Path(place).resolve())


def _show(bar: tqdm, now: Progress) -> None:
    if not bar.n:
        bar.initial = bar.n = now.kept
    bar.update(now.frames - bar.n)
    bar.set_postfix_str(f"{now.video_s:.0f} s of video")


def _summary(made: Recording, checkpoint: Checkpoint) -> str:
    """What was made, where it is, and what to do with it next."""
    seconds = made.frames / made.fps
    moved = [f"begun with {', '.join(made.moved)}: the last bits of later frames may differ from those of a run without a break"]
    return "\n".join([
        f"{seconds:.1f} s of video in {made.elapsed_s:.1f} s, by {checkpoint.settings.get('preset', checkpoint.folder)}: {made.video}",
        *(moved if made.moved else ()),
        _next_steps(made),
    ])  # fmt: skip


def _next_steps(made: Recording) -> str:
    folder, coco = shlex.quote(str(made.folder)), shlex.quote(f"{made.folder}-coco")
    return "\n".join([
        f"look at it:  {made.folder / 'preview.png'}, {made.folder / 'preview.mp4'}",
        f"watch it:    drivesim report {folder}",
        f"check it:    drivesim data check {folder}",
        f"export it:   drivesim data export coco {folder} --out {coco}",
    ])  # fmt: skip

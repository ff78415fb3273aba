"""``drivesim edit``: a clip made again with one label changed, and what that kept and changed.

This file joins the parts; it does not know how any of them works.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from drivesim.commands.config import as_override, compose
from drivesim.errors import DrivesimError, UsageError
from drivesim.io.checkpoints import Checkpoint, CheckpointError, load_checkpoint
from drivesim.labels import LABELS, Branch
from drivesim.simulation.agreement import FILTER, Agreement
from drivesim.simulation.edits.edit import Changes, Edit, edited
from drivesim.simulation.edits.report import Comparison, write_report
from drivesim.simulation.edits.source import Made, Original, read_original
from drivesim.simulation.inputs import read_boxes, read_start
from drivesim.simulation.quality import qualities_of, rollout_settings
from drivesim.simulation.recording.recorder import RolloutStopped, check_folder, record
from drivesim.simulation.scenes.sampling import TrackBank
from drivesim.simulation.settings import RolloutSettings
from drivesim.simulation.simulator import Simulator, pick_device
from drivesim.simulation.upsample import Upsampler, UpsamplerSettings

__all__ = ["run"]

RECORDED, MADE = "recorded", "made"
"""``--start``: the clip's own first frame, or one that the image network makes."""


def run(flags: Mapping[str, Any], words: Sequence[str]) -> int:
    """Edit one clip; returns the exit code.

    Args:
        flags: by the names of ``configs/edit.yaml``, None = not given. words: ``key=value`` overrides, applied after them.

    Raises:
        UsageError: a value that cannot be.   DrivesimError: whatever the parts raise.
    """
    config = compose("edit", [*(as_override(name, value) for name, value in flags.items() if value is not None), *words])
    _check(config)
    original = read_original(config.dataset, config.clip)
    out = _out(config, original)
    checkpoint, notes = _checkpoint(config, original)
    settings, said = _settings(config, original, checkpoint)
    simulator = Simulator(checkpoint, settings, pick_device(str(config.device)))
    edit = _edit(config, original, simulator)
    start, how = _start(config, original, simulator, edit)
    stage, enlarged = _upsampler(original, simulator, edit)
    notes = [*notes, *said, *how, *enlarged, *_endings(original), *edit.notes]
    told = {"dataset": str(config.dataset), "clip": original.clip_id, "changed": edit.changed, "notes": notes}
    print(_changes(edit, notes))
    threads = original.made.threads if original.made is not None else None
    with _threads(threads), tqdm(total=simulator.plan(edit.after).frames, unit="frame", disable=None, dynamic_ncols=True) as bar:
        _record(simulator, edit, out, config, start, stage, bar, {"edit": told, **_enlarging(stage)})
    comparison = Comparison(simulator, edit, original, read_original(out), start, float(config.measure.seconds), int(config.measure.chance))
    watching = _detector(config)
    detector = Agreement.load(watching, simulator.device).detector
    report = write_report(out, comparison, detector, int(config.measure.instants), {**told, "detector": watching.parent.name})
    print(f"{_summary(report)}\n{_next_steps(out)}")
    return 0


def _check(config: DictConfig) -> None:
    """What needs no file to be known as wrong."""
    for name, label in LABELS.items():
        label.encode(config[name])
    if config.seed is not None and int(config.seed) < 0:
        raise UsageError(f"seed must be a whole number from 0, not {config.seed}")
    if config.resume and config.overwrite:
        raise UsageError("--resume goes on with an edit and --overwrite replaces it: give one of them")
    if config.measure.chance < 0 or config.measure.instants < 1 or config.measure.seconds <= 0:
        raise UsageError("measure.chance must be at least 0, measure.instants at least 1, and measure.seconds more than 0")


def _out(config: DictConfig, original: Original) -> Path:
    out = Path(config.out)
    if out.resolve() == original.root.resolve():
        raise UsageError(f"--out {out} is the dataset that is being edited; choose another folder")
    return check_folder(out, config.overwrite or config.resume)


# as the clip was made


def _checkpoint(config: DictConfig, original: Original) -> tuple[Checkpoint, list[str]]:
    """The one that made the clip, unless the user names another."""
    made = original.made
    if config.checkpoint is not None or made is None:
        checkpoint = load_checkpoint(str(config.checkpoint or "mini"))
        other = made is not None and made.hash is not None and made.hash != checkpoint.hash
        return checkpoint, ["made by another checkpoint than the clip: not only the labels differ"] if other else []
    name = made.preset or "mini"
    by = f"clip {original.clip_id} was made by checkpoint {name} ({(made.hash or 'of no known hash')[:8]})"
    try:
        checkpoint = load_checkpoint(name)
    except CheckpointError as error:
        raise UsageError(f"{by}, which is not here ({error}); name its folder with --checkpoint") from error
    if made.hash is not None and made.hash != checkpoint.hash:
        raise UsageError(
            f"{by}, and {checkpoint.folder} is another one ({checkpoint.hash[:8]}); name the folder of the one that made it, or "
            "any other on purpose, with --checkpoint"
        )
    return checkpoint, []


def _settings(config: DictConfig, original: Original, checkpoint: Checkpoint) -> tuple[RolloutSettings, list[str]]:
    wishes = OmegaConf.to_container(config.rollout)
    assert isinstance(wishes, dict)
    given = {str(name): value for name, value in wishes.items() if value is not None}
    made = original.made
    if made is None:
        return rollout_settings(checkpoint, **given), []
    notes = [f"{', '.join(f'rollout.{name}' for name in given)} otherwise than the clip was made"] if given else []
    if made.settings is not None and made.hash in (None, checkpoint.hash):
        return _told_settings(original, {**made.settings, **given}), notes
    notes += ["nobody wrote down how the clip was sampled: the checkpoint's own settings are taken"] if made.settings is None else []
    quality = (made.settings or {}).get("quality")
    own = {"fps": original.fps, **({"quality": quality} if quality in qualities_of(list(checkpoint.networks)) else {})}
    return rollout_settings(checkpoint, **{**own, **given}), notes


def _told_settings(original: Original, told: Mapping[str, Any]) -> RolloutSettings:
    try:
        return RolloutSettings(**told)
    except TypeError as error:
        clip = f"{original.root}: clip {original.clip_id}"
        raise DrivesimError(f"{clip} was sampled with settings that this drivesim does not know ({error}); update drivesim") from error


def _start(config: DictConfig, original: Original, simulator: Simulator, edit: Edit) -> tuple[np.ndarray | None, list[str]]:
    """Frames that the edit starts from, None = made by the image network, and what to say of it."""
    made, size = original.made, (simulator.height, simulator.width)
    if config.start == MADE or (config.start is None and made is not None and not made.start_frames):
        return None, []
    if config.start not in (None, RECORDED):
        return read_start(config.start, *size, simulator.keyframe_fps), []
    if config.start is None and made is not None and made.start is not None and Path(made.start).is_file():
        return read_start(made.start, *size, simulator.keyframe_fps), []
    if config.start is None and "time_of_day" in edit.changed:
        return None, ["the first frame shows another time of day, so a new one is made; --start recorded takes it all the same"]
    begun = "" if made is None else ", which is not the picture that it was begun from; name that with --start for the same frames"
    return original.frames(np.zeros(1), *size), [f"it starts from the clip's first frame{begun}"]


def _upsampler(original: Original, simulator: Simulator, edit: Edit) -> tuple[Upsampler | None, list[str]]:
    """What enlarged the clip, if anything did."""
    told = dict(original.made.upsampling or {}) if original.made is not None else {}
    if not told:
        smaller = original.made is not None and original.size[0] > simulator.height
        return None, ["the clip was enlarged, this one is not: nobody wrote down how"] if smaller else []
    try:
        settings = UpsamplerSettings(**told)
        return Upsampler(simulator.checkpoint, settings, simulator.device, edit.after.seed, simulator.stopwatch), []
    except (TypeError, CheckpointError) as error:
        return None, [f"the clip was enlarged, this one is not ({error})"]


def _enlarging(stage: Upsampler | None) -> dict[str, Any]:
    return {} if stage is None else {"upsampling": {**vars(stage.settings), "network": stage.name}}


def _endings(original: Original) -> list[str]:
    if original.made is None or original.made.whole:
        return []
    return ["the clip is what was made before its rollout was stopped: its last seconds were made for labels that are not known any more"]


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """As many as made the clip: sums are split among them."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# the edit


def _edit(config: DictConfig, original: Original, simulator: Simulator) -> Edit:
    made, fps = original.made, simulator.settings.fps
    seed = made.seed if made is not None else int(config.seed or 0)
    scenario = original.scenario(seed, fps, simulator.height, simulator.width)
    if made is not None and made.branch is not None:
        scenario = replace(scenario, branch=_branch(original, made))
    tracks = None if config.boxes is None else read_boxes(config.boxes, scenario.duration_s, fps, original.clip_id)
    labels = {name: config[name] for name in LABELS if name != "crowdedness" and config[name] is not None}
    other_seed = int(config.seed) if config.seed is not None and made is not None else None
    changes = Changes(labels, tracks, None if config.crowdedness is None else float(config.crowdedness), other_seed)
    tracks_file = simulator.checkpoint.tracks
    bank = TrackBank.load(tracks_file) if changes.crowdedness is not None and tracks_file.is_file() else None
    return edited(scenario, changes, fps, bank)


def _branch(original: Original, made: Made) -> Branch:
    assert made.branch is not None
    try:
        return Branch(float(made.branch["at_s"]), int(made.branch["seed"]))
    except (KeyError, TypeError, ValueError) as error:
        raise DrivesimError(f"{original.root}: clip {original.clip_id}: where it branches off cannot be read ({made.branch})") from error


def _record(
    simulator: Simulator, edit: Edit, out: Path, config: DictConfig, start: np.ndarray | None, stage: Upsampler | None, bar: tqdm,
    report: Mapping[str, Any],
) -> None:  # fmt: skip
    try:
        record(
            simulator, edit.after, out, start=start, overwrite=config.overwrite, resume=config.resume, stage=stage,
            progress=lambda now: bar.update(now.frames - bar.n), report=report,
        )  # fmt: skip
    except RolloutStopped as error:
        mend = "the same drivesim edit command with --resume"
        raise RolloutStopped(str(error).replace(f"drivesim rollout --resume --out {shlex.quote(str(out))}", mend)) from error.__cause__


def _detector(config: DictConfig) -> Path:
    return FILTER if config.measure.detector is None else Path(config.measure.detector)


# what is said


def _changes(edit: Edit, notes: Sequence[str]) -> str:
    lines = [f"{name}: {_said(old)} -> {_said(new)}" for name, (old, new) in edit.changed.items()]
    return "\n".join([*(lines or ["nothing changes: the clip is made again as it is"]), *(f"note: {note}" for note in notes)])


def _said(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['tracks']} tracks, {value['vehicles']:g} vehicles a frame"
    if isinstance(value, list):
        return " to ".join(str(end) for end in value)
    return "unknown" if value is None else str(value)


def _summary(report: Mapping[str, Any]) -> str:
    measures = report["measures"]
    layout, boxes, light = measures["layout"], measures["boxes"], measures["light"]
    chance = f", other seeds {np.mean(layout['chance']):.2f}" if layout["chance"] else ""
    lines = [f"layout:      correlation with the clip {layout['between']:.2f}{chance}"]
    for name, side in (("before", boxes["before"]), ("after", boxes["after"])):
        if side is not None:
            found, right = _share(side["recall"]), _share(side["precision"])
            lines.append(f"boxes {name + ':':6} {found} of {side['boxes']} found, {right} of what is found is right")
    for name in ("kept", "removed", "added"):
        group = boxes[name]
        if group and group["boxes"]:
            before, after = _share(group["recall_before"]), _share(group["recall_after"])
            lines.append(f"{name + ':':12} {group['boxes']} boxes, found before {before}, after {after}")
    shown = [f"{name} {light['before'][name]:.2f} -> {light['after'][name]:.2f}" for name in light["before"]]
    return "\n".join([*lines, f"light:       {', '.join(shown)}"])


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.0%}"


def _next_steps(out: Path) -> str:
    folder = shlex.quote(str(out))
    return f"look at it:  {out / 'edit.png'}, {out / 'edit.json'}\ncheck it:    drivesim data check {folder}"

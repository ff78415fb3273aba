"""``drivesim generate``: a table of scenarios -> one labelled dataset, on as many processes as there are.

Everything the user said is checked before anything is made. This file joins the parts and shows a progress bar; it does not know how any of
them works.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from drivesim.commands.config import as_override, compose
from drivesim.commands.upsample import upsampler_settings
from drivesim.errors import DrivesimError, UsageError
from drivesim.io.checkpoints import Checkpoint, load_checkpoint
from drivesim.io.places import Place
from drivesim.simulation.agreement import FILTER, ceiling
from drivesim.simulation.device import pick_device
from drivesim.simulation.generation.engines import Parts, here, on_ray, on_workers
from drivesim.simulation.generation.maker import weights_hash
from drivesim.simulation.generation.order import DESCRIPTION, Group, Order, Summary, assemble, begin, groups, missing, of_shard
from drivesim.simulation.generation.starts import with_start_hashes
from drivesim.simulation.inputs import read_start
from drivesim.simulation.plan import plan_rollout
from drivesim.simulation.quality import rollout_settings
from drivesim.simulation.scenes.table import Request, read_scenarios

__all__ = ["run"]


def run(flags: Mapping[str, Any], words: Sequence[str]) -> int:
    """Generate; returns the exit code. The same command again makes what is missing.

    Args:
        flags: by the names of ``configs/generate.yaml``, None = not given. words: ``key=value`` overrides, applied after them.

    Raises:
        UsageError: a value that cannot be, or a place of something else.   DrivesimError: whatever the parts raise.
    """
    config = compose("generate", [*(as_override(name, value) for name, value in flags.items() if value is not None), *words])
    workers = _whole("workers", config.workers)
    if config.overwrite and config.shard is not None:
        raise UsageError("--overwrite would remove what other shards have made; remove the folder, or begin anew without --shard")
    requests = read_scenarios(str(config.scenarios))
    place, checkpoint = Place(config.out), load_checkpoint(str(config.checkpoint))
    order = _order(config, checkpoint, place, workers)
    _check(requests, order, checkpoint)
    requests = with_start_hashes(requests)
    all_groups = groups(requests, order.batch)
    mine = of_shard(all_groups, config.shard)
    begin(place, order, requests, bool(config.overwrite))
    due = dict(_by_number(missing(place, order, mine)))
    _drive(config, order, place, requests, [group for group in mine if group.number in due], workers)
    print(_told(config, order, assemble(place, order, requests), place, requests))
    return 0


def _order(config: DictConfig, checkpoint: Checkpoint, place: Place, workers: int) -> Order:
    wishes = OmegaConf.to_container(config.rollout)
    assert isinstance(wishes, dict)
    settings = rollout_settings(checkpoint, **{"fps": config.fps, **wishes})
    enlarging = asdict(upsampler_settings(config, checkpoint)) if config.upsample else None
    told = place.read_json(DESCRIPTION) or {}
    threads = config.generation.threads or (None if config.overwrite else told.get("threads"))
    named, detector = str(config.checkpoint), str(config.generation.detector or FILTER)
    return Order(
        str(config.out) if place.local is None else str(place.local.resolve()),
        str(Path(named).resolve()) if Path(named).is_dir() else named, checkpoint.hash, detector, weights_hash(detector),
        asdict(settings), enlarging,
        config.generation.batch, threads or max(1, (os.cpu_count() or 1) // workers), str(pick_device(str(config.device))),
        config.min_agreement, config.generation.tries,
    )  # fmt: skip


def _check(requests: Sequence[Request], order: Order, checkpoint: Checkpoint) -> None:
    """Could every scenario be made? Raises UsageError that names the first that could not."""
    told = checkpoint.settings
    starts: set[str] = set()
    for request in requests:
        try:
            plan_rollout(request.scenario.duration_s, request.fps or float(order.settings["fps"]), float(told["keyframe_fps"]))
            if request.start is not None and request.start not in starts:
                starts.add(request.start)
                read_start(request.start, int(told["height"]), int(told["width"]), float(told["keyframe_fps"]))
        except DrivesimError as error:
            raise UsageError(f"scenario {request.scenario_id}: {error}") from error


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UsageError(f"{name} must be a whole number from 1, not {value}")
    return value


def _by_number(found: Iterator[tuple[Group, int]]) -> Iterator[tuple[int, int]]:
    for group, count in found:
        yield group.number, count


def _drive(config: DictConfig, order: Order, place: Place, requests: Sequence[Request], due: Sequence[Group], workers: int) -> None:
    """Make the groups that are due, with one progress bar over clips; in this process it moves with every step."""
    if not due:
        return
    frames = {request.scenario_id: _frames(order, request) for group in due for request in group.requests}
    with tqdm(total=sum(frames.values()), unit="frame", disable=None, dynamic_ncols=True) as bar:
        clips = 0
        for group, parts in _made(config, order, due, workers, bar):
            clips += len(parts)
            if workers > 1 or config.ray is not None:
                bar.update(sum(frames[request.scenario_id] for request in group.requests))
            bar.set_postfix_str(f"{clips} clips")


def _frames(order: Order, request: Request) -> int:
    fps = request.fps or float(order.settings["fps"])
    return round(request.scenario.duration_s * fps)


def _made(config: DictConfig, order: Order, due: Sequence[Group], workers: int, bar: tqdm) -> Iterator[tuple[Group, Parts]]:
    if config.ray is not None:
        return on_ray(order, due, str(config.ray), workers)
    if workers > 1:
        return on_workers(order, due, min(workers, len(due)))
    return here(order, due, bar.update)


def _told(config: DictConfig, order: Order, made: Summary | None, place: Place, requests: Sequence[Request]) -> str:
    """What there is, how far its labels were confirmed, and what to do with it next."""
    if made is None:
        left = sum(count for _, count in missing(place, order, groups(requests, order.batch)))
        of = f"{left} of {len(requests)} clips are still to come"
        return f"shard {config.shard} is done; {of} from other shards, the last of which makes the dataset"
    lines = [f"{made.clips} clips, {made.frames} frames in {place}"]
    if made.agreement is not None:
        lines.append(f"labels confirmed by a detector: F1 {made.agreement:.2f} on average{_ceiling(order)}")
    if order.min_agreement is not None:
        names = f" ({', '.join(made.dropped[:5])}{', ...' * (len(made.dropped) > 5)})" if made.dropped else ""
        lines.append(f"below {order.min_agreement:g}: {made.remade} clips made again with success, {len(made.dropped)} dropped{names}")
    if place.local is not None:
        folder = shlex.quote(str(config.out))
        lines += [f"check it:    drivesim data check {folder}", f"look at it:  drivesim report {folder}",
                  f"export it:   drivesim data export coco {folder} --out {shlex.quote(f'{config.out}-coco')}"]  # fmt: skip
    return "\n".join(lines)


def _ceiling(order: Order) -> str:
    """What the same detector finds on held-out clips, where that was measured."""
    try:
        told = ceiling(order.detector)
    except DrivesimError:
        return ""
    return f"; on held-out clips it is {float(told['f1']):.2f}" if "f1" in told else ""

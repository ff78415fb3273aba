"""What an unfinished rollout was asked for and made on: written when it begins, compared when it is resumed.

The same checkpoint, seed, scenario and settings give the same frames on the same kind of machine; so those must agree, and a difference
of machine is told. This file knows names and values; it does not know networks or videos.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import drivesim
from drivesim.errors import DrivesimError, UsageError
from drivesim.io.atomic import write_json
from drivesim.labels import LABELS, Scenario
from drivesim.simulation.recording.folder import STATE
from drivesim.simulation.scenes.fingerprints import hash_of, hash_of_profiles, hash_of_tracks
from drivesim.simulation.simulator import Simulator

__all__ = ["FORMAT", "VERSION", "RolloutState", "environment_of", "identity_of", "read_state"]

FORMAT, VERSION = "drivesim-rollout-state", 1
"""The version goes up when an older state could no longer be finished to the same frames."""
FILE = "state.json"
SHOWN = 3


@dataclass(frozen=True)
class RolloutState:
    """identity: what fixes the frames. environment: what fixes their last bits. asked: settings of the command, to be asked for again."""

    identity: dict[str, Any]
    environment: dict[str, Any]
    asked: dict[str, Any]

    def save(self, out: Path) -> None:
        """Write it, whole or not at all."""
        write_json(out / STATE / FILE, {"format": FORMAT, "version": VERSION, **asdict(self)})

    def check_same(self, out: Path, identity: Mapping[str, Any]) -> None:
        """Is what is asked for now what was begun in ``out``?

        Raises:
            UsageError: it is not; names the first things that differ.
        """
        found = list(_differences(self.identity, _plain(identity)))
        if found:
            named = ", ".join(f"{name} {_short(old)} (now {_short(new)})" for name, old, new in found[:SHOWN])
            more = f" and {len(found) - SHOWN} more" * (len(found) > SHOWN)
            raise UsageError(f"{out} was begun with {named}{more}; ask for the same, or pass --overwrite to start anew")

    def moved(self, environment: Mapping[str, Any]) -> list[str]:
        """What is not as it was when the rollout was begun, as words; the number of threads aside, which a resumed rollout takes over."""
        found = _differences(self.environment, _plain(environment))
        return [f"{name} {_short(old)} (now {_short(new)})" for name, old, new in found if name != "threads"]


def read_state(out: str | Path) -> RolloutState | None:
    """The state of the unfinished rollout in ``out``; None where there is none.

    Raises:
        DrivesimError: it is unreadable or of another version.
    """
    path, mend = Path(out) / STATE / FILE, "pass --overwrite instead of --resume to start anew"
    if not path.is_file():
        return None
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if (told["format"], told["version"]) != (FORMAT, VERSION):
            found = f"{told['format']} version {told['version']}"
            raise DrivesimError(f"{path}: {found} is not {FORMAT} version {VERSION}; resume it with the drivesim that began it, or {mend}")
        return RolloutState(*(dict(told[name]) for name in ("identity", "environment", "asked")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DrivesimError(f"{path}: unreadable ({type(error).__name__}: {error}); {mend}") from error


def identity_of(simulator: Simulator, scenario: Scenario, start: np.ndarray | None = None) -> dict[str, Any]:
    """What fixes the frames of a rollout, numbers as they are and arrays by their hash."""
    return {
        "checkpoint": simulator.checkpoint.hash,
        "seed": scenario.seed,
        "scenario": {
            "duration_s": scenario.duration_s, **{name: getattr(scenario, name) for name in LABELS},
            "boxes": hash_of_tracks(scenario), "profiles": hash_of_profiles(scenario),
            "branch": None if scenario.branch is None else asdict(scenario.branch),
        },
        "start": None if start is None else hash_of([np.asarray(start)]),
        "settings": asdict(simulator.settings),
    }  # fmt: skip


def environment_of(device: torch.device) -> dict[str, Any]:
    """What the last bits of the frames depend on."""
    cuda = device.type == "cuda"
    processor = torch.cuda.get_device_name(device) if cuda else torch.backends.cpu.get_cpu_capability()
    return {"drivesim": drivesim.__version__, "torch": torch.__version__, "device": device.type, "processor": processor,
            "threads": torch.get_num_threads()}  # fmt: skip


def _plain(content: Mapping[str, Any]) -> dict[str, Any]:
    """As it comes back from JSON."""
    plain: dict[str, Any] = json.loads(json.dumps(content))
    return plain


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted name, old value, new value) of all that is not equal."""
    for name in dict.fromkeys([*old, *new]):
        before, now = old.get(name), new.get(name)
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            yield from _differences(before, now, f"{prefix}{name}.")
        elif before != now:
            yield f"{prefix}{name}", before, now


def _short(value: Any) -> str:
    return "none" if value is None else f"{value[:8]}..." if isinstance(value, str) and len(value) == 64 else str(value)

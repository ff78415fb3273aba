"""From bytes of tensors alive at once, which are counted, to the memory that a rollout takes: base and overhead, fitted to real rollouts.

    python benchmarks/memory_model.py --out benchmarks/results/memory_model.json [--device cuda]

Each rollout is `drivesim rollout --fit` in a process of its own, with untrained weights of `mini`'s sizes; its peak is what the operating
system says of the process (on CUDA: what the allocator has reserved). Fitted by least squares over all of them:

    peak = base + weights + overhead * the largest pass's living tensors (+ finished frames in waiting, on the CPU)

and, from the same processes, efficiency: operations a second of the networks over those of a bare convolution. The constants of
``drivesim/simulation/budget.py`` are copied from here. Prints Markdown and writes JSON.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe, peak_memory
from untrained import write_untrained

from drivesim import cli
from drivesim.io.checkpoints import load_checkpoint
from drivesim.simulation.cost import Costs, described
from drivesim.simulation.quality import rollout_settings
from drivesim.simulation.speed import measured_rate
from drivesim.simulation.upsample import UpsamplerSettings

MIB = 2**20
WIDE = ["preset.image.base=160"]
RUNS: dict[str, tuple[bool, dict[str, int], dict[str, Any] | None]] = {
    "small": (False, {"batch": 1, "decode_frames": 4}, None),
    "as shipped": (False, {}, None),
    "decode 64": (False, {"decode_frames": 64}, None),
    "decode 128": (False, {"decode_frames": 128}, None),
    "batch 64": (False, {"batch": 64, "decode_frames": 4, "fps": 30}, None),
    "wide": (True, {"batch": 1, "decode_frames": 4}, None),
    "wide, decode 64": (True, {"decode_frames": 64}, None),
    "upsampled": (False, {"decode_frames": 8}, {"tile": 0}),
    "upsampled, decode 32": (False, {}, {"tile": 0}),
    "upsampled in tiles": (False, {"decode_frames": 8}, {"tile": 48}),
}
"""Name -> wide networks, rollout settings, upsampling."""
FEW = {"steps_image": 1, "steps_keyframes": 2, "steps_interpolation": 1, "guidance": 1.0, "label_guidance": 1.0}


def one(folder: str, name: str, device: str) -> dict[str, Any]:
    """A rollout in this process, as the command line makes it, with a fit that leaves every size as it is given."""
    _, wishes, enlarging = RUNS[name]
    checkpoint = load_checkpoint(folder)
    settings = rollout_settings(checkpoint, "full", **FEW, **wishes)
    upsampling = None if enlarging is None else UpsamplerSettings.of({}, network="upsampler_fast", **enlarging)
    seconds = 2.2 if upsampling else 18.0 if settings.fps < 30 else 9.0
    words = [f"rollout.{key}={getattr(settings, key)}" for key in {"quality": 0, **FEW, "batch": 0, "decode_frames": 0, "precision": 0}]
    words += ["--upsample", "upsampling.steps=1", *(f"upsampling.{key}={value}" for key, value in enlarging.items())] if enlarging else []
    with tempfile.TemporaryDirectory() as out:
        asked = ["--minutes", str(seconds / 60), "--fps", str(settings.fps), "--device", device, "--out", f"{out}/rollout", "--fit", "99TB"]
        assert cli.main(["rollout", "--checkpoint", folder, *asked, *words]) == 0
        timings = json.loads(Path(f"{out}/rollout/rollout.json").read_text(encoding="utf-8"))["timings"]
    peak = torch.cuda.max_memory_reserved() if device == "cuda" else peak_memory()
    cost = Costs(described(checkpoint), checkpoint.settings, settings, upsampling)
    flop = cost.flop(seconds)
    return {"name": name, "settings": asdict(settings), "upsampling": enlarging, "peak": peak, "weights": sum(cost.weights.values()),
            "live": cost.live(), "waiting": cost.waiting() if device == "cpu" else 0, "flop": sum(flop.values()),
            "seconds": sum(timings[f"{name}_s"] for name in flop), "rate": measured_rate(device)}  # fmt: skip


def fitted(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Least squares, but no byte of living tensors counts for less than one: small ones fit into memory that was taken before, for instance
    while weights were read, and a slope below one would be wrong for large ones. margin: the most that a run is above the line."""
    live = np.array([run["live"] for run in runs], dtype=float)
    rest = np.array([run["peak"] - run["weights"] - run["waiting"] for run in runs], dtype=float)
    (base, overhead), *_ = np.linalg.lstsq(np.stack([np.ones_like(live), live], axis=1), rest, rcond=None)
    if overhead < 1:
        overhead, base = 1.0, float((rest - live).mean())
    off = rest - base - overhead * live
    rates = [run["flop"] / run["seconds"] / run["rate"] for run in runs if run["upsampling"] is None]
    return {"base": float(base), "overhead": float(overhead), "margin": float(off.max()), "most_over": float(off.min()),
            "efficiency": float(np.median(rates))}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, default=None, help="JSON to write")
    parser.add_argument("--refit", action="store_true", help="measure nothing: fit the runs that --out holds once more")
    parser.add_argument("--one", nargs=2, default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(given.one[0], given.one[1], given.device)))
        return
    told = json.loads(given.out.read_text(encoding="utf-8")) if given.refit else measured(given.device)
    found = fitted(told["runs"])
    print(f"{told['machine']}, {told['date']}: `{told['command']}`\n\n{table(told['runs'], found)}")
    if given.out:
        given.out.write_text(json.dumps({**told, "fitted": found}, indent=1) + "\n")


def measured(device: str) -> dict[str, Any]:
    """Every run, and on what."""
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        folders = {wide: Path(folder) / f"wide_{wide}" for wide in (False, True)}
        for wide, path in folders.items():
            write_untrained("mini", path, WIDE if wide else (), torch.float16)
            shutil.copy(load_checkpoint("mini").tracks, path)
        for name, (wide, *_) in RUNS.items():
            words = [sys.executable, __file__, "--device", device, "--one", str(folders[wide]), name]
            runs.append(json.loads(subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1]))
            print(name, {key: round(runs[-1][key] / MIB) for key in ("peak", "weights", "live", "waiting")}, file=sys.stderr)
    return {"machine": describe(device), "date": datetime.date.today().isoformat(), "device": device,
            "command": shlex.join(["python", *sys.argv]), "runs": runs}  # fmt: skip


def table(runs: list[dict[str, Any]], found: dict[str, float]) -> str:
    lines = ["| rollout | peak, MiB | weights | living tensors | frames in waiting | by the model | GFLOP/s over a convolution's |",
             "|---" * 7 + "|"]  # fmt: skip
    for run in runs:
        model = found["base"] + run["weights"] + run["waiting"] + found["overhead"] * run["live"]
        sizes = " | ".join(f"{value / MIB:.0f}" for value in (run["peak"], run["weights"], run["live"], run["waiting"], model))
        lines.append(f"| {run['name']} | {sizes} | {run['flop'] / run['seconds'] / run['rate']:.2f} |")
    said = f"base {found['base'] / MIB:.0f} MiB, overhead {found['overhead']:.2f}, efficiency {found['efficiency']:.2f}"
    return "\n".join([*lines, "", f"{said}; a rollout took at most {found['margin'] / MIB:.0f} MiB more than the model says."])


if __name__ == "__main__":
    main()

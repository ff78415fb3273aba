"""How fast the judging is, as ratios within one run: Frechet distance, feature extraction, a second evaluation; and its memory.

    python benchmarks/metrics.py [--parts frechet extraction cache memory] [--data CLIPS --split SPLIT] [--out metrics.json]

Each part runs in a process of its own, one after the other. Frechet distance (d = 2048, N = 4096 a side, one thread, from the same
moments): processor seconds of drivesim, torchmetrics and scipy's sqrtm, best of several rounds. Extraction: seconds for the same shots by
``features_of`` and by a loop that reads, prepares and shows one clip at a time, both with torch's two threads, best of several rounds in
turn. Cache: seconds of the first and of the second look at the same clips, hashing the videos included. Memory: peak of an extraction of N
and of 4 N clips. Without --data a toy road world is drawn.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from drivesim.datasets.sources.synthetic import make_road_world
from drivesim.eval.cache import FeatureCache
from drivesim.eval.codec import Preparation
from drivesim.eval.extract import features_of
from drivesim.eval.features import feature_network
from drivesim.eval.footage import Footage, Shot
from drivesim.eval.metrics import FrechetDistance
from drivesim.eval.protocols import PROTOCOLS

PROTOCOL = PROTOCOLS["fvd_lite0_256x16_h264crf18"]
THREADS = {"frechet": "1", "extraction": "2", "cache": "2", "memory": "2"}
TARGETS = {
    "frechet: torchmetrics / drivesim": 1.7, "frechet: scipy sqrtm / drivesim": 3.0, "extraction: one clip at a time / drivesim": 1.2,
    "cache: first / second evaluation": 20.0,
}  # fmt: skip


class Given(nn.Module):
    """Stands for a feature network where features are at hand: features wrapped as pictures (n, 3, 1, d) of bytes go in and come out."""

    def __init__(self, rows: dict[int, Tensor], width: int) -> None:
        super().__init__()
        self.rows, self.num_features = rows, width

    def forward(self, frames: Tensor) -> Tensor:
        return self.rows[int(frames[0, 0, 0, 0])]


def best_cpu_s(work: Callable[[], float], rounds: int) -> tuple[float, float]:
    """(processor seconds of the fastest round, the value)."""
    seconds, value = [], 0.0
    for _ in range(rounds):
        began = time.process_time()
        value = work()
        seconds.append(time.process_time() - began)
    return min(seconds), value


def frechet(rounds: int, width: int = 2048, count: int = 4096) -> dict[str, Any]:
    draws = torch.Generator().manual_seed(0)
    spectrum = torch.linspace(0, -4, width).exp()
    mix = torch.randn(width, width, generator=draws) / width**0.5
    rows = {side: (torch.randn(count, width, generator=draws) * spectrum) @ mix * (1 + 0.1 * side) + 0.02 * side for side in (0, 1)}
    ours, theirs = FrechetDistance(Given(rows, width)), FrechetInceptionDistance(feature=Given(rows, width))
    for side in (0, 1):
        token = torch.full((count, 3, 1, 1), side, dtype=torch.uint8)
        ours.update(token, real=side == 0)
        theirs.update(token, real=side == 0)
    one, two = (np.cov(rows[side].double().numpy(), rowvar=False) for side in (0, 1))
    apart = float((rows[0].double().mean(0) - rows[1].double().mean(0)).square().sum())

    def by_scipy() -> float:
        return apart + float(np.trace(one) + np.trace(two) - 2 * np.trace(scipy.linalg.sqrtm(one @ two)).real)

    def fresh(metric: Any) -> float:
        metric._computed = None
        return float(metric.compute())

    own, value = best_cpu_s(lambda: fresh(ours), rounds)
    torchmetrics_s, second = best_cpu_s(lambda: fresh(theirs), rounds)
    scipy_s, third = best_cpu_s(by_scipy, max(1, rounds // 2))
    return {
        "d": width, "n": count, "drivesim_cpu_s": own, "torchmetrics_cpu_s": torchmetrics_s, "scipy_cpu_s": scipy_s,
        "values": {"drivesim": value, "torchmetrics (float32)": second, "scipy": third},
        "ratios": {"frechet: torchmetrics / drivesim": torchmetrics_s / own, "frechet: scipy sqrtm / drivesim": scipy_s / own},
    }  # fmt: skip


def shots_of(data: Path, split: str | None, limit: int) -> list[Shot]:
    return PROTOCOL.shots(Footage.open([data], split), limit)


def ours(shots: list[Shot], network: Any, codec: str, cache: FeatureCache | None = None) -> np.ndarray:
    return features_of(shots, network, size=PROTOCOL.size, codec=codec, fps=PROTOCOL.fps, cache=cache).values


def plain(shots: list[Shot], network: Any, codec: str) -> np.ndarray:
    """What anybody would write first."""
    prepare = Preparation(PROTOCOL.size, codec, PROTOCOL.fps)
    rows = []
    for shot in shots:
        frames = torch.from_numpy(prepare(shot.read())).permute(0, 3, 1, 2)[None].contiguous()
        with torch.inference_mode():
            rows.append(network(frames)[0].numpy())
    return np.stack(rows)


def seconds_of(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def extraction(data: Path, split: str | None, rounds: int, limit: int = 16) -> dict[str, Any]:
    shots, network = shots_of(data, split, limit), feature_network(PROTOCOL.network)
    result: dict[str, Any] = {"shots": len(shots), "frames_of_each": PROTOCOL.frames, "network": PROTOCOL.network, "ratios": {}}
    for codec in ("h264crf18", "lossless"):
        difference = np.abs(ours(shots, network, codec) - plain(shots, network, codec)).max()  # warms both up, too
        assert difference < 1e-3, f"not the same features: {difference}"
        pairs = [(seconds_of(lambda: ours(shots, network, codec)), seconds_of(lambda: plain(shots, network, codec))) for _ in range(rounds)]  # noqa: B023
        own, one_by_one = (min(times) for times in zip(*pairs, strict=True))
        result[codec] = {"drivesim_s": own, "one_clip_at_a_time_s": one_by_one, "ratio": one_by_one / own}
    result["ratios"] = {"extraction: one clip at a time / drivesim": result["h264crf18"]["ratio"]}
    return result


def cache(data: Path, split: str | None, limit: int = 48) -> dict[str, Any]:
    network = feature_network(PROTOCOL.network)
    with tempfile.TemporaryDirectory() as folder:

        def look() -> None:
            ours(shots_of(data, split, limit), network, PROTOCOL.codec, FeatureCache(folder))

        first, second = seconds_of(look), seconds_of(look)
    number = len(shots_of(data, split, limit))
    return {"shots": number, "first_s": first, "second_s": second, "ratios": {"cache: first / second evaluation": first / second}}


def peak(data: Path, split: str | None, count: int) -> dict[str, Any]:
    """Peak memory of this process while it extracts ``count`` shots: the same videos again under other keys where there are too few."""
    found, network = shots_of(data, split, min(count, 16)), feature_network(PROTOCOL.network)
    shots = [replace(found[number % len(found)], key=f"{number:064x}") for number in range(count)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    ours(shots, network, PROTOCOL.codec)
    return {"shots": count, "before_mib": before, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def memory(data: Path, split: str | None, count: int = 16) -> dict[str, Any]:
    few, many = (in_a_child(f"peak:{number}", data, split, 1) for number in (count, 4 * count))
    return {"few": few, "many": many, "ratios": {"memory: 4 N / N clips": many["peak_mib"] / few["peak_mib"]}}


def measured(part: str, data: Path, split: str | None, rounds: int) -> dict[str, Any]:
    """One part, in this process."""
    if part.startswith("peak:"):
        return peak(data, split, int(part.removeprefix("peak:")))
    if part == "frechet":
        return frechet(rounds)
    return extraction(data, split, rounds) if part == "extraction" else {"cache": cache, "memory": memory}[part](data, split)


def in_a_child(part: str, data: Path, split: str | None, rounds: int) -> dict[str, Any]:
    """One part in a fresh process, with as many threads as it is measured with; its last line is the result."""
    threads = THREADS.get(part, "2")
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    environment["OMP_WAIT_POLICY"] = "PASSIVE"  # a thread that spins while it waits takes a busy machine from its neighbour
    command = [sys.executable, __file__, "--child", part, "--data", str(data), "--rounds", str(rounds)]
    command += ["--split", split] if split else []
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def report(parts: dict[str, dict[str, Any]]) -> str:
    lines = ["| ratio | measured | target |", "|---|---|---|"]
    for part in parts.values():
        for name, value in part["ratios"].items():
            target = f"at least {TARGETS[name]:g}" if name in TARGETS else "about 1"
            lines.append(f"| {name} | {value:.2f} | {target} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=tuple(THREADS), default=list(THREADS))
    parser.add_argument("--data", type=Path, help="a clip dataset (default: a toy road world)")
    parser.add_argument("--split", help="of the dataset; default: all clips")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="added to what is there: parts that were not measured stay")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(measured(given.child, given.data, given.split, given.rounds)))
        return
    with tempfile.TemporaryDirectory() as folder:
        data = given.data or Path(make_road_world(Path(folder) / "clips", clips=8, seconds=13, height=128, width=256)["out"])
        parts = {part: in_a_child(part, data, given.split, given.rounds) for part in given.parts}
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end, torch {torch.__version__}"
    command = " ".join(["python benchmarks/metrics.py", *(Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:])])
    print(f"{machine}, {date.today()}: {command}\n{report(parts)}")
    if given.out:
        known = json.loads(given.out.read_text()) if given.out.exists() else {}
        stamp = {"machine": machine, "date": str(date.today()), "command": command}
        given.out.write_text(json.dumps({**known, **{name: {**stamp, **part} for name, part in parts.items()}}, indent=1) + "\n")


if __name__ == "__main__":
    main()

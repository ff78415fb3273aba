"""Is a rollout that was killed and resumed the rollout that was never killed?

    python benchmarks/resume.py --checkpoint mini --minutes 0.3 --kills 2

Makes one rollout without a break and the same one killed by SIGKILL at random times, each process being a fresh `drivesim rollout
--resume`. What each killed process left must play; the two finished folders are compared frame by frame and row by row. Prints Markdown;
exit code 1 where they differ. This file knows commands and files; it does not know how rollouts are made.
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pandas as pd

from drivesim.io.video import count_frames, iterate_frames

TABLES = ("clips", "frames", "boxes")


def main() -> int:
    arguments = parse()
    words = ["--minutes", str(arguments.minutes), "--seed", str(arguments.seed), "--checkpoint", arguments.checkpoint, *arguments.words]
    with tempfile.TemporaryDirectory() as folder:
        whole, cut = Path(folder) / "whole", Path(folder) / "cut"
        whole_s = made(whole, words)
        killed = [kill(cut, words, share * whole_s) for share in shares(arguments.kills, arguments.seed)]
        last_s = made(cut, [])
        frames, worst = compared_frames(whole, cut)
        rows, same_rows = compared_rows(whole, cut)
    equal = worst == 0 and same_rows
    print(f"Command: `{shlex.join(['python', *sys.argv])}`\n")
    print("| checkpoint | frames | without a break | killed after (frames that played) | last process | decoded frames | label rows |")
    print("|---|---|---|---|---|---|---|")
    print(f"| {arguments.checkpoint} | {frames} | {whole_s:.1f} s | {', '.join(killed)} | {last_s:.1f} s | "
          f"{'all equal' if worst == 0 else f'differ by up to {worst}'} | {f'{rows} equal' if same_rows else 'differ'} |")  # fmt: skip
    return 0 if equal else 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--checkpoint", default="mini", help="a preset inside the package or a checkpoint folder")
    parser.add_argument("--minutes", type=float, default=0.3, help="length of the video")
    parser.add_argument("--kills", type=int, default=2, help="how many processes are killed before one may finish")
    parser.add_argument("--seed", type=int, default=5, help="of the rollout and of the times")
    parser.add_argument("words", nargs="*", help="further words of drivesim rollout")
    return parser.parse_args()


def shares(kills: int, seed: int) -> list[float]:
    """When to kill, as shares of the time that the whole takes: together they are less than it."""
    chance = random.Random(seed)
    return [chance.uniform(0.3, 0.9) / kills for _ in range(kills)]


def command(out: Path, words: list[str]) -> list[str]:
    return [sys.executable, "-m", "drivesim.cli", "rollout", "--resume", "--out", str(out), *words]


def made(out: Path, words: list[str]) -> float:
    """Run to the end; returns the seconds of this process, its start aside."""
    before = elapsed_s(out)
    subprocess.run(command(out, words), stdout=subprocess.DEVNULL, check=True)
    return elapsed_s(out) - before


def elapsed_s(out: Path) -> float:
    """Seconds of work that rollout.json tells of."""
    told = out / "rollout.json"
    return float(json.loads(told.read_text())["timings"]["elapsed_s"]) if told.is_file() else 0.0


def kill(out: Path, words: list[str], seconds: float) -> str:
    """Kill a process some seconds after it locked the folder; what it left must decode. Returns both as words."""
    with subprocess.Popen(command(out, words), stdout=subprocess.DEVNULL) as process:
        while not (locked_by(out, process.pid) and (out / "state/state.json").is_file()) and process.poll() is None:
            time.sleep(0.05)
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        ended = process.poll() is not None
        process.kill()
    played = sum(count_frames(path, decode=True) for path in sorted(out.glob("videos/*.segments/*.mp4")))
    return f"{seconds:.1f} s (it had ended)" if ended else f"{seconds:.1f} s ({played})"


def locked_by(out: Path, process: int) -> bool:
    lock = out / ".rollout.lock"
    return lock.is_file() and lock.read_text() == str(process)


def compared_frames(whole: Path, cut: Path) -> tuple[int, int]:
    """How many frames, and the largest difference of any pixel; 256 where one video is longer."""
    videos = [next((folder / "videos").glob("*.mp4")) for folder in (whole, cut)]
    frames, worst = 0, 0
    for a, b in zip_longest(*map(iterate_frames, videos)):
        frames += 1
        worst = max(worst, 256 if a is None or b is None else int(np.abs(a.astype(int) - b).max()))
    return frames, worst


def compared_rows(whole: Path, cut: Path) -> tuple[int, bool]:
    """How many rows of labels, and whether they are equal to the bit."""
    tables = [(pd.read_parquet(whole / f"{name}.parquet"), pd.read_parquet(cut / f"{name}.parquet")) for name in TABLES]
    return sum(len(a) for a, _ in tables), all(a.equals(b) for a, b in tables)


if __name__ == "__main__":
    sys.exit(main())

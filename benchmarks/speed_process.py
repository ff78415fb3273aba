"""A whole ``drivesim rollout`` as a process of its own, watched from outside: what a user waits for, from the import to the closed file.

Nothing is asked of the process but what any user sees: when rollout.json appears, imports and weights are behind it; when the first segment
is there, something can be played; its peak memory is what the operating system says of it. What its passes took is what rollout.json says.
This file does not know what a rollout costs or should cost.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Whole", "run_whole"]

PATIENCE_S = 0.02
"""Between two looks at the process."""


@dataclass(frozen=True)
class Whole:
    """One rollout. wall_s: from the start of the process to its end.   begun_s: until it began to work, all imported and loaded.
    first_second_s: until the first segment of video could be played.   cpu_s: seconds of processors, of the process and its threads.
    system_s: the part of them that the operating system took.   peak_bytes: largest resident set.   told: rollout.json."""

    wall_s: float
    begun_s: float
    first_second_s: float
    cpu_s: float
    system_s: float
    peak_bytes: int
    told: dict[str, Any]

    @property
    def video_s(self) -> float:
        return float(self.told["frames"] / self.told["fps"])

    @property
    def passes(self) -> dict[str, float]:
        """Seconds by pass, in the order in which the process met them; they add up to ``wall_s`` unless passes overlap."""
        timings = self.told["timings"]
        measured = {name.removesuffix("_s"): value for name, value in timings.items() if name not in ("elapsed_s", "first_second_s")}
        rest = self.wall_s - self.begun_s - sum(measured.values())
        return {"import and load": self.begun_s, **measured, "rest": rest}


def run_whole(words: Sequence[str], threads: int | None = None) -> Whole:
    """Run ``drivesim rollout WORDS`` into a temporary folder and wait for it.

    threads: of the process; None = as many as it takes by itself.

    Raises:
        RuntimeError: the rollout ended with an error, which the message quotes.
    """
    more = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryDirectory() as folder, open(f"{folder}/said", "w+") as said:
        out, begin = Path(folder) / "rollout", time.perf_counter()
        command = [sys.executable, "-c", "from drivesim.cli import main; raise SystemExit(main())", "rollout", *words, "--out", str(out)]
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, env={**os.environ, **more})
        seen = _Seen(process.pid, out, begin)
        while (ended := os.wait4(process.pid, os.WNOHANG))[0] == 0:
            seen.look()
            time.sleep(PATIENCE_S)
        wall_s, usage = time.perf_counter() - begin, ended[2]
        process.returncode = os.waitstatus_to_exitcode(ended[1])
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"drivesim rollout {' '.join(words)} ended with {process.returncode}: {said.read()[-2000:]}")
        told = json.loads((out / "rollout.json").read_text(encoding="utf-8"))
    first_second_s = seen.first_second_s or wall_s  # a video shorter than a segment plays when it is finished
    peak_bytes = seen.peak_bytes or usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Whole(wall_s, seen.begun_s or wall_s, first_second_s, usage.ru_utime + usage.ru_stime, usage.ru_stime, peak_bytes, told)


class _Seen:
    """What is to be seen of a running rollout; a moment that has not come is 0."""

    def __init__(self, process: int, out: Path, begin: float) -> None:
        self.status, self.out, self.begin = Path(f"/proc/{process}/status"), out, begin
        self.begun_s = self.first_second_s = 0.0
        self.peak_bytes = 0

    def look(self) -> None:
        now = time.perf_counter() - self.begin
        if not self.begun_s and (self.out / "rollout.json").exists():
            self.begun_s = now
        if not self.first_second_s and any(self.out.glob("videos/*.segments/000000.mp4")):
            self.first_second_s = now
        self.peak_bytes = max(self.peak_bytes, self._peak())

    def _peak(self) -> int:
        """VmHWM; 0 where there is none. The last look misses at most what the process takes while it ends."""
        try:
            lines = self.status.read_text().splitlines()
        except OSError:
            return 0
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)

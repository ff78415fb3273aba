"""How fast a rollout is on this machine, import to closed file; where the time goes; what would make it faster.

    python benchmarks/speed.py table --minutes 5 --quality fast full     # a whole `drivesim rollout` in a fresh process, pass by pass
    python benchmarks/speed.py minutes --minutes 1 2 5 --plot docs/images/speed_minutes.png      # time and memory against length
    python benchmarks/speed.py tries     # channels-last, fused normalisation, compile, bfloat16, batches, a thread that encodes, ...

Each command writes its part of ``--out`` (benchmarks/results/speed.json) and prints Markdown. Operations are counted (a multiplication and
an addition are two); the peak is the better of a square matrix product and a convolution of 256 channels, measured before and after the
rollout with as many threads as it had. This file measures; it asserts nothing.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from machine import describe
from speed_process import Whole, run_whole
from speed_report import lengths_of, passes_of, save_plot, table_of_lengths, table_of_passes, table_of_tries
from speed_tries import Bench, every_try

from drivesim.io.checkpoints import load_checkpoint
from drivesim.simulation.cost import Costs, described
from drivesim.simulation.quality import rollout_settings
from drivesim.simulation.settings import QUALITIES, RolloutSettings
from drivesim.simulation.speed import measured_rate
from drivesim.training.throughput import matrix_peak

OUT = Path(__file__).parent / "results" / "speed.json"


def main() -> None:
    given = parse()
    made = COMMANDS[given.part](given)
    about = {"machine": describe(), "date": datetime.date.today().isoformat(), "command": shlex.join(["python", *sys.argv])}
    print(f"{about['machine']}, {about['date']}: `{about['command']}`\n\n{made.pop('markdown')}")
    known = json.loads(given.out.read_text(encoding="utf-8")) if given.out.exists() else {}
    given.out.write_text(json.dumps({**known, given.part: {**about, **made}}, indent=1) + "\n", encoding="utf-8")


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--checkpoint", default="mini", help="a preset inside the package or a checkpoint folder")
    common.add_argument("--threads", type=int, default=None, help="CPU threads; default: all")
    common.add_argument("--out", type=Path, default=OUT, help="JSON to write this part of")
    common.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings, as for `drivesim rollout`")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parts = parser.add_subparsers(dest="part", required=True)
    table = parts.add_parser("table", parents=[common])
    table.add_argument("--minutes", type=float, default=5.0)
    table.add_argument("--quality", nargs="+", choices=QUALITIES, default=[None], help="default: as `drivesim rollout`")
    minutes = parts.add_parser("minutes", parents=[common])
    minutes.add_argument("--minutes", type=float, nargs="+", default=[1.0, 2.0, 5.0])
    minutes.add_argument("--quality", choices=QUALITIES, default=None)
    minutes.add_argument("--plot", type=Path, default=None, help="PNG to draw, too")
    tries = parts.add_parser("tries", parents=[common])
    tries.add_argument("--quality", choices=QUALITIES, default=None)
    tries.add_argument("--rounds", type=int, default=5, help="at most so many pairs of measurements for each try")
    tries.add_argument("--only", nargs="+", default=None, metavar="NAME", help="names of tries, or parts of them; default: all")
    tries.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: on a busy machine; use with --threads 1")
    return parser.parse_args(words)


def rolled_out(given: argparse.Namespace, minutes: float, quality: str | None) -> Whole:
    asked = ["--checkpoint", given.checkpoint, "--minutes", str(minutes), *(["--quality", quality] if quality else [])]
    return run_whole([*asked, *given.set], given.threads)


def peak_now(threads: int) -> dict[str, float]:
    """Operations a second of a matrix product and of a convolution, with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return {"matrix": matrix_peak(torch.device("cpu"), torch.float32), "convolution": measured_rate()}
    finally:
        torch.set_num_threads(before)


def flop_of(checkpoint: str, whole: Whole) -> dict[str, float]:
    """Operations of each pass of the rollout that was made."""
    loaded = load_checkpoint(checkpoint)
    settings = RolloutSettings(**whole.told["settings"])
    return Costs(described(loaded), loaded.settings, settings, None).flop(whole.video_s)


def table(given: argparse.Namespace) -> dict[str, Any]:
    """Where the time of one whole rollout goes, for each quality."""
    found, text = {}, []
    for quality in given.quality:
        threads = given.threads or torch.get_num_threads()
        before = peak_now(threads)
        whole = rolled_out(given, given.minutes, quality)
        peak = {name: max(rate, before[name]) for name, rate in peak_now(threads).items()}
        rows = passes_of(whole, flop_of(given.checkpoint, whole), max(peak.values()))
        name = whole.told["settings"]["quality"]
        found[name] = {"minutes": given.minutes, "peak_flop_per_s": peak, "passes": rows, **facts(whole)}
        text.append(table_of_passes(found[name]))
    return {"qualities": found, "markdown": "\n".join(text)}


def facts(whole: Whole) -> dict[str, Any]:
    """What is kept of a rollout beside its passes."""
    told = {name: whole.told[name] for name in ("checkpoint", "settings", "passes", "threads", "frames", "fps", "timings", "versions")}
    return {"wall_s": whole.wall_s, "video_s": whole.video_s, "first_second_s": whole.first_second_s, "begun_s": whole.begun_s,
            "cpu_s": whole.cpu_s, "system_s": whole.system_s, "peak_mib": whole.peak_bytes / 2**20, "rollout": told}  # fmt: skip


def minutes(given: argparse.Namespace) -> dict[str, Any]:
    """What a minute more costs, in time and memory."""
    runs = [{"minutes": length, **facts(rolled_out(given, length, given.quality))} for length in sorted(given.minutes)]
    made = {"runs": runs, **lengths_of(runs)}
    if given.plot:
        save_plot(made, given.plot)
    return {**made, "markdown": table_of_lengths(made)}


def tries(given: argparse.Namespace) -> dict[str, Any]:
    """Each way of being faster beside the default, measured by turns."""
    if given.threads:
        torch.set_num_threads(given.threads)
    checkpoint = load_checkpoint(given.checkpoint)
    settings = rollout_settings(checkpoint, given.quality, **dict(map(setting, given.set)))
    bench = Bench(checkpoint, settings, given.rounds, given.clock)
    rows = []
    for one in every_try(bench, given.only):
        rows.append(one)
        print(table_of_tries([one]).splitlines()[-1], file=sys.stderr)
    about = {"clock": given.clock, "threads": torch.get_num_threads(), "rounds": given.rounds, "checkpoint": given.checkpoint,
             "quality": settings.quality, "calls": bench.calls, "peak_flop_per_s": peak_now(torch.get_num_threads())}  # fmt: skip
    return {**about, "tries": rows, "markdown": table_of_tries(rows)}


def setting(word: str) -> tuple[str, Any]:
    """``rollout.name=value`` -> name and value; values that are no JSON are words."""
    name, _, value = word.removeprefix("rollout.").partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


COMMANDS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {"table": table, "minutes": minutes, "tries": tries}


if __name__ == "__main__":
    main()

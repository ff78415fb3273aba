"""The table of mini_quality: every figure beside its target and whether it is met, and what a quality costs.

Targets are those of the project's plan; where they say less than a number needs, it is said here how they are read. A figure without a
target stands there to be compared with. This file knows results as they are kept; it does not know how they came about.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from machine import describe

from drivesim.errors import UsageError
from drivesim.io.atomic import write_json
from drivesim.io.checkpoints import Checkpoint
from drivesim.simulation.cost import Costs, described
from drivesim.simulation.settings import RolloutSettings

__all__ = ["Row", "cost", "markdown", "rows_of", "written"]

Found = Mapping[str, Any]
RATIO = (0.8, 1.25)
COSTED_S = 60.0


@dataclass(frozen=True)
class Row:
    """One figure. met: None where there is no target, or where too little was judged to say."""

    part: str
    what: str
    value: float | None
    low: float | None = None
    high: float | None = None
    target: str = ""
    met: bool | None = None
    note: str = ""

    def line(self) -> str:
        verdict = {True: "met", False: "missed", None: "unknown" if self.target else ""}[self.met]
        return f"| {self.part} | {self.what} | {self.number} | {self.target} | {verdict} | {self.note} |"

    @property
    def number(self) -> str:
        """Value and interval."""
        if self.value is None:
            return "-"
        interval = "" if self.low is None or self.high is None else f" [{self.low:.3g}, {self.high:.3g}]"
        return f"{self.value:.3g}{interval}"


def rows_of(found: Mapping[str, Found], checkpoint: str) -> list[Row]:
    """Rows of the parts that there are.

    Raises:
        UsageError: no part at all, or one of another checkpoint.
    """
    if not found:
        raise UsageError("nothing has been judged yet; run another --part first")
    for part, result in found.items():
        if result["inputs"]["checkpoint"] != checkpoint:
            other = result["inputs"]["checkpoint"][:8]
            raise UsageError(f"the kept result of {part} is of other weights ({other}); run --part {part} again")
    readers = {"good": _good, "fast": _fast, "labels": _labels, "guidance": _guidance, "stages": _stages, "look": _look, "long": _long}
    return [row for part, reader in readers.items() if part in found for row in reader(found[part]["found"])]


def _row(part: str, what: str, interval: Found | None, target: str = "", met: bool | None = None, note: str = "") -> Row:
    told = interval or {"value": None, "low": None, "high": None}
    return Row(part, what, told["value"], told["low"], told["high"], target, met if told["value"] is not None else None, note)


def _refused(judged: Found) -> bool:
    """Whether so few were judged that the protocol would refuse to say anything."""
    return any("refuses" in mark for mark in judged["marks"])


def _most(interval: Found | None, limit: float) -> bool | None:
    return None if interval is None or interval["value"] is None else interval["value"] <= limit


def _least(interval: Found | None, limit: float) -> bool | None:
    return None if interval is None or interval["value"] is None else interval["value"] >= limit


def _good(found: Found) -> Iterator[Row]:
    for context, entry in found["contexts"].items():
        part = f"good, {context} context"
        for name, spans in entry["spans"].items():
            for judge, told in spans["judges"].items():
                far, low, marks = told["frechet"]["value"], told["floor"]["value"], "; ".join(told["marks"])
                note = f"{far:.3g} over a floor of {low:.3g}; N = {told['n']}, {spans['drives']} drives, {spans['quality']}"
                what = f"{judge}, made over train, {name} ({spans['length_s']:.3g} s spans)"
                met = None if _refused(told) else _most(told["ratio"], 2)
                yield _row(part, what, told["ratio"], "<= 2", met, "; ".join(filter(None, [note, marks])))
        copied = entry["memorisation"]
        note = f"nearest training clip at {copied['generated'][1]:.3g}, of test clips at {copied['test'][1]:.3g} (5th percentiles)"
        yield _row(part, "clips nearer to a training clip than 95% of test clips", copied["interval"], "<= 0.05",
                   _most(copied["interval"], 0.05), "; ".join([note, *copied["marks"]]))  # fmt: skip
        if entry["real"]:
            real = entry["real"]
            note = f"simulated recordings against them: {real['recorded']['value']:.3g}; {real['n_real']} real frames, kernel distance"
            yield _row(part, "fd_lite0, made against real frames", real["made"], note=note)


def _fast(found: Found) -> Iterator[Row]:
    for judge, told in found["distances"].items():
        ratio, note = told["ratio"], f"{told['one']['value']:.3g} over {told['other']['value']:.3g}, N = {told['n']}"
        unknown = _refused(told) or ratio["value"] is None or ratio["high"] is None
        met = None if unknown else ratio["value"] <= 1.1 and ratio["high"] <= 1.25
        yield _row("fast", f"{judge}, fast over full", ratio, "<= 1.10, upper bound <= 1.25", met, "; ".join([note, *told["marks"]]))
    for name, told in found["labels"].items():  # better labels are no miss
        note = f"{_plain(told['one'])} and {_plain(told['other'])}, {found['frames']} frames"
        yield _row("fast", f"{_words(name)}, fast less full, points", told["points"], ">= -2", _least(told["points"], -2), note)
    costs = found["cost"]
    if costs["fast"]["gflop_a_frame"]:
        share = costs["fast"]["gflop_a_frame"] / costs["full"]["gflop_a_frame"]
        told = "; ".join(f"{name}: {one['gflop_a_frame']:.3g} GFLOP, calls {one['calls']}" for name, one in costs.items())
        yield Row("fast", "cost of a frame, fast over full", share, note=told)


def _labels(found: Found) -> Iterator[Row]:
    figures, ratio = found["figures"], found["ap50_over_recorded"]
    made, few = figures["made"], f"{found['frames']} frames, {found['clips']} clips, {found['quality']}"

    def beside(name: str) -> str:
        return ", ".join(f"{who} {_plain(figures[who][name]['value'])}" for who in figures if who != "made")

    yield _row("labels", "time of day right, share of clips", made["time_of_day"], ">= 0.98", _least(made["time_of_day"], 0.98), few)
    yield _row("labels", "crowdedness, correlation of asked and found", made["crowdedness"], ">= 0.8", _least(made["crowdedness"], 0.8),
               beside("crowdedness"))  # fmt: skip
    yield _row("labels", "AP50 over that of recordings", ratio, ">= 0.7", _least(ratio, 0.7), f"boxes of at least 12 px; {few}")
    yield _row("labels", "AP50 of made frames", made["ap50"], note=beside("ap50"))
    empty, recorded = found["empty"], found["empty_recorded"]
    note = f"{empty['frames']} frames; recorded empty frames ({recorded['frames']}): {_plain((recorded['detections'] or {}).get('value'))}"
    yield _row("labels", "vehicles found a frame, none asked for", empty["detections"], "<= 0.05", _most(empty["detections"], 0.05), note)


def _guidance(found: Found) -> Iterator[Row]:
    for row in found["rows"]:
        note = f"fd_lite0 {row['frechet']['value']:.3g} (N = {row['n']}), crowdedness {_plain(row['figures']['crowdedness']['value'])}"
        about = "" if row["label_guidance"] == 1 else f", about {row.get('guided_labels', 'all').replace('+', ' and ')}"
        yield _row("guidance", f"AP50 at a scale of {row['label_guidance']:g}{about}", row["figures"]["ap50"], note=note)


def _stages(found: Found) -> Iterator[Row]:
    names = {"decoder": "latents of recordings, decoded", "linear": "recorded keyframes, latents mixed linearly",
             "crossfade": "recorded keyframes, frames mixed linearly", "interpolation": "recorded keyframes, interpolated",
             "interpolation_refined": "recorded keyframes, interpolated and refined", "everything": "all made",
             "everything_refined": "all made and refined"}  # fmt: skip
    for rung, what in names.items():
        if rung not in found["rungs"]:  # measured by an earlier version
            continue
        told = found["rungs"][rung]
        note = f"PSNR {told['psnr']:.1f} dB, sharpness from keyframe to keyframe {' '.join(f'{value:.4f}' for value in told['sharpness'])}"
        if "of_it" in told:
            note = f"{', '.join(f'{name} {value:.2g}' for name, value in told['of_it'].items())}; {note}"
        yield _row("stages", f"fvd_lite0, {what}", told["frechet"], note=f"{note}; N = {found['n']}, {found['quality']}")


def _look(found: Found) -> Iterator[Row]:
    note = f"apart, squared; {_plain(found['various'])} times as various as recordings; N = {found['n']}, {found['quality']}"
    yield Row("look", "mean looks of made and recorded clips", found["look"], note=note)
    for name, told in found["damage"].items():
        note = f"recordings moved by {_plain(told['moved'])}, {_plain(told['various'])} times as various"
        yield Row("look", f"cosine with {name}", told["cosine"], note=note)
    for length, ratio in found.get("waves", {}).items():  # not measured by an earlier version
        yield Row("look", f"waves of {length} pixels, over those of recordings", ratio, note="root mean square of luma")


def _long(found: Found) -> Iterator[Row]:
    for light, told in found["lights"].items():
        part = "long" if light == "all" else f"long, {light}"
        change, first = told["last_minus_first"]["kernel"], told["first"]["kernel"]
        note = f"first {told['span_s']:g} s: {first:.3g}; {told['clips']} rollouts of {found['minutes']:g} min, {found['quality']}"
        note = "; ".join([note, *(mark for mark in told["marks"] if "interval" in mark)])
        target = "0 in the interval, or all of it < 25% of the first"
        yield _row(part, "kernel distance, last less first", change, target, _steady(change, first), note)
        for name, signal in told["signals"].items():
            over = {"value": signal["over_recorded"], "low": None, "high": None}
            for what, ratio in (("last over first", signal["last_over_first"]), ("over recorded", over)):
                inside = None if ratio["value"] is None else RATIO[0] <= ratio["value"] <= RATIO[1]
                yield _row(part, f"{_words(name)}, {what}", ratio, "0.8 to 1.25", inside)
        for name, event in (("freezes", "freezes"), ("loops", "repeats")):
            yield Row(part, name, told["events"][event], target="0", met=told["events"][event] == 0)


def _steady(change: Found, first: float) -> bool | None:
    """Unknown with one rollout, which has no interval."""
    low, high = change["low"], change["high"]
    return None if low is None or high is None else low <= 0 <= high or high < 0.25 * first


def cost(checkpoint: Checkpoint, settings: RolloutSettings) -> dict[str, Any]:
    """GFLOP of a frame over a minute (two a multiplication), and network calls of a window in each pass."""
    costs = Costs(described(checkpoint), checkpoint.settings, settings, None)
    told = {kind: network.settings(settings, kind) for kind, network in costs.serving.items()}
    calls = {kind: one.steps * (1 + (one.guidance != 1) + (one.label_guidance != 1)) for kind, one in told.items()}
    return {"gflop_a_frame": sum(costs.flop(COSTED_S).values()) / (COSTED_S * settings.fps) / 1e9, "calls": calls}


def markdown(found: Mapping[str, Found], rows: Sequence[Row]) -> str:
    """What was measured on what, then the table."""
    runs: dict[str, list[str]] = {}
    for part, one in found.items():
        took = f"{part} {one['seconds']:.0f} s (clips {sum(one['made_s'].values()):.0f} s)"
        runs.setdefault(f"{one['date']}, {one['machine']}, `{one['command']}`", []).append(took)
    heads = [f"{', '.join(parts)}: {told}" for told, parts in runs.items()]
    weights = next(iter(found.values()))["inputs"]["checkpoint"][:12]
    lines = ["| part | what | value [95% interval] | target | | beside it |", "|---|---|---|---|---|---|", *(row.line() for row in rows)]
    missed, met = (sum(row.met is verdict for row in rows) for verdict in (False, True))
    return "\n".join([f"Weights {weights}; {met} targets met, {missed} missed.", "", *heads, "", *lines])


def written(path: Path, found: Mapping[str, Found], rows: Sequence[Row], command: str) -> None:
    """Table and everything that it is made from, as JSON."""
    checkpoint = next(iter(found.values()))["inputs"]["checkpoint"]
    about = {"checkpoint": checkpoint, "machine": describe(), "date": str(date.today()), "command": command}
    write_json(path, {**about, "rows": [asdict(row) for row in rows], "parts": dict(found)})


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _words(name: str) -> str:
    return {"ap50": "AP50", "time_of_day": "time of day", "flow_magnitude": "optical flow"}.get(name, name)

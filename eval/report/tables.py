"""What result.json and rollout.json say, as rows of text for a page, several runs beside each other.

Results are somebody's files: whatever is missing, refused or of another shape becomes a dash, never an error. This file does not know HTML
beyond the charts it orders, and computes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from .charts import Line, line_chart, number, whisker
from .run import ReportRun

__all__ = ["change_rows", "drift_charts", "event_rows", "fidelity", "listed", "mapped", "marks", "metric_groups", "provenance", "shown"]

KINDS = {"frechet": "Frechet distance", "kernel": "kernel distance"}
DASH = "–"
UNITS = {
    "brightness": "brightness (mean luma, 0..1)", "sharpness": "sharpness (variance of the Laplacian)", "colourfulness": "colourfulness",
    "saturation": "saturation (0..1)", "exposure": "exposure (log-average luma, 0..1)",
    "temporal_difference": "change from frame to frame (0..1)", "flow_magnitude": "optical flow (frame widths a frame)",
}  # fmt: skip


def mapped(value: Any) -> Mapping[str, Any]:
    """The same where it is an object, else {}."""
    return value if isinstance(value, Mapping) else {}


def listed(value: Any) -> Sequence[Any]:
    """The same where it is a list, else []."""
    return value if isinstance(value, list | tuple) else []


def shown(value: Any) -> str:
    """A number, an interval or a text as it is read: 0.1234, 0.1234 [0.1, 0.2], or a dash for what is unknown."""
    if isinstance(value, Mapping):
        if "value" not in value:
            return ", ".join(f"{name}: {shown(inner)}" for name, inner in value.items())
        low, high = number(value.get("low")), number(value.get("high"))
        bounds = "interval unknown" if low is None or high is None else f"{low:.4g}, {high:.4g}"
        return shown(value["value"]) + (f" [{bounds}]" if number(value["value"]) is not None else "")
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value)) or DASH
    if isinstance(value, bool | str):
        return str(value)
    plain = number(value)
    return DASH if plain is None else f"{value:d}" if isinstance(value, int) else f"{plain:.4g}"


def marks(run: ReportRun) -> list[str]:
    """Every warning of a run's result, each once."""
    result = run.result
    found = [str(mark) for mark in listed(result.get("marks"))]
    for name, part in mapped(result.get("protocols")).items():
        found += [f"{name}: {mark}" for mark in listed(mapped(part).get("marks"))]
    for name in ("drift", "label_fidelity", "memorisation"):
        found += [str(mark) for mark in listed(mapped(result.get(name)).get("marks"))]
    return list(dict.fromkeys(found))


def metric_groups(runs: Sequence[ReportRun]) -> list[dict[str, Any]]:
    """A group a protocol and distance, in it a row a run that has it; the rows of a group are drawn on one scale."""
    protocols = {name: None for run in runs for name in mapped(run.result.get("protocols"))}
    groups = [_group(runs, name, kind) for name in protocols for kind in KINDS]
    return [group for group in groups if group["rows"]]


def _group(runs: Sequence[ReportRun], name: str, kind: str) -> dict[str, Any]:
    parts = [(at, run, mapped(mapped(run.result.get("protocols")).get(name))) for at, run in enumerate(runs)]
    parts = [(at, run, part) for at, run, part in parts if part]
    beside = [list(_beside(part, kind)) for _, _, part in parts]
    values = [number(mapped(part.get(kind)).get(key)) for _, _, part in parts for key in ("value", "low", "high")]
    values += [number(mark) for row in beside for _, mark in row]
    known = [value for value in values if value is not None]
    low, high = min([0.0, *known]), max([0.0, *known])
    rows = [_metric(at, run, part, kind, row, (low, high)) for (at, run, part), row in zip(parts, beside, strict=True)]
    networks = {str(mapped(part.get("network")).get("name", "unknown")) for _, _, part in parts}
    return {"protocol": name, "distance": KINDS[kind], "first": kind == "frechet", "network": ", ".join(sorted(networks)), "rows": rows}


def _beside(part: Mapping[str, Any], kind: str) -> Iterator[tuple[str, Any]]:
    """(name, value) of what a distance is read beside."""
    for name in ("floor", "ceiling"):
        if part.get(name):
            yield name, mapped(mapped(part[name]).get(kind)).get("value")
    for name, baseline in mapped(part.get("baselines")).items():
        yield f"baseline {name}", mapped(mapped(baseline).get(kind)).get("value")


def _metric(
    at: int, run: ReportRun, part: Mapping[str, Any], kind: str, beside: Iterable[tuple[str, Any]], scale: tuple[float, float]
) -> dict[str, Any]:
    point = mapped(part.get(kind))
    refused = number(point.get("value")) is None
    baselines = mapped(part.get("baselines"))
    return {
        "run": at, "name": run.name, "value": "refused" if refused else shown(point), "refused": refused,
        "chart": whisker(point, beside, *scale, f"run-{at % 4}"),
        **{name: shown(mapped(part.get(name)).get(kind)) for name in ("floor", "ceiling")},
        "baselines": "; ".join(f"{name} {shown(mapped(values).get(kind))}" for name, values in baselines.items()) or DASH,
        "n": f"{shown(part.get('n_real'))} / {shown(part.get('n_generated'))}",
    }  # fmt: skip


def _drifts(runs: Sequence[ReportRun]) -> list[tuple[int, ReportRun, Mapping[str, Any]]]:
    found = [(at, run, mapped(run.result.get("drift"))) for at, run in enumerate(runs)]
    return [(at, run, drift) for at, run, drift in found if drift]


def drift_charts(runs: Sequence[ReportRun]) -> list[Any]:
    """A chart a distance and a signal, with a curve a run; signals with the band of the first run's real side."""
    drifts = _drifts(runs)
    charts = []
    for kind, title in KINDS.items():
        bins = [(at, run, [mapped(one) for one in listed(drift.get("bins"))]) for at, run, drift in drifts]
        lines = [
            Line(run.name, f"run-{at % 4}", [_middle(one) for one in rows], [one.get(kind) for one in rows]) for at, run, rows in bins
        ]
        charts.append(line_chart(lines, "time in the clip (s)", f"{title} to real frames"))
    for name in {name: None for _, _, drift in drifts for name in mapped(drift.get("signals"))}:
        signals = [(at, run, mapped(mapped(drift.get("signals")).get(name))) for at, run, drift in drifts]
        lines = [
            Line(run.name, f"run-{at % 4}", *(listed(signal.get(key)) for key in ("times_s", "mean", "low", "high")))
            for at, run, signal in signals
        ]
        level = next((mapped(signal.get("real")) for _, _, signal in signals if signal.get("real")), None)
        charts.append(line_chart(lines, "time in the clip (s)", UNITS.get(name, name), level))
    return [chart for chart in charts if chart is not None]


def _middle(row: Mapping[str, Any]) -> float | None:
    start, end = number(row.get("start_s")), number(row.get("end_s"))
    return None if start is None or end is None else (start + end) / 2


def change_rows(runs: Sequence[ReportRun]) -> list[dict[str, Any]]:
    """Last span against first, a row a quantity and run: differences of distances, ratios of signals."""
    rows = []
    for at, run, drift in _drifts(runs):
        span = shown(drift.get("span_s"))
        changes = mapped(drift.get("last_minus_first"))
        rows += [
            {"run": at, "name": run.name, "what": f"{KINDS.get(kind, kind)}, last minus first {span} s", "value": shown(value)}
            for kind, value in changes.items()
        ]
        ratios = {name: mapped(signal).get("last_over_first") for name, signal in mapped(drift.get("signals")).items()}
        rows += [
            {"run": at, "name": run.name, "what": f"{name.replace('_', ' ')}, last over first {span} s", "value": shown(value)}
            for name, value in ratios.items() if value is not None
        ]  # fmt: skip
    return _beside_each_other(rows, "what")


def _beside_each_other(rows: Sequence[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    """Rows that agree in ``names`` follow each other, run by run; else in the order in which they came."""
    keys = [tuple(row[name] for name in names) for row in rows]
    place = {key: at for at, key in enumerate(dict.fromkeys(keys))}
    return [row for _, row in sorted(zip(keys, rows, strict=True), key=lambda pair: (place[pair[0]], pair[1]["run"]))]


def event_rows(run: ReportRun) -> list[dict[str, Any]]:
    """Freezes, cuts and repeats of a run's drift: {"kind", "clip_id", "start_s", "end_s"}, for the players' timelines."""
    events = mapped(mapped(run.result.get("drift")).get("events"))
    rows = []
    for kind in ("freezes", "cuts", "repeats"):
        for event in map(mapped, listed(events.get(kind))):
            start = number(event.get("start_s", event.get("time_s")))
            if start is not None:
                end = number(event.get("end_s"))
                clip_id = None if event.get("clip_id") is None else str(event["clip_id"])
                rows.append({"kind": kind[:-1], "clip_id": clip_id, "start_s": start, "end_s": start if end is None else end})
    return rows


def fidelity(runs: Sequence[ReportRun]) -> dict[str, list[dict[str, Any]]]:
    """Label fidelity: "rows" of the detector's table, "facts" beside it."""
    rows, facts = [], []
    for at, run in enumerate(runs):
        part = mapped(run.result.get("label_fidelity"))
        for row in map(mapped, listed(part.get("rows"))):
            cells = {name: shown(_bounded(row, name)) for name in ("who", "subset", "ap50", "recall", "boxes", "frames")}
            rows.append({"run": at, "name": run.name, **cells})
        rest = {name: value for name, value in part.items() if name not in ("rows", "marks")}
        facts += [{"run": at, "name": run.name, "what": name.replace("_", " "), "value": shown(value)} for name, value in rest.items()]
    return {"rows": _beside_each_other(rows, "who", "subset"), "facts": _beside_each_other(facts, "what")}


def _bounded(row: Mapping[str, Any], name: str) -> Any:
    """A cell, with its interval where the row holds ``name``_low and ``name``_high."""
    bounds = {key: row.get(f"{name}_{key}") for key in ("low", "high")}
    return row.get(name) if None in bounds.values() else {"value": row.get(name), **bounds}


def provenance(run: ReportRun) -> list[tuple[str, list[tuple[str, str]]]]:
    """(title, rows of name and value): where a run comes from and how it was judged."""
    judged = {name: value for name, value in run.result.items() if not isinstance(value, Mapping) and name not in ("marks", "table")}
    sides = {f"{side}.{name}": value for side in ("real", "generated") for name, value in mapped(run.result.get(side)).items()}
    networks = {
        f"{name}.{key}": value
        for name, part in mapped(run.result.get("protocols")).items()
        for key, value in _flat({"network": mapped(part).get("network"), "protocol": mapped(part).get("protocol")})
    }
    made = {"Rollout": dict(_flat(run.rollout)), "Dataset": dict(_flat(run.header))}
    parts = {**made, "Evaluation": {**judged, **sides}, "Protocols": networks}
    return [(title, [(name, shown(value)) for name, value in rows.items()]) for title, rows in parts.items() if rows]


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value

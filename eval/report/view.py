"""What the page's template is given: runs with their clips, pictures and tables, all text still to be escaped by the template.

This file knows the template's names. It does not know what is in a file, nor how numbers are written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from .embed import Embedded, EmbeddedVideo
from .labels import BOX_FIELDS, SCALE, as_script, categories, clip_labels
from .pictures import contact_sheet, inside, plots
from .run import ReportClip, ReportRun
from .tables import change_rows, drift_charts, event_rows, fidelity, listed, mapped, marks, metric_groups, provenance, shown

__all__ = ["ClipView", "RunView", "clip_views", "page_data", "run_view", "tables"]


@dataclass(frozen=True)
class ClipView:
    """A clip and its labels as script text. ``key``: of its elements in the page."""

    key: str
    clip: ReportClip
    labels: str

    @property
    def labels_text(self) -> Markup:
        """Safe as it is: ``as_script`` leaves no letter that could close its element."""
        return Markup(self.labels)


@dataclass(frozen=True)
class RunView:
    """A run as the template shows it. style: its colour's class."""

    index: int
    run: ReportRun
    clips: tuple[ClipView, ...]
    sheet: Embedded | None
    plots: tuple[tuple[str, Embedded], ...]
    memorisation: Mapping[str, Any] | None
    marks: tuple[str, ...]
    provenance: tuple[tuple[str, list[tuple[str, str]]], ...]

    @property
    def style(self) -> str:
        return f"run-{self.index % 4}"

    @property
    def marks_count(self) -> int:
        return len(self.marks)

    def pictures(self) -> Iterator[Embedded]:
        """Every picture of the run."""
        pairs = listed(self.memorisation["pairs"]) if self.memorisation else ()
        found = (self.sheet, *(picture for _, picture in self.plots), *(pair["picture"] for pair in pairs))
        yield from (picture for picture in found if picture is not None)


def run_view(index: int, run: ReportRun) -> RunView:
    """Everything of a run but its videos."""
    warnings, facts = tuple(marks(run)), tuple(provenance(run))
    views = tuple(clip_views(index, run))
    return RunView(index, run, views, contact_sheet(run), tuple(plots(run)), _memorisation(run), warnings, facts)


def clip_views(index: int, run: ReportRun) -> Iterator[ClipView]:
    """The run's clips with their labels as text, which is much smaller than as objects."""
    for place, clip in enumerate(run.clips):
        yield ClipView(f"{index}-{place}", clip, as_script(clip_labels(clip.labels)))


def page_data(views: Sequence[RunView], videos: Mapping[str, EmbeddedVideo]) -> str:
    """What the page's script needs of every run and clip beside their labels, as script text."""
    runs = [
        {"name": view.run.name, "style": view.style, "events": event_rows(view.run),
         "clips": [_clip_data(clip, videos[clip.key]) for clip in view.clips]}
        for view in views
    ]  # fmt: skip
    return as_script({"runs": runs, "categories": categories(), "boxFields": BOX_FIELDS, "boxScale": SCALE})


def _clip_data(view: ClipView, video: EmbeddedVideo) -> dict[str, Any]:
    clip = view.clip
    facts = ", ".join(f"{name.replace('_', ' ')} {shown(value)}" for name, value in clip.facts.items())
    return {
        "key": view.key, "id": clip.clip_id, "fps": clip.info.fps, "frames": len(clip.labels), "height": clip.info.height,
        "width": clip.info.width, "shown": min(video.frames, len(clip.labels)), "note": video.note, "facts": facts,
    }  # fmt: skip


def tables(runs: Sequence[ReportRun]) -> dict[str, Any]:
    """What stands in the page once, over all runs."""
    return {
        "groups": metric_groups(runs), "drift_charts": drift_charts(runs), "changes": change_rows(runs), "fidelity": fidelity(runs),
        "events": [(at, run, event_rows(run)) for at, run in enumerate(runs) if mapped(run.result.get("drift")).get("events")],
    }  # fmt: skip


def _memorisation(run: ReportRun) -> dict[str, Any] | None:
    """Quantiles, the share that lies suspiciously near, and the closest pairs with their pictures."""
    part = mapped(run.result.get("memorisation"))
    if not part:
        return None
    sides = [(name, [shown(value) for value in listed(part.get(name))]) for name in ("generated", "test")]
    levels = [f"{level:.0%}" if isinstance(level, int | float) else shown(level) for level in listed(part.get("levels"))]
    pairs = [
        {**{name: shown(pair.get(name)) for name in ("generated", "train", "distance")},
         "picture": inside(run.evaluation, pair.get("picture"))}
        for pair in map(mapped, listed(part.get("closest")))
    ]  # fmt: skip
    fraction = shown(part.get("interval") or part.get("fraction_below_p5"))
    return {"levels": levels, "sides": sides, "fraction": fraction, "expected": shown(part.get("expected", 0.05)), "pairs": pairs}

"""``drivesim report``: one HTML page with videos, labels, metrics and provenance of one or more folders; it works without a network.

The page carries everything it shows; its content security policy forbids it to load anything. It is written in pieces, so memory does not
grow with the videos. This file joins the parts; it does not know how any of them looks.
"""

from __future__ import annotations

import base64
import hashlib
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

import drivesim
from drivesim.errors import DrivesimError, UsageError
from drivesim.io.atomic import replacing
from drivesim.io.fetching import folder_to_write, local_folder

from .embed import MIB, EmbeddedVideo, embed_video, encoded_size
from .run import open_run, run_names
from .view import RunView, page_data, run_view, tables

__all__ = ["write_report"]

TEMPLATES = Path(__file__).parent / "templates"
SCRIPTS = ("report_timeline.js", "report_player.js", "report.js")
SLACK = MIB // 4
"""Left for the page's own text, beside what is counted."""


def write_report(folders: str | Path | Sequence[str | Path], out: str | Path | None = None, max_mb: float = 200.0) -> dict[str, Any]:
    """Write the page.

    Args:
        folders: rollouts, clip datasets, folders of MP4s or results of ``drivesim evaluate``, or their fsspec URLs; several are shown side
            by side.
        out: file to write, None = ``report.html`` in the first folder. max_mb: the page's most MiB; longer videos are shortened to fit.

    Returns:
        {"out", "mb" (MiB written), "clips" (shown), "notes" (what is missing, and why)}.

    Raises:
        UsageError: no folder, one without anything to show, or a page that is too small for the labels and pictures alone.
        DrivesimError: a clip dataset that cannot be read, or a page that cannot be written.
    """
    asked = [folders] if isinstance(folders, str | Path) else list(folders)
    if not asked:
        raise UsageError("give at least one folder: drivesim report DIR")
    target = _target(asked[0], out)
    paths = [local_folder(folder, dataset=False) for folder in asked]
    limit = _limit(max_mb)
    names = run_names(paths)
    views = [run_view(index, open_run(folder, name)) for index, (folder, name) in enumerate(zip(paths, names, strict=True))]
    room = _room(views, limit, max_mb)
    with tempfile.TemporaryDirectory(prefix="drivesim-report-") as scratch:
        videos = _videos(views, room, Path(scratch))
        _write(target, _page(views, videos))
    notes = [f"{view.run.name}: {note}" for view in views for note in view.run.notes]
    shown = ((view.run.name, videos[clip.key].note) for view in views for clip in view.clips)
    notes += [f"{name}: {note}" for name, note in shown if note]
    return {"out": str(target), "mb": target.stat().st_size / MIB, "clips": len(videos), "notes": notes}


def _target(first: str | Path, out: str | Path | None) -> Path:
    target = Path(out) if out is not None else folder_to_write(first, "say with --out where the page goes") / "report.html"
    if target.is_dir():
        raise UsageError(f"{target} is a folder; --out must name a file, for instance {target / 'report.html'}")
    return target


def _limit(max_mb: float) -> int:
    if not (math.isfinite(max_mb) and max_mb > 0):
        raise UsageError(f"max_mb must be a positive number of MiB, not {max_mb}")
    return int(max_mb * MIB)


def _room(views: Sequence[RunView], limit: int, max_mb: float) -> int:
    """Bytes of video that fit beside pictures, labels and text."""
    labels = {f"clip {clip.clip.clip_id} of {view.run.name}": len(clip.labels.encode()) for view in views for clip in view.clips}
    pictures = sum(encoded_size(picture.size) for view in views for picture in view.pictures())
    left = limit - pictures - sum(labels.values()) - SLACK
    if left < 0:
        largest = max(labels, key=lambda name: labels[name], default=None)
        told = f"; the longest labels are those of {largest}, {labels[largest] / MIB:.2g} MiB" if largest else ""
        raise UsageError(
            f"pictures ({pictures / MIB:.2g} MiB) and labels ({sum(labels.values()) / MIB:.2g} MiB) alone do not fit into {max_mb:g} MiB"
            f"{told}; raise --max-mb or give fewer folders"
        )
    return left // 4 * 3


def _videos(views: Sequence[RunView], room: int, scratch: Path) -> dict[str, EmbeddedVideo]:
    """Clip key -> its video. Every clip has the same right to the room; the small ones come first, and leave the rest to the others."""
    clips = sorted((clip for view in views for clip in view.clips), key=lambda clip: clip.clip.size)
    videos = {}
    for place, view in enumerate(clips):
        video = embed_video(view.clip.video, view.clip.info, room // (len(clips) - place), scratch, f"clip {view.clip.clip_id}")
        room -= video.content.size if video.content else 0
        videos[view.key] = video
    return videos


def _page(views: Sequence[RunView], videos: Mapping[str, EmbeddedVideo]) -> Iterator[str]:
    """The page in pieces."""
    surroundings = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style, script = (_text(*names) for names in (("report.css",), SCRIPTS))
    return surroundings.get_template("report.html").generate(
        views=views, videos=videos, data=Markup(page_data(views, videos)), style=Markup(style), script=Markup(script),
        policy=_policy(style, script), version=drivesim.__version__, created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        **tables([view.run for view in views]),
    )  # fmt: skip


def _text(*names: str) -> str:
    return "\n".join(TEMPLATES.joinpath(name).read_text(encoding="utf-8") for name in names)


def _policy(style: str, script: str) -> str:
    """Content security policy: nothing is loaded, only this page's own style and script run, media come from the page itself."""
    sources = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    return (
        f"default-src 'none'; style-src 'sha256-{sources[0]}'; script-src 'sha256-{sources[1]}'; "
        "img-src data: blob:; media-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _write(target: Path, pieces: Iterator[str]) -> None:
    try:
        with replacing(target) as part, part.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(pieces)
    except OSError as error:
        raise DrivesimError(f"cannot write {target}: {error.strerror or error}; free space or choose another --out") from error

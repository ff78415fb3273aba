"""Did the generator copy its training clips? How near each generated clip lies to the nearest one, beside how near unseen real clips lie.

Distances are Euclidean between clip features, each feature divided by its deviation over the training clips. Whoever draws unseen clips
lies as far from the training clips as the test clips do; whoever copies lies nearer. A copy that the features cannot tell from another
clip is not found, and mirrored or recoloured copies are found only as far as the features forgive the change. The closest pairs are kept
as pictures, to be looked at. This file does not know networks or where shots come from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from drivesim.errors import DrivesimError, UsageError
from drivesim.io.atomic import replacing

from .extract import Features
from .footage import Shot
from .intervals import over_drives
from .pictures import pair_sheet, write_png

__all__ = ["ENOUGH", "LEVELS", "memorisation_report", "nearest"]

LEVELS = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
"""Quantiles told of the distances."""
NEAR = 0.05
"""A generated clip is suspiciously near where only this share of the test clips is nearer."""
ENOUGH = 60
"""With fewer test clips the 5th percentile is the distance of one of the nearest three, and the result is marked."""


def nearest(queries: np.ndarray, references: np.ndarray, block: int = 1024) -> tuple[np.ndarray, np.ndarray]:
    """Euclidean distance of each query (n, d) to its nearest reference (m, d), float64 (n,), and which it is, int64 (n,).

    Every pair is looked at, ``block`` by ``block``, so memory does not grow with n * m. Equal rows are exactly 0 apart.

    Raises:
        UsageError: no references, different d, or NaN.
    """
    queries, references = _rows(queries), _rows(references)
    if not len(references) or queries.shape[1] != references.shape[1]:
        raise UsageError(f"features of {queries.shape} and {references.shape}: give at least one reference, of as many features")
    best, which = np.full(len(queries), np.inf), np.zeros(len(queries), np.int64)
    for start in range(0, len(queries), block):
        rows = slice(start, start + block)
        for other in range(0, len(references), block):
            squares = _squared(queries[rows], references[other : other + block])
            found = squares.argmin(axis=1)
            least = squares[np.arange(len(found)), found]
            nearer = least < best[rows]
            best[rows] = np.where(nearer, least, best[rows])
            which[rows] = np.where(nearer, other + found, which[rows])
    # the expanded square only ranks: small distances lose their digits in it
    return np.linalg.norm(queries - references[which], axis=1), which


def memorisation_report(
    generated: Features, train: Features, test: Features, shots_generated: Sequence[Shot], shots_train: Sequence[Shot], out: Path,
    *, pairs: int = 6, resamples: int = 1000, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """The "memorisation" part of a result; neighbours.png and the closest pairs, neighbours/*.png, are written under ``out``.

    Args:
        generated, train, test: clip features of one network. shots_generated, shots_train: what can be shown, found by key.
        pairs: at most so many are drawn, no two of the same generated drive and training drive.

    Returns:
        {"levels", "generated" and "test" (distances at these quantiles), "fraction_below_p5", "interval" (over drives), "expected" (the
        fraction of unseen clips that lies there), "n", "closest": [{"generated", "train", "distance", "picture"}], "marks"}.

    Raises:
        UsageError: no clips on a side, different features, NaN.
    """
    for name, side in (("generated", generated), ("training", train), ("test", test)):
        if not len(side.values):
            raise UsageError(f"there are no {name} clips to compare; memorisation needs generated, training and test clips")
    scale = _deviation(train.values)
    near, which = nearest(generated.values / scale, train.values / scale)
    usual, _ = nearest(test.values / scale, train.values / scale)

    def fraction(rows: np.ndarray, unseen: np.ndarray) -> float:
        return float((near[rows] < np.quantile(usual[unseen], NEAR)).mean())

    interval = over_drives(fraction, generated.drives, test.drives, resamples=resamples, seed=seed)
    closest = _closest(near, which, generated.drives, train.drives, pairs)
    _plot(out / "neighbours.png", near, usual)
    return {
        "levels": list(LEVELS),
        "generated": [float(value) for value in np.quantile(near, LEVELS)],
        "test": [float(value) for value in np.quantile(usual, LEVELS)],
        "fraction_below_p5": interval.value,
        "interval": asdict(interval),
        "expected": NEAR,
        "n": {"generated": len(near), "train": len(train.values), "test": len(usual)},
        "closest": list(_shown(closest, near, which, generated.keys, train.keys, _by_key(shots_generated), _by_key(shots_train), out)),
        "marks": [*_marks(generated, train, test), *_far(near, usual)],
    }


def _rows(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or not np.isfinite(values).all():
        raise UsageError(f"features must be finite numbers (n, d), not {values.shape} with {int((~np.isfinite(values)).sum())} others")
    return values


def _squared(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """|x - y|^2 of every pair, float64 (n, m)."""
    return (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1) - 2 * first @ second.T


def _deviation(values: np.ndarray) -> np.ndarray:
    """Of each feature; 1 where it never changes."""
    spread = np.asarray(values, np.float64).std(axis=0)
    return np.where(spread > 0, spread, 1.0)


def _closest(near: np.ndarray, which: np.ndarray, drives: Sequence[str], train_drives: Sequence[str], pairs: int) -> list[int]:
    """Generated clips in the order of their distance, one for each generated and training drive."""
    seen: dict[tuple[str, str], int] = {}
    for clip in np.argsort(near, kind="stable").tolist():
        seen.setdefault((drives[clip], train_drives[which[clip]]), clip)
    return list(seen.values())[:pairs]


def _by_key(shots: Sequence[Shot]) -> dict[str, Shot]:
    return {shot.key: shot for shot in shots}


def _shown(
    closest: Sequence[int], near: np.ndarray, which: np.ndarray, keys: Sequence[str], train_keys: Sequence[str],
    shots: dict[str, Shot], train_shots: dict[str, Shot], out: Path,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """A row for each pair, with its picture; "picture" is None where a shot is not at hand or can no longer be read."""
    for place, clip in enumerate(closest):
        ours, theirs = shots.get(keys[clip]), train_shots.get(train_keys[which[clip]])
        row = {"generated": _name(ours), "train": _name(theirs), "distance": float(near[clip]), "picture": None}
        if ours is not None and theirs is not None:
            row["picture"] = _picture(ours, theirs, f"neighbours/pair_{place:02d}.png", float(near[clip]), out)
        yield row


def _picture(ours: Shot, theirs: Shot, name: str, distance: float, out: Path) -> str | None:
    titles = (f"generated: {_name(ours)}", f"nearest training clip: {_name(theirs)}, distance {distance:.3g}")
    try:
        frames = ours.read(), theirs.read()
    except DrivesimError:
        return None
    write_png(out / name, pair_sheet(*frames, titles))
    return name


def _name(shot: Shot | None) -> str | None:
    return None if shot is None else f"{shot.clip_id} from frame {shot.first_frame}"


def _marks(generated: Features, train: Features, test: Features) -> list[str]:
    marks = []
    if len(test.values) < ENOUGH:
        marks.append(f"memorisation: the 5th percentile of only {len(test.values)} test clips is rough (at least {ENOUGH} are advised)")
    shared = sorted(set(train.drives) & set(test.drives))
    if shared:
        marks.append(f"memorisation: {len(shared)} drives are in both train and test ({shared[0]}), so test clips lie too near")
    if len(set(generated.drives)) < 2:
        marks.append("memorisation: one generated drive, so the interval of the fraction is unknown")
    return marks


def _far(near: np.ndarray, usual: np.ndarray) -> list[str]:
    """What to say where generated clips look so unlike real ones that a copy would lie far away, too."""
    if np.median(near) <= np.quantile(usual, 1 - NEAR):
        return []
    return ["memorisation: most generated clips lie farther away than 95% of the test clips: they look different, which would hide a copy"]


def _plot(path: Path, near: np.ndarray, usual: np.ndarray) -> None:
    """Both distributions, as shares of clips nearer than a distance."""
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for values, colour, name in ((usual, "black", "test clips (never trained on)"), (near, "tab:red", "generated clips")):
        share = np.arange(1, len(values) + 1) / len(values)
        axes.step(np.sort(values), share, where="post", color=colour, label=f"{name}, n = {len(values)}")
    axes.axvline(float(np.quantile(usual, NEAR)), color="grey", linestyle="--", label="5th percentile of the test clips")
    axes.set_xlabel("distance to the nearest training clip (standardised features)")
    axes.set_ylabel("share of clips at least as near")
    axes.legend(fontsize=8)
    with replacing(path) as part:
        figure.savefig(part, format="png")

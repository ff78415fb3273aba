"""The CSV of the curves: one line per number, appended as training goes, so that a killed and resumed run has one file.

Columns: step, name, value, time_s (seconds since the epoch). ``pandas.read_csv(...).pivot(index="step", columns="name")`` gives a table.
"""

from __future__ import annotations

import csv
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

__all__ = ["CsvCurves"]

COLUMNS = ("step", "name", "value", "time_s")


class CsvCurves(Logger):
    """Appends to ``folder/metrics.csv``. Lines from steps that are being trained again after a restart are dropped first."""

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self.path = Path(folder) / "metrics.csv"
        self._begun = False

    @property
    def name(self) -> str:
        return "curves"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: what was trained is written beside the exported networks."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        step = 0 if step is None else step
        if not self._begun:
            self._begin(step)
        rows = [(step, name, float(value), round(time.time(), 2)) for name, value in metrics.items() if name != "epoch"]
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerows(rows)

    def _begin(self, step: int) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = []
        if self.path.exists():
            with self.path.open(newline="") as file:
                kept = [row for row in list(csv.reader(file))[1:] if len(row) == len(COLUMNS) and int(row[0]) < step]
        with self.path.open("w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *kept])
        self._begun = True

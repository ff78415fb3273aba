"""drivesim: labels in, minutes of labelled driving video out.

In a checkout ``datasets/``, ``eval/`` and ``configs/`` lie beside this folder and are reached as ``drivesim.datasets`` and so on, as in
the installed package. This file knows nothing else.
"""

from __future__ import annotations

from pathlib import Path

__version__ = "0.1.0"

_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "pyproject.toml").is_file() and (_checkout / "configs").is_dir():
    __path__.append(str(_checkout))

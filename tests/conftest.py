"""What every test shares: one thread, here and in every process that a test starts, and the folders of clips and of reference vectors,
where there are any.

One thread, because figures must not depend on the machine, and because `make test` runs as many test processes as there are cores.
"""

from __future__ import annotations

import os
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # read once, when numpy and torch are loaded

import cv2
import pytest
import torch

torch.set_num_threads(1)
cv2.setNumThreads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the recorded and simulated clip datasets; tests that need it are skipped, by name, where it is absent."""
    folder = Path(os.environ.get("DRIVESIM_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (folder / "sim" / "dataset.json").exists():
        pytest.skip(f"no clip datasets at {folder} (set DRIVESIM_TEST_DATA)")
    return folder


@pytest.fixture(scope="session")
def reference() -> Path:
    """Folder of what the reference implementations of the feature networks compute; tests that need it are skipped, by name, without it."""
    folder = Path(os.environ.get("DRIVESIM_TEST_REFERENCE", Path(__file__).parents[2] / "shared" / "reference"))
    wanted = ("i3d_logits_salt0.npz", "inception_features_salt0.npz")
    if not all((folder / name).is_file() for name in wanted):
        pytest.skip(f"no reference vectors at {folder} (set DRIVESIM_TEST_REFERENCE)")
    return folder

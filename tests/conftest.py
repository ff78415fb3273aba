"""What every test shares: one thread (figures must not depend on the machine) and the folder of real clips, where there is one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the recorded and simulated clip datasets; tests that need it are skipped, by name, where it is absent."""
    folder = Path(os.environ.get("DRIVESIM_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (folder / "sim" / "dataset.json").exists():
        pytest.skip(f"no clip datasets at {folder} (set DRIVESIM_TEST_DATA)")
    return folder

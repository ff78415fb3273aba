"""``drivesim data check``: every fault of a clip dataset, and setting bad clips aside. The rules live in ``drivesim.io.check``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from drivesim.io.fetching import folder_to_write, local_folder
from drivesim.io.records import check_records, quarantine

__all__ = ["check_dataset"]


def check_dataset(dataset: str | Path, set_aside: bool = False, deep: bool = False) -> dict[str, Any]:
    """Every fault of a dataset; ``set_aside`` moves clips with faults to ``<dataset>/quarantine``; ``deep`` decodes every frame.

    Returns:
        {"dataset", "faults": how many were found, "found": {number: fault}, "set_aside": clip ids moved, "left": faults that remain}.

    Raises:
        DatasetError: the quarantine cannot be written, or what lies elsewhere is no whole dataset.   UsageError: clips to be set aside in
            a dataset that is not on this disk.
    """
    root = folder_to_write(dataset, "copy the dataset to this disk to set clips of it aside") if set_aside else local_folder(dataset)
    found = check_records(root, deep)
    moved = quarantine(root, found) if set_aside and any(fault.clip_id for fault in found) else []
    left = [fault for fault in found if fault.clip_id not in moved]
    return {
        "dataset": str(dataset),
        "faults": len(found),
        "found": {str(number): str(fault) for number, fault in enumerate(found, 1)},
        "set_aside": moved,
        "left": len(left),
    }

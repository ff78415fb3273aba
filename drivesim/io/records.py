"""The door to a dataset's labels.

``schemas`` holds the columns, ``fetching`` brings what lies elsewhere, ``tables`` reads and writes them whole, ``records_writer`` as a
stream, ``label_rows`` turns rows into label tracks and back, ``check`` finds what is wrong. Everything above imports from here.
"""

from __future__ import annotations

from .check import Fault, check_records, quarantine, row_faults, video_faults
from .label_rows import clip_row, labels_of, rows_of
from .records_writer import RecordsWriter
from .schemas import REQUIRED, SCHEMAS, DatasetError, empty_table
from .tables import FORMAT, VERSION, DatasetRecords, header, read_records, rewrite_records, write_records

__all__ = [
    "FORMAT", "REQUIRED", "SCHEMAS", "VERSION", "DatasetError", "DatasetRecords", "Fault", "RecordsWriter", "check_records", "clip_row",
    "empty_table", "header", "labels_of", "quarantine", "read_records", "rewrite_records", "row_faults", "rows_of", "video_faults",
    "write_records",
]  # fmt: skip

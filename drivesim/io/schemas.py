"""The columns of a clip dataset's three tables: their types, which must be there, and reading and writing them as Parquet.

Columns that are not listed here are kept as they are. Listed ones are cast to their type; nullable ones that a file lacks are added as
nulls, so no code above asks whether a column exists. This file does not know what a row means.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from drivesim.errors import DrivesimError
from drivesim.labels import LABELS

from .atomic import replacing

__all__ = ["REQUIRED", "SCHEMAS", "DatasetError", "as_arrow", "as_frame", "empty_table", "read_table", "write_table"]


class DatasetError(DrivesimError):
    """A dataset that cannot be used: the message names the file, the row where there is one, the reason and the mend."""


SCHEMAS: dict[str, pa.Schema] = {
    "clips": pa.schema(
        [
            ("clip_id", pa.large_string()), ("video", pa.large_string()), ("fps", pa.float64()), ("frames", pa.int64()),
            ("height", pa.int64()), ("width", pa.int64()), ("duration_s", pa.float64()), ("time_of_day", pa.large_string()),
            ("crowdedness", pa.float64()), ("split", pa.large_string()), ("source", pa.large_string()), ("licence", pa.large_string()),
            ("camera", pa.large_string()), ("provenance", pa.large_string()),
        ]
    ),
    "frames": pa.schema(
        [
            ("clip_id", pa.large_string()), ("frame", pa.int64()), ("timestamp_s", pa.float64()), ("boxes_known", pa.bool_()),
            *((name, pa.large_string() if label.values else pa.float32()) for name, label in LABELS.items()),
            ("weather", pa.large_string()), ("ego_pose", pa.list_(pa.float64())),
        ]
    ),
    "boxes": pa.schema(
        [
            ("clip_id", pa.large_string()), ("frame", pa.int64()), ("timestamp_s", pa.float64()), ("track_id", pa.int64()),
            ("category", pa.large_string()), ("x1", pa.float32()), ("y1", pa.float32()), ("x2", pa.float32()), ("y2", pa.float32()),
            ("score", pa.float32()), ("occlusion", pa.float32()), ("truncated", pa.bool_()), ("ignore", pa.bool_()),
            ("depth_m", pa.float32()), ("box3d", pa.list_(pa.float64())), ("agreement_iou", pa.float32()),
            ("agreement_score", pa.float32()), ("provenance", pa.large_string()),
        ]
    ),
}  # fmt: skip

REQUIRED: dict[str, tuple[str, ...]] = {
    "clips": ("clip_id", "video", "fps", "frames", "height", "width", "duration_s"),
    "frames": ("clip_id", "frame", "timestamp_s", "boxes_known"),
    "boxes": ("clip_id", "frame", "timestamp_s", "track_id", "category", "x1", "y1", "x2", "y2"),
}


def read_table(path: Path, kind: str) -> pd.DataFrame:
    """One table as pandas: listed columns first, in order and of their types, then the file's own.

    Raises:
        DatasetError: unreadable, a required column missing, or a column that cannot be read as its type.
    """
    try:
        table = pq.read_table(path, partitioning=None)
    except FileNotFoundError:
        raise DatasetError(f"{path}: missing file; copy the dataset again or write it with write_records") from None
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]}); copy the dataset again") from error
    missing = [name for name in REQUIRED[kind] if name not in table.column_names]
    if missing:
        raise DatasetError(f"{path}: missing column {', '.join(missing)}; required are {', '.join(REQUIRED[kind])}")
    return as_frame(_cast(table, kind, path))


def write_table(path: Path, table: pa.Table) -> None:
    """Write one table atomically."""
    with replacing(path) as part:
        pq.write_table(table, part, compression="zstd")


def as_arrow(rows: pd.DataFrame, kind: str, path: Path) -> pa.Table:
    """pandas -> Arrow with the schema's types, for the file ``path``; NaN becomes null, unlisted columns keep the type Arrow gives them.

    Raises:
        DatasetError: a required column is missing, or a value does not fit its column's type.
    """
    missing = [name for name in REQUIRED[kind] if name not in rows.columns]
    if missing:
        raise DatasetError(f"{path}: missing column {', '.join(missing)}; required are {', '.join(REQUIRED[kind])}")
    schema = SCHEMAS[kind]
    extra = [name for name in rows.columns if name not in schema.names]
    arrays = [_column(rows, field, path) for field in schema]
    others = [pa.Array.from_pandas(rows[name]) for name in extra]
    return pa.table(arrays + others, names=schema.names + extra)


def as_frame(table: pa.Table) -> pd.DataFrame:
    """Arrow -> pandas: strings as str, nullable booleans as "boolean", numbers with NaN for null."""
    return table.to_pandas(types_mapper={pa.bool_(): pd.BooleanDtype()}.get, ignore_metadata=True)


def empty_table(kind: str) -> pd.DataFrame:
    """A table of that kind without rows."""
    return as_frame(SCHEMAS[kind].empty_table())


def _column(rows: pd.DataFrame, field: pa.Field, path: Path) -> pa.Array:
    if field.name not in rows.columns or rows[field.name].isna().all():  # an all-NaN column of floats would become text chunks
        return pa.nulls(len(rows), field.type)
    try:
        return pa.Array.from_pandas(rows[field.name], type=field.type)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise DatasetError(f"{path}: column {field.name} must hold {field.type}: {error}") from error


def _cast(table: pa.Table, kind: str, path: Path) -> pa.Table:
    schema, columns = SCHEMAS[kind], []
    for field in schema:
        if field.name not in table.column_names:
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        try:
            columns.append(table[field.name].cast(field.type, safe=not pa.types.is_float32(field.type)))
        except pa.ArrowException as error:
            raise DatasetError(f"{path}: column {field.name} must hold {field.type}: {str(error).splitlines()[0]}") from error
    extra = [name for name in table.column_names if name not in schema.names]
    return pa.table(columns + [table[name] for name in extra], names=schema.names + extra)

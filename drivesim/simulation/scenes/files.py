"""The files of a scenario table: Parquet with nested boxes, or CSV with them in files beside it; read and written through fsspec.

Both become the same ``Tables``: a dict per scenario and one table of all boxes and one of all profiles. This file knows columns and bytes;
what a value means and which ones cannot be is known in table.py.
"""

from __future__ import annotations

import difflib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from drivesim.errors import UsageError
from drivesim.io.atomic import replacing
from drivesim.labels import LABELS

__all__ = ["BOXES", "EMPTY_ROAD", "PROFILES", "SCALARS", "Tables", "check_ids", "is_csv", "load", "save", "sidecar"]

SCALARS: dict[str, pa.DataType] = {
    "scenario_id": pa.string(), "duration_s": pa.float64(), "fps": pa.float64(),
    **{name: pa.string() if label.values else pa.float64() for name, label in LABELS.items()},
    "seed": pa.int64(), "start": pa.string(),
}  # fmt: skip
BOXES: dict[str, pa.DataType] = {
    "track_id": pa.int64(), "stretch": pa.int64(), "category": pa.string(), "timestamp_s": pa.float64(),
    "x1": pa.float32(), "y1": pa.float32(), "x2": pa.float32(), "y2": pa.float32(),
}  # fmt: skip
PROFILES: dict[str, pa.DataType] = {"label": pa.string(), "timestamp_s": pa.float64(), "value": pa.float64()}
NESTED = {"boxes": BOXES, "profiles": PROFILES}
OPTIONAL = ("stretch",)
"""Nested columns that a file may lack."""
EMPTY_ROAD = "empty_road"
"""The column of a CSV that says that no boxes means no vehicles."""
NULLS = ["", "null", "nan", "NaN"]


@dataclass(frozen=True)
class Tables:
    """A scenario table as it was found, no value looked at yet.

    rows: a dict per scenario, None = null.   boxes, profiles: columns of BOXES and PROFILES, and ``row``, the scenario's place in ``rows``;
    the index counts within a nested column or a file.   given: bool (scenarios,), False = boxes are to be sampled.
    """

    path: str
    rows: list[dict[str, Any]]
    boxes: pd.DataFrame
    profiles: pd.DataFrame
    given: np.ndarray


def is_csv(path: str) -> bool:
    """CSV by its name; anything else is Parquet."""
    return path.lower().endswith(".csv")


def sidecar(path: str, kind: str) -> str:
    """The file beside the CSV ``path`` that holds its boxes or profiles: NAME.boxes.csv."""
    return f"{path[:-4]}.{kind}.csv"


def load(path: str) -> Tables:
    """Read a scenario table.

    Raises:
        UsageError: missing, unreadable or empty, a column missing or unknown, two scenarios of one name.
    """
    return _load_csv(path) if is_csv(path) else _load_parquet(path)


def save(tables: Tables) -> None:
    """Write a scenario table, each file whole or not at all; a CSV's boxes and profiles before the table itself."""
    if not is_csv(tables.path):
        _write(tables.path, _as_parquet(tables))
        return
    for kind, rows in (("boxes", tables.boxes), ("profiles", tables.profiles)):
        beside = sidecar(tables.path, kind)
        if len(rows) or _exists(beside):  # an old one would be read as this table's
            ids = [tables.rows[row]["scenario_id"] for row in rows["row"]]
            _write(beside, _as_csv(rows.drop(columns="row").assign(scenario_id=ids)[["scenario_id", *NESTED[kind]]]))
    filled = np.isin(np.arange(len(tables.rows)), tables.boxes["row"])
    table = pd.DataFrame(tables.rows, columns=list(SCALARS), dtype=object)
    table[EMPTY_ROAD] = ["true" if empty else None for empty in tables.given & ~filled]
    _write(tables.path, _as_csv(table))


def _load_parquet(path: str) -> Tables:
    try:
        with fsspec.open(path, "rb") as file:
            table = pq.read_table(io.BytesIO(file.read()))
    except (OSError, ValueError, ImportError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error
    _check_columns(path, table.column_names, (*SCALARS, *NESTED))
    rows = table.select([name for name in SCALARS if name in table.column_names]).to_pylist()
    check_ids(path, rows)
    boxes, given = _unnested(path, table, "boxes")
    return Tables(path, rows, boxes, _unnested(path, table, "profiles")[0], given)


def _unnested(path: str, table: pa.Table, kind: str) -> tuple[pd.DataFrame, np.ndarray]:
    """A nested column as a table with ``row``, and which scenarios have a list, be it an empty one."""
    if kind not in table.column_names or pa.types.is_null(table[kind].type):
        return pd.DataFrame(columns=["row", *NESTED[kind]]), np.zeros(table.num_rows, bool)
    column = pa.concat_arrays(table[kind].chunks)
    lists = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    given = np.asarray(column.is_valid())
    if lists and pa.types.is_null(column.type.value_type):  # nothing but empty lists
        return pd.DataFrame(columns=["row", *NESTED[kind]]), given
    if not lists or not pa.types.is_struct(column.type.value_type):
        raise UsageError(f"{path}: column {kind} must hold lists of {', '.join(NESTED[kind])}, not {column.type}")
    nested = pa.Table.from_batches([pa.RecordBatch.from_struct_array(column.flatten())]).to_pandas()
    _check_nested(f"{path}: column {kind}", nested, kind)
    counts = np.asarray(column.value_lengths().fill_null(0))
    row, first = np.repeat(np.arange(table.num_rows), counts), np.cumsum(counts) - counts
    return nested.assign(row=row).set_index(np.arange(len(row)) - first[row]), given


def _load_csv(path: str) -> Tables:
    table = _read_csv(path)
    _check_columns(path, list(table.columns), (*SCALARS, EMPTY_ROAD))
    rows = [{str(key): None if pd.isna(value) else value for key, value in row.items()} for row in table.to_dict("records")]
    check_ids(path, rows)
    places = {str(row["scenario_id"]): number for number, row in enumerate(rows)}
    boxes, profiles = (_beside(path, kind, places) for kind in NESTED)
    given = np.isin(np.arange(len(rows)), boxes["row"])
    for number, row in enumerate(rows):
        empty = _yes(path, number, row.pop(EMPTY_ROAD, None))
        if empty and given[number]:
            raise UsageError(
                f"{path}: row {number} ({row['scenario_id']}): {EMPTY_ROAD} is true, but {sidecar(path, 'boxes')} holds boxes of it; "
                "remove one of the two"
            )
        given[number] |= empty
    return Tables(path, rows, boxes, profiles, given)


def _beside(path: str, kind: str, places: dict[str, int]) -> pd.DataFrame:
    """The boxes or profiles of a CSV; none where there is no such file."""
    beside = sidecar(path, kind)
    if not _exists(beside):
        return pd.DataFrame(columns=["row", *NESTED[kind]])
    table = _read_csv(beside)
    if "scenario_id" not in table:
        raise UsageError(f"{beside}: missing column scenario_id, which says to which row of {path} a line belongs")
    row = table["scenario_id"].map(places)
    if row.isna().any():
        line = int(np.argmax(row.isna()))
        raise UsageError(f"{beside}: row {line}: no scenario {table['scenario_id'].iloc[line]!r} in {path}; add it there or remove the row")
    table = table.drop(columns="scenario_id")
    _check_nested(beside, table, kind)
    return table.assign(row=row.astype(np.int64))


def _read_csv(path: str) -> pd.DataFrame:
    """Every value as text, so that 007 stays an id and no number is rounded."""
    try:
        with fsspec.open(path, "rb") as file:
            return pd.read_csv(io.BytesIO(file.read()), dtype=str, keep_default_na=False, na_values=NULLS)
    except (OSError, ValueError, ImportError) as error:  # what pandas raises for broken files are ValueErrors
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: Exception) -> UsageError:
    if isinstance(error, FileNotFoundError):
        return UsageError(f"{path}: no such scenario table; make one with: drivesim scenario make --out {path}")
    return UsageError(f"{path}: not a readable scenario table ({str(error).splitlines()[0] if str(error) else type(error).__name__})")


def _check_columns(path: str, found: Sequence[str], known: Sequence[str]) -> None:
    for name in found:
        if name not in known:
            raise UsageError(f"{path}: unknown column {name!r}{_nearest(str(name), known)}; a scenario table holds {', '.join(known)}")
    missing = [name for name in ("scenario_id", "duration_s") if name not in found]
    if missing:
        raise UsageError(f"{path}: missing column {', '.join(missing)}; every scenario needs a name and a length in seconds")


def _check_nested(place: str, found: pd.DataFrame, kind: str) -> None:
    known = list(NESTED[kind])
    for name in found.columns:
        if name not in known:
            raise UsageError(f"{place}: unknown column {name!r}{_nearest(str(name), known)}; {kind} have {', '.join(known)}")
    missing = [name for name in known if name not in found and name not in OPTIONAL]
    if missing:
        raise UsageError(f"{place}: missing column {', '.join(missing)}; {kind} have {', '.join(known)}")


def check_ids(path: str, rows: list[dict[str, Any]]) -> None:
    """Every scenario has a name of its own that may be a file's; whole numbers are taken as text."""
    if not rows:
        raise UsageError(f"{path}: holds no scenario; add a row, or make some with: drivesim scenario make --out {path}")
    seen: dict[str, int] = {}
    for number, row in enumerate(rows):
        name = "" if row["scenario_id"] is None else str(row["scenario_id"])
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", name) or name.endswith("."):
            raise UsageError(
                f"{path}: row {number}: scenario_id {name!r} cannot name a file; use letters, digits, dots, dashes and underscores, "
                "100 at most, not beginning or ending with a dot"
            )
        first = seen.setdefault(name.lower(), number)
        if first != number:
            same = "twice" if rows[first]["scenario_id"] == name else f"as {rows[first]['scenario_id']!r}, one file where case is not told"
            raise UsageError(f"{path}: row {number}: scenario_id {name!r} is there {same} (row {first}); give every scenario its own")
        row["scenario_id"] = name


def _yes(path: str, number: int, text: str | None) -> bool:
    word = (text or "false").strip().lower()
    if word not in ("true", "false", "1", "0", "yes", "no"):
        raise UsageError(f"{path}: row {number}: {EMPTY_ROAD} must be true or false, not {text!r}")
    return word in ("true", "1", "yes")


def _nearest(name: str, known: Sequence[str]) -> str:
    found = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {found[0]}?" if found else ""


def _as_parquet(tables: Tables) -> bytes:
    arrays = [pa.array([row.get(name) for row in tables.rows], kind) for name, kind in SCALARS.items()]
    held = np.isin(np.arange(len(tables.rows)), tables.profiles["row"])
    arrays += [_nested(tables.boxes, "boxes", tables.given), _nested(tables.profiles, "profiles", held)]
    file = io.BytesIO()
    pq.write_table(pa.table(arrays, names=[*SCALARS, *NESTED]), file, compression="zstd")
    return file.getvalue()


def _nested(rows: pd.DataFrame, kind: str, given: np.ndarray) -> pa.Array:
    """One list for each scenario that has one, null for the others. rows: in the order of the scenarios."""
    counts = np.bincount(rows["row"].to_numpy(np.int64), minlength=len(given))
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
    fields = [pa.field(name, type_) for name, type_ in NESTED[kind].items()]
    columns = [pa.array(rows[field.name].to_numpy(), field.type) for field in fields]
    return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(columns, fields=fields), mask=pa.array(~given))


def _as_csv(table: pd.DataFrame) -> bytes:
    return table.to_csv(index=False, lineterminator="\n").encode()


def _write(path: str, content: bytes) -> None:
    system, inside = fsspec.core.url_to_fs(path)
    if isinstance(system, fsspec.implementations.local.LocalFileSystem):
        with replacing(Path(inside)) as part:
            part.write_bytes(content)
    else:
        with fsspec.open(path, "wb") as file:
            file.write(content)


def _exists(path: str) -> bool:
    system, inside = fsspec.core.url_to_fs(path)
    return bool(system.exists(inside))

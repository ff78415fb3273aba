"""What categories are called in datasets that anybody made: names -> ours, part of ``coco`` and ``yolo``.

Such datasets have no fixed list, so a category is known by its name: capitals, spaces, ``-`` and ``_`` do not count. What has no
counterpart is dropped, and so is what could be several of ours ("vehicle"), until the caller says which. This file knows no layout.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from drivesim.errors import UsageError
from drivesim.labels import CATEGORIES

from .releases import Kind

__all__ = ["MAPPING", "mapped"]

MAPPING: dict[str, Kind | None] = {
    **{name: Kind(name) for name in CATEGORIES},
    "automobile": Kind("car"), "van": Kind("car"), "taxi": Kind("car"), "suv": Kind("car"), "sedan": Kind("car"), "lorry": Kind("truck"),
    "motorbike": Kind("motorcycle"), "motor": Kind("motorcycle"), "bike": Kind("bicycle"), "cyclist": Kind("bicycle"),
    "pedestrian": Kind("person"), "rider": Kind("person"), "person sitting": Kind("person"), "people": Kind("person", ignore=True),
}  # fmt: skip
"""As the releases with fixed lists are read: KITTI's Van is a car, its Cyclist (rider and bicycle) a bicycle, BDD100K's rider a person."""


def mapped(names: Iterable[str], more: Mapping[str, str | None] | None, where: object) -> dict[str, Kind | None]:
    """A dataset's categories -> ours. more: its category -> one of ours, None = drop it; goes before ``MAPPING``.

    Raises:
        UsageError: ``more`` names a category that is not there or none of ours; or no category at all is one of ours, and every picture
            would look empty.
    """
    names, table = list(dict.fromkeys(names)), {_plain(name): kind for name, kind in MAPPING.items()}
    for name, ours in (more or {}).items():
        if _plain(str(name)) not in map(_plain, names):
            raise UsageError(f"categories names {name!r}, which {where} lacks; it has {', '.join(names) or 'none'}")
        if ours is not None and ours not in CATEGORIES:
            raise UsageError(f"categories: {name!r} must become one of {', '.join(CATEGORIES)} or null, not {ours!r}")
        table[_plain(str(name))] = None if ours is None else Kind(ours)
    found = {name: table.get(_plain(name)) for name in names}
    if not any(found.values()):
        shown = ", ".join(names[:12]) + ", ..." * (len(names) > 12)
        raise UsageError(f"{where}: none of its categories ({shown or 'it has none'}) is one of ours by name; say categories={{NAME:car}}")
    return found


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name.lower())

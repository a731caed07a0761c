"""The layers are the folders: each may import those that the table names, and nothing imports in circles."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "sidecar"
CONTRIBUTING = PACKAGE.parent / "CONTRIBUTING.md"

# Everything may import `errors` and `model`. A folder without a row is a mistake.
LAYERS: dict[str, set[str]] = {
    "errors": set(),
    "model": set(),
    "config": set(),
    "system": {"config"},
    "generate": set(),
    "inputs": {"config", "generate", "system"},
    "generations": {"config", "generate", "system"},
    "navigator": {"config", "system"},
    "update": {"config", "generate", "generations", "inputs", "navigator", "system"},
    "ready": {"config", "generate", "generations", "inputs", "system"},
    "fleet": {"config", "generate", "generations", "inputs", "system"},
    "observe": {
        *("config", "fleet", "generate", "generations", "inputs", "navigator", "ready", "system", "update"),
    },
    "web": {
        *("config", "fleet", "generate", "generations", "inputs", "navigator", "observe"),
        *("ready", "system", "update"),
    },
    "demo": {"config", "system"},
    "daemon": {
        *("config", "fleet", "generate", "generations", "inputs", "navigator", "observe"),
        *("ready", "system", "update", "web"),
    },
    "cli": {
        *("config", "daemon", "demo", "fleet", "generate", "generations", "inputs", "navigator", "observe"),
        *("ready", "system", "update", "web"),
    },
    "__main__": {"cli"},
}  # fmt: skip
COMMON = {"errors", "model"}
PURE = {"errors", "model", "config", "generate"}
# Modules of other folders that decide, and reach nothing outside.
PURE_MODULES = {
    "generations.plan",
    "generations.records",
    "ready.pages",
    "ready.plan",
    "fleet.machines",
    "fleet.verdicts",
    "fleet.report",
    "fleet.progress",
    "fleet.index_history",
    "fleet.rollout",
    "fleet.table",
}

# Whatever reaches outside: files, processes, sockets, threads, the clock, chance.
OUTSIDE = {
    *("os", "io", "shutil", "tempfile", "glob", "fcntl", "mmap", "sqlite3", "logging", "importlib"),
    *("asyncio", "threading", "concurrent", "multiprocessing", "subprocess", "signal", "selectors", "queue"),
    *("socket", "ssl", "http", "urllib", "email", "aiohttp", "aioboto3", "aiobotocore", "boto3", "botocore"),
    *("time", "datetime", "random", "secrets", "uuid", "getpass", "pwd", "grp", "platform", "resource"),
    *("sys", "watchfiles", "prometheus_client"),
}  # fmt: skip


def name_of(path: Path) -> str:
    """A module's name below `sidecar`: `generate.htpasswd`, `inputs.store` for the package itself."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(module: str) -> Iterator[str]:
    """The full names that a module imports, anywhere in it; of `sidecar`, the modules."""
    for node in ast.walk(ast.parse(MODULES[module].read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            source = node.module or ""
            for alias in node.names:
                below = f"{source}.{alias.name}"
                is_module = source.partition(".")[0] == "sidecar" and below.partition(".")[2] in MODULES
                yield below if is_module else source


def own(module: str) -> set[str]:
    """The modules of `sidecar` that a module imports."""
    return {name.partition(".")[2] for name in imports(module) if name.partition(".")[0] == "sidecar"} - {""}


def top(name: str) -> str:
    return name.partition(".")[0]


def test_every_folder_has_a_row() -> None:
    """A new folder has its place among the layers, and a row whose folder has gone is removed."""
    assert {top(module) for module in MODULES} - {""} == LAYERS.keys()


def test_contributing_prints_the_same_table() -> None:
    """What CONTRIBUTING says of the layers is what holds."""
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([^|]*) \|$", CONTRIBUTING.read_text(), re.MULTILINE)
    assert {folder: set(re.findall(r"`(\w+)`", allowed)) for folder, allowed in rows} == LAYERS


@pytest.mark.parametrize("module", [module for module in MODULES if module])
def test_modules_import_the_layers_that_the_table_allows(module: str) -> None:
    """A folder imports itself, the common ones and its row, nothing else."""
    allowed = COMMON | {top(module)} | LAYERS[top(module)]
    if top(module) == "errors":
        allowed = {"errors"}
    assert {top(name) for name in own(module)} <= allowed


def test_a_name_means_one_thing() -> None:
    """No two public classes of different modules have the same name."""
    found: dict[str, list[str]] = {}
    for module, path in MODULES.items():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, []).append(module)
    assert {name: modules for name, modules in found.items() if len(modules) > 1} == {}


DIMENSIONLESS = {"_EPSILON", "_US_SCALE", "_TRANSLATE"}
"""Numbers of a formula: they have no unit."""
UNITS = ("_SECONDS", "_MILLISECONDS", "_SHARE", "_FACTOR", "_DEGREES", "_KM", "_BYTES")


def numbers(module: str) -> Iterator[tuple[str, set[type]]]:
    """The constants of a module that are written as numbers, each with the types of those."""
    for node in ast.parse(MODULES[module].read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            parts = list(ast.walk(node.value))
            values = {type(part.value) for part in parts if isinstance(part, ast.Constant)}
            if values and values <= {int, float} and not any(isinstance(part, ast.Name) for part in parts):
                yield node.targets[0].id, values


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_number_says_its_unit(module: str) -> None:
    """A constant that is a fraction says in its name what it counts; a limit is called MAX or MIN."""
    for name, types in numbers(module):
        if float in types and name not in DIMENSIONLESS:
            assert name.endswith(UNITS), f"{name} of {module or 'sidecar'}"
        assert not {"MOST", "LONGEST", "LARGEST", "FEW", "FEWEST", "SHORTEST"} & set(name.split("_"))


@pytest.mark.parametrize(
    "module", [module for module in MODULES if top(module) in PURE or module in PURE_MODULES]
)
def test_pure_modules_do_not_reach_outside(module: str) -> None:
    """No files, no processes, no network, no clock: the same input gives the same output."""
    assert {top(name) for name in imports(module)} & OUTSIDE == set()


def test_pure_modules_exist() -> None:
    """A module that is renamed does not slip out of its rule."""
    assert set(MODULES) >= PURE_MODULES


def test_nothing_imports_in_circles() -> None:
    """Not even inside functions or for types only."""
    order = TopologicalSorter({module: own(module) for module in MODULES}).static_order()
    assert set(order) >= set(MODULES)


def test_every_import_of_the_package_exists() -> None:
    """A name that is imported from `sidecar` is a module, or stands in one."""
    assert {name for module in MODULES for name in own(module)} <= set(MODULES)


def test_the_forwarder_needs_the_standard_library_only() -> None:
    """`sidecar-cgi` is one file that starts without this package."""
    tree = ast.parse((PACKAGE / "sidecar-cgi").read_bytes())
    found = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {
        top(name)
        for node in found
        for name in (
            [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
        )
    }
    assert names
    assert names <= sys.stdlib_module_names

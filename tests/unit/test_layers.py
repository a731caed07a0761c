"""The layers: what is pure stays pure, adapters do not know the flow, and nothing imports in circles."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "sidecar"

PURE = {
    "errors",
    "model",
    "memo",
    "yamltext",
    "settings",
    "configuration",
    "plan",
    "changes",
    "signing",
    "check",
    "generate",
}
# Of a package with both, the modules that are pure.
PURE_PARTS = {
    "fleet.machines",
    "fleet.served",
    "fleet.verdicts",
    "fleet.report",
    "fleet.progress",
}
ADAPTERS = {"durable", "database", "index", "store", "generations", "process", "machine", "signatures", "rejections", "metrics", "events", "client"}  # fmt: skip # noqa: E501
FLOW = {"update", "worker", "web", "daemon", "cli"}
FLEET_ADAPTERS = {"fleet.discovery", "fleet.upload", "fleet.poke"}
FLEET_FLOW = {"fleet.run", "fleet.service", "fleet.command", "fleet.follower"}

# Whatever reaches outside: files, processes, sockets, threads, the clock, chance.
OUTSIDE = {
    *(
        "os",
        "io",
        "pathlib",
        "shutil",
        "tempfile",
        "glob",
        "fcntl",
        "mmap",
        "sqlite3",
        "logging",
        "importlib",
    ),
    *("asyncio", "threading", "concurrent", "multiprocessing", "subprocess", "signal", "selectors", "queue"),
    *("socket", "ssl", "http", "urllib", "email", "aiohttp", "aioboto3", "aiobotocore", "boto3", "botocore"),
    *(
        "time",
        "datetime",
        "random",
        "secrets",
        "uuid",
        "getpass",
        "pwd",
        "grp",
        "platform",
        "resource",
        "sys",
    ),
    *("watchfiles", "prometheus_client"),
}


def name_of(path: Path) -> str:
    """A module's name below `sidecar`: `generate.htpasswd`, `store` for the package itself."""
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


def test_the_layers_name_modules_that_exist() -> None:
    """A module that is renamed does not slip out of its layer."""
    assert {top(module) for module in MODULES} >= PURE | ADAPTERS | FLOW


@pytest.mark.parametrize("module", [module for module in MODULES if top(module) in PURE])
def test_pure_modules_import_only_pure_ones(module: str) -> None:
    """Generation, checks and decisions know neither adapters nor flow."""
    assert {top(name) for name in own(module)} <= PURE


@pytest.mark.parametrize("module", [module for module in MODULES if top(module) in PURE])
def test_pure_modules_do_not_reach_outside(module: str) -> None:
    """No files, no processes, no network, no clock: the same input gives the same output."""
    assert {top(name) for name in imports(module)} & OUTSIDE == set()


@pytest.mark.parametrize("module", sorted(PURE_PARTS))
def test_pure_parts_know_only_what_is_pure(module: str) -> None:
    """What decides about the fleet is a function of values, and reaches nothing outside."""
    assert {name for name in own(module) if top(name) not in PURE} <= PURE_PARTS
    assert {top(name) for name in imports(module)} & OUTSIDE == set()


@pytest.mark.parametrize("module", sorted(FLEET_ADAPTERS))
def test_the_fleets_adapters_do_not_know_its_flow(module: str) -> None:
    """Whoever asks a machine, the platform or the store does not know what for."""
    assert own(module) & FLEET_FLOW == set()
    assert {top(name) for name in own(module)} & FLOW == set()


def test_the_fleets_modules_each_have_their_place() -> None:
    """A new module of the fleet is said to be pure, an adapter or flow."""
    found = {module for module in MODULES if module.startswith("fleet.")}
    assert found == PURE_PARTS | FLEET_ADAPTERS | FLEET_FLOW


@pytest.mark.parametrize("module", [module for module in MODULES if top(module) in ADAPTERS])
def test_adapters_do_not_know_the_flow(module: str) -> None:
    """Whoever speaks with one outside thing does not know what for."""
    assert {top(name) for name in own(module)} & FLOW == set()


def test_only_the_outermost_modules_know_the_daemon() -> None:
    """Everything is wired in one place."""
    assert {module for module in MODULES if "daemon" in own(module)} <= {"cli", "__main__"}


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

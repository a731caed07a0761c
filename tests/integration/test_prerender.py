"""Pages rendered by a real application over HTTP, and by a command, into a real folder."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from sidecar.daemon import Daemon
from sidecar.demo.sample import Size, remove_event, rename_studio
from sidecar.model.runs import Request
from sidecar.model.work import Step
from tests.support.machine import Machine
from tests.support.origin import origin

MANY = Size(events=300, studios=240, users=5)


def machine_with(tmp_path: Path, url: str, **more: Any) -> Machine:
    """A machine with a folder as store, whose work renders pages over HTTP and starts only when asked for."""
    prerender = {"renderer": "http", "origin": url, "root": "/showcase", "parallel": 8, **more}
    extra = {"ready": {"at_start": False, "retry": 0}, "prerender": prerender, "databases": {"fetch": False}}
    return Machine(tmp_path, extra)


async def render(daemon: Daemon, *, everything: bool = False, update: bool = True) -> Step:
    """Update, do the ready work, and tell how the rendering went."""
    async with asyncio.timeout(60):
        if update:
            assert (await daemon.worker.submit(Request(trigger="socket"))).error is None
        done = await daemon.ready.work.request("socket", "a test", everything=everything)
    assert done is not None
    return next(step for step in done.steps if step.name == "prerender")


def pages(machine: Machine) -> dict[str, str]:
    """Path -> file, as the list says."""
    rows = (line.split("\t") for line in machine.target("prerender.txt").read_text().splitlines())
    return dict(rows)


def public(machine: Machine) -> Path:
    return machine.application / "public"


async def test_all_then_none_then_what_changed(tmp_path: Path) -> None:
    """Every page is rendered once, then none; a changed studio costs its own pages and the indexes."""
    async with origin() as application:
        machine = machine_with(tmp_path, application.url)
        machine.put_index(MANY)
        async with machine.daemon() as daemon:
            first = await render(daemon)
            listed = pages(machine)
            assert len(listed) > 300
            assert first.state == "done"
            assert first.done == first.total == len(listed)
            assert sorted(application.asked) == sorted(f"/showcase/{path.lstrip('/')}" for path in listed)
            for path, file in listed.items():
                assert (public(machine) / file).read_text() == f"<p>/showcase/{path.lstrip('/')}</p>"

            application.asked.clear()
            stamps = {file: (public(machine) / file).stat().st_mtime_ns for file in listed.values()}
            assert (await render(daemon)).total == 0
            assert application.asked == []
            assert {file: (public(machine) / file).stat().st_mtime_ns for file in listed.values()} == stamps

            studio = next(
                path.split("/")[1] for path in listed if path.startswith("studios/") and path != "studios/"
            )
            rename_studio(machine.store_index, studio, "Another name")
            await render(daemon)
            asked = {path.removeprefix("/showcase/") for path in application.asked}
            indexes = {"", "regions/", "studios/"}
            assert indexes | {f"studios/{studio}/"} <= asked
            others = {path for path in asked - indexes if studio not in path.split("/")}
            assert all(path.startswith("regions/") or path.rstrip("/").isdecimal() for path in others)
            assert len(asked) < 20


async def test_everything_renders_what_cannot_have_changed(tmp_path: Path) -> None:
    """On request all pages are rendered; only those that differ are written."""
    async with origin() as application:
        machine = machine_with(tmp_path, application.url)
        machine.put_index()
        async with machine.daemon() as daemon:
            await render(daemon)
            changed = public(machine) / "studios/index.html"
            stamps = {path: path.stat().st_mtime_ns for path in public(machine).rglob("*.html")}
            application.render = lambda path: "new" if path.endswith("/studios/") else f"<p>{path}</p>"
            said = await render(daemon, everything=True)
            assert said.total == len(pages(machine))
            assert changed.read_text() == "new"
            moved = [path for path, stamp in stamps.items() if path.stat().st_mtime_ns != stamp]
            assert moved == [changed]


async def test_a_page_that_fails_keeps_its_old_file(tmp_path: Path) -> None:
    """Anything but 200 leaves the page as it was, is told of, and is tried again with the next work."""
    async with origin() as application:
        machine = machine_with(tmp_path, application.url)
        machine.put_index()
        async with machine.daemon() as daemon:
            await render(daemon)
            application.broken = {"/showcase/regions/"}
            application.render = lambda path: f"<p>new {path}</p>"
            said = await render(daemon, everything=True)
            assert said.state == "failed"
            assert said.error is not None
            assert "the application answers 500" in said.error.message
            assert (public(machine) / "regions/index.html").read_text() == "<p>/showcase/regions/</p>"
            assert (public(machine) / "index.html").read_text() == "<p>new /showcase/</p>"


async def test_a_file_that_somebody_changed_is_rendered_again(tmp_path: Path) -> None:
    """What was written is remembered with its file: a changed or missing one is not taken for rendered."""
    async with origin() as application:
        machine = machine_with(tmp_path, application.url)
        machine.put_index()
        async with machine.daemon() as daemon:
            await render(daemon)
            (public(machine) / "index.html").write_text("spoiled")
            (public(machine) / "studios/index.html").unlink()
            application.asked.clear()
            await render(daemon)
            assert sorted(application.asked) == ["/showcase/", "/showcase/studios/"]
            assert (public(machine) / "index.html").read_text() == "<p>/showcase/</p>"


async def test_pages_that_no_longer_belong_are_removed_where_set(tmp_path: Path) -> None:
    """Only pages that were rendered here are removed, and only with `remove`."""
    async with origin() as application:
        machine = machine_with(tmp_path, application.url, remove=True)
        machine.put_index()
        async with machine.daemon() as daemon:
            await render(daemon)
            before = pages(machine)
            path = next(path for path in before if path.count("/") == 2 and path[0].isdigit())
            year, studio, _ = path.split("/")
            foreign = public(machine) / year / "by-hand.html"
            foreign.write_text("by hand")
            for line in machine.target("tenants.list").read_text().splitlines():
                stem = Path(line).stem
                if stem.startswith(f"{year}-{studio}-"):
                    remove_event(
                        machine.store_index, studio, int(year), stem.removeprefix(f"{year}-{studio}-")
                    )
            said = await render(daemon)
            assert "1 removed" in said.said
            assert not (public(machine) / before[path]).exists()
            assert foreign.exists()


async def test_documents_are_pages_too(tmp_path: Path) -> None:
    """Documents of the glob are rendered, an index as its folder, and again when the document changed."""
    async with origin() as application:
        machine = machine_with(tmp_path, application.url, docs="app/views/docs/**/*.md")
        docs = machine.application / "app/views/docs"
        (docs / "tasks").mkdir(parents=True)
        (docs / "index.md").write_text("# All")
        (docs / "tasks" / "heats.md").write_text("# Heats")
        machine.put_index()
        async with machine.daemon() as daemon:
            await render(daemon)
            assert (public(machine) / "docs/index.html").read_text() == "<p>/showcase/docs/</p>"
            assert (
                public(machine) / "docs/tasks/heats.html"
            ).read_text() == "<p>/showcase/docs/tasks/heats</p>"
            application.asked.clear()
            (docs / "tasks" / "heats.md").write_text("# Heats, anew")
            await render(daemon)
            assert application.asked == ["/showcase/docs/tasks/heats"]


async def test_the_command_runs_only_when_something_changed(tmp_path: Path) -> None:
    """The application's own renderer, behind all else, is left out while no page can have changed."""
    calls = tmp_path / "calls"
    script = (
        "import pathlib\n"
        f"open({str(calls)!r}, 'a').write('x')\n"
        "import os; idle = os.sched_getscheduler(0) == os.SCHED_IDLE\n"
        "print('rendering', 'at niceness', os.nice(0), 'idle' if idle else 'as others')\n"
        "for line in pathlib.Path('tmp/prerender.txt').read_text().splitlines():\n"
        "    file = pathlib.Path('public') / line.split(chr(9))[1]\n"
        "    file.parent.mkdir(parents=True, exist_ok=True)\n"
        "    file.write_text('page')\n"
    )
    machine = machine_with(tmp_path, "", renderer="command", command=[sys.executable, "-c", script])
    machine.extra["ready"]["nice"] = os.nice(0) + 7
    machine.put_index()
    async with machine.daemon() as daemon:
        first = await render(daemon)
        assert first.state == "done"
        assert f"rendering at niceness {os.nice(0) + 7} idle" in first.output
        assert (await render(daemon)).said == "no page can have changed"
        assert calls.read_text() == "x"
        await render(daemon, everything=True)
        assert calls.read_text() == "xx"


async def test_a_command_may_leave_equal_pages_alone(tmp_path: Path) -> None:
    """The application's own task writes only what differs: with everything as it was it has not failed."""
    script = (
        "import pathlib\n"
        "for line in pathlib.Path('tmp/prerender.txt').read_text().splitlines():\n"
        "    file = pathlib.Path('public') / line.split(chr(9))[1]\n"
        "    file.parent.mkdir(parents=True, exist_ok=True)\n"
        "    file.exists() or file.write_text('page')\n"
    )
    machine = machine_with(tmp_path, "", renderer="command", command=[sys.executable, "-c", script])
    machine.put_index()
    async with machine.daemon() as daemon:
        assert (await render(daemon)).state == "done"
        again = await render(daemon, everything=True)
        assert again.state == "done"
        assert again.said is not None
        assert again.said.startswith("0 pages rendered")


async def test_a_command_that_writes_nothing_has_failed(tmp_path: Path) -> None:
    """A script can hide how its renderer ended: without a page written nothing is remembered as rendered."""
    machine = machine_with(tmp_path, "", renderer="command", command=["sh", "-c", "echo no rake; true"])
    machine.put_index()
    async with machine.daemon() as daemon:
        for _ in range(2):
            said = await render(daemon)
            assert said.state == "failed"
            assert said.error is not None
            assert "wrote none of" in said.error.message
            assert "no rake" in said.output


async def test_a_command_that_fails_is_told_of(tmp_path: Path) -> None:
    """Its exit status and what it printed are kept."""
    script = "import sys; print('no such view'); sys.exit(3)"
    machine = machine_with(tmp_path, "", renderer="command", command=[sys.executable, "-c", script])
    machine.put_index()
    async with machine.daemon() as daemon:
        said = await render(daemon)
        assert said.state == "failed"
        assert said.error is not None
        assert "exit status 3" in said.error.message
        assert "no such view" in said.output

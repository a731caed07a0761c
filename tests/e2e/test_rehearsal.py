"""The way from the scripts to the sidecar and back, on one machine, with callers that never change.

The steps are those of docs/migration.md. The old way is played by files as it writes them, in its own
style, and by a CGI that only says its name; Navigator, daemon, store and administrator's machine are real.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from sidecar.cli.commands.compare import generated
from sidecar.inputs.store.transfer import format_age
from tests.conftest import Bucket
from tests.support.cgi import serving, sidecar
from tests.support.fleet import KEY, index
from tests.support.machine import SECRET, Machine
from tests.support.navigator import NavigatorProcess, free_port

USER = "user0003"
OLD_CGI = "#!/bin/sh\ncat > /dev/null\nprintf 'Content-Type: text/plain\\n\\nthe old way was here\\n'\n"


class Rehearsal:
    """A machine that serves an index, and those who change and call."""

    def __init__(self, folder: Path, bucket: Bucket) -> None:
        self.folder, self.bucket = folder, bucket
        self.port = free_port()
        self.navigator = NavigatorProcess(program=None)
        self.machine = Machine(
            folder / "machine",
            {
                **bucket.settings,
                "trigger": {"secret": "", "interval": "0s"},
                "navigator": {
                    "port": self.port,
                    "pid_file": str(folder / "machine" / "app" / f"navigator-{self.port}.pid"),
                    "reload_timeout": "10s",
                },
            },
        )
        self.index = folder / "admin" / "app" / "db" / "index.sqlite3"

    def edit(self, password: str) -> str:
        """Change a user's password where the index is edited; the index's SHA-256."""
        return index(self.index, password)

    def upload(self) -> None:
        """Step 1 of the script: the index with its age, and nothing else."""
        self.bucket.put(KEY, self.index.read_bytes(), format_age(self.index.stat().st_mtime))

    async def call(self) -> tuple[int, str]:
        """Step 3 of the script, to the letter: the index, gzipped, without any signature."""
        headers = {
            "Fly-Force-Instance-Id": "test-machine",
            "Content-Type": "application/vnd.sqlite3",
            "Content-Encoding": "gzip",
            "X-Update-Time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "Accept": "*/*",
            "User-Agent": "Ruby",
        }
        timeout = aiohttp.ClientTimeout(total=30)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            url = f"{self.navigator.url}/showcase/update_config"
            body = gzip.compress(self.index.read_bytes())
            async with session.post(url, data=body, headers=headers) as answer:
                return answer.status, await answer.text()

    async def write_as_before(self) -> None:
        """What the old way leaves: the same data in its own style, its CGI, no hooks, no projections."""
        own = await generated(self.machine.settings())
        data = {name: yaml.safe_load(own[name]) for name in ("map.yml", "showcases.yml", "navigator.yml")}
        for kind in ("regions", "studios"):
            for place in data["map.yml"][kind].values():
                for key in ("map", "x", "y"):
                    place.pop(key, None)
        server = data["navigator.yml"]["server"]
        script = self.machine.application / "old-cgi"
        script.write_text(OLD_CGI)
        script.chmod(0o755)
        path = "/showcase/update_config"
        server["cgi_scripts"] = [{"path": path, "script": str(script), "method": "POST"}]
        data["navigator.yml"]["hooks"] = {"server": {}, "tenant": {}}
        public = data["navigator.yml"]["auth"]["public_paths"]
        public[:] = [one for one in public if not one.endswith(("/index_update", "/update_status"))]
        for name, content in data.items():
            text = yaml.safe_dump(content, sort_keys=False, explicit_start=True, indent=4)
            self.machine.target(name).write_text(text)
        for name in ("htpasswd", "tenants.list"):
            lines = own[name].decode().splitlines()
            self.machine.target(name).write_text("\n".join(sorted(lines)))
        shutil.copy2(self.index, self.machine.target("index.sqlite3"))

    def keep(self) -> Path:
        """A copy of what lies there now."""
        kept = self.folder / "kept"
        for part in ("db", "config", "tmp"):
            shutil.copytree(self.machine.application / part, kept / part, dirs_exist_ok=True)
        return kept

    async def enters(self, password: str) -> bool:
        """Whether the user can sign in with a password."""
        login = {"Authorization": "Basic " + base64.b64encode(f"{USER}:{password}".encode()).decode()}
        async with (
            aiohttp.ClientSession(headers=login) as session,
            session.get(f"{self.navigator.url}/showcase/", allow_redirects=False) as answer,
        ):
            return answer.status not in (401, 503)

    @asynccontextmanager
    async def boots(self, config: str) -> AsyncIterator[None]:
        """Navigator, started on a configuration."""
        environ = {"SIDECAR_CONFIG": str(self.machine.write_settings())}
        await self.navigator.start_async(config, self.machine.application, **environ)
        try:
            yield
        finally:
            await self.navigator.stop_async()

    def admin(self) -> Machine:
        """The administrator's machine, on which nothing of the sidecar ran before."""
        fleet: dict[str, Any] = {
            "machines": [{"id": "test-machine", "url": self.navigator.url}],
            "before": [["sh", "-c", "echo Step 0: nothing to draw"]],
        }
        own = {"machine": {"id": "admin"}, "update": {"own_index": True}, "fleet": fleet}
        return Machine(self.folder / "admin", {**self.bucket.settings, **own})


async def test_there_and_back(tmp_path: Path, bucket: Bucket) -> None:
    """At each step the caller gets its 200, the change is in force, and the step can be taken back."""
    (tmp_path / "machine").mkdir()
    one = Rehearsal(tmp_path, bucket)
    machine = one.machine
    one.edit("first")
    one.upload()

    # The old way serves.
    await one.write_as_before()
    async with one.boots("config/navigator.yml"):
        assert await one.call() == (200, "the old way was here\n")
        assert await one.enters("first")

        # 1. Look only: nothing is written, and nothing differs but what is meant to.
        before = machine.targets()
        look = Machine(machine.folder, {**machine.extra, "paths": {"state": str(tmp_path / "look")}})
        looked = await sidecar(look, "compare", str(machine.application))
        assert looked.code == 0, looked.out + looked.err
        assert "5 files compared, 0 differences" in looked.out
        assert machine.targets() == before
        kept = one.keep()

        # 2. Let it publish: the unchanged caller has a new password in force.
        async with serving(machine):
            published = await sidecar(machine, "update", "--wait", "loaded")
            assert published.code == 0, published.out + published.err
            assert (await sidecar(machine, "compare", "--published", str(kept))).code == 0
            second = one.edit("second")
            one.upload()
            status, said = await one.call()
            assert status == 200, said
            await until_entered(one, "second")
            assert not await one.enters("first")
            assert digest(machine) == second

    # 3. Boot with it: the maintenance page goes by itself.
    async with serving(machine), one.boots("config/navigator-maintenance.yml"):
        await until_entered(one, "second")

    # 5. The secret: who does not sign is served as before.
    machine.extra["trigger"] = {"secret": SECRET, "interval": "0s"}
    async with serving(machine), one.boots("config/navigator-maintenance.yml"):
        await until_entered(one, "second")
        one.edit("third")
        one.upload()
        assert (await one.call())[0] == 200
        await until_entered(one, "third")

        # 6. The fleet update beside the script, and the script once more after it.
        admin = one.admin()
        one.edit("fourth")
        refused = await sidecar(admin, "fleet", "update")
        assert (refused.code, "--replace" in refused.err) == (1, True), refused.err
        done = await sidecar(admin, "fleet", "update", "--replace", "--progress", "json")
        assert done.code == 0, done.out + done.err
        report = json.loads(done.out.splitlines()[-1])["report"]
        assert (report["sha256"], report["machines"][0]["state"]) == (digest(machine), "loaded")
        assert await one.enters("fourth")
        one.upload()
        assert (await one.call())[0] == 200
        again = await sidecar(admin, "fleet", "update")
        assert again.code == 0, again.out + again.err
        assert "the store holds the local index already" in again.out
        assert again.out.count("✓ Success") == 1

        # The application's tools find the index's own time, and so move it neither way.
        stored = bucket.client.head_object(Bucket=bucket.name, Key=KEY)["Metadata"]["last-modified"]
        assert format_age(machine.target("index.sqlite3").stat().st_mtime)[:19] == stored[:19]

    # Going back: the old files, a reload, and the old way answers.
    await one.write_as_before()
    async with one.boots("config/navigator.yml"):
        assert await one.call() == (200, "the old way was here\n")
        assert await one.enters("fourth")
        back = await sidecar(look, "compare", str(machine.application))
        assert back.code == 0, back.out + back.err


async def until_entered(one: Rehearsal, password: str) -> None:
    """Wait until the user can sign in with a password."""
    async with asyncio.timeout(30):
        while not await one.enters(password):  # noqa: ASYNC110 - another process tells
            await asyncio.sleep(0.05)


def digest(machine: Machine) -> str:
    """The SHA-256 of the newest generation's index."""
    newest = max((machine.state / "generations").glob("[0-9]*"), key=lambda path: int(path.name))
    return hashlib.sha256((newest / "index.sqlite3").read_bytes()).hexdigest()

"""Renders the public pages ahead of time: by the application's own command, or by asking it over HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import aiohttp

from sidecar import __version__
from sidecar.config.settings import Settings
from sidecar.errors import CommandError, SidecarError
from sidecar.model.index import Page
from sidecar.ready.facts import GenerationData
from sidecar.ready.memory import FileMemory
from sidecar.ready.pages import Rendered, documentation, fingerprints, plan_pages
from sidecar.ready.report import StepReport
from sidecar.system.background import Background, each
from sidecar.system.commands import run_command
from sidecar.system.files import replace, signature_at

_MAX_PAGE_BYTES = 16 << 20
# What stands in the memory for the command, which renders all pages at once.
_ALL = "*"


class Prerender:
    """The pages of one machine's public folder."""

    def __init__(
        self,
        settings: Settings,
        memory: FileMemory[Rendered],
        background: Background,
        owner: tuple[int, int],
        extra: Callable[[], Awaitable[str]],
    ) -> None:
        """`extra` gives a digest of the extra files, which any page may show."""
        self._settings = settings.prerender
        self._application = Path(settings.paths.application)
        self._public = Path(settings.paths.public)
        self._mode = settings.files.mode
        self._owner = owner
        self._memory = memory
        self._background = background
        self._extra = extra

    async def render(self, facts: GenerationData, report: StepReport, *, everything: bool) -> str | None:
        """Bring the pages up to date, with `everything` also those that cannot have changed."""
        if self._settings.renderer == "none":
            return None
        documents = await self._background.run(self._documents)
        pages = (*facts.pages, *documentation(documents))
        digests = {
            page.file: documents[name]
            for name, page in zip(sorted(documents), documentation(documents), strict=True)
        }
        wanted = fingerprints(pages, facts.index, facts.programmes, facts.owned, digests)
        if extra := await self._extra():
            wanted = {file: f"{fingerprint} {extra}" for file, fingerprint in wanted.items()}
        if self._settings.renderer == "command":
            return await self._by_command(wanted, report, everything=everything)
        return await self._by_http(pages, wanted, report, everything=everything)

    def _documents(self) -> dict[str, str]:
        """The documents that the glob names: path from the folder above its fixed part -> digest."""
        pattern = Path(self._settings.docs)
        if not self._settings.docs:
            return {}
        fixed = [part for part in pattern.parts[:-1] if not set(part) & set("*?[")]
        above = self._application.joinpath(*fixed[: len(fixed)]).parent
        return {
            path.relative_to(above).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()[:32]
            for path in self._application.glob(self._settings.docs)
            if path.is_file()
        }

    # By command

    async def _by_command(self, wanted: Mapping[str, str], report: StepReport, *, everything: bool) -> str:
        fingerprint = hashlib.sha256(repr(sorted(wanted.items())).encode()).hexdigest()[:32]
        made = Rendered(fingerprint, "")
        missing = await self._background.run(self._missing, list(wanted))
        if not everything and not missing and self._memory.entries.get(_ALL) == made:
            return "no page can have changed"
        report.expect(1)
        report.begin(self._settings.command[0])
        before = await self._background.run(self._signatures, list(wanted))
        finished = await run_command(
            self._settings.command,
            self._application,
            self._settings.timeout,
            nice=self._background.nice,
            idle=self._background.nice > 0,
            tell=report.say,
        )
        if finished.status:
            raise CommandError(
                f"{self._settings.command[0]} ended with exit status {finished.status}",
                "its output says why; the pages in place stay",
            )
        after = await self._background.run(self._signatures, list(wanted))
        written = sum(after[file] is not None and after[file] != before[file] for file in wanted)
        if not written and not await self._background.run(self._are_there, list(wanted)):
            # A script can end well though what it started did not. To leave equal pages alone is right.
            raise CommandError(
                f"{self._settings.command[0]} ended well, and wrote none of {len(wanted)} pages",
                f"its output says why; may this user write to {self._public}?",
            )
        report.advance()
        self._memory.entries.clear()
        self._memory.entries[_ALL] = made
        await self._background.run(self._memory.save)
        left = f", {len(wanted) - written} it left as they were" if written < len(wanted) else ""
        return f"{written} pages rendered by {Path(self._settings.command[0]).name}{left}"

    def _are_there(self, files: Sequence[str]) -> bool:
        """Whether each page is there, and could have been written."""
        return all(os.access(self._public / file, os.W_OK) for file in files)

    def _missing(self, files: Sequence[str]) -> bool:
        return any(not (self._public / file).exists() for file in files)

    # Over HTTP

    async def _by_http(
        self, pages: Sequence[Page], wanted: Mapping[str, str], report: StepReport, *, everything: bool
    ) -> str:
        known = self._memory.entries
        present = await self._background.run(self._signatures, [*wanted, *known])
        todo = plan_pages(pages, wanted, known, present, everything=everything, remove=self._settings.remove)
        report.expect(len(todo.render) + len(todo.remove))
        written = 0
        timeout = aiohttp.ClientTimeout(total=self._settings.page_timeout)
        headers = {"User-Agent": f"sidecar/{__version__}", "Accept": "text/html"}

        async def render(page: Page) -> None:
            nonlocal written
            report.begin(page.path)
            try:
                body = await self._ask(session, page)
                changed, signature = await self._background.run(self._keep, page.file, body)
                written += changed
                known[page.file] = Rendered(wanted[page.file], signature)
            except SidecarError as error:
                report.fail(f"/{page.path.lstrip('/')}: {error.message}")
            report.advance()

        try:
            async with aiohttp.ClientSession(timeout=timeout, headers=headers) as session:
                await each(todo.render, self._settings.parallel, render)
            for file in todo.remove:
                report.begin(file)
                await self._background.run(self._remove, file)
                del known[file]
                report.advance()
        finally:
            await self._background.run(self._memory.save)
        rendered = len(todo.render) - len(report.failures)
        removed = f", {len(todo.remove)} removed" if todo.remove else ""
        return f"{rendered} rendered, {written} written, {todo.skipped} cannot have changed{removed}"

    async def _ask(self, session: aiohttp.ClientSession, page: Page) -> bytes:
        """The page as the application renders it now; any answer but 200 is an error."""
        url = f"{self._settings.origin.rstrip('/')}{self._settings.root}/{page.path.lstrip('/')}"
        try:
            async with session.get(url, allow_redirects=False) as answer:
                if answer.status != 200:
                    raise SidecarError(f"the application answers {answer.status}")
                body = bytearray()
                async for chunk in answer.content.iter_chunked(1 << 16):
                    body += chunk
                    if len(body) > _MAX_PAGE_BYTES:
                        raise SidecarError(f"the page is larger than {_MAX_PAGE_BYTES} bytes")
                return bytes(body)
        except TimeoutError:
            raise SidecarError(f"no whole answer within {self._settings.page_timeout:g} s") from None
        except (aiohttp.ClientError, OSError, asyncio.IncompleteReadError) as error:
            raise SidecarError(f"{url} cannot be fetched: {error}") from error

    def _signatures(self, files: Sequence[str]) -> dict[str, str | None]:
        return {file: signature_at(self._public / file) for file in files}

    def _keep(self, file: str, body: bytes) -> tuple[bool, str]:
        """Write a page where it differs; whether it did, and the file's signature."""
        target = self._public / file
        try:
            if not (target.is_file() and target.read_bytes() == body):
                target.parent.mkdir(parents=True, exist_ok=True)
                replace(target, body, mode=self._mode, owner=self._owner, synced=True)
                return True, signature_at(target) or ""
        except OSError as error:
            raise SidecarError(f"{target} cannot be written: {error.strerror}") from error
        return False, signature_at(target) or ""

    def _remove(self, file: str) -> None:
        (self._public / file).unlink(missing_ok=True)

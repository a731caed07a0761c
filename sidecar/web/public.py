"""The public trigger: what a stranger on the internet may ask for through Navigator's CGI.

The forwarder brings every such request to `/public` on the Unix socket. Unsigned, it can do one thing: ask
for a fetch of what the store holds already; a body that comes with it is not read. With a valid signature it
may bring the index along, or name the digest of the one that is expected. `<root>/update_status` tells anyone
this machine's state and digests.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import time
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import parse_qs

from aiohttp import web

from sidecar.config.settings import TriggerSettings
from sidecar.errors import BadRequest, NotFound, SidecarError, StoreError, TooLarge, Unauthorized
from sidecar.inputs.store.transfer import CHUNK_BYTES, IncomingFile
from sidecar.model import signing
from sidecar.model.machine_report import MachineReport
from sidecar.model.runs import Received, Request
from sidecar.update.lifecycle import Phase
from sidecar.update.reconciler import Reconciler
from sidecar.update.store_lag import submit
from sidecar.update.worker import Worker
from sidecar.web.access import on_unix_socket
from sidecar.web.answers import error_answer, json_answer, outcome_answer
from sidecar.web.signatures import UsedSignatures

logger = logging.getLogger(__name__)

_SHA256 = re.compile(r"[0-9a-f]{64}")
_GZIP = 16 + zlib.MAX_WBITS
LOOK = "Sidecar-Look"
"""The header by which a failed answer makes Navigator look all the same."""
_DEPRECATED = "index_update"
_STATUS = "update_status"
_IGNORED = "Sidecar-Body"
"""The header by which the forwarder tells of a body that it did not pass on."""
# A signed body comes within so many seconds: the forwarder waits a little longer for the answer.
_BODY_SECONDS = 100.0
# After a poke with an index that is not read, and nothing new in the store: when it is looked at again.
_LATER_SECONDS = (2.0, 8.0)


class PublicTrigger:
    """Handles `/public`."""

    def __init__(
        self,
        settings: TriggerSettings,
        machine: str,
        worker: Worker,
        reconciler: Reconciler,
        stands: Callable[[], Awaitable[bool]],
        used: UsedSignatures,
        folder: Path,
        served: Callable[[], MachineReport],
        patience: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`patience` is for how many seconds a poke waits for the store to serve what it expects."""
        self._settings = settings
        self._machine = machine
        self._worker = worker
        self._reconciler = reconciler
        self._stands = stands
        self._used = used
        self._folder = folder
        self._served = served
        self._patience = patience
        self._clock = clock
        self._secrets = [secret for secret in (settings.secret, settings.previous_secret) if secret]
        self._received = 0
        self._looking: asyncio.Task[None] | None = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One poke from outside, or a question how this machine is doing."""
        if not on_unix_socket(request):
            raise NotFound("there is nothing here")
        path = request.headers.get("Sidecar-Path", "")
        headers = {"Sidecar-Machine": self._machine}
        notice = ""
        if _asks_for(path, _DEPRECATED):
            headers["Deprecation"] = "true"
            notice = f"This path is deprecated: use update_config instead of {_DEPRECATED}.\n"
        try:
            if request.headers.get("Sidecar-Method") == "GET" and _asks_for(path, _STATUS):
                return json_answer(self._served(), headers={**headers, "Cache-Control": "no-store"})
            if request.headers.get("Sidecar-Method") != "POST":
                raise _MethodNotAllowed
            wanted = await self._decode(request, path)
            with self._reconciler.navigator_asks() as asking:
                answer = await self._answer(request, wanted, headers)
                asking.looks = answer.status < 300
                if not asking.looks and await self._brings_up():
                    # Navigator leaves its maintenance page for what is in place, whatever has failed.
                    asking.looks = True
                    answer.headers[LOOK] = "yes"
        except SidecarError as error:
            answer = error_answer(request, error, headers)
        if _is_unread(request):
            notice += "The body was not read, as it is not signed: what counts is what the store holds.\n"
        if notice and answer.content_type == "text/plain":
            answer.text = notice + (answer.text or "")
        # What the client still sends is not waited for.
        answer.force_close()
        return answer

    async def _answer(self, request: web.Request, wanted: Request, headers: dict[str, str]) -> web.Response:
        try:
            outcome = await submit(self._worker, wanted, self._patience)
        except SidecarError as error:
            return error_answer(request, error, headers)
        finally:
            if wanted.received is not None:
                wanted.received.path.unlink(missing_ok=True)
        if outcome.state == "unchanged" and _is_unread(request):
            self._look_again()
        shown = outcome.for_strangers() if wanted.public else outcome.without_names()
        return outcome_answer(request, shown, headers)

    def _look_again(self) -> None:
        """Whoever sends an index has stored it just now, and the store may serve it here a moment later."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_later())

    async def _look_later(self) -> None:
        for pause in _LATER_SECONDS:
            await asyncio.sleep(pause)
            try:
                outcome = await self._worker.submit(Request(trigger="timer", who="a look after a poke"))
            except SidecarError as error:
                logger.warning("the look after a poke was not made: %s", error)
                return
            if outcome.state != "unchanged":
                return

    async def _brings_up(self) -> bool:
        """Whether Navigator is on its maintenance page, and a set that it can serve is in place."""
        return self._reconciler.state.phase is Phase.BOOTING and await self._stands()

    async def _decode(self, request: web.Request, path: str) -> Request:
        address = request.headers.get("Sidecar-Remote", "").rpartition(":")[0].strip("[]") or "unknown"
        expect = parse_qs(path.partition("?")[2]).get("sha256", [None])[0]
        if signing.SIGNATURE not in request.headers:
            if expect is not None:
                raise Unauthorized(
                    "a poke with an expected digest must be signed", "see `sidecar sign --help`"
                )
            return Request(trigger="cgi", who=address, public=True)
        poke = signing.Poke(
            "POST",
            path,
            request.headers.get(signing.TIMESTAMP, ""),
            request.headers.get(signing.MACHINE, ""),
            request.headers.get(signing.DIGEST, ""),
        )
        signature = request.headers[signing.SIGNATURE]
        now = self._clock()
        key = signing.verify(poke, signature, self._secrets, self._machine, now, self._settings.window)
        # A disk may take long to say that it has it.
        await asyncio.to_thread(self._used.use, signature, now)
        if expect is not None and not _SHA256.fullmatch(expect := expect.lower()):
            raise BadRequest(
                "the expected digest is not a SHA-256: 64 hexadecimal digits", "see `sidecar sign --help`"
            )
        received = await self._receive(request, poke.digest)
        who = f"{address}, key {key}"
        if received is None:
            return Request(trigger="cgi", who=who, expect=expect)
        if expect is not None and expect != received.sha256:
            received.path.unlink(missing_ok=True)
            raise BadRequest("the body is not the index whose digest the path names", "sign both together")
        return Request(trigger="cgi", who=who, received=received)

    async def _receive(self, request: web.Request, promised: str) -> Received | None:
        """The body in a file, inflated; None when there is none. Bounded before and after inflation."""
        encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("gzip", "identity"):
            raise _Encoding
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise _NotKept(
                f"{self._folder} cannot be made: {error.strerror}", "check its owner and mode"
            ) from error
        self._received += 1
        path = self._folder / f"index-{self._received}"
        try:
            with IncomingFile(path, int(self._settings.max_inflated)) as file:
                body = _Body(file, self._settings, gzipped=encoding == "gzip")
                async with asyncio.timeout(_BODY_SECONDS):
                    async for chunk in request.content.iter_chunked(CHUNK_BYTES):
                        # A small chunk can inflate to a thousand times its size.
                        await asyncio.to_thread(body.write, chunk)
                is_there = body.finish(promised)
        except TimeoutError:
            path.unlink(missing_ok=True)
            raise _Slow from None
        except StoreError as error:  # this machine's own disk
            path.unlink(missing_ok=True)
            raise _NotKept(error.message, error.hint) from error
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        if not is_there:
            path.unlink(missing_ok=True)
            return None
        return Received(path, file.sha256, file.md5, file.size)


def discard_received(folder: Path) -> None:
    """Remove the bodies that a daemon which was killed has left in its folder."""
    try:
        for path in folder.glob("index-*"):
            path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("what was received before the start cannot be removed from %s: %s", folder, error)


def _is_unread(request: web.Request) -> bool:
    """Whether somebody sent a body without a signature, which counts for nothing."""
    has_body = _IGNORED in request.headers or request.can_read_body
    return has_body and signing.SIGNATURE not in request.headers


def _asks_for(path: str, name: str) -> bool:
    return path.partition("?")[0].endswith(f"/{name}")


class _MethodNotAllowed(SidecarError):
    code = "method_not_allowed"
    status = 405

    def __init__(self) -> None:
        super().__init__("only POST is understood here", "send a POST request")


class _Encoding(SidecarError):
    code = "encoding"
    status = 415

    def __init__(self) -> None:
        super().__init__(
            "the body's encoding is not understood", "send it as it is, or with Content-Encoding: gzip"
        )


class _Slow(SidecarError):
    code = "slow"
    status = 408

    def __init__(self) -> None:
        super().__init__(
            f"the body did not come within {_BODY_SECONDS:g} s", "send it faster, or let the store bring it"
        )


class _NotKept(SidecarError):
    code = "disk"
    status = 507


class _Body:
    """A body on its way into a file."""

    def __init__(self, file: IncomingFile, limits: TriggerSettings, *, gzipped: bool) -> None:
        self._file = file
        self._limits = limits
        self._inflater = zlib.decompressobj(_GZIP) if gzipped else None
        self._sent = hashlib.sha256()
        self._received = 0

    def write(self, chunk: bytes) -> None:
        """Take what was sent next."""
        self._received += len(chunk)
        if self._received > self._limits.max_body:
            raise TooLarge(
                f"the body is larger than {int(self._limits.max_body)} bytes", "raise trigger.max_body"
            )
        self._sent.update(chunk)
        if self._inflater is None:
            self._keep(chunk)
            return
        while chunk:
            if self._inflater.eof:
                raise BadRequest(
                    "there is something behind the gzipped body", "send one gzip stream", code="gzip"
                )
            try:
                # A bounded piece at a time: a small chunk can inflate to a thousand times its size.
                self._keep(self._inflater.decompress(chunk, CHUNK_BYTES * 16))
            except zlib.error as error:
                raise BadRequest(f"the body is not gzip: {error}", "compress it again", code="gzip") from None
            chunk = self._inflater.unused_data if self._inflater.eof else self._inflater.unconsumed_tail

    def _keep(self, data: bytes) -> None:
        if self._file.size + len(data) > self._limits.max_inflated:
            raise TooLarge(
                f"the body inflates to more than {int(self._limits.max_inflated)} bytes",
                "raise trigger.max_inflated",
            )
        self._file.write(data)

    def finish(self, promised: str) -> bool:
        """Whether there was one, and it is whole; `promised` is the signed SHA-256 of what was sent."""
        if self._sent.hexdigest() != promised:
            raise Unauthorized(
                "the body is not the one that was signed", "send it whole and unchanged", code="body"
            )
        if not self._received:
            return False
        if self._inflater is not None and not self._inflater.eof:
            raise BadRequest("the gzipped body breaks off", "send it whole", code="gzip")
        return True

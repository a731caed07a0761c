"""What every command of the fleet stands on: its machines, the store, and what is remembered there."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from sidecar.config.settings import FleetSettings, Settings
from sidecar.errors import SettingsError
from sidecar.fleet.bus import BusMachineClient, announcing
from sidecar.fleet.discovery import Discovery
from sidecar.fleet.index_history_writer import IndexHistoryWriter
from sidecar.fleet.machine_client import HttpMachineClient, PokePayload
from sidecar.fleet.machine_updates import MachineClient, MachineUpdates, ProgressListener
from sidecar.fleet.nats_link import BusError
from sidecar.fleet.store_records import StoreRecords
from sidecar.fleet.upload import Uploader, UploadMemory
from sidecar.inputs.store import Store, open_store


@dataclass(frozen=True, slots=True)
class Context:
    """Everything that one command needs; `folder` is its own, and gone afterwards."""

    settings: Settings
    discovery: Discovery
    store: Store
    session: aiohttp.ClientSession
    folder: Path
    records: StoreRecords
    memory: UploadMemory
    uploader: Uploader
    history: IndexHistoryWriter

    def client(self, *, signed: bool = True) -> HttpMachineClient:
        """Speaks with machines; without a signature it can only ask."""
        secret = str.__str__(self.settings.trigger.secret) if signed else ""
        return HttpMachineClient(self.settings.fleet, secret, self.session)

    def updates(
        self,
        payload: PokePayload,
        listener: ProgressListener,
        *,
        ready: bool = False,
        limits: FleetSettings | None = None,
        client: MachineClient | None = None,
    ) -> MachineUpdates:
        """All machines on their way to an index."""
        fleet = limits or self.settings.fleet
        return MachineUpdates(
            fleet, client or self.client(), self.discovery.stopped, payload, listener, ready=ready
        )

    @asynccontextmanager
    async def announced(
        self, sha256: str, listener: ProgressListener, *, ready: bool = False
    ) -> AsyncIterator[MachineClient]:
        """Tell the bus, where there is one, that all machines shall load what the store holds.

        Gives how to speak with them: those that follow the hint need no poke.
        """
        async with AsyncExitStack() as stack:
            client: MachineClient = self.client()
            if self.settings.fleet.bus:
                try:
                    announcement = await stack.enter_async_context(announcing(self.settings))
                    await announcement.publish(sha256)
                    listener.say(f"told the bus; {len(announcement.statements)} machines are on it")
                    client = BusMachineClient(announcement, self.client(), ready=ready)
                except BusError as error:
                    listener.say(f"{error.message}: the machines are poked without it")
            yield client


@asynccontextmanager
async def open_context(
    settings: Settings, store: Store | None, listener: ProgressListener
) -> AsyncIterator[Context]:
    """Open all of it; `store` is one that is open already."""
    connector = aiohttp.TCPConnector(limit=settings.fleet.parallel)
    with tempfile.TemporaryDirectory(prefix="sidecar-fleet-") as name:
        async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
            folder, discovery = Path(name), Discovery(settings, session, listener.say)
            if store is not None:
                yield _context(settings, discovery, store, session, folder)
                return
            store = open_store(settings, lambda *_: None)
            await store.startup()
            try:
                yield _context(settings, discovery, store, session, folder)
            finally:
                await store.shutdown()


def _context(
    settings: Settings, discovery: Discovery, store: Store, session: aiohttp.ClientSession, folder: Path
) -> Context:
    key = settings.index_key
    records, memory = StoreRecords(store, key, folder), UploadMemory(Path(settings.paths.state))
    return Context(
        settings,
        discovery,
        store,
        session,
        folder,
        records,
        memory,
        Uploader(store, key, memory, folder, settings.fetch, records),
        IndexHistoryWriter(records, store, key, settings.paths, folder),
    )


def require_secret(settings: Settings) -> None:
    """`SettingsError` where no poke can be signed."""
    if not settings.trigger.secret:
        raise SettingsError(
            "trigger.secret is not set: the machines take signed pokes only",
            "set it, or SIDECAR_TRIGGER_SECRET, to the fleet's secret",
        )

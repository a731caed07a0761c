"""The Prometheus metrics. Label sets are made up front, so that a rate sees the first event too."""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable
from functools import partial

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sidecar import __version__
from sidecar.fleet.report import FleetOverview, FleetState, MachineRow
from sidecar.fleet.service import FLEET_ENDINGS
from sidecar.model.events import LifecycleEvent, Loaded, NotLoaded
from sidecar.model.runs import TRIGGERS, Outcome
from sidecar.model.states import HEALTH, SYNC, Health, Sync
from sidecar.model.work import STEPS as READY_STEPS
from sidecar.model.work import Work

STAGES = ("fetch", "read", "generate", "check", "check_command", "databases", "publish")
OUTCOMES = ("published", "unchanged", "rejected", "refused", "failed")
ROLLBACKS = ("died", "not_loaded", "probe", "requested")
HINTS = ("followed", "failed", "old", "forged")
_REJECTIONS = (
    "duplicate",
    "expression",
    "htpasswd",
    "loss",
    "not_sqlite",
    "rejected",
    "schema",
    "unsound",
    "value",
    "veto",
)
_STORE_OPERATIONS = ("get", "head", "list", "put", "remove")
_STORE_OUTCOMES = (
    "ok",
    "changed",
    "not_modified",
    "denied",
    "disk",
    "missing",
    "torn",
    "timeout",
    "unreachable",
    "failed",
    "too_large",
    "error",
)
READY_OUTCOMES = ("done", "skipped", "failed")
_READY_BUCKETS_SECONDS = (0.01, 0.05, 0.2, 1, 5, 15, 60, 300, 900, 1800)
_BUCKETS_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120)


FLEET_SYNC = ("synced", "behind", "no_answer")
FLEET_HEALTH = (*HEALTH, "no_answer")


class FleetMetrics(Collector):
    """What this daemon has seen of its fleet. Of what it has not looked at there is no series."""

    def __init__(self) -> None:
        self.overview: Callable[[], FleetOverview | None] = lambda: None
        self.ended: Callable[[], FleetState | None] = lambda: None

    def describe(self) -> Iterable[Metric]:
        """The metrics without their series."""
        return self._families(None, None)

    def collect(self) -> Iterable[Metric]:
        """The metrics of what was seen last."""
        return self._families(self.overview(), self.ended())

    def _families(self, overview: FleetOverview | None, ended: FleetState | None) -> Iterable[Metric]:
        machines = GaugeMetricFamily(
            "sidecar_fleet_machines",
            "Active machines of the fleet when it was looked at last, by what they served of the newest "
            "index and by their health.",
            labels=["sync", "health"],
        )
        if overview is not None:
            tally = Tally(map(_seen, overview.machines))
            for sync in FLEET_SYNC:
                for health in FLEET_HEALTH:
                    if (sync == "no_answer") == (health == "no_answer"):
                        machines.add_metric([sync, health], tally[sync, health])
        yield machines
        lag = max((row.behind or 0.0 for row in overview.machines), default=0.0) if overview else 0.0
        modified = overview.modified if overview else None
        yield _gauge(
            "looked_timestamp_seconds", "When the fleet was looked at.", overview.at if overview else None
        )
        yield _gauge("store_index_timestamp_seconds", "How old the store's index was then.", modified)
        yield _gauge(
            "oldest_index_timestamp_seconds",
            "How old the oldest index was then that a machine served.",
            modified - lag if modified is not None else None,
        )
        yield _gauge(
            "update_good",
            "1 when the last update of the fleet reached all machines that it had to, else 0.",
            float(ended.state == "done") if ended else None,
        )
        seconds = ended.seconds if ended else None
        yield _gauge("update_seconds", "How long the last update of the fleet took.", seconds)
        yield _gauge(
            "update_started_timestamp_seconds",
            "When the last update of the fleet began.",
            ended.started if ended else None,
        )


def _gauge(name: str, about: str, value: float | None) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"sidecar_fleet_{name}", about)
    if value is not None:
        family.add_metric([], value)
    return family


def _seen(row: MachineRow) -> tuple[str, str]:
    """What one machine counts as: sync, health."""
    if row.health is None:
        return "no_answer", "no_answer"
    return "behind" if row.state == "behind" else "synced", row.health


class Metrics:
    """All metrics of one daemon, in a registry of their own."""

    def __init__(self, machine: str, region: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter that nobody asks for
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        build = Gauge(
            "sidecar_build_info",
            "Always 1; the labels tell what runs.",
            ["version", "machine", "region"],
            registry=registry,
        )
        build.labels(__version__, machine, region).set(1)
        self._updates = Counter(
            "sidecar_updates",
            "Updates that ended, by trigger and outcome.",
            ["trigger", "outcome"],
            registry=registry,
        )
        self._update_seconds = Histogram(
            "sidecar_update_seconds",
            "Duration of whole updates.",
            buckets=_BUCKETS_SECONDS,
            registry=registry,
        )
        self._stage_seconds = Histogram(
            "sidecar_stage_seconds",
            "Duration of an update's stages.",
            ["stage"],
            buckets=_BUCKETS_SECONDS,
            registry=registry,
        )
        self._rejected = Counter(
            "sidecar_rejected", "Indexes that were refused, by reason.", ["reason"], registry=registry
        )
        self._success = Gauge(
            "sidecar_last_success_timestamp_seconds",
            "When a stage last succeeded.",
            ["stage"],
            registry=registry,
        )
        self._generation = Gauge(
            "sidecar_generation",
            "Number of the generation in a state; 0 before the first.",
            ["state"],
            registry=registry,
        )
        self._in_sync = Gauge(
            "sidecar_in_sync",
            "1 when the store's index is published and the living web server serves it, else 0.",
            registry=registry,
        )
        self._sync = Gauge(
            "sidecar_sync",
            "1 for the word that holds of the store's index against what is published, 0 for the others.",
            ["state"],
            registry=registry,
        )
        self._health = Gauge(
            "sidecar_health",
            "1 for the word that holds of what the living web server serves, 0 for the others.",
            ["state"],
            registry=registry,
        )
        self._store_requests = Counter(
            "sidecar_store_requests",
            "Requests to the object store.",
            ["operation", "outcome"],
            registry=registry,
        )
        self._store_seconds = Histogram(
            "sidecar_store_request_seconds",
            "Duration of requests to the object store.",
            ["operation"],
            buckets=_BUCKETS_SECONDS,
            registry=registry,
        )
        self._reload_seconds = Histogram(
            "sidecar_reload_seconds",
            "From a generation's publication to its load by the web server.",
            buckets=_BUCKETS_SECONDS,
            registry=registry,
        )
        self._rollbacks = Counter(
            "sidecar_rollbacks", "Generations that were taken back, by reason.", ["reason"], registry=registry
        )
        self._ready_seconds = Histogram(
            "sidecar_ready_seconds",
            "Duration of the ready work's steps.",
            ["step", "outcome"],
            buckets=_READY_BUCKETS_SECONDS,
            registry=registry,
        )
        self._ready_running = Gauge(
            "sidecar_ready_running", "1 while the ready work is under way, else 0.", registry=registry
        )
        self._ready_started = Gauge(
            "sidecar_ready_started_timestamp_seconds",
            "When the ready work under way began; 0 while there is none.",
            registry=registry,
        )
        self._navigator_up = Gauge(
            "sidecar_navigator_up", "1 while the web server's process is there, else 0.", registry=registry
        )
        self._bus = Gauge(
            "sidecar_bus_connected",
            "1 while the bus is connected, 0 while it is not or there is none.",
            registry=registry,
        )
        self._hints = Counter(
            "sidecar_bus_hints", "Hints that came by the bus, by outcome.", ["outcome"], registry=registry
        )
        self._skipped = Gauge(
            "sidecar_htpasswd_rows_skipped",
            "Rows of users left out of htpasswd in the last update.",
            registry=registry,
        )
        self._tenants = Gauge(
            "sidecar_tenants", "Tenants in the last set that was generated.", registry=registry
        )
        self._fleet_updates = Counter(
            "sidecar_fleet_updates",
            "Updates of all machines that this one drove, and rollbacks, by their end.",
            ["outcome"],
            registry=registry,
        )
        for ending in FLEET_ENDINGS:
            self._fleet_updates.labels(ending)
        self._users = Gauge("sidecar_users", "Users in the set that is published.", registry=registry)
        self._index_modified = Gauge(
            "sidecar_index_modified_timestamp_seconds",
            "How old the index is that the published set was made of; 0 before the first.",
            registry=registry,
        )
        self._drifted = Gauge(
            "sidecar_drifted_files",
            "Published files that somebody else has changed since.",
            registry=registry,
        )
        self.fleet = FleetMetrics()
        registry.register(self.fleet)
        for sync in SYNC:
            self._sync.labels(sync)
        for health in HEALTH:
            self._health.labels(health)
        for trigger in TRIGGERS:
            for outcome in OUTCOMES:
                self._updates.labels(trigger, outcome)
        for stage in STAGES:
            self._stage_seconds.labels(stage)
        for step in READY_STEPS:
            for outcome in READY_OUTCOMES:
                self._ready_seconds.labels(step, outcome)
        for state in ("current", "loaded", "ready"):
            self._generation.labels(state)
        for hinted in HINTS:
            self._hints.labels(hinted)
        for reason in ROLLBACKS:
            self._rollbacks.labels(reason)
        for reason in _REJECTIONS:
            self._rejected.labels(reason)
        for operation in _STORE_OPERATIONS:
            for outcome in _STORE_OUTCOMES:
                self._store_requests.labels(operation, outcome)
            self._store_seconds.labels(operation)
        for word in SYNC:
            self._sync.labels(word)
        for one in HEALTH:
            self._health.labels(one)

    def count_update(self, outcome: Outcome, tenants: int, skipped: int) -> None:
        """Take an update's outcome into account; previews are not updates."""
        for stage, seconds in outcome.stages.items():
            self._stage_seconds.labels(stage).observe(seconds)
        if outcome.is_preview:
            return
        ended = "refused" if outcome.refused else outcome.state
        self._updates.labels(outcome.trigger if outcome.trigger in TRIGGERS else "http", ended).inc()
        self._update_seconds.observe(outcome.seconds)
        if outcome.state == "rejected" and outcome.error is not None:
            self._rejected.labels(outcome.error.code).inc()
        if outcome.good:
            now = outcome.started + outcome.seconds
            for stage in (*outcome.stages, "update"):
                self._success.labels(stage).set(now)
            self._tenants.set(tenants)
            self._skipped.set(skipped)
        self.set_generation("current", outcome.generation)

    def on_event(self, event: LifecycleEvent) -> None:
        """Count loads, and generations that are taken back."""
        if isinstance(event, Loaded):
            if event.seconds is not None:
                self._reload_seconds.observe(event.seconds)
            self._success.labels("load").set(time.time())
        elif isinstance(event, NotLoaded) and event.goes_back is not None:
            self.count_rollback(event.reason)

    def count_rollback(self, reason: str) -> None:
        """Take a rollback into account."""
        self._rollbacks.labels(reason).inc()

    def count_fleet(self, ending: str) -> None:
        """Take the end of a fleet update into account."""
        self._fleet_updates.labels(ending).inc()

    def follow_state(self, sync: Callable[[], Sync], health: Callable[[], Health]) -> None:
        """Ask at each scrape how the machine is doing."""
        for word in SYNC:
            self._sync.labels(word).set_function(partial(_is, sync, word))
        for one in HEALTH:
            self._health.labels(one).set_function(partial(_is, health, one))
        self._in_sync.set_function(lambda: _is(sync, "synced") * _is(health, "healthy"))

    def follow_published(
        self, users: Callable[[], int], modified: Callable[[], float], drifted: Callable[[], int]
    ) -> None:
        """Ask at each scrape what is published: users, the index's age since 1970, files changed since."""
        self._users.set_function(users)
        self._index_modified.set_function(modified)
        self._drifted.set_function(drifted)

    def follow_loaded(self, number: Callable[[], int | None]) -> None:
        """Ask at each scrape which generation the living web server serves."""
        self._generation.labels("loaded").set_function(lambda: number() or 0)

    def follow_ready(self, started: Callable[[], float]) -> None:
        """Ask at each scrape since when the ready work is under way; 0 says that it is not."""
        self._ready_running.set_function(lambda: started() > 0)
        self._ready_started.set_function(started)

    def count_ready(self, work: Work) -> None:
        """Take the end of the ready work into account."""
        for step in work.steps:
            self._ready_seconds.labels(step.name, step.state).observe(step.seconds)
        if work.good:
            self._success.labels("ready").set(time.time())

    def follow_navigator(self, is_up: Callable[[], bool]) -> None:
        """Ask at each scrape whether the web server is there."""
        self._navigator_up.set_function(is_up)

    def follow_bus(self, is_connected: Callable[[], bool]) -> None:
        """Ask at each scrape whether the bus is there."""
        self._bus.set_function(is_connected)

    def count_hint(self, outcome: str) -> None:
        """Take what became of a hint into account: one of `HINTS`."""
        self._hints.labels(outcome).inc()

    def set_generation(self, state: str, number: int | None) -> None:
        """Note which generation is in a state."""
        self._generation.labels(state).set(number or 0)

    def observe_store(self, operation: str, outcome: str, seconds: float) -> None:
        """Take a request to the store into account."""
        self._store_requests.labels(operation, outcome if outcome in _STORE_OUTCOMES else "error").inc()
        self._store_seconds.labels(operation).observe(seconds)


def _is(state: Callable[[], Sync | Health], word: str) -> float:
    return float(state().state == word)

"""The rules between *published* and *loaded*: the table by cases, and invariants over random histories."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sidecar.errors import Rejected
from sidecar.model.navigator import Process
from sidecar.update.lifecycle import (
    HOLD_SECONDS,
    Action,
    Facts,
    LoadState,
    Phase,
    Published,
    deadline,
    holds,
    transition,
)
from sidecar.update.rejections import Rejections

LIMIT = 35.0
HERE = Process(7, 700, "boot", "config/navigator.yml")
AT_BOOT = Process(8, 800, "boot", "config/navigator-maintenance.yml")
NEW = Published(2, "new", at=100.0)


def facts(**changes: Any) -> Facts:
    """Navigator serves the set before; the new one was published at 100 s."""
    usual = Facts(process=HERE, answers=True, published=NEW, served="old", probe=True, fallback=1)
    return replace(usual, **changes)


def booting(**changes: Any) -> Facts:
    return facts(process=AT_BOOT, on_maintenance=True, served=None, **changes)


def state(phase: Phase, process: Process | None = HERE, **changes: Any) -> LoadState:
    """What holds since 100 s."""
    return replace(LoadState(phase, process, 2, since=100.0), **changes)


CASES: list[tuple[str, LoadState, Facts, float, Phase, Action | None]] = [
    ("nothing is published", LoadState(), facts(published=None), 101, Phase.LOADING, None),
    # waiting
    ("no Navigator", LoadState(), facts(process=None, served=None), 101, Phase.WAITING, None),
    (
        "nothing starts with a set that was never served",
        *(state(Phase.WAITING, None), facts(process=None, served=None), 135, Phase.WAITING, Action.ROLL_BACK),
    ),
    (
        "a set that was served before waits for ever",
        *(state(Phase.WAITING, None), facts(process=None, published=replace(NEW, proven=True)), 9999),
        *(Phase.WAITING, None),
    ),
    (
        "without an older set there is nothing to go back to",
        *(state(Phase.WAITING, None), facts(process=None, fallback=None), 9999, Phase.WAITING, None),
    ),
    (
        "it dies at each start",
        *(LoadState(), facts(process=None, served=None, starts=3), 101, Phase.WAITING, Action.ROLL_BACK),
    ),
    (
        "dying on the maintenance page is not the set's fault",
        *(LoadState(), booting(starts=3), 101, Phase.BOOTING, None),
    ),
    # booting
    ("its hook waits", state(Phase.BOOTING, AT_BOOT), booting(asking=1), 120, Phase.BOOTING, None),
    ("its hook may still come", LoadState(), booting(), 101, Phase.BOOTING, None),
    ("its hook has not come", state(Phase.BOOTING, AT_BOOT), booting(), 102, Phase.BOOTING, Action.LOOK),
    (
        "its hook has just been answered",
        *(state(Phase.BOOTING, AT_BOOT), booting(let_go=109.0), 110, Phase.BOOTING, None),
    ),
    (
        "its hook was answered in vain",
        *(state(Phase.BOOTING, AT_BOOT), booting(let_go=103.0), 105, Phase.BOOTING, Action.LOOK),
    ),
    (
        "its port does not answer yet",
        *(state(Phase.BOOTING, AT_BOOT), booting(answers=False), 120, Phase.BOOTING, None),
    ),
    (
        "a look had no effect within ten seconds",
        *(state(Phase.BOOTING, AT_BOOT, looked=100.0, acts=4, acted=109.0), booting(), 110),
        *(Phase.BOOTING, Action.ROLL_BACK),
    ),
    (
        "a look may still have its effect",
        *(state(Phase.BOOTING, AT_BOOT, looked=100.0, acts=4, acted=109.0), booting(), 109.9),
        *(Phase.BOOTING, None),
    ),
    (
        "without a look nothing is known of the set",
        *(state(Phase.BOOTING, AT_BOOT, acts=1, acted=999.0), booting(), 1000, Phase.BOOTING, None),
    ),
    # foreign
    ("it has just started", LoadState(), facts(served=None), 101, Phase.FOREIGN, None),
    ("it is taken over", state(Phase.FOREIGN), facts(served=None), 102, Phase.FOREIGN, Action.SIGNAL),
    (
        "a signal would end it",
        *(state(Phase.FOREIGN), facts(served=None, answers=False), 102, Phase.FOREIGN, None),
    ),
    (
        "it is never rolled back",
        *(state(Phase.FOREIGN, acts=9, acted=100.0), facts(served=None), 9999),
        *(Phase.FOREIGN, Action.SIGNAL),
    ),
    # loading
    (
        "the set it serves was published anew, after another one",
        *(state(Phase.LOADING), facts(served="new", is_shown=False), 101, Phase.LOADING, Action.SIGNAL),
    ),
    ("nobody else makes it look", LoadState(), facts(), 100, Phase.LOADING, Action.SIGNAL),
    ("a CGI is being answered", LoadState(), facts(asking=1), 100, Phase.LOADING, None),
    ("a CGI was just answered", LoadState(), facts(let_go=100.1), 101, Phase.LOADING, None),
    ("a CGI's look did not come", LoadState(), facts(let_go=100.1), 102.2, Phase.LOADING, Action.SIGNAL),
    ("an earlier CGI says nothing", LoadState(), facts(let_go=99.9), 100, Phase.LOADING, Action.SIGNAL),
    (
        "the load gets its time",
        *(state(Phase.LOADING, acts=1, acted=100.0), facts(), 134, Phase.LOADING, None),
    ),
    (
        "the load is overdue",
        *(state(Phase.LOADING, acts=1, acted=100.0), facts(), 135, Phase.OVERDUE, Action.SIGNAL),
    ),
    (
        "overdue, it gets its time again",
        *(state(Phase.OVERDUE, acts=2, acted=135.0), facts(), 169, Phase.OVERDUE, None),
    ),
    (
        "then it goes back",
        *(state(Phase.OVERDUE, acts=2, acted=135.0), facts(), 170, Phase.OVERDUE, Action.ROLL_BACK),
    ),
    (
        "the way back is under way",
        *(state(Phase.OVERDUE, acts=-1, acted=170.0), facts(), 171, Phase.OVERDUE, None),
    ),
    (
        "nothing to go back to",
        *(state(Phase.OVERDUE, acts=2, acted=135.0), facts(fallback=None), 170),
        *(Phase.OVERDUE, Action.GIVE_UP),
    ),
    (
        "what was restored does not go back further",
        *(state(Phase.OVERDUE, acts=2, acted=135.0), facts(published=replace(NEW, restored=True)), 170),
        *(Phase.OVERDUE, Action.GIVE_UP),
    ),
    # probing and loaded
    ("it serves the set", LoadState(), facts(served="new"), 100, Phase.LOADED, Action.RECORD),
    ("the probes are made", LoadState(), facts(served="new", probe=None), 100, Phase.PROBING, Action.PROBE),
    (
        "the probes are under way",
        *(state(Phase.PROBING, acts=1, acted=100.0), facts(served="new", probe=None), 101),
        *(Phase.PROBING, None),
    ),
    (
        "one failed probe is tried again",
        *(state(Phase.PROBING, acts=1, acted=100.0), facts(served="new", probe=False), 101),
        *(Phase.PROBING, Action.PROBE),
    ),
    (
        "probes that fail until the limit",
        *(state(Phase.PROBING, acts=9, acted=134.0), facts(served="new", probe=False), 135),
        *(Phase.PROBING, Action.ROLL_BACK),
    ),
    (
        "loaded, there is nothing to do",
        *(state(Phase.LOADED, recorded=True), facts(served="new"), 9999, Phase.LOADED, None),
    ),
    (
        "what was taken back is tried again",
        *(state(Phase.LOADED, recorded=True, acted=100.0), facts(served="new", retry=True), 103),
        *(Phase.LOADED, Action.RETRY),
    ),
]


@pytest.mark.parametrize(
    ("before", "found", "now", "phase", "action"),
    [case[1:] for case in CASES],
    ids=[case[0] for case in CASES],
)
def test_each_row_of_the_table(
    before: LoadState, found: Facts, now: float, phase: Phase, action: Action | None
) -> None:
    """Each situation has one phase and one answer."""
    after, done = transition(before, found, now, LIMIT)
    assert (after.phase, done) == (phase, action)


def test_after_a_way_back_that_never_came_it_is_signalled_once() -> None:
    """Its time is over, and a Navigator that answers is told to look: not twice in the same moment."""
    now, before = 100.0 + LIMIT, LoadState(Phase.FOREIGN, HERE, 2, since=0.0, acts=-1, acted=100.0)
    found = facts(process=HERE, answers=True, served=None, on_maintenance=False)
    after, action = transition(before, found, now, LIMIT)
    assert action is Action.SIGNAL
    assert transition(after, found, now, LIMIT)[1] is None


PROCESSES = st.sampled_from([None, HERE, AT_BOOT])
FACTS = st.builds(
    Facts,
    process=PROCESSES,
    on_maintenance=st.booleans(),
    answers=st.booleans(),
    published=st.none() | st.builds(
        Published,
        generation=st.integers(1, 3),
        fingerprint=st.sampled_from(["old", "new"]),
        at=st.floats(0, 200),
        proven=st.booleans(),
        restored=st.booleans(),
    ),
    served=st.sampled_from([None, "old", "new"]),
    asking=st.integers(0, 2),
    let_go=st.none() | st.floats(0, 300),
    starts=st.integers(0, 4),
    probe=st.sampled_from([None, True, False]),
    fallback=st.sampled_from([None, 1]),
    retry=st.booleans(),
)  # fmt: skip


@given(st.lists(st.tuples(FACTS, st.floats(0, 100)), max_size=12))
def test_any_facts_in_any_order(history: list[tuple[Facts, float]]) -> None:
    """Whatever is observed in whatever order: no error, no action without an object, no endless haste."""
    now, current = 0.0, LoadState()
    for found, pause in history:
        now += pause
        current, action = transition(current, found, now, LIMIT)
        assert deadline(current, now, LIMIT) > 0
        if action is None:
            continue
        assert found.published is not None
        if action is Action.SIGNAL:
            assert found.process is not None
        if action is Action.LOOK:
            assert found.process is not None
            assert found.answers
        if action is Action.ROLL_BACK:
            assert found.fallback is not None
            assert not found.published.restored
        if action in (Action.RECORD, Action.RETRY):
            assert found.served == found.published.fingerprint
        # Asked again at once, it does not do the same again.
        current, again = transition(current, found, now, LIMIT)
        assert again is None or again is not action


# Random histories


@dataclass
class Content:
    """An index: `unloadable` by Navigator at any time, `deadly` at a start."""

    name: str
    unloadable: bool = False


@dataclass
class InPlace:
    number: int
    content: Content
    restored: bool = False
    pending_hook: bool = False


class World(RuleBasedStateMachine):
    """A machine in virtual time: a store, a daemon, a Navigator that loads, hangs, dies and boots.

    The files and the store follow the same rules as the real ones; the decisions are the real `transition`,
    and the refusals the real `Rejections`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.now, self.wall = 1000.0, 1_700_000_000.0
        self.pids = 0
        self.store = Content("first")
        self.reachable = True
        self.rejections = self.open_rejections()
        self.kept: dict[int, Content] = {}
        self.current: InPlace | None = None
        self.published_at = 0.0
        self.last_loaded: int | None = None
        self.process: Process | None = None
        self.reads_maintenance = False
        self.served: str | None = None
        self.let_go: float | None = None
        self.starts = 0
        self.state = LoadState(since=self.now)
        self.facts = Facts()
        self.held_since: float | None = None

    def teardown(self) -> None:
        """Whenever all is well for long enough, the machine serves what the store holds."""
        self.reachable = True
        self.store = Content("last")
        if self.process is None:
            self.start(maintenance=True)
        for _ in range(20):
            self.update(automatic=True)  # the poll
            self.run_for(600.0)
            if self.is_right():
                break
        assert self.is_right(), (self.state, self.facts)
        self.folder.cleanup()

    def is_right(self) -> bool:
        return (
            self.current is not None
            and self.current.content == self.store
            and self.served == self.store.name
            and self.state.phase is Phase.LOADED
        )

    def open_rejections(self) -> Rejections:
        return Rejections(Path(self.folder.name) / "rejected.json", lambda: self.wall)

    # The daemon

    def observe(self) -> Facts:
        published = None
        last = self.kept.get(self.last_loaded or 0)
        if self.current is not None:
            published = Published(
                self.current.number,
                self.current.content.name,
                self.published_at,
                proven=last is not None and last == self.current.content,
                restored=self.current.restored,
            )
        falls = last is not None and self.current is not None and last != self.current.content
        return Facts(
            process=self.process,
            on_maintenance=self.process is AT_BOOT or (self.process is not None and self.reads_maintenance),
            answers=self.process is not None,
            published=published,
            served=self.served,
            let_go=self.let_go,
            starts=self.starts,
            probe=True,
            fallback=self.last_loaded if falls else None,
            retry=bool(self.current and self.current.restored) and self.rejections.retry_due(self.process),
        )

    def look(self) -> None:
        for _ in range(5):
            self.facts = self.observe()
            self.state, action = transition(self.state, self.facts, self.now, LIMIT)
            if action is None:
                return
            self.act(action)

    def act(self, action: Action) -> None:
        assert self.current is not None
        if action is Action.SIGNAL and not self.reads_maintenance:
            self.load()
        elif action is Action.LOOK:
            self.cgi()
        elif action is Action.RECORD:
            self.last_loaded = self.current.number
            self.rejections.loaded(self.current.content.name, "")
        elif action is Action.ROLL_BACK:
            assert self.last_loaded is not None
            self.rejections.add_for_a_time(
                self.current.content.name, "", Rejected("not loaded", code="not_loaded"), self.process
            )
            self.publish(self.kept[self.last_loaded], restored=True)
        elif action is Action.RETRY:
            self.update(automatic=True)

    def update(self, *, automatic: bool) -> bool:
        """Whether what the store holds is in place now."""
        if not self.reachable:
            return False
        try:
            self.rejections.raise_if_known(self.store.name, "", self.process, person=not automatic)
        except Rejected:
            return False
        if self.current is None or self.current.content != self.store:
            self.publish(self.store, restored=False)
        return True

    def publish(self, content: Content, *, restored: bool) -> None:
        number = max(self.kept, default=0) + 1
        self.kept[number] = content
        self.current = InPlace(number, content, restored)
        self.published_at = self.now
        self.starts = 0
        if self.served == content.name:
            self.served = None  # its marker was removed

    # Navigator

    def load(self) -> None:
        """A reload: what it cannot use it leaves alone."""
        if self.process is not None and self.current is not None and not self.current.content.unloadable:
            self.served = self.current.content.name

    def cgi(self) -> None:
        """A poke by anybody: it updates, and when that went well Navigator looks."""
        done = self.update(automatic=False) if self.current is None else self.update(automatic=True)
        whole = self.facts.on_maintenance and self.served is None and self.current is not None
        if self.process is not None and (done or whole):
            self.let_go = self.now
            self.reads_maintenance = False
            self.load()

    def start(self, *, maintenance: bool) -> None:
        self.pids += 1
        self.served = None
        name = "navigator-maintenance.yml" if maintenance else "navigator.yml"
        if not maintenance and (self.current is None or self.current.content.unloadable):
            self.process = None  # it dies of what it finds
            self.starts += 1
            return
        self.process = Process(self.pids, self.pids * 100, "boot", name)
        self.reads_maintenance = maintenance
        if not maintenance:
            self.load()

    def run_for(self, seconds: float) -> None:
        """Time passes; the daemon looks as often as it does."""
        end = self.now + seconds
        while self.now < end:
            self.look()
            step = min(2.0, max(0.01, deadline(self.state, self.now, LIMIT)))
            self.now += step
            self.wall += step
        self.look()

    # What happens

    @rule(unloadable=st.booleans(), number=st.integers(0, 3))
    def store_changes(self, unloadable: bool, number: int) -> None:
        self.store = Content(f"{'bad' if unloadable else 'good'} {number}", unloadable)

    @rule(reachable=st.booleans())
    def store_fails(self, reachable: bool) -> None:
        self.reachable = reachable

    @rule()
    def poll(self) -> None:
        self.update(automatic=True)
        self.look()

    @rule()
    def person_asks(self) -> None:
        self.update(automatic=False)
        self.look()

    @rule()
    def poke(self) -> None:
        self.cgi()
        self.look()

    @rule(hook=st.booleans())
    def boot(self, hook: bool) -> None:
        """Navigator starts on the maintenance page; its hook comes, or fails."""
        self.start(maintenance=True)
        self.look()
        if hook:
            self.cgi()
            self.look()

    @rule()
    def restart(self) -> None:
        self.start(maintenance=False)
        self.look()

    @rule()
    def navigator_dies(self) -> None:
        self.process, self.served = None, None
        self.look()

    @rule()
    def daemon_dies(self) -> None:
        """All that is not on the disk or observable is gone."""
        self.state, self.facts = LoadState(since=self.now), Facts()
        self.let_go, self.starts = None, 0
        self.rejections = self.open_rejections()
        self.look()

    @rule(seconds=st.sampled_from([0.1, 1.0, 3.0, 20.0, 40.0, 80.0, 700.0]))
    def time_passes(self, seconds: float) -> None:
        self.run_for(seconds)

    @rule(seconds=st.sampled_from([-86400.0, -600.0, 600.0, 86400.0]))
    def clock_steps(self, seconds: float) -> None:
        self.wall += seconds

    # What always holds

    @invariant()
    def loaded_is_said_of_the_living_navigator_only(self) -> None:
        if self.state.phase is Phase.LOADED and self.state == self.look_state():
            assert self.process is not None
            assert self.current is not None
            assert self.served == self.current.content.name

    def look_state(self) -> LoadState:
        self.look()
        return self.state

    @invariant()
    def nothing_is_held_back_for_long(self) -> None:
        """A publication is put off for a moment only, and never while Navigator waits on a boot."""
        if not holds(self.state, self.facts, self.now):
            return
        assert self.state.phase is Phase.LOADING
        assert self.served is not None
        assert self.now - self.state.since < HOLD_SECONDS

    @invariant()
    @precondition(lambda self: self.process is not None and self.reads_maintenance)
    def a_boot_can_always_be_answered(self) -> None:
        assert not holds(self.state, self.facts, self.now)


TestWorld = World.TestCase
TestWorld.settings = settings(
    max_examples=150, stateful_step_count=30, suppress_health_check=[HealthCheck.too_slow]
)


def test_the_table_in_the_docstring_names_every_phase() -> None:
    """What a reader sees first is complete."""
    from sidecar.update import lifecycle

    def rows() -> Iterator[str]:
        for line in (lifecycle.__doc__ or "").splitlines():
            if line.startswith("| ") and not line.startswith(("| phase", "| ---")):
                yield line.split("|")[1].strip()

    assert {name for name in rows() if name} == {phase.value for phase in Phase}

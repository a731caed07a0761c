"""The demo's whole story, told by itself: each sentence is said once it has come true."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from sidecar.demo.changes import change, password_of
from sidecar.demo.prepare import PASSWORDS, STUDIO_USER, DemoFleet, DemoMachine
from sidecar.demo.processes import DemoError, Processes, running
from sidecar.demo.visits import loaded, operate, served, signs_in
from sidecar.model.record import Record


class StoryEvent(Record, frozen=True):
    """Something that has come true, and when, in seconds since the beginning."""

    seconds: float
    sentence: str


def tell(fleet: DemoFleet, listen: Callable[[StoryEvent], None]) -> None:
    """Run the fleet through all of it; `DemoError` at the first thing that does not come true."""
    clock = time.monotonic()

    def say(sentence: str) -> None:
        listen(StoryEvent(time.monotonic() - clock, sentence))

    names = _listed([one.name for one in fleet.machines])
    say(f"A daemon and a web server each start for {names}, with a folder as store.")
    with running(fleet) as processes:
        _Story(fleet, processes, say).tell()
    say("Ended; no process is left.")


class _Story:
    def __init__(self, fleet: DemoFleet, processes: Processes, say: Callable[[str], None]) -> None:
        self._fleet = fleet
        self._machines = fleet.machines
        self._processes = processes
        self._say = say

    def tell(self) -> None:
        first, (old, new) = self._machines[0], PASSWORDS
        before = self._fleet.digest()
        self._until_loaded(before)
        self._say("All web servers have loaded what their daemons published.")
        _see_to_it(password_of(self._fleet.index) == old, f"the password is {old}")
        self._signs_in(self._machines, old, but=new)
        generation = operate(first, "GET", "/status")["generation"]["loaded"]

        self._say(change(self._fleet, "password").what)
        self._signs_in(self._machines, old, but=new)
        after = self._fleet.digest()
        self._update(good=True)
        self._until_loaded(after)
        self._signs_in(self._machines, new, but=old)

        self._say(change(self._fleet, "bad").what.partition(". ")[0] + ".")
        self._update(good=False)
        for machine in self._machines:
            said = served(machine)
            refused = said is not None and said.refused == self._fleet.digest() and said.sha256 == after
            _see_to_it(refused, f"{machine.name} has refused it, and serves what it served")
        self._say(f"Because {operate(first, 'GET', '/status')['error']['message']}.")
        self._signs_in(self._machines, new, but=old)

        self._say(f"{first.name} alone is rolled back to generation {generation}.")
        answer = operate(first, "POST", "/rollback?wait=loaded", {"generation": generation})
        _see_to_it(not answer.get("error"), f"{first.name} goes back: {answer.get('error')}")
        _see_to_it(loaded(first) == before, f"{first.name} serves what it served first")
        self._signs_in([first], old, but=new)
        if self._machines[1:]:
            self._signs_in(self._machines[1:], new, but=old)

    def _until_loaded(self, digest: str) -> None:
        for machine in self._machines:
            self._processes.wait(
                lambda one=machine: loaded(one) == digest,  # type: ignore[misc]
                f"{machine.name} loads the index of the store",
            )

    def _signs_in(self, machines: Sequence[DemoMachine], password: str, but: str) -> None:
        for machine in machines:
            _see_to_it(
                signs_in(machine, STUDIO_USER, password), f"{machine.name} accepts the password {password}"
            )
            _see_to_it(not signs_in(machine, STUDIO_USER, but), f"{machine.name} refuses the password {but}")
        names = _listed([one.name for one in machines])
        self._say(f"{STUDIO_USER} signs in on {names} with {password}, not with {but}.")

    def _update(self, *, good: bool) -> None:
        report = operate(self._machines[0], "POST", "/fleet/update")
        _see_to_it("machines" in report, f"the fleet is updated: {report.get('error')}")
        _see_to_it(
            report["good"] == good, f"the fleet {'takes' if good else 'refuses'} it: {_states(report)}"
        )
        self._say(f"An update of the fleet: {_states(report)}.")


def _see_to_it(true: bool, sentence: str) -> None:
    if not true:
        raise DemoError(f"this did not come true: {sentence}", "look at the logs of the machines")


def _states(report: Any) -> str:
    """What became of each machine."""
    return ", ".join(f"{one['machine']} {one['state'].replace('_', ' ')}" for one in report["machines"])


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))

"""What somebody asks for, and how it ended."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from sidecar.model.changes import Changes
from sidecar.model.record import Problem, Record

RunState = Literal[
    "published", "unchanged", "previewed", "rejected", "failed", "pending", "loaded", "ready", "fleet_updated"
]
"""How a run ended."""

SettledState = RunState | Literal["rolled_back"]
"""What became of a run in the end."""

LoadVerdict = Literal["loaded", "failed", "superseded", "down", "pending"]
"""How it ended with the load of a generation."""

PREVIEW = "preview"
"""The trigger of previews."""


STALE = "store_stale"
"""The code of an error: the store serves another index than the one that is expected."""

AHEAD_SECONDS = 600.0
"""For how long a machine keeps an index that was sent to it while the store still serves the one before."""

_REFUSED = ("changed", STALE)


class Received(Record, frozen=True):
    """An index that came with a poke: the file, its digests in hexadecimal, its size in bytes."""

    path: Path
    sha256: str
    md5: str
    size: int


class Trigger(Record, frozen=True):
    """What is known of a way to ask.

    `person`: somebody trusted asks by it, so it ends what a person began. `automatic`: nobody in particular
    asks. `navigator_looks`: it comes from a hook or CGI of Navigator, which looks at its configuration
    afterwards. `words` name it for people; `{who}` stands for whoever asked.
    """

    words: str
    person: bool = False
    automatic: bool = False
    navigator_looks: bool = False


TRIGGERS: dict[str, Trigger] = {
    "boot": Trigger("the machine's boot", automatic=True, navigator_looks=True),
    # Nobody's request: the bus gives its newest hint again to whoever comes back.
    "bus": Trigger("a hint from {who}"),
    "cgi": Trigger("a poke from {who}", person=True, navigator_looks=True),
    "command": Trigger("asked for by {who}", person=True),
    "databases": Trigger("databases that arrived", automatic=True),
    "http": Trigger("asked for by {who}", person=True),
    "local": Trigger("a change of the local index", automatic=True),
    "once": Trigger("asked for by {who}", person=True),
    "resume": Trigger("waking up, by Navigator's hook", automatic=True, navigator_looks=True),
    "retry": Trigger("another try of what was taken back", automatic=True),
    "rollback": Trigger("rollback by {who}", person=True),
    "socket": Trigger("asked for by {who}", person=True),
    "start": Trigger("the daemon's start", automatic=True),
    "timer": Trigger("the regular look", automatic=True),
    "wake": Trigger("{who}", automatic=True),
    "webhook": Trigger("a notification from {who}"),
}
"""Every way to ask for an update, by the name that metrics and history use."""


ENDINGS: tuple[SettledState, ...] = (
    "loaded",
    "published",
    "unchanged",
    "rejected",
    "failed",
    "rolled_back",
    "fleet_updated",
)
"""How a run in the history has ended."""


class Request(Record, frozen=True):
    """What somebody asks for.

    `trigger` says what asked, one of `TRIGGERS` or `PREVIEW`, `who` on whose behalf. `public` when anybody
    could have sent it. `expect` is the SHA-256 that the index must have, `if_match` the tag of the preview
    that is to be applied, `rollback` the generation to restore (`with_index` or only its artifacts), `failed`
    the one that Navigator would not load and that it takes the place of, `reason` and `code` why. Requests
    that are not plain pokes get a run of their own.
    """

    trigger: str
    who: str = ""
    force: bool = False
    expect: str | None = None
    if_match: str | None = None
    received: Received | None = None
    preview: bool = False
    public: bool = False
    rollback: int | None = None
    with_index: bool = True
    failed: int | None = None
    reason: str = ""
    code: str = ""

    @property
    def takes_back(self) -> bool:
        """Whether it goes back because Navigator did not load something newer."""
        return self.failed is not None

    @property
    def person(self) -> bool:
        """Whether somebody trusted asks: that ends a generation's pin, and what was refused for a time."""
        known = TRIGGERS.get(self.trigger)
        return known is not None and known.person and not self.public and not self.takes_back

    @property
    def automatic(self) -> bool:
        """Whether nobody in particular asks."""
        known = TRIGGERS.get(self.trigger)
        return known is not None and known.automatic

    @property
    def navigator_looks(self) -> bool:
        """Whether Navigator looks at its configuration when it is answered."""
        known = TRIGGERS.get(self.trigger)
        return known is not None and known.navigator_looks

    @property
    def is_hook(self) -> bool:
        """Whether it comes from a hook of Navigator, which holds everybody up until it is answered."""
        return self.navigator_looks and self.automatic

    @property
    def plain(self) -> bool:
        """Whether it asks for nothing but what the store holds, so that it can share a run."""
        special = self.force or self.if_match or self.received or self.preview
        return not special and self.rollback is None

    def merged(self, other: Request) -> Request:
        """One request for both, which are plain and expect the same.

        A person is named, else whoever is trusted, else the first: what the public asks for with others is
        not the public's alone, and never becomes a person's.
        """
        return max(self, other, key=lambda one: (one.person, not one.public, not one.automatic))


class Outcome(Record, frozen=True, omit_defaults=True):
    """How a run ended.

    `state` is pending where a machine that boots is not kept waiting for the end, loaded or ready for those
    who waited for that, and fleet_updated for an update of the fleet. `generation` is the one in place now.
    `etag` and `sha256` are those of the index that came or that the store holds, `tag` names the very set
    that would be or was published. `stages` are seconds. `diffs` are what the run writes, `drift` what
    somebody else had changed before. `warnings` may name users. `stands` when it failed, or takes long, but
    the generation in place is whole, file by file. `public` when nobody asked for it but strangers.
    """

    state: RunState
    trigger: str
    who: str
    started: float
    seconds: float
    generation: int | None = None
    etag: str | None = None
    sha256: str | None = None
    tag: str | None = None
    stages: dict[str, float] = msgspec.field(default_factory=dict)
    written: tuple[str, ...] = ()
    changes: Changes | None = None
    diffs: dict[str, str] = msgspec.field(default_factory=dict)
    drift: dict[str, str] = msgspec.field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    log: tuple[str, ...] = ()
    error: Problem | None = None
    stands: bool = False
    public: bool = False

    @property
    def good(self) -> bool:
        """Whether what was asked for is done."""
        return self.error is None

    @property
    def stale(self) -> bool:
        """Whether the store did not serve what was expected; it may a moment later."""
        return self.error is not None and self.error.code == STALE

    @property
    def is_preview(self) -> bool:
        """Whether nothing was to be written; a preview that failed is one too."""
        return self.trigger == PREVIEW

    @property
    def refused(self) -> bool:
        """Whether only the request was at fault, so that this says nothing about the machine.

        What was to be applied is not what was looked at any more, the store does not hold what the caller
        expected, or the generation to restore is not kept.
        """
        if self.error is None:
            return False
        # Elsewhere than in a rollback, what is not found are the machine's own files.
        return self.error.code in _REFUSED or (self.trigger, self.error.code) == ("rollback", "not_found")

    def without_names(self) -> Outcome:
        """The same for the public: no names of users, no inner workings."""
        return msgspec.structs.replace(self, warnings=(), changes=None, diffs={}, drift={}, who="")

    def for_strangers(self) -> Outcome:
        """The same for whoever sent no signature: of a failure the code alone, as sentences name paths."""
        plain = self.without_names()
        if plain.error is None:
            return plain
        what = "was refused" if plain.state == "rejected" else "failed"
        sentence = f"the update {what} ({plain.error.code}); what is in place stays in force"
        error = msgspec.structs.replace(plain.error, message=sentence, hint="ask the machine's operators")
        return msgspec.structs.replace(plain, error=error, log=(f"T{sentence[1:]}.",))

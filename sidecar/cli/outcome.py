"""How a run is followed and shown, and which exit status it gives."""

from __future__ import annotations

import argparse
import sys
from typing import Any, NoReturn

import msgspec

from sidecar.cli.client import Client
from sidecar.cli.output import say, say_json
from sidecar.errors import SidecarError
from sidecar.model.runs import Outcome


def follow(options: argparse.Namespace, client: Client, path: str, body: bytes = b"") -> int:
    """Make something happen, show it live, and give the exit status."""
    if options.json:
        status, answer = client.request("POST", path, body=body)
        say_json(answer)
        return 0 if status == 200 or boots(options, isinstance(answer, dict) and answer.get("stands")) else 1
    for kind, data in client.events("POST", path, body):
        if kind == "log":
            say(data["line"])
        elif kind == "error":
            refused(data)
        elif kind == "outcome":
            return finish(options, msgspec.convert(data, Outcome), log=False)
    raise SidecarError("the sidecar broke off before the end", "look at `sidecar status`")


def refused(body: Any) -> NoReturn:
    """Raise the failure that the daemon answered with."""
    error = body.get("error", {}) if isinstance(body, dict) else {}
    raise SidecarError(error.get("message", "the sidecar refused"), error.get("hint", ""))


def finish(options: argparse.Namespace, outcome: Outcome, *, log: bool = True) -> int:
    """Print how a run ended, and give the exit status."""
    done = outcome.good or boots(options, outcome.stands)
    if options.json:
        say_json(outcome)
        return 0 if done else 1
    if log:
        for line in outcome.log:
            say(line)
    milliseconds = outcome.seconds * 1000
    say(f"{outcome.state.capitalize()} in {milliseconds:.0f} ms; generation in place: {outcome.generation}")
    if outcome.error is not None:
        hint = f" ({outcome.error.hint})" if outcome.error.hint else ""
        say(f"sidecar: {outcome.error.message}{hint}", file=sys.stderr)
    if done and not outcome.good:
        say(
            f"sidecar: warning: generation {outcome.generation} from before is in place and whole; "
            "Navigator can start with it, though the index may have changed since",
            file=sys.stderr,
        )
    return 0 if done else 1


def boots(options: argparse.Namespace, stands: object) -> bool:
    """Whether a machine that boots can go on with what is in place.

    Navigator looks at its configuration only after a hook that succeeded; otherwise it would stay in
    maintenance for as long as the store is out of reach.
    """
    return bool(stands) and getattr(options, "trigger", None) == "boot"

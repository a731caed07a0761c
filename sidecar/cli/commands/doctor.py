"""`sidecar doctor`."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from sidecar.cli.examine import examine
from sidecar.cli.output import say, say_json
from sidecar.cli.parser import define
from sidecar.config.settings import Settings
from sidecar.system.privileges import become_owner


def add(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    define(parser, _doctor, "sidecar doctor")


def _doctor(options: argparse.Namespace, settings: Settings) -> int:
    become_owner(Path(settings.paths.state))
    findings = asyncio.run(examine(settings))
    if options.json:
        say_json(findings)
    else:
        for finding in findings:
            say(f"{'ok  ' if finding.good else 'FAIL'} {finding.subject}: {finding.message}")
            if finding.hint and not finding.good:
                say(f"     what to do: {finding.hint}")
    return 0 if all(finding.good for finding in findings) else 1

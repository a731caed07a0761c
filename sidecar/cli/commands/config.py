"""`sidecar config`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import yaml

from sidecar.cli.output import say, say_json, say_lines
from sidecar.cli.parser import define
from sidecar.config.parse import masked, unknown_variables
from sidecar.config.settings import Settings
from sidecar.generations import targets
from sidecar.inputs.machine import maintenance_text, parse_profile, placeholder_values, profile_text


def add(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    define(parser, _config, "sidecar config --check")
    parser.add_argument("--check", action="store_true", help="only say whether it is sound")
    parser.add_argument(
        "--maintenance",
        action="store_true",
        help="print navigator-maintenance.yml, which a machine without any generation boots with",
    )


def _config(options: argparse.Namespace, settings: Settings) -> int:
    for sentence in unknown_variables(os.environ):
        say(f"sidecar: warning: {sentence}", file=sys.stderr)
    targets(settings)
    parse_profile(profile_text(settings.profile), settings.profile)
    if options.check:
        say("The configuration is sound.")
        return 0
    if options.maintenance:
        say_lines(maintenance_text(settings))
        return 0
    shown = masked(settings)
    shown["placeholders"] = placeholder_values(settings, Path(settings.paths.state) / "loaded")
    if options.json:
        say_json(shown)
    else:
        say_lines(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True))
    return 0

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
from sidecar.config.schema import schema
from sidecar.config.settings import Settings
from sidecar.generations import targets
from sidecar.inputs.machine import maintenance_text, placeholder_values
from sidecar.inputs.profiles import load_profile


def add(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    define(parser, _config, "sidecar config --check")
    parser.add_argument("--check", action="store_true", help="only say whether it is sound")
    parser.add_argument(
        "--profile",
        action="store_true",
        help="print the profile whole, with what it extends and its placeholders",
    )
    parser.add_argument(
        "--maintenance",
        action="store_true",
        help="print navigator-maintenance.yml, which a machine without any generation boots with",
    )
    parser.add_argument(
        "--schema",
        action=_Schema,
        nargs=0,
        help="print the JSON Schema of sidecar.yml, by which an editor completes and checks it",
    )


class _Schema(argparse.Action):
    """Asks for nothing else: it is of use while the configuration is not sound yet."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        say_json(schema())
        parser.exit()


def _config(options: argparse.Namespace, settings: Settings) -> int:
    for sentence in unknown_variables(os.environ):
        say(f"sidecar: warning: {sentence}", file=sys.stderr)
    targets(settings)
    profile = load_profile(settings.profile)
    if options.check:
        say("The configuration is sound.")
        return 0
    if options.profile:
        say_lines(yaml.safe_dump(dict(profile.data), sort_keys=False, allow_unicode=True))
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

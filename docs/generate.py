"""Writes the generated parts of the manual from the code: `make docs`; --check only says whether they fit.

A page's generated part stands between `<!-- generated: NAME -->` and `<!-- end -->`; the man page and the
shell completions are generated whole. A test sees to it that all of them are current.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import msgspec
import shtab
from prometheus_client.metrics import MetricWrapperBase

from sidecar import cli
from sidecar.cli import configuration as configuration_file
from sidecar.config import settings
from sidecar.config.parse import PREFIX, variable
from sidecar.config.parse import fields as setting_fields
from sidecar.config.schema import written as as_written
from sidecar.fleet.report import MachineResult
from sidecar.model.stream import STREAM_EVENTS, StreamEvent
from sidecar.observe.metrics import FleetMetrics, Metrics
from sidecar.web.routes import document

DOCS = Path(__file__).parent
COMPLETION = DOCS.parent / "completion"
PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def outputs() -> dict[Path, str]:
    """Every file that is generated, or has a generated part, as it should be."""
    found = {page: PART.sub(_fill, page.read_text()) for page in sorted(DOCS.glob("*.md"))}
    parser = cli.parser()
    return {
        **found,
        DOCS / "sidecar.1": man_page(parser),
        COMPLETION / "sidecar.bash": shtab.complete(parser, "bash"),
        COMPLETION / "_sidecar": shtab.complete(parser, "zsh"),
    }


def _fill(match: re.Match[str]) -> str:
    return f"{match[1]}\n{_PARTS[match[2]]().strip()}\n\n{match[3]}"


# Settings


def configuration() -> str:
    """Every setting: what it is, its default, its variable."""
    lines: list[str] = []
    section = ""
    top = [(key, field) for key, field in setting_fields().items() if "." not in key]
    nested = [(key, field) for key, field in setting_fields().items() if "." in key]
    sections = {field.name: field for field in msgspec.structs.fields(settings.Settings)}
    lines += ["## At the top", "", *_table(top)]
    for key, _ in nested:
        name = key.partition(".")[0]
        if name != section:
            section = name
            own = [(key, field) for key, field in nested if key.startswith(f"{name}.")]
            lines += [
                "",
                f"## {name}",
                "",
                f"{_capital(description(sections[name].type))}.",
                "",
                *_table(own),
            ]
    for key, field in nested:
        for record in _records(field.type):
            lines += ["", f"## Each of {key}", "", record.__doc__ or "", "", "| key | what it is | default |"]
            lines.append("| --- | --- | --- |")
            for inner in msgspec.structs.fields(record):
                about = _cell(description(inner.type), capital=False)
                lines.append(f"| `{inner.name}` | {about} | {_default(inner)} |")
    return "\n".join(lines)


def _table(rows: list[tuple[str, msgspec.structs.FieldInfo]]) -> Iterator[str]:
    yield "| setting | what it is | default |"
    yield "| --- | --- | --- |"
    for key, field in rows:
        name = f"`{key}`<br>`{variable(key)}`"
        yield f"| {name} | {_cell(description(field.type), capital=False)} | {_default(field)} |"


def _records(kind: Any) -> Iterator[type[settings.Section]]:
    """The records that a list or a mapping of settings is made of."""
    for inner in get_args(kind):
        if isinstance(inner, type) and issubclass(inner, settings.Section):
            yield inner
        else:
            yield from _records(inner)


def description(kind: Any) -> str:
    """What a setting's type says it is."""
    if get_origin(kind) is not Annotated:
        return ""
    texts = [meta.description for meta in get_args(kind)[1:] if getattr(meta, "description", None)]
    return str(texts[-1]) if texts else ""


def _default(field: msgspec.structs.FieldInfo) -> str:
    value = field.default
    if value is msgspec.NODEFAULT:
        made = field.default_factory
        value = None if made is msgspec.NODEFAULT else made()
        if value is None:
            return "must be given"
    if isinstance(value, settings.Secret) or value == "" or value is None:
        return ""
    if isinstance(value, settings.Mode):
        return f'`"{as_written(value)}"`'
    value = as_written(value)
    return f"`{msgspec.json.encode(value).decode()}`" if not isinstance(value, str) else f"`{value}`"


def _cell(text: str, *, capital: bool = True) -> str:
    return (_capital(text) if capital else text).replace("|", "\\|")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


# Commands


def subcommands(
    parser: argparse.ArgumentParser, prefix: str = ""
) -> Iterator[tuple[str, argparse.ArgumentParser, str]]:
    """Every command, and what is below it: its name, its parser, its summary."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            summaries = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, below in action.choices.items():
                yield f"{prefix}{name}", below, summaries.get(name, "")
                yield from subcommands(below, f"{prefix}{name} ")


def options(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    """Each argument as it is written, and what it does."""
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
            continue
        if action.help == argparse.SUPPRESS:
            continue
        value = ""
        if action.nargs != 0:
            named = action.metavar or (action.dest.upper() if action.option_strings else action.dest)
            value = (
                "|".join(map(str, action.choices)) if action.choices and not action.metavar else str(named)
            )
        spelled = ", ".join(action.option_strings)
        written = f"{spelled} {value}".strip()
        help_text = (action.help or "") % {**vars(action), "prog": parser.prog}
        yield written, help_text


def usage(name: str, parser: argparse.ArgumentParser) -> str:
    """One line that shows how a command is written."""
    words = []
    for action, (written, _) in zip(
        [
            one
            for one in parser._actions
            if not isinstance(one, argparse._HelpAction | argparse._SubParsersAction)
            and one.help != argparse.SUPPRESS
        ],
        options(parser),
        strict=True,
    ):
        required = action.required or (not action.option_strings and action.nargs != "?")
        words.append(written if required else f"[{written}]")
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    words += ["COMMAND" if action.required else "[COMMAND]" for action in below]
    return " ".join(["sidecar", name, *words])


def commands() -> str:
    """Every command with its options and its example."""
    lines = []
    for name, parser, summary in subcommands(cli.parser()):
        lines += [
            f"## sidecar {name}",
            "",
            f"{_capital(summary)}.",
            "",
            "```",
            usage(name, parser),
            "```",
            "",
        ]
        rows = list(options(parser))
        if rows:
            lines += ["| | |", "| --- | --- |"]
            lines += [_row(written, text) for written, text in rows]
            lines.append("")
        if example := _example(parser):
            lines += ["```sh", example, "```", ""]
    return "\n".join(lines)


def _row(written: str, text: str) -> str:
    escaped = written.replace("|", "\\|")
    return f"| `{escaped}` | {_cell(text)} |"


def _example(parser: argparse.ArgumentParser) -> str:
    return (parser.epilog or "").removeprefix("example: ")


def man_page(parser: argparse.ArgumentParser) -> str:
    """sidecar(1)."""
    lines = [
        ".TH SIDECAR 1",
        ".SH NAME",
        "sidecar \\- keeps a machine's web server configuration in step with the index database",
        ".SH SYNOPSIS",
        ".B sidecar",
        "[\\-\\-config FILE] COMMAND [OPTION...]",
        ".SH DESCRIPTION",
        "Fetches the index database from the object store, generates every file that Navigator reads, checks",
        "the whole set, publishes it, and sees that Navigator loads it. `sidecar serve` is the daemon; most",
        "other commands talk to it over its Unix socket.",
        ".SH OPTIONS",
    ]
    lines += _man_options(parser)
    lines.append(".SH COMMANDS")
    for name, below, summary in subcommands(parser):
        lines += [f".SS {_roff(usage(name, below))}", f"{_roff(_capital(summary))}."]
        lines += _man_options(below)
    lines += [
        ".SH EXIT STATUS",
        "0 done, 1 failed or refused, 2 wrong usage or configuration.",
        ".SH FILES",
        ".TP",
        f"{configuration_file.DEFAULT_FILE}",
        "The configuration. Every key is optional.",
        ".TP",
        f"{settings.ListenSettings().socket}",
        "The socket; whoever may open it is trusted.",
        ".SH ENVIRONMENT",
        ".TP",
        "SIDECAR_CONFIG",
        "The configuration file, where \\-\\-config names none.",
        ".TP",
        f"{PREFIX}SECTION_KEY",
        "Overrides a setting: SIDECAR_LISTEN_PORT is listen.port.",
    ]
    return "\n".join(lines) + "\n"


def _man_options(parser: argparse.ArgumentParser) -> Iterator[str]:
    for written, text in options(parser):
        yield ".TP"
        yield f".B {_roff(written)}"
        yield f"{_roff(_capital(text))}."


def _roff(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


# Metrics and routes


def metrics() -> str:
    """Every metric of the sidecar's own."""
    lines = ["| metric | type | labels | what it is |", "| --- | --- | --- | --- |"]
    registry = Metrics("machine", "region").registry
    for collector in registry._collector_to_names:
        if isinstance(collector, (MetricWrapperBase, FleetMetrics)):
            for family in collector.describe():
                name = f"{family.name}_total" if family.type == "counter" else family.name
                names = getattr(collector, "_labelnames", ()) or getattr(family, "_labelnames", ())
                labels = ", ".join(f"`{label}`" for label in names)
                lines.append(f"| `{name}` | {family.type} | {labels} | {family.documentation} |")
    return "\n".join(lines)


def endpoints() -> str:
    """Every endpoint: who may use it, what it gives."""
    lines = ["| endpoint | needs | gives |", "| --- | --- | --- |"]
    for path, item in document()["paths"].items():
        for method, operation in item.items():
            schemes = {name for scheme in operation.get("security", ()) for name in scheme}
            needs = "the token" if "token" in schemes else "an administrator" if schemes else "-"
            lines.append(f"| `{method.upper()} {path}` | {needs} | {operation['summary']} |")
    for path, item in document()["paths"].items():
        for method, operation in item.items():
            about = f"{operation['summary']} {operation.get('description', '')}".strip()
            lines += ["", f"### {method.upper()} {path}", "", about]
            rows = [
                f"| `{one['name']}` ({one['in']}) | {_cell(one.get('description', ''))} |"
                for one in operation.get("parameters", ())
            ]
            if rows:
                lines += ["", "| parameter | |", "| --- | --- |", *rows]
            lines += ["", "| status | |", "| --- | --- |"]
            for status, answer in sorted(operation["responses"].items()):
                lines.append(f"| {status} | {_cell(answer['description'])} |")
    return "\n".join(lines)


def events() -> str:
    """Every kind of event: what it holds, when it is told."""
    lines = ["| event | holds | tells |", "| --- | --- | --- |"]
    told: tuple[type[StreamEvent], ...] = (*STREAM_EVENTS, MachineResult)
    for record in told:
        holds = ", ".join(f"`{name}`" for name in record.__struct_encode_fields__)
        first, _, _ = inspect.cleandoc(record.__doc__ or "").partition("\n\n")
        lines.append(f"| `{record.kind}` | {holds} | {_cell(' '.join(first.split()))} |")
    return "\n".join(lines)


_PARTS: dict[str, Callable[[], str]] = {
    "configuration": configuration,
    "commands": commands,
    "metrics": metrics,
    "endpoints": endpoints,
    "events": events,
}


def main() -> int:
    """Write what is not current, or with --check only name it."""
    stale = [path for path, text in outputs().items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv[1:]:
        sys.stderr.writelines(f"{path} is not current: run `make docs`\n" for path in stale)
        return 1 if stale else 0
    COMPLETION.mkdir(exist_ok=True)
    for path, text in outputs().items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

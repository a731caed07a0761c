"""The checks that a complete set passes before it is published.

That every YAML file parses back to its data is proven while it is written (see `yaml_writer`); that each
htpasswd row is sound, while it is read. What is left concerns the set as a whole.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import re2

from sidecar.errors import Rejected
from sidecar.generate import Generated
from sidecar.generate.cache import ResultCache
from sidecar.model.artifacts import HTPASSWD, without_own_user
from sidecar.model.changes import RegionLoss

_DATABASE = re.compile(r"[^/\\\x00-\x1f.][^/\\\x00-\x1f]*\Z")
# Go gives its own expressions far more room than RE2 does by default; this is plenty for both.
_RE2_MEMORY_BYTES = 256 << 20
# RE2 itself takes it, Go's edition does not.
_ANY_BYTE = re.compile(r"(?<!\\)(?:\\\\)*\\C")
LOSS = "loss"
"""The code of a refusal that force waives."""
# Below this many, a large share of them is a handful of edits.
_MIN_LOSS = 10
# A region is small: of its events so few go on an ordinary day.
_MIN_REGION_LOSS = 5


@dataclass(frozen=True, slots=True)
class LossLimits:
    """How large a share of the tenants or users may disappear at once, 0 to 1."""

    tenants: float
    users: float


@dataclass(frozen=True, slots=True)
class Counts:
    """How much a set holds: what the next one is compared with."""

    tenants: int
    users: int


def counts(generated: Generated) -> Counts:
    """The numbers of events served here and of users in a set."""
    return Counts(len(generated.tenants), _users(generated[HTPASSWD]))


def counts_in_place(htpasswd: bytes | None, tenants: bytes | None, now: Generated) -> Counts | None:
    """The numbers that the files of a set tell where nothing else is known of it; None without any file.

    tenants.list also names databases that the profile brings along, which `now` tells of.
    """
    if htpasswd is None and tenants is None:
        return None
    listed, brought = (tenants or b"").count(b"\n"), len(now.databases) - len(now.tenants)
    return Counts(max(0, listed - brought), _users(htpasswd or b""))


def _users(htpasswd: bytes) -> int:
    return without_own_user(htpasswd).count(b"\n")


def check(
    generated: Generated, before: Counts | None, limits: LossLimits, memo: ResultCache, *, force: bool
) -> None:
    """Raise `Rejected` when the set must not be published; `force` waives the limits on losses only."""
    databases, paths = generated.databases, generated.paths
    memo.get((_check_tenants, databases, paths), lambda: _check_tenants(databases, paths))
    _check_htpasswd(generated[HTPASSWD])
    for expression in generated.expressions:
        if problem := memo.get((_re2_problem, expression), lambda: _re2_problem(expression)):  # noqa: B023
            raise Rejected(
                f"navigator.yml: RE2 refuses the expression {expression[:200]!r}: {problem}",
                "Navigator would drop it silently; correct the profile",
                code="expression",
            )
    if before is not None and not force:
        now = counts(generated)
        _check_loss("tenants", before.tenants, now.tenants, limits.tenants)
        _check_loss("users", before.users, now.users + generated.waiting, limits.users)


def _check_tenants(databases: Sequence[str], paths: Sequence[str]) -> None:
    if twice := _twice(databases):
        raise Rejected(
            f"two tenants share the database {twice!r}",
            "rename one event's or location's key",
            code="duplicate",
        )
    if twice := _twice(paths):
        raise Rejected(
            f"two tenants share the path {twice!r}", "rename one event's or location's key", code="duplicate"
        )
    for database in databases:
        if not _DATABASE.match(database) or ".." in database:
            raise Rejected(f"the database {database!r} would lie outside its folder", code="value")
    for path in paths:
        if not path.startswith("/") or not path.endswith("/") or "/../" in path or "//" in path:
            raise Rejected(
                f"the tenant path {path!r} is not a clean path with slashes around it", code="value"
            )


def _twice(names: Iterable[str]) -> str | None:
    name, number = max(Counter(names).items(), key=lambda pair: pair[1], default=("", 0))
    return name if number > 1 else None


def _check_htpasswd(content: bytes) -> None:
    lines = content.decode().splitlines()
    names = [line.partition(":")[0] for line in lines if ":" in line]
    if not len(names) == len(lines) == content.count(b"\n") or not all(names) or _twice(names):
        raise Rejected(
            "htpasswd: a line is not a name, a colon and a hash, or a name occurs twice", code="htpasswd"
        )


def _check_loss(what: str, before: int, now: int, limit: float) -> None:
    lost = before - now
    if before and (now == 0 or (before >= _MIN_LOSS and lost > before * limit)):
        raise Rejected(
            f"the index would drop {lost} of {before} {what}, more than the {limit:.0%} allowed at once",
            "if that is meant, repeat the update by force: `sidecar update --force`, or on the page",
            code=LOSS,
        )


def large_losses(losses: Iterable[RegionLoss], limit: float) -> list[str]:
    """A clause for each region that would lose too many events at once; `limit` is that of all, 0 to 1.

    Of one region that share of the share may go: a quarter where it is a half, and all where it is all.
    """
    return [
        f"{lost} of the {one.before} events of {f'region {one.region}' if one.region else 'no region'}"
        for one in losses
        if (lost := one.before - one.after) >= _MIN_REGION_LOSS and lost > one.before * limit**2
    ]


def check_regions(losses: Iterable[RegionLoss], limit: float) -> None:
    """Raise `Rejected` where a region would lose too many events at once."""
    if large := large_losses(losses, limit):
        raise Rejected(
            f"the index would drop {', '.join(large)}, more than the {limit**2:.0%} of one region allowed at "
            "once",
            "look at `sidecar fleet preview`; if it is meant, `sidecar fleet update --force`, or on the page",
            code=LOSS,
        )


def _re2_problem(expression: str) -> str | None:
    if _ANY_BYTE.search(expression):
        return "\\C is not known to Go"
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _RE2_MEMORY_BYTES
    try:
        re2.compile(expression, options)
    except re2.error as error:
        detail = error.args[0] if error.args else error
        return detail.decode("utf-8", "replace") if isinstance(detail, bytes) else str(detail)
    finally:
        re2.purge()  # the module would keep the last compiled expressions, and these can be large
    return None

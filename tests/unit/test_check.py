"""The checks before publishing: what each of them lets through and what it refuses."""

from __future__ import annotations

import pytest

from sidecar.errors import Rejected
from sidecar.generate import Generated
from sidecar.generate.cache import ResultCache
from sidecar.generate.check import LOSS, Counts, LossLimits, check, check_regions, counts, large_losses
from sidecar.model.artifacts import NAMES, Artifact
from sidecar.model.changes import RegionLoss
from sidecar.model.index import Tenant

LIMITS = LossLimits(tenants=0.5, users=0.25)


def made(
    databases: tuple[str, ...] = ("index", "2026-boston"),
    paths: tuple[str, ...] = ("/showcase/", "/showcase/2026/boston/"),
    expressions: tuple[str, ...] = (),
    htpasswd: bytes = b"user1:x\n",
    waiting: int = 0,
) -> Generated:
    """A set in which only what is checked matters."""
    artifacts = tuple(Artifact(name, htpasswd if name == "htpasswd" else b"") for name in NAMES)
    tenants = tuple(Tenant(name, name, "", "", None) for name in databases if name not in ("index", "demo"))
    return Generated(artifacts, "fingerprint", tenants, {}, databases, paths, expressions, (), (), waiting)


def sized(tenants: int, users: int = 0) -> Generated:
    """A set of so many tenants and users."""
    return made(
        tuple(f"2026-{number}" for number in range(tenants)),
        tuple(f"/showcase/2026/{number}/" for number in range(tenants)),
        htpasswd=b"".join(b"u%d:x\n" % number for number in range(users)),
    )


def refusal(
    generated: Generated, before: Counts | None = None, limits: LossLimits = LIMITS, *, force: bool = False
) -> str | None:
    """The code of the refusal, or None."""
    try:
        check(generated, before, limits, ResultCache(), force=force)
    except Rejected as error:
        return error.code
    return None


def test_a_sound_set_passes() -> None:
    """Nothing wrong, nothing raised; an empty htpasswd and no tenants are sound too."""
    assert refusal(made(expressions=("^/$", r"^/showcase/2026/(?:a\-b|c)/?$"))) is None
    assert refusal(made((), (), (), b"")) is None


@pytest.mark.parametrize(
    ("databases", "paths"),
    [
        (("2026-a-b", "2026-a-b"), ("/2026/a/b/", "/2026/a-b/")),
        (("index", "demo", "index"), ("/", "/demo/", "/x/")),
        (("a", "b"), ("/2026/a/", "/2026/a/")),
    ],
    ids=["names that meet", "the index itself", "paths"],
)
def test_duplicates_are_refused(databases: tuple[str, ...], paths: tuple[str, ...]) -> None:
    """Two tenants on one database, or at one path: two events would write into each other."""
    assert refusal(made(databases, paths)) == "duplicate"
    assert refusal(made(databases, paths), force=True) == "duplicate"


@pytest.mark.parametrize(
    "database",
    [
        "../index",
        "a/b",
        "/etc/passwd",
        "..",
        ".",
        ".hidden",
        "a/../b",
        "a\\b",
        "a\0b",
        "a\nb",
        "2026-x..y/",
        "",
    ],
)
def test_a_database_stays_inside_its_folder(database: str) -> None:
    """A name that leads elsewhere, hides or breaks a line is refused, forced or not."""
    assert refusal(made((database,), ("/x/",)), force=True) == "value"


@pytest.mark.parametrize("database", ["index", "2026-boston-spring", "2026-zürich", "2026-a.b", "demo"])
def test_an_ordinary_database_passes(database: str) -> None:
    """Letters of any language, digits, dashes, dots inside."""
    assert refusal(made((database,), ("/x/",))) is None


@pytest.mark.parametrize(
    "path", ["x/", "/x", "", "//", "/showcase//x/", "/showcase/../x/", "/showcase/2026/../../"]
)
def test_an_unclean_path_is_refused(path: str) -> None:
    """A tenant's path begins and ends with a slash and leads nowhere else."""
    assert refusal(made(("x",), (path,))) == "value"


@pytest.mark.parametrize("path", ["/", "/showcase/", "/showcase/2026/boston/ball/", "/2026/a..b/"])
def test_a_clean_path_passes(path: str) -> None:
    """The root itself, too."""
    assert refusal(made(("x",), (path,))) is None


@pytest.mark.parametrize(
    "expression",
    [
        "(",
        "^/a(?=b)",
        "^/a(?!b)",
        r"^/(a)\1",
        "^/[z-a]",
        "*",
        "^/a{2000}",
        "(?P<n>a",
        "a**",
        r"\p{Nothing}",
        "(?<=a)b",
    ],
)
def test_what_re2_refuses_is_refused(expression: str) -> None:
    """Navigator would skip such an expression without a word: no look-around, no back-references."""
    with pytest.raises(Rejected) as caught:
        check(made(expressions=("^/$", expression)), None, LIMITS, ResultCache(), force=True)
    assert caught.value.code == "expression"
    assert repr(expression) in caught.value.message


def test_a_long_list_of_alternatives_compiles() -> None:
    """A year of thousands of events is one expression, and no reason to refuse."""
    keys = "|".join(f"studio-{number}/spring-showcase" for number in range(5000))
    assert refusal(made(expressions=(f"^/showcase/2026/(?:{keys})/public/",))) is None


def test_an_expression_that_was_refused_is_refused_again() -> None:
    """What is remembered is the verdict, not that it was looked at."""
    memo = ResultCache()
    for _ in range(3):
        with pytest.raises(Rejected):
            check(made(expressions=("(",)), None, LIMITS, memo, force=False)
        memo.rotate()


@pytest.mark.parametrize(
    "content",
    [b"a:x\na:y\n", b":x\n", b"a:x\n\n", b"a:x", b"a:x\nb:y", b"a:x\r\nb\x0b:y\n", "a:x\u2028b:y\n".encode()],
    ids=["twice", "no name", "empty line", "unfinished", "unfinished second", "vertical tab", "separator"],
)
def test_an_unsound_htpasswd_is_refused(content: bytes) -> None:
    """A name a line, none twice, every line ended."""
    assert refusal(made(htpasswd=content)) == "htpasswd"


def test_a_line_without_a_colon_is_refused() -> None:
    """It would be no name and hash."""
    assert refusal(made(htpasswd=b"user1\n")) == "htpasswd"


@pytest.mark.parametrize(
    ("before", "now", "refused"),
    [(100, 100, False), (100, 200, False), (100, 50, False), (100, 49, True), (100, 0, True), (10, 4, True)],
)
def test_a_loss_of_tenants_beyond_the_limit_is_refused(before: int, now: int, refused: bool) -> None:
    """More than the configured share at once is refused, exactly the share is not."""
    assert refusal(sized(now), Counts(before, 0)) == ("loss" if refused else None)


def test_users_that_wait_for_their_hash_are_not_lost() -> None:
    """A first update with many plain-text passwords writes some of them, which is no loss of the others."""
    before = Counts(tenants=1, users=100)
    some = b"".join(b"u%d:x\n" % number for number in range(10))
    assert refusal(made(htpasswd=some), before) == "loss"
    assert refusal(made(htpasswd=some, waiting=90), before) is None


@pytest.mark.parametrize(("now", "refused"), [(75, False), (74, True)])
def test_users_have_a_limit_of_their_own(now: int, refused: bool) -> None:
    """The share of users is compared with theirs."""
    assert refusal(sized(5, now), Counts(5, 100)) == ("loss" if refused else None)


@pytest.mark.parametrize(
    ("before", "now", "refused"), [(9, 1, False), (3, 1, False), (9, 0, True), (1, 0, True), (0, 0, False)]
)
def test_few_are_compared_by_nothing_left(before: int, now: int, refused: bool) -> None:
    """Of less than ten a large share is a handful of edits; but all of them gone is a loss."""
    assert refusal(sized(now, now), Counts(before, before)) == ("loss" if refused else None)


def test_force_waives_the_limits() -> None:
    """Whoever means it gets it."""
    assert refusal(sized(0), Counts(100, 100), force=True) is None


def test_a_first_set_has_nothing_to_lose() -> None:
    """Without a set before it there is no limit."""
    assert refusal(sized(0), None) is None


def test_the_sentence_has_the_numbers() -> None:
    """An operator reads how many of how many, the limit, and what to do."""
    with pytest.raises(Rejected) as caught:
        check(sized(20), Counts(100, 0), LIMITS, ResultCache(), force=False)
    assert "80 of 100 tenants" in caught.value.message
    assert "50%" in caught.value.message
    assert "--force" in caught.value.hint


def test_counts() -> None:
    """Tenants by database, users by line."""
    assert counts(sized(7, 3)) == Counts(7, 3)


@pytest.mark.parametrize(
    ("before", "after", "limit", "refused"),
    [
        (100, 60, 0.5, True),
        (100, 75, 0.5, False),
        (16, 12, 0.5, False),
        (2, 1, 0.5, False),
        (4, 0, 0.5, False),
        (6, 1, 0.5, True),
        (5, 0, 1.0, False),
        (20, 15, 0.0, True),
    ],
)
def test_one_region_may_lose_the_share_of_the_share(
    before: int, after: int, limit: float, *, refused: bool
) -> None:
    """A quarter as shipped, whatever the whole loses; a handful is no alarm, and no limit is none."""
    assert bool(large_losses([RegionLoss("syd", before, after)], limit)) is refused


def test_a_large_loss_names_each_region_and_how_many() -> None:
    """Whoever is asked for consent knows for what; the studios of no region count as one."""
    with pytest.raises(Rejected) as refusal:
        check_regions([RegionLoss("syd", 50, 30), RegionLoss(None, 8, 1), RegionLoss("iad", 9, 8)], 0.5)
    assert refusal.value.code == LOSS
    assert refusal.value.message == (
        "the index would drop 20 of the 50 events of region syd, 7 of the 8 events of no region, "
        "more than the 25% of one region allowed at once"
    )

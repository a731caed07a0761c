"""The plan: nothing for nothing, and navigator.yml last whenever there is anything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.generations.plan import PresentFiles, is_same, plan
from sidecar.model.artifacts import NAMES, Artifact
from sidecar.system.files import sha256

contents = st.binary(max_size=3)
wanted = st.tuples(*(st.builds(Artifact, st.just(name), contents) for name in NAMES))
present = st.fixed_dictionaries({name: st.none() | contents for name in NAMES})


@given(wanted, st.booleans())
def test_the_same_needs_nothing(wanted: tuple[Artifact, ...], index: bool) -> None:
    """plan(x, x) is empty: it says no when asked whether there is anything to do, but for a new index."""
    todo = plan(wanted, PresentFiles({artifact.name: artifact.content for artifact in wanted}), index=index)
    assert todo.artifacts == ()
    assert todo.index is index
    assert bool(todo) is index


@given(wanted, present)
def test_any_change_brings_navigator_yml_last(
    wanted: tuple[Artifact, ...], present: dict[str, bytes | None]
) -> None:
    """What differs or is missing is written, in order; navigator.yml comes along, after all others."""
    todo = plan(wanted, PresentFiles(present), index=False)
    differ = [one.name for one in wanted if not is_same(one.name, one.content, present[one.name])]
    names = [artifact.name for artifact in todo.artifacts]
    assert bool(todo) is bool(differ)
    assert names == [name for name in differ if name != "navigator.yml"] + ["navigator.yml"] * bool(differ)


@given(wanted, present)
def test_carrying_it_out_leaves_nothing_to_do(
    wanted: tuple[Artifact, ...], present: dict[str, bytes | None]
) -> None:
    """After the plan is carried out the next one is empty."""
    done = present | {
        artifact.name: artifact.content
        for artifact in plan(wanted, PresentFiles(present), index=False).artifacts
    }
    assert not plan(wanted, PresentFiles(done), index=False)


def test_what_was_published_is_compared_by_its_bytes() -> None:
    """Its own file has one form; only what somebody else wrote may hold the same in another one."""
    wanted = (Artifact("htpasswd", b"a:1\nb:2\n"),)
    other = PresentFiles({"htpasswd": b"b:2\na:1\n"})
    assert not plan(wanted, other, {"htpasswd": sha256(b"a:1\n")}, index=False)
    assert plan(wanted, other, {"htpasswd": sha256(b"b:2\na:1\n")}, index=False)


def test_what_is_not_there_at_all_is_written() -> None:
    """On a new machine everything is written."""
    wanted = tuple(Artifact(name, b"") for name in NAMES)
    assert plan(wanted, PresentFiles({}), index=True).artifacts == wanted


@given(wanted, present)
def test_where_nobody_knows_what_is_loaded_navigator_yml_comes_along(
    wanted: tuple[Artifact, ...], present: dict[str, bytes | None]
) -> None:
    """Without any generation before, navigator.yml is written even where all is there already."""
    todo = plan(wanted, PresentFiles(present), index=True, unknown=True)
    differ = [one for one in wanted[:-1] if not is_same(one.name, one.content, present[one.name])]
    assert todo.artifacts == (*differ, wanted[-1])


@given(wanted, st.sets(st.sampled_from(NAMES)))
def test_a_wrong_mode_or_owner_is_a_change(wanted: tuple[Artifact, ...], wrong: set[str]) -> None:
    """A file whose content is right and whose mode or owner is not is written, and navigator.yml with it."""
    contents = {artifact.name: artifact.content for artifact in wanted}
    todo = plan(
        wanted, PresentFiles(contents, dict.fromkeys(wrong, "mode is 0666 instead of 0640")), index=False
    )
    expected = wrong | {"navigator.yml"} if wrong else set()
    assert [artifact.name for artifact in todo.artifacts] == [name for name in NAMES if name in expected]


def test_an_index_with_a_fault_is_replaced() -> None:
    """What is wrong with the index in place is a reason to replace it, also when the store's is the same."""
    assert plan((), PresentFiles({}, index="it is empty"), index=False).index


USERS = b"a:{SHA}x\nb:{SHA}y\n"
EVENTS = b"---\n2025:\n  boston:\n    :name: Boston\n    :date: '2025-03-01'\n"


@pytest.mark.parametrize(
    ("name", "published", "present", "same"),
    [
        ("htpasswd", USERS, b"b:{SHA}y\na:{SHA}x", True),
        ("htpasswd", USERS, b"a:{SHA}x\rb:{SHA}y\n", False),
        ("htpasswd", USERS, b"a:{SHA}x\n", False),
        ("htpasswd", USERS, b"a:{SHA}y\nb:{SHA}x\n", False),
        ("htpasswd", USERS, USERS + b"a:{SHA}z\n", False),
        ("showcases.yml", EVENTS, b'2025:\n boston:\n  :name: "Boston"\n  :date: "2025-03-01"', True),
        ("showcases.yml", EVENTS, EVENTS.replace(b"'", b""), False),
        ("showcases.yml", EVENTS, EVENTS + b"2024: {}\n", False),
        ("showcases.yml", EVENTS, EVENTS.replace(b"2025:", b"'2025':", 1), False),
        ("showcases.yml", EVENTS, b"2025: {boston: {:date: '2025-03-01', :name: Boston}}", False),
        ("showcases.yml", EVENTS, b"2025: [", False),
        ("showcases.yml", EVENTS, None, False),
        ("navigator.yml", b"a: 1\n", b"{a: 1}\n", False),
    ],
)
def test_what_the_application_writes_in_its_own_form_is_the_same(
    name: str, published: bytes, present: bytes | None, same: bool
) -> None:
    """Users in any order, YAML in any style; types and order of the data count. Not for navigator.yml."""
    assert is_same(name, published, present) is same


def test_a_file_that_grows_when_it_is_read_is_another() -> None:
    """Aliases and merge keys cost nothing: it is never looked at deeper than what was published."""
    nested = "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))
    merged = "".join(f"b{n}: &b{n} {{<<: [*b{n - 1}, *b{n - 1}]}}\n" for n in range(1, 60))
    for text in (f"a0: &a0 []\n{nested}", f"b0: &b0 {{c: 1}}\n{merged}"):
        published = text.encode().replace(b"<<", b"d").replace(b"&", b"").replace(b"*", b"") * 2
        assert not is_same("showcases.yml", published, text.encode())

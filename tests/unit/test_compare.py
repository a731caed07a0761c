"""Two sets compared as data: what counts, what does not, and what is meant."""

from __future__ import annotations

import random
from typing import Any

import bcrypt
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sidecar.cli.compare import compared

trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text("ab:1", max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab", max_size=3), inner, max_size=4),
    max_leaves=12,
)


def dumped(data: Any, **style: Any) -> bytes:
    text: str = yaml.safe_dump(data, sort_keys=False, **style)
    return text.encode()


def shuffled(data: Any, chance: random.Random) -> Any:
    """The same data, each mapping's keys in another order."""
    if isinstance(data, dict):
        keys = list(data)
        chance.shuffle(keys)
        return {key: shuffled(data[key], chance) for key in keys}
    return [shuffled(one, chance) for one in data] if isinstance(data, list) else data


def real(name: str, ours: bytes, theirs: bytes) -> list[tuple[str, str]]:
    return [(one.place, one.what) for one in compared(name, ours, theirs) if not one.meant]


@given(trees, st.randoms(use_true_random=False))
def test_order_of_keys_and_formatting_count_for_nothing(tree: Any, chance: random.Random) -> None:
    """The same data is equal however it is written."""
    flow = dumped(shuffled(tree, chance), default_flow_style=True, width=20)
    assert compared("showcases.yml", dumped(tree), flow) == ()


@given(trees, trees)
def test_other_data_is_not_equal(tree: Any, other: Any) -> None:
    """Whatever differs is found; true is not 1, and text is not a number."""
    assert bool(compared("showcases.yml", dumped(tree), dumped(other))) == (repr_of(tree) != repr_of(other))


def repr_of(data: Any) -> Any:
    """Data that is equal only to the same data, of the same types."""
    if isinstance(data, dict):
        return {key: repr_of(value) for key, value in data.items()}
    return [repr_of(one) for one in data] if isinstance(data, list) else repr(data)


def test_a_difference_has_its_place() -> None:
    """An entry that is missing does not make all that follow differ; dates count as their text."""
    ours = {2026: {"avon": {":name": "Avon", ":date": "2026-01-02"}}, "list": [{"path": n} for n in "abcd"]}
    theirs = (
        b"list: [{path: a}, {path: c}, {path: d}]\n2026:\n  avon:\n    :date: 2026-01-02\n    :name: Aven\n"
    )
    assert real("showcases.yml", dumped(ours), theirs) == [
        ("2026.avon.:name", '"Avon" here, "Aven" there'),
        ("list.1", 'only here: {"path":"b"}'),
    ]


@pytest.mark.parametrize("theirs", [b"a: [", b"a: !ruby/object:Set {}", b"\xff\xfe\xff"])
def test_what_is_no_yaml_is_a_difference(theirs: bytes) -> None:
    """It is told of, and nothing breaks off."""
    ((place, what),) = real("map.yml", b"a: 1\n", theirs)
    assert (place, what.startswith("it cannot be read as YAML")) == ("", True)


def test_what_the_sidecar_writes_for_itself_is_meant() -> None:
    """Its CGI, its hooks, its routes, the places on the maps: told of, and no difference."""
    ours = {
        "server": {"cgi_scripts": [{"path": "/x"}], "root_path": "/showcase"},
        "hooks": {"server": {}},
        "routes": {"reverse_proxies": [{"path": "own"}, {"path": "a"}]},
        "applications": {"pools": {"max_size": 8, "timeout": "5m"}},
    }
    theirs: dict[str, Any] = {
        "server": {"root_path": "/showcase"},
        "managed_processes": [{"name": "redis"}],
        "routes": {"reverse_proxies": [{"path": "a"}]},
        "applications": {"pools": {"max_size": 6, "timeout": "5m"}},
    }
    assert real("navigator.yml", dumped(ours), dumped(theirs)) == []
    assert len(compared("navigator.yml", dumped(ours), dumped(theirs))) == 5
    theirs["routes"]["reverse_proxies"].append({"path": "b"})
    theirs["applications"]["pools"]["timeout"] = "6m"
    assert len(real("navigator.yml", dumped(ours), dumped(theirs))) == 2
    placed = {"studios": {"avon": {"lat": 1.0, "map": "us", "x": 1, "y": 2}}}
    plain = {"studios": {"avon": {"lat": 1.0}}}
    assert real("map.yml", dumped(placed), dumped(plain)) == []
    assert real("map.yml", dumped(plain), dumped(placed)) != []


def test_users_are_compared_by_name_and_nothing_secret_is_shown() -> None:
    """A hash of the same plain text is meant, as is a line that Navigator cannot use; order is not."""
    hashed = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
    other = bcrypt.hashpw(b"another", bcrypt.gensalt(4)).decode()
    ours = f"a:{hashed}\nb:{hashed}\nc:{hashed}\nd:{hashed}\n".encode()
    theirs = f"c:{other}\nb:secret\na:{hashed}\ne:{hashed}\nf:$1$broken".encode()
    found = compared("htpasswd", ours, theirs)
    assert [(one.place, one.what, one.meant) for one in found] == [
        ("b", "a hash here, the same password as text there", True),
        ("c", "another password", False),
        ("d", "only here", False),
        ("e", "only there", False),
        ("f", "only there: the sidecar leaves lines out that Navigator cannot use", True),
    ]
    assert not any(part in str(found) for part in (hashed, other, "secret"))


def test_lists_are_compared_as_lines() -> None:
    """Their order does not count."""
    assert compared("tenants.list", b"/a\n/b\n", b"/b\n/a") == ()
    assert real("prerender.txt", b"a\tb\n", b"c\td\n") == [("a\tb", "only here"), ("c\td", "only there")]

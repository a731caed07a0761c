"""Profiles: placeholders become values, and values stay data."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.errors import SettingsError
from sidecar.generate.cache import ResultCache
from sidecar.generate.profile import expand
from sidecar.generate.yaml_writer import Entries, dump

VALUES: dict[str, Any] = {
    "root": "/showcase",
    "port": 9999,
    "share": 0.5,
    "enabled": True,
    "nothing": None,
    "empty": [],
    "routes": [{"path": "a"}, {"path": "b"}],
    "headers": {"X-A": "1"},
    "hostile": "{{port}} {{root}} {{unknown}}",
    "hostiles": ["{{port}}", {"{{root}}": "{{unknown}}"}],
}


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ("{{port}}", 9999),
        ("{{ port }}", 9999),
        ("{{share}}", 0.5),
        ("{{enabled}}", True),
        ("{{routes}}", [{"path": "a"}, {"path": "b"}]),
        ("{{headers}}", {"X-A": "1"}),
        ("{{nothing}}", None),
        ({"listen": "{{port}}"}, {"listen": 9999}),
        ({"a": {"b": ["{{port}}"]}}, {"a": {"b": [9999]}}),
    ],
)
def test_a_whole_placeholder_becomes_the_value(node: Any, expected: Any) -> None:
    """A text that is nothing but a placeholder becomes the value with its type."""
    found = expand(node, VALUES)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ("^{{root}}/demo/?$", "^/showcase/demo/?$"),
        ("{{root}}{{root}}", "/showcase/showcase"),
        ("http://localhost:{{port}}/", "http://localhost:9999/"),
        ({"{{root}}/x": 1}, {"/showcase/x": 1}),
        ("${port} {port} {{}} }}{{", "${port} {port} {{}} }}{{"),
        (5, 5),
        (None, None),
        ({"a": None, "b": [None, False]}, {"a": None, "b": [None, False]}),
    ],
)
def test_a_placeholder_inside_text(node: Any, expected: Any) -> None:
    """Inside a text, or a key, a value becomes part of it; everything else stays as it is."""
    assert expand(node, VALUES) == expected


def test_a_list_takes_the_place_of_its_placeholder() -> None:
    """As an element of a list, a list is spliced in where the placeholder stands."""
    assert expand(["first", "{{routes}}", "{{empty}}", "last"], VALUES) == [
        "first",
        {"path": "a"},
        {"path": "b"},
        "last",
    ]
    assert expand([["{{routes}}"], "{{port}}"], VALUES) == [[{"path": "a"}, {"path": "b"}], 9999]


def test_a_run_of_entries_is_spliced_in_whole() -> None:
    """Long runs pass through unexpanded, so that what is remembered for them counts."""
    run = Entries(list, [("a",)], mapping=False)
    assert expand({"tenants": ["index", "{{tenants}}"]}, {"tenants": [run]}) == {"tenants": ["index", run]}


def test_an_entry_without_a_value_is_left_out() -> None:
    """A placeholder whose value is nothing takes its key along; a null that the profile writes stays."""
    profile = {
        "user": "{{nothing}}",
        "group": None,
        "env": {"A": "{{nothing}}", "B": "{{port}}"},
        "args": ["{{nothing}}"],
    }
    assert expand(profile, VALUES) == {"group": None, "env": {"B": 9999}, "args": []}


@pytest.mark.parametrize(
    ("node", "place"),
    [
        ("{{unknown}}", "the top"),
        ({"a": "{{unknown}}"}, "at a:"),
        ({"a": {"b": ["x", {"c": "at {{unknown}}"}]}}, "at a.b[1].c:"),
        ({"a": ["{{unknown}}"]}, "at a[0]:"),
        ({"a": {"{{unknown}}": 1}}, "at a:"),
    ],
)
def test_an_unknown_name_is_an_error_with_its_place(node: Any, place: str) -> None:
    """The error names the placeholder, where it stands, and what there is."""
    with pytest.raises(SettingsError) as caught:
        expand(node, VALUES)
    assert place in caught.value.message
    assert "'unknown'" in caught.value.message
    assert "root" in caught.value.hint


@pytest.mark.parametrize("name", ["Root", "root2", "pool-size", "pool.size", "ROOT"])
def test_a_misspelled_name_is_an_error_too(name: str) -> None:
    """Whatever stands between double braces is a placeholder: none passes into the configuration as text."""
    with pytest.raises(SettingsError, match=name):
        expand({"path": f"{{{{{name}}}}}/x"}, VALUES)


@pytest.mark.parametrize("name", ["nothing", "routes", "headers", "empty"])
def test_what_is_no_text_cannot_be_part_of_one(name: str) -> None:
    """A list, a mapping or nothing inside a text is an error that names both."""
    with pytest.raises(SettingsError) as caught:
        expand({"a": f"x{{{{{name}}}}}"}, VALUES)
    assert name in caught.value.message
    assert "at a" in caught.value.message


def test_data_is_never_expanded_again() -> None:
    """What a value brings in is data: an event named `{{root}}` keeps its name."""
    assert expand(["{{hostile}}", "x {{hostile}}", "{{hostiles}}"], VALUES) == [
        VALUES["hostile"],
        f"x {VALUES['hostile']}",
        *VALUES["hostiles"],
    ]
    assert expand({"a": "{{hostiles}}"}, VALUES) == {"a": VALUES["hostiles"]}


@pytest.mark.parametrize(
    "profile",
    [{"{{root}}": 1, "/showcase": 2}, {"{{routes}}": 1}, {"{{headers}}": 1}],
    ids=["two keys become one", "a list as a key", "a mapping as a key"],
)
def test_keys_that_cannot_be_are_an_error(profile: dict[str, Any]) -> None:
    """Keys that clash or are no keys any more are the profile's fault, and said to be."""
    with pytest.raises(SettingsError):
        expand(profile, VALUES)


def test_the_profile_itself_is_left_alone() -> None:
    """Expansion makes new data; the parsed profile can be used again."""
    profile = {"a": ["{{routes}}"], "b": {"c": "{{nothing}}"}}
    once = dump(expand(profile, VALUES), ResultCache())
    assert dump(expand(profile, VALUES), ResultCache()) == once
    assert profile == {"a": ["{{routes}}"], "b": {"c": "{{nothing}}"}}

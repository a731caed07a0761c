"""A profile says only what differs from the one that it extends."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidecar.errors import SettingsError
from sidecar.inputs.profiles import SHIPPED, load_profile


@pytest.mark.parametrize("shipped", SHIPPED)
def test_a_profile_merges_mappings_and_replaces_the_rest(tmp_path: Path, shipped: str) -> None:
    """What it does not name stays as it is in the profile below, lists of it are taken over whole."""
    own = tmp_path / "own.yml"
    own.write_text(
        f"extends: {shipped}\nvalues: {{root: /dance}}\n"
        "navigator: {auth: {realm: Ballroom}, routes: {redirects: []}}\n"
    )
    below, data = load_profile(shipped).data, load_profile(str(own)).data
    assert data["values"] == {**below["values"], "root": "/dance"}
    assert data["maintenance"] == below["maintenance"]
    assert data["navigator"]["auth"] == {**below["navigator"]["auth"], "realm": "Ballroom"}
    assert data["navigator"]["routes"] == {**below["navigator"]["routes"], "redirects": []}
    assert {key: value for key, value in data["navigator"].items() if key not in ("auth", "routes")} == {
        key: value for key, value in below["navigator"].items() if key not in ("auth", "routes")
    }


def test_a_profile_whose_file_is_the_same_is_not_read_anew(tmp_path: Path) -> None:
    """Each run asks; only a change of the file costs the parsing. Its text covers what it extends."""
    own = tmp_path / "own.yml"
    own.write_text("extends: fly\n")
    known = load_profile(str(own))
    assert load_profile(str(own), known) is known
    assert len(known.text) > len(load_profile("fly").text)
    own.write_text("extends: local\n")
    assert load_profile(str(own), known).data == load_profile("local").data


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("extends: /etc/passwd", "extends '/etc/passwd'"),
        ("extends: [fly]", "extends ['fly']"),
        ("extends: other", "extends 'other'"),
        ("navigator: {}", "must have the keys navigator and maintenance"),
        ("extends: fly\nhooks: {}", "and no others"),
        ("- fly", "and no others"),
        ("extends: [", "not YAML"),
    ],
)
def test_an_unusable_profile_is_refused_with_its_name(tmp_path: Path, text: str, said: str) -> None:
    """Only shipped profiles can be extended; a part that is missing or unknown is named."""
    own = tmp_path / "own.yml"
    own.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_profile(str(own))
    assert str(own) in caught.value.message
    assert said in caught.value.message

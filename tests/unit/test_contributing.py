"""The recipes and the walk through the code name what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECIPES = dict(
    re.findall(
        r"^\*\*To add (.+?):\*\* (.+?)(?=\n\n)",
        (ROOT / "CONTRIBUTING.md").read_text(),
        re.MULTILINE | re.DOTALL,
    )
)


def test_each_kind_of_addition_has_a_recipe() -> None:
    """What is added most often can be looked up."""
    assert RECIPES.keys() == {
        "a setting",
        "an artifact",
        "a trigger",
        "a kind of store",
        "a profile",
        "a command",
        "a metric",
        "a route",
        "a step of the ready work",
        "a check of doctor",
    }


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_a_recipe_names_is_there(recipe: str) -> None:
    """Its files exist, and each name of the code stands in one of them."""
    quoted = re.findall(r"`([^`]+)`", RECIPES[recipe])
    files = [ROOT / name for name in quoted if "/" in name and not name.startswith("/")]
    assert files
    assert [path for path in files if not path.exists()] == []
    code = "".join(path.read_text() for path in files if path.suffix == ".py")
    names = [name for name in quoted if name.isidentifier()]
    assert [name for name in names if not re.search(rf"\b{name}\b", code)] == []


def test_a_publication_does_its_steps_by_their_numbers() -> None:
    """The steps that the module numbers are marked where they are done, in their order."""
    text = (ROOT / "sidecar/generations/__init__.py").read_text()
    described, _, code = text.removeprefix('"""').partition('"""')
    numbers = [int(number) for number in re.findall(r"^    (\d)\. ", described, re.MULTILINE)]
    publish = code[code.index("def publish") :]
    marked = [int(one) for line in re.findall(r"# steps? (.+)", publish) for one in re.findall(r"\d", line)]
    assert marked == numbers == [1, 2, 3, 4, 5]

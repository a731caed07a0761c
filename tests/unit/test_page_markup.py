"""Elements escape whatever they are given."""

from __future__ import annotations

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from sidecar.web.page.markup import Markup, h, render, tag


class Seen(HTMLParser):
    """What a browser would make of it: elements with attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@given(st.text(st.characters(exclude_characters="\0\r", exclude_categories=["Cs"])))
def test_text_stays_text(hostile: str) -> None:
    """Whatever a text holds, it comes out as that text: as content and as an attribute."""
    seen = Seen(h.p(hostile, title=hostile))
    assert seen.elements == [("p", {"title": hostile})]
    assert seen.text == hostile


def test_only_markup_is_markup() -> None:
    """An element made before is not escaped again; a plain text that looks like one is."""
    assert h.p(h.b("a")) == "<p><b>a</b></p>"
    assert h.p("<b>a</b>") == "<p>&lt;b&gt;a&lt;/b&gt;</p>"
    assert isinstance(render(["a", 1, None, [Markup("<i>")]]), Markup)
    assert render(["a", 1, None, [Markup("<i>")]]) == "a1<i>"


def test_attributes() -> None:
    """Underscores become dashes, True a bare attribute, None and False none."""
    made = tag("a", "x", class_="c", aria_current=None, hidden=False, data_say=True, tabindex=0)
    assert made == '<a class="c" data-say tabindex="0">x</a>'
    assert h.input(name="n") == '<input name="n"/>'

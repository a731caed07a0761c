"""HTML from Python calls. Text is escaped unless it is `Markup`, and only `tag` makes that."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from html import escape

MINUS, NONE = "\N{MINUS SIGN}", "\N{EN DASH}"

_VOID = frozenset({"br", "circle", "hr", "input", "line", "link", "meta", "path", "rect"})


class Markup(str):
    """HTML that is safe to send as it is."""

    __slots__ = ()


Content = str | int | float | Iterable["Content"] | None
Attribute = str | int | float | bool | None


def render(content: Content) -> Markup:
    """Content as HTML: text escaped, lists joined, None nothing."""
    if isinstance(content, Markup):
        return content
    if content is None:
        return Markup("")
    if isinstance(content, (str, int, float)):
        return Markup(escape(str(content)))
    return Markup("".join(map(render, content)))


def tag(name: str, /, *content: Content, **attributes: Attribute) -> Markup:
    """An element. In attributes' names `_` stands for a dash, and one at the end is dropped (`class_`).

    True is an attribute without a value; None and False leave it out.
    """
    opening = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in _VOID and not content:
        return Markup(f"<{name}{opening}/>")
    return Markup(f"<{name}{opening}>{render(content)}</{name}>")


class _Tags:
    """`h.p("text", class_="quiet")` for `tag("p", ...)`."""

    def __getattr__(self, name: str) -> Callable[..., Markup]:
        def make(*content: Content, **attributes: Attribute) -> Markup:
            return tag(name, *content, **attributes)

        return make


h = _Tags()

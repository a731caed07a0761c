"""YAML text: whatever is written parses back to the same data, for every reader alike."""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.errors import Rejected
from sidecar.generate import yaml_writer
from sidecar.generate.cache import ResultCache
from sidecar.generate.yaml_writer import Entries, dump, load, plain, scalar

LOADERS = (yaml.CSafeLoader, yaml.SafeLoader)

WORDS = """
    yes No ON off y N true False null Null ~ nan .NaN .inf -.INF inf
    1234 -5 +7 1e5 1.5 .5 5. 0o17 017 0x1F 0b101 1_000 1:30 190:20:30 1e+5 6.02e23
    2026-05-01 2026-05-01T12:00:00Z 12:00:00
    :name :Name :a-b : :: = << - -- --- ... ? ! & * @ ` % | > , [] {} [a] {a}
    # #a a#b a: *a " ' 'a' "a" it's \\ \\n a\\ C:\\new ${database} {{root}}
    Süß 😀 👩‍👩‍👧 日本語 עברית
"""
TEXTS = [
    *("", "  ", " leading", "trailing ", "\t", "\ttab first", "tab last\t", "2026-05-01 - 2026-05-02"),
    *("a: b", "a :b", "a #b", "- a", "? a", "! a", "&a b", 'say "hi"'),
    *("line\nbreak", "trailing\n", "\n", "\r", "a\r\nb", "a\n\nb\n", "--- a\n... b"),
    *("e\u0301", "\u200b", "\u00a0", "\ufeff", "a\ufeffb", "\ufffe", "\uffff"),
    *("\0", "a\0b", "\x07", "\x1b[0m", "\x7f", "\x80", "\x85", "a\x85b", "\x9f", "\u2028", "a\u2029b"),
]
HOSTILE = [*WORDS.split(), *TEXTS]
LONG = ["x" * 5000, "ä " * 3000, "long: #" * 1000, "\n" * 1000, "word " * 1000]

text = st.text(max_size=80) | st.sampled_from(HOSTILE)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text
keys = text | st.integers() | st.booleans() | st.none() | st.floats(allow_nan=False, allow_infinity=False)
trees = st.recursive(
    scalars,
    lambda below: st.lists(below, max_size=4) | st.dictionaries(keys, below, max_size=4),
    max_leaves=25,
)
documents = st.dictionaries(keys, trees, min_size=1, max_size=5)


def exact(data: Any) -> Any:
    """Data in a form whose equality tells types, the order of keys and the sign of zero."""
    if isinstance(data, dict):
        return ("dict", [(exact(key), exact(value)) for key, value in data.items()])
    if isinstance(data, (list, tuple)):
        return ("list", [exact(item) for item in data])
    return (type(data).__name__, repr(data))


def assert_reads_back(text: bytes, data: Any) -> None:
    for loader in LOADERS:
        assert exact(yaml.load(text, loader)) == exact(data), loader.__name__


@settings(max_examples=300)
@given(documents)
def test_what_is_written_parses_back_to_the_same(document: dict[Any, Any]) -> None:
    """Every tree of text, numbers, null, booleans, mappings and lists comes back: types, order and all."""
    assert_reads_back(dump(document, ResultCache()), document)


@pytest.mark.parametrize("hostile", [*HOSTILE, *LONG], ids=lambda hostile: ascii(hostile[:16]))
def test_hostile_text_stays_text(hostile: str) -> None:
    """Text that a reader could take for something else comes back as text, wherever it stands."""
    document = {
        "value": hostile,
        "list": [hostile, [hostile], {"in": hostile}],
        "map": {"in": {"x": hostile}},
    }
    if hostile not in LONG:
        document |= {"key": {hostile: 1}, "keys": [{hostile: {hostile: hostile}}]}
    assert_reads_back(dump(document, ResultCache()), document)


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: ascii(hostile[:16]))
def test_hostile_text_is_quoted(hostile: str) -> None:
    """Ruby and Go, whose rules differ from Python's, see quotes around all text that is not plain."""
    written = scalar(hostile)
    assert (written[0], written[-1]) == ('"', '"')
    assert written.isprintable() or "\u00a0" in hostile or "\u200b" in hostile or "\u200d" in hostile
    assert "\n" not in written


@pytest.mark.parametrize("innocent", ["name", "Arthur Murray Boston", "/showcase/", "v1.2", "en_US", "a-b"])
def test_plain_text_stays_readable(innocent: str) -> None:
    """Text that no reader could misread is written without quotes."""
    assert scalar(innocent) == innocent


def test_every_character_comes_back() -> None:
    """Each code point that is a character survives, alone or among others."""
    for start in range(0, 0x110000, 0x8000):
        points = [chr(point) for point in range(start, start + 0x8000) if not 0xD800 <= point <= 0xDFFF]
        document = {"all": ["".join(points[at : at + 100]) for at in range(0, len(points), 100)]}
        document["alone"] = points[:0x300] if start < 0x10000 else points[:1]
        assert load(dump(document, ResultCache())) == document


def test_half_a_surrogate_pair_is_refused() -> None:
    """What UTF-8 cannot hold is refused by name, as a value, as a key and inside an entry."""
    for document in (
        {"a": "x\ud800"},
        {"\udfff": 1},
        {"a": Entries(_pair, [("fine", 1), ("\ud800", 2)], mapping=True)},
    ):
        with pytest.raises(Rejected):
            dump(document, ResultCache())


def test_symbols_as_keys_stay_bare() -> None:
    """Ruby reads `:name:` as a symbol; the same text as a value is text, and is quoted."""
    assert dump({":name": ":name", ":events": {":date": ":x"}}, ResultCache()) == (
        b'---\n:name: ":name"\n:events:\n  :date: ":x"\n'
    )


@pytest.mark.parametrize("key", [":", "::a", ":Name", ":a b", ":a:", "a:", ":1", ":name\n"])
def test_what_is_no_symbol_is_quoted_as_a_key(key: str) -> None:
    """Only a colon and a plain lower-case name make a symbol."""
    assert f'\n"{key[:-1] if key.endswith(chr(10)) else key}'.encode() in dump({key: 1}, ResultCache())


@pytest.mark.parametrize(
    "document", [{}, {"a": {}}, {"a": []}, {"a": [[], {}, [[]]]}, {"a": Entries(dict, [], mapping=True)}]
)
def test_nothing_is_written_as_nothing(document: dict[str, Any]) -> None:
    """Empty mappings, lists and runs come back empty: an index without events is a sound one."""
    assert_reads_back(dump(document, ResultCache()), plain(document))


@pytest.mark.parametrize(
    "unfit",
    [
        float("nan"),
        float("inf"),
        float("-inf"),
        b"bytes",
        object(),
        {1},
        datetime.date(2026, 5, 1),
        decimal.Decimal("1.5"),
    ],
    ids=lambda unfit: type(unfit).__name__,
)
@pytest.mark.parametrize(
    "place",
    [lambda x: {"a": x}, lambda x: {"a": [1, x]}, lambda x: {"a": {"b": x}}],
    ids=["value", "list", "deep"],
)
def test_what_has_no_form_is_refused(unfit: object, place: Callable[[object], dict[str, Any]]) -> None:
    """Numbers that are none and types that YAML readers disagree about are refused."""
    with pytest.raises(Rejected):
        dump(place(unfit), ResultCache())


@pytest.mark.parametrize("key", [float("nan"), float("inf"), b"bytes", (1, 2), "k" * 3000], ids=str)
def test_a_key_that_has_no_form_is_refused(key: object) -> None:
    """The same holds for keys, and for keys longer than readers can tell from a value."""
    with pytest.raises(Rejected):
        dump({key: 1}, ResultCache())


@pytest.mark.parametrize("value", [True, False, None, 0, -1, 1.0, -0.0, 1e16, 1e-7, 5e-324, 10**30, 1.5e300])
def test_scalars_keep_their_type(value: object) -> None:
    """1, 1.0 and true are three things, and exponents are written so that every reader sees a number."""
    assert_reads_back(f"a: {scalar(value)}".encode(), {"a": value})


# Entries


def _pair(item: tuple[str, Any]) -> dict[str, Any]:
    key, value = item
    return {key: {"value": value, "list": [value, {"again": value}], "none": []}}


def _elements(item: tuple[str, Any]) -> list[Any]:
    key, value = item
    return [{"key": key, "value": value}, [key], value]


items = st.lists(st.tuples(text, scalars), max_size=6, unique_by=lambda item: item[0])


@settings(max_examples=80)
@given(items, st.integers(0, 2))
def test_entries_are_written_like_the_same_data_without_them(
    items: list[tuple[str, Any]], depth: int
) -> None:
    """A run changes how the text is made and proven, never the text."""
    document: dict[str, Any] = {
        "map": Entries(_pair, items, mapping=True),
        "run": Entries(_elements, items, mapping=False),
        "list": ["first", Entries(_elements, items, mapping=False), "last"],
        "lone": [Entries(_elements, items, mapping=False)],
    }
    for _ in range(depth):
        document = {"below": document, "beside": [document]}
    written = dump(document, ResultCache())
    assert written == dump(plain(document), ResultCache())
    assert_reads_back(written, plain(document))


@settings(max_examples=100)
@given(items, items)
def test_what_is_remembered_is_what_would_be_written(old: list[Any], new: list[Any]) -> None:
    """A memo that has seen other data gives the very text that a fresh one gives."""

    def document(items: list[Any]) -> dict[str, Any]:
        return {
            "map": Entries(_pair, [(key, str(value)) for key, value in items], mapping=True),
            "deeper": {
                "run": [Entries(_elements, [(key, str(value)) for key, value in items], mapping=False)]
            },
        }

    memo = ResultCache()
    first = dump(document(old), memo)
    memo.rotate()
    assert dump(document(new), memo) == dump(document(new), ResultCache())
    memo.rotate()
    assert dump(document(old), memo) == first


def test_an_entry_that_was_seen_is_not_built_again() -> None:
    """Only new entries cost anything, apart from the first, which stands for its run."""
    built: list[int] = []

    def build(item: int) -> dict[int, str]:
        built.append(item)
        return {item: "value"}

    memo = ResultCache()
    dump({"run": Entries(build, range(100), mapping=True)}, memo)
    memo.rotate()
    built.clear()
    dump({"run": Entries(build, range(101), mapping=True)}, memo)
    assert set(built) == {0, 100}


def test_every_entry_is_proven() -> None:
    """Not only the first entry of a run: one that cannot be represented spoils the document."""

    def build(item: float) -> dict[str, float]:
        return {f"entry {item}": item}

    with pytest.raises(Rejected):
        dump({"run": Entries(build, [1.0, 2.0, float("nan"), 4.0], mapping=True)}, ResultCache())


@pytest.mark.parametrize("hostile", ["a: b", "- a", "a #b", "true", "&a b", " a", "a\nb", "'a"])
@pytest.mark.parametrize("as_key", [True, False])
def test_a_scalar_that_is_written_wrongly_is_found_wherever_it_is(
    monkeypatch: pytest.MonkeyPatch, hostile: str, as_key: bool
) -> None:
    """In an entry whose shape was proven by another, too; and nothing of it is remembered."""

    def build(item: str) -> dict[str, Any]:
        return {f"entry {item}": [{"inner": {item: 1}}] if as_key else [{"inner": {"key": item}}]}

    document = {"run": Entries(build, ["fine", hostile, "good"], mapping=True)}
    memo = ResultCache()
    with monkeypatch.context() as patched:
        patched.setattr(yaml_writer, "_string", lambda value: value)
        patched.setattr(yaml_writer, "_name", lambda value: value)
        with pytest.raises(Rejected):
            dump(document, memo)
    assert_reads_back(dump(document, memo), plain(document))


def test_a_shape_that_is_written_wrongly_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each shape is proven, not only that of the first entry."""
    right = yaml_writer._list

    def wrong(items: Any, depth: int, *others: Any) -> None:
        right(items, depth - (len(items) == 3), *others)

    monkeypatch.setattr(yaml_writer, "_list", wrong)

    def document(*sizes: int) -> dict[str, Any]:
        return {"run": Entries(_nested, sizes, mapping=True)}

    dump(document(1, 2, 4), ResultCache())
    with pytest.raises(Rejected):
        dump(document(1, 2, 3, 4), ResultCache())


def _nested(size: int) -> dict[str, Any]:
    return {f"entry {size}": {"list": [{"a": 1, "b": 2}] * size}}


def test_the_same_entry_at_another_depth_is_written_anew() -> None:
    """What is remembered includes the indentation."""
    run = Entries(_pair, [("a", 1), ("b", 2)], mapping=True)
    document = {"near": run, "far": {"further": {"furthest": run}}}
    assert_reads_back(dump(document, ResultCache()), plain(document))


@settings(max_examples=50)
@given(documents)
def test_writing_is_deterministic(document: dict[Any, Any]) -> None:
    """The same data gives the same bytes, whether anything is remembered or not."""
    memo = ResultCache()
    assert dump(document, memo) == dump(document, memo) == dump(document, ResultCache())

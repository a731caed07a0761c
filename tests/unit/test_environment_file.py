"""The file of variables beside sidecar.yml, read as systemd reads it."""

from __future__ import annotations

import pytest

from sidecar.config.environment_file import variables


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=b", "b"),
        ("  A = b", None),
        ("A=", ""),
        ("A=b c  ", "b c"),
        ("A='b c'", "b c"),
        ('A="b c"', "b c"),
        (r'A="say \"b\" \$c \n"', r'say "b" $c \n'),
        ('A=\'{"admin": "$2b$12$x"}\'', '{"admin": "$2b$12$x"}'),
        ('A={"admin": "$2b$12$x"}', '{"admin": "$2b$12$x"}'),
        ("#A=b", None),
        (";A=b", None),
        ("nonsense", None),
        ("", None),
    ],
)
def test_lines(line: str, value: str | None) -> None:
    """One variable a line; quotes around a value are taken off, comments and nonsense passed over."""
    assert variables(f"X=1\n{line}\nY=2\n") == {"X": "1", **({} if value is None else {"A": value}), "Y": "2"}

"""Objects of the store as data."""

from __future__ import annotations

import re

from sidecar.model.record import Record

_MD5 = re.compile(r"[0-9a-f]{32}")


def is_md5(etag: str) -> bool:
    """Whether an ETag is its content's MD5, as far as its form tells: that of a plain upload is."""
    return _MD5.fullmatch(etag) is not None


class Fetched(Record, frozen=True):
    """An object that was fetched into a file.

    `etag` as the store names this content, `modified` its true age in seconds since 1970 (or None),
    `sha256` in hexadecimal, `size` in bytes.
    """

    etag: str
    modified: float | None
    sha256: str
    size: int


class Stored(Record, frozen=True, gc=False):
    """An object as the store tells of it.

    `modified` is in seconds since 1970: the object's true age where its metadata were asked for, in a listing
    the time of its upload.
    """

    key: str
    etag: str
    modified: float
    size: int


class StoreLook(Record, frozen=True):
    """Which index the store held when it last answered: its SHA-256, its ETag, and when.

    `at` is in seconds since 1970.
    """

    sha256: str
    etag: str
    at: float

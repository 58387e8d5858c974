"""URLs as names of files and folders: recognised, and shown without secrets."""

from __future__ import annotations

import re

# Two letters at least, since one is a drive of Windows; fsspec chains file systems by "::".
_URL = re.compile(r"(?:[a-z][a-z0-9+.-]+::)*[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_PASSWORD = re.compile(r"(://)[^/@\s]*:[^/@\s]*@")
_USER = re.compile(r"(https?://)[^/@\s]*@", re.IGNORECASE)
# A query ends where options follow, as in SOURCE:classes=LIST.
_QUERY = re.compile(r"(://[^\s?]*)\?.*?(?=:(?:classes|image|label)=|[\s'\"]|$)")


def is_url(name: object) -> bool:
    """Return whether a name is a URL, also one of chained file systems, ``simplecache::s3://…``."""
    return isinstance(name, str) and _URL.match(name) is not None


def without_secrets(text: str) -> str:
    """Return a text without what may be secret in the URLs in it: users, passwords and queries.

    >>> without_secrets("https://me:secret@example.org/photos.zip?signature=1a2b")
    'https://example.org/photos.zip'
    """
    if "://" not in text:
        return text
    return _QUERY.sub(r"\1", _USER.sub(r"\1", _PASSWORD.sub(r"\1", text)))

"""Object stores and web servers, through fsspec: every request is repeated where that may help."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from importlib.util import find_spec
from typing import Any

from pydream.data.direct_s3 import DirectReads
from pydream.errors import PydreamError, first_line
from pydream.urls import without_secrets

AT_ONCE = 32
"""Requests in flight: enough to hide 20 ms of latency behind the decoding of photographs."""

_WAITS = (0.5, 1.0, 2.0, 4.0)  # seconds before the second and each further try
_PATIENCE = 30.0  # seconds that a request may take, and one more for as many bytes:
_SLOWEST = 1 << 18
_PART = 8 << 20  # bytes of one request
_MARKS = (
    *("ETag", "etag", "generation", "blob_id", "Content-MD5"),
    *("LastModified", "Last-Modified", "last_modified", "updated", "mtime", "created"),
)
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "hf": "hf"} | {
    "http": "http",
    "https": "http",
}
_NO_CREDENTIALS = re.compile(r"Credential|NoAuth|TokenRetrieval|NotAuthenticated")

_BROKEN = re.compile(r"Connect|Disconnect|Timeout|OSError|Payload")


class MissingObjectError(PydreamError):
    """A store has no object or folder of this name."""


class Store:
    """A file system of fsspec.

    Parameters
    ----------
    protocol
        Its protocol, as ``s3``.
    system
        The file system.
    """

    def __init__(self, protocol: str, system: Any) -> None:
        self.protocol, self._system = protocol, system
        self.is_web = protocol in ("http", "https")
        self._direct: DirectReads | None = None
        if protocol in ("s3", "s3a"):
            system.retries = 1  # the tries are counted here
            self._direct = DirectReads(system) if find_spec("obstore") else None

    def info(self, key: str, shown: str) -> Mapping[str, Any]:
        """Return the facts about a file; MissingObjectError if there is none.

        Parameters
        ----------
        key, shown
            Name of the file in the file system, and for messages.
        """
        found: Mapping[str, Any] = self._request("info", key, shown)
        return found

    def list(self, key: str, shown: str) -> list[Mapping[str, Any]]:
        """Return the facts about all files and folders directly in a folder."""
        found: list[Mapping[str, Any]] = self._request("ls", key, shown, detail=True)
        return found

    def read(self, key: str, shown: str, start: int, end: int) -> bytes:
        """Return bytes of a file, fewer if it ends before; large ranges by several requests."""
        # A part of one byte would be all behind the end where that byte only tells it, and refused.
        starts = range(start, max(end - 1, start + 1), _PART)
        if len(starts) == 1:
            return bytes(self._read_part(key, shown, start, end))
        read = partial(self._read_part, key, shown)
        return b"".join(_part_pool().map(read, starts, [*starts[1:], end]))

    def _read_part(self, key: str, shown: str, start: int, end: int) -> Any:
        """Return bytes of a file, or a buffer of them."""
        if start == end:
            return b""
        if self._direct is not None:
            found = self._direct.read(key, start, end, _PATIENCE)
            if found is not None:
                return found
        data: bytes = self._request(
            "cat_file", key, shown, start=start, end=end, seconds=(end - start) / _SLOWEST
        )
        if len(data) > end - start:
            raise PydreamError(
                f"{shown}: the server sends no parts of a file; fetch it, and name the file"
            )
        return data

    def _request(
        self, method: str, key: str, shown: str, *, seconds: float = 0.0, **options: Any
    ) -> Any:
        """Call a method of the file system, some times if it fails for a reason that may pass."""
        for wait in (*_WAITS, None):
            try:
                return self._call(method, key, _PATIENCE + seconds, options)
            except Exception as error:
                for cause in _chain(error):
                    if isinstance(cause, PydreamError):
                        raise cause from error
                passing = _may_pass(error)
                if isinstance(error, FileNotFoundError) and not passing:
                    raise MissingObjectError(f"{shown}: there is nothing of this name") from error
                if wait is None or not passing:
                    tries = f", after {len(_WAITS) + 1} tries" if passing else ""
                    raise PydreamError(f"{shown}: {_reason(error)}{tries}") from error
                time.sleep(wait * random.uniform(0.5, 1.0))  # so that not all try at once
        raise AssertionError("the last try returns or raises")

    def _call(self, method: str, key: str, seconds: float, options: Mapping[str, Any]) -> Any:
        if not self._system.async_impl:
            return getattr(self._system, method)(key, **options)
        from fsspec.asyn import sync

        async def limited() -> Any:
            work = getattr(self._system, f"_{method}")(key, **options)
            return await asyncio.wait_for(work, seconds)

        return sync(self._system.loop, limited)


@lru_cache(maxsize=1)
def pool() -> ThreadPoolExecutor:
    """Return the threads that wait for stores."""
    return ThreadPoolExecutor(AT_ONCE, thread_name_prefix="pydream-store")


@lru_cache(maxsize=1)
def _part_pool() -> ThreadPoolExecutor:
    """Return the threads for parts of a range, for which those of `pool` may wait."""
    return ThreadPoolExecutor(AT_ONCE, thread_name_prefix="pydream-part")


def open_store(url: str) -> tuple[Store, str]:
    """Return the store of a URL, and the name of the file or folder in it.

    Raises
    ------
    PydreamError
        If the library for its protocol is missing or knows no such URL.
    """
    import fsspec
    from fsspec.config import conf

    protocol = url.partition("://")[0].lower()
    options: dict[str, Any] = {} if "::" in protocol else {"use_listings_cache": False}
    if protocol in ("s3", "s3a"):
        given = conf.get("s3", {}).get("config_kwargs", {})
        options["config_kwargs"] = {"retries": {"max_attempts": 0}, **given}
    shown = without_secrets(url)
    try:
        for part in url.split("::"):
            if (web := part.partition("://")[0].lower()) in ("http", "https"):
                options[web] = {"client_kwargs": {"trace_configs": _same_host()}}
        system, key = fsspec.url_to_fs(url, **options)
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        remedy = f"pip install 'pydream-distill[{extra}]'" if extra else first_line(error)
        raise PydreamError(f"{shown}: a library for {protocol}:// is missing: {remedy}") from error
    except Exception as error:
        raise PydreamError(f"{shown}: cannot be opened: {_reason(error)}") from error
    return Store(protocol, system), str(key).rstrip("/")


@lru_cache(maxsize=1)
def _same_host() -> tuple[Any, ...]:
    """Return what makes aiohttp refuse a redirect to a host that the user has not named."""
    import aiohttp

    async def check(session: Any, context: Any, redirect: Any) -> None:
        target = redirect.url.join(type(redirect.url)(redirect.response.headers["Location"]))
        if target.host != redirect.url.host:
            raise PydreamError(
                f"{without_secrets(str(redirect.url))}: its server sends on to {target.host}, and "
                "only hosts that you name are asked: name the URL there, or fetch the file"
            )

    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(check)
    return (trace,)


def size_of(info: Mapping[str, Any]) -> int | None:
    """Return the size of a file in bytes, None if the store does not tell it."""
    size = info.get("size")
    return None if size is None else int(size)


def mark_of(info: Mapping[str, Any]) -> str:
    """Return what differs when a file has changed: its ETag, or what the store has instead."""
    return next((str(info[name]) for name in _MARKS if info.get(name)), "")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Return an error and those that it was raised from."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__


def _may_pass(error: BaseException) -> bool:
    """Return whether the same request may succeed later."""
    chain = list(_chain(error))
    for cause in chain:
        status = _status(cause)
        if status is not None:
            return status in (408, 429) or status >= 500
    if any(_NO_CREDENTIALS.search(type(cause).__name__) for cause in chain):
        return False
    first = chain[0]
    if isinstance(first, FileNotFoundError):  # as which fsspec reports any failure on the web
        return any(_BROKEN.search(type(cause).__name__) for cause in chain)
    return not isinstance(
        first, (PermissionError, ValueError, TypeError, ImportError, NotImplementedError)
    )


def _status(error: BaseException) -> int | None:
    """Return the status of HTTP in an error of any library."""
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):  # botocore
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    elif type(error).__module__.startswith("gcsfs"):
        status = getattr(error, "code", None)
    else:  # aiohttp, requests and huggingface_hub
        status = getattr(error, "status", None) or getattr(response, "status_code", None)
    try:
        return int(status) if status is not None else None
    except (TypeError, ValueError):
        return None


def _reason(error: BaseException) -> str:
    """Return the reason of a failure in a line without secrets."""
    chain = list(_chain(error))
    if any(_NO_CREDENTIALS.search(type(cause).__name__) for cause in chain):
        return (
            "there are no credentials for it: set them as the store's own tools read them, or set "
            f"FSSPEC_S3_ANON=true for a public bucket ({first_line(error)})"
        )
    if isinstance(error, asyncio.TimeoutError):
        return f"no answer within {_PATIENCE:g} s"
    if isinstance(error, FileNotFoundError) and len(chain) > 1:
        error = chain[1]
    if isinstance(error, PermissionError):
        return without_secrets(f"access is denied: {first_line(error)}")
    return without_secrets(first_line(error))

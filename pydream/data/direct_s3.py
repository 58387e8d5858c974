"""Parts of objects of S3, read by obstore, on whose requests Python has little to do."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta, timezone
from typing import Any

# For which credentials are kept: those that s3fs has renewed are valid for as long at least.
_VALID = timedelta(minutes=10)


class DirectReads:
    """Reads parts of objects, with the credentials, the region and the endpoint of s3fs.

    Parameters
    ----------
    system
        The file system of s3fs.
    """

    def __init__(self, system: Any) -> None:
        self._system = system
        self._opening = threading.Lock()
        self._stores: dict[str, Any] = {}  # by bucket
        self._proved: set[str] = set()  # buckets of which a part was read
        self._left: set[str] = set()  # buckets that are left to s3fs

    def read(self, path: str, start: int, end: int, patience: float) -> Any | None:
        """Return a buffer of bytes of an object; None if s3fs has to read them, or to say why not.

        A bucket whose first reading fails is left to s3fs, which knows more of networks, regions
        and kinds of buckets.

        Parameters
        ----------
        path
            Bucket and key.
        start, end
            The bytes; fewer are returned if the object ends before.
        patience
            Seconds that the server may be silent; twice as long a reading may take.
        """
        bucket, _, key = path.partition("/")
        if bucket in self._left:
            return None
        try:
            store = self._store(bucket, patience)
            data = store.get_range(key, start=start, end=end)
        except Exception:
            if bucket not in self._proved:
                self._left.add(bucket)
            return None
        self._proved.add(bucket)
        self._left.discard(bucket)  # where another of the first readings has failed
        return data

    def _store(self, bucket: str, patience: float) -> Any:
        from fsspec.asyn import sync
        from obstore.store import S3Store

        system = self._system
        with self._opening:
            if bucket not in self._stores:
                if system.req_kw:
                    raise NotImplementedError("requests with further options")
                client = sync(system.loop, self._client, bucket)
                self._stores[bucket] = S3Store(
                    bucket,
                    endpoint=client.meta.endpoint_url,
                    region=client.meta.region_name,
                    skip_signature=bool(system.anon),
                    credential_provider=None if system.anon else self._credentials,
                    client_options={
                        "allow_http": True,
                        "read_timeout": timedelta(seconds=patience),
                        "timeout": timedelta(seconds=2 * patience),
                    },
                    retry_config={"max_retries": 0},  # the tries are counted elsewhere
                )
            return self._stores[bucket]

    async def _client(self, bucket: str) -> Any:
        await self._system.set_session()
        return await self._system.get_s3(bucket)

    def _credentials(self) -> dict[str, Any]:
        """Return what s3fs finds and renews; called by obstore when it needs them anew."""
        from fsspec.asyn import sync

        key, secret, token = sync(self._system.loop, self._secrets)
        return {
            "access_key_id": key,
            "secret_access_key": secret,
            "token": token,
            "expires_at": datetime.now(timezone.utc) + _VALID,
        }

    async def _secrets(self) -> tuple[str | None, ...]:
        system = self._system
        if system.key:
            return system.key, system.secret, system.token
        frozen = await (await system.session.get_credentials()).get_frozen_credentials()
        return frozen.access_key, frozen.secret_key, frozen.token

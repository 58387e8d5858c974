"""A server of S3 that costs little: it lists, describes and sends parts of the files of a folder.

    python -m benchmarks.s3_server FOLDER --latency-ms 20

Each folder in it is a bucket. The port is the first line of the output. ``/?seconds`` tells the
processor time that the server has spent.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path
from xml.sax.saxutils import escape

from aiohttp import web

LISTING = (
    '<?xml version="1.0" encoding="UTF-8"?>'
    '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    "{entries}<IsTruncated>false</IsTruncated></ListBucketResult>"
)
FOLDER = "<CommonPrefixes><Prefix>{name}/</Prefix></CommonPrefixes>"
FILE = (
    "<Contents><Key>{name}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
    "<ETag>&quot;{tag}&quot;</ETag><Size>{size}</Size></Contents>"
)


def listing(bucket: Path, prefix: str) -> web.Response:
    """List a folder of a bucket, in the XML of S3."""
    entries = []
    folder = bucket / prefix
    for place in sorted(folder.iterdir()) if folder.is_dir() else []:
        name = escape(place.relative_to(bucket).as_posix())
        if place.is_dir():
            entries.append(FOLDER.format(name=name))
        else:
            about = place.stat()
            tag = f"{about.st_mtime_ns:x}-{about.st_size:x}"  # as aiohttp tells it with a file
            entries.append(FILE.format(name=name, tag=tag, size=about.st_size))
    text = LISTING.format(entries="".join(entries))
    return web.Response(text=text, content_type="application/xml")


async def serve(root: Path, latency: float) -> None:
    """Serve until the process is ended."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if "seconds" in request.query:
            return web.Response(text=str(time.process_time()))
        await asyncio.sleep(latency)
        place = root / request.match_info["path"]
        if "list-type" in request.query:
            return listing(place, request.query.get("prefix", ""))
        return web.FileResponse(place) if place.is_file() else web.Response(status=404)

    application = web.Application()
    application.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--latency-ms", type=float, default=20.0)
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.folder, arguments.latency_ms / 1000))


if __name__ == "__main__":
    main()

"""The page of `kinembed app`, and the albums that are handed over on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.responses import JSONResponse, Response

from kinembed.serving.albums import FILES, Albums
from kinembed.serving.answers import Answers
from kinembed.serving.desk import Desk

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# The album's page has a script, which may do nothing in the name of this one.
ALBUM_POLICY = "sandbox allow-scripts allow-downloads; frame-ancestors 'none'"
KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript"}  # of its files, app.*


def add_page(
    application: FastAPI, answers: Answers, desk: Desk, albums: Albums, kept: Path | None
) -> None:
    """Adds the page to an application.

    Args:
        application: that compares and searches.
        answers: what answers.
        desk: who is let in.
        albums: of this program.
        kept: the folder in which they stay; None: they do not.
    """
    for ending, kind in KINDS.items():
        name = f"app.{ending}"
        content = resources.files("kinembed.serving").joinpath(name).read_bytes()
        answer = _constant(content, f"{kind}; charset=utf-8", {"content-security-policy": POLICY})
        application.get("/" if ending == "html" else f"/{name}", response_model=None)(answer)

    @application.get("/about", response_model=None)
    async def about() -> JSONResponse:
        named = "" if kept is None else str(kept)
        return JSONResponse({**answers.about(), "limit": desk.most, "kept": named})

    @application.post("/albums", response_model=None)
    async def begin(name: Annotated[str, Query(max_length=200)] = "album") -> JSONResponse:
        return JSONResponse({"id": albums.add(name)}, 201)

    async def handed(request: Request, field: str) -> tuple[str, bytes]:
        kind = request.headers.get("content-type", "")
        async with desk.photos(kind, request.stream(), [field]) as ((name, content),):
            return name, content

    @application.post("/albums/{key}/photos", response_model=None)
    async def put(key: str, request: Request) -> JSONResponse:
        albums.put(key, *await handed(request, "photo"))
        return JSONResponse({"photos": albums[key].photos}, 201)

    @application.post("/albums/{key}/confirmed", response_model=None)
    async def confirm(key: str, request: Request) -> JSONResponse:
        _, content = await handed(request, "confirmed")
        await asyncio.to_thread(albums.confirm, key, content)  # a long table takes seconds
        return JSONResponse({}, 201)

    @application.post("/albums/{key}/relate", response_model=None)
    async def relate(key: str) -> JSONResponse:
        albums.relate(key)
        return JSONResponse({}, 202)

    @application.get("/albums/{key}", response_model=None)
    async def state(key: str) -> JSONResponse:
        return JSONResponse(albums[key].about())

    @application.delete("/albums/{key}", response_model=None)
    async def remove(key: str) -> JSONResponse:
        await albums.remove(key)
        return JSONResponse({})

    @application.get("/albums/{key}/{name}", response_model=None)
    async def file(key: str, name: str) -> Response:
        content = albums.file(key, name)
        headers = {"content-security-policy": ALBUM_POLICY}
        return Response(content, headers=headers, media_type=FILES[name])


def _constant(
    content: bytes, kind: str, headers: dict[str, str]
) -> Callable[[], Coroutine[Any, Any, Response]]:
    async def answer() -> Response:
        return Response(content, headers=headers, media_type=kind)

    return answer

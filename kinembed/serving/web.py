"""The application: its addresses, and what they answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from kinembed import __version__
from kinembed.config import SearchConfig
from kinembed.errors import KinembedError
from kinembed.inference.named_people import NamedPerson
from kinembed.inference.searching import Check
from kinembed.printable import one_line
from kinembed.serving import schemas
from kinembed.serving.answers import Answers, Photo
from kinembed.serving.desk import Desk
from kinembed.serving.refused import RefusedError

MOST_FOUND = 1000  # people of an answer
# How what the command line says is said of a query.
OPTIONS = (
    (re.compile(r"--face (\d[\d,]*)"), r"face=\1"),
    (re.compile(r"--crops\b"), "crops=true"),
    (re.compile(r"(;| \() ?--by photo searches them\)?"), ""),
    (re.compile(r", or a folder of photos of one person$"), ""),
    (re.compile(r"--(prior|top|face)\b"), r"\1"),
)
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.Problem, "description": what}
    for status, what in (
        (413, "The photos are too large."),
        (415, "The body is no multipart form."),
        (422, "A photo shows no face, is no photo, or a setting is not as wanted."),
        (503, "Too many requests; Retry-After says when to ask again."),
    )
}

Prior = Annotated[
    float | None, Query(gt=0, lt=1, description="Share of kin among those who are compared.")
]
Crops = Annotated[bool, Query(description="Photos are crops of one face each.")]
OneFace = Annotated[
    int | None, Query(ge=1, le=10_000, description="Which face of several; else the largest.")
]


def photos_body(*fields: str) -> dict[str, Any]:
    """What OpenAPI says of a form with a photo in each field."""
    photo = {"type": "string", "format": "binary"}
    schema = {
        "type": "object",
        "required": list(fields),
        "properties": dict.fromkeys(fields, photo),
        "additionalProperties": False,
    }
    content = {"multipart/form-data": {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}


def make_application(answers: Answers, desk: Desk, *, is_described: bool) -> FastAPI:
    """The application that compares, searches and represents.

    Args:
        answers: what answers.
        desk: who is let in.
        is_described: `/openapi.json` describes it.
    """
    application = FastAPI(
        title="kinembed",
        version=__version__,
        description="How likely are two people kin, by photos of their faces. A likeness is no "
        "proof. Photos are not stored.",
        docs_url=None,  # FastAPI's pages fetch scripts from elsewhere
        redoc_url=None,
        openapi_url="/openapi.json" if is_described else None,
        redirect_slashes=False,
        dependencies=[Depends(_known_settings)],
    )
    _explain_problems(application)

    if is_described:

        @application.get("/", response_model=None, include_in_schema=False)
        async def root() -> JSONResponse:
            return JSONResponse({"kinembed": __version__, "described": "/openapi.json"})

    @application.get("/health", response_model=None, responses={200: {"model": schemas.Health}})
    async def health() -> JSONResponse:
        """Says that the server answers, and what answers."""
        about = {"status": "ok", "version": __version__, **answers.about(), "inside": desk.inside}
        return JSONResponse(about)

    async def asked(
        request: Request,
        fields: Sequence[str],
        crops: bool,
        answer: Callable[[list[NamedPerson], Check], dict[str, Any]],
    ) -> JSONResponse:
        def read(photo: Photo) -> NamedPerson:
            return answers.read(photo, crops=crops)

        kind = request.headers.get("content-type", "")
        async with desk.photos(kind, request.stream(), fields) as photos:
            found = await desk.answer(photos, read, answer, request.is_disconnected)
            return JSONResponse(_said(found))

    @application.post(
        "/compare",
        response_model=None,
        openapi_extra=photos_body("a", "b"),
        responses={200: {"model": schemas.Compared}, **PROBLEMS},
    )
    async def compare(
        request: Request,
        prior: Prior = None,
        face: Annotated[
            str,
            Query(
                pattern=r"^([0-9]{1,4}(,[0-9]{1,4})?)?$",
                description="Which face of a photo that shows several, or one number for each "
                "photo: 2,1. Else the largest.",
            ),
        ] = "",
        crops: Crops = False,
    ) -> JSONResponse:
        """Tells whether two people are one person, kin, or unrelated."""
        faces = tuple(int(number) for number in face.split(",") if number)
        if 0 in faces:
            raise RefusedError(422, f"face: found {face}, wanted numbers from 1 on")
        return await asked(
            request, ("a", "b"), crops, lambda people, _: answers.compare(people, faces, prior)
        )

    @application.post(
        "/search",
        response_model=None,
        openapi_extra=photos_body("photo"),
        responses={200: {"model": schemas.SearchAnswer}, **PROBLEMS},
    )
    async def search(
        request: Request,
        top: Annotated[int, Query(ge=1, le=MOST_FOUND, description="How many people.")] = 10,
        prior: Prior = None,
        face: OneFace = None,
        crops: Crops = False,
    ) -> JSONResponse:
        """Finds who in the run's cache is most likely kin of one person."""
        if answers.searched is None:
            raise RefusedError(422, answers.missing)
        config = SearchConfig(Path("photo"), top=top, prior=prior, face=face, crops=crops)
        return await asked(
            request,
            ("photo",),
            crops,
            lambda people, check: answers.search(people[0], config, check),
        )

    @application.post(
        "/represent",
        response_model=None,
        openapi_extra=photos_body("photo"),
        responses={200: {"model": schemas.Represented}, **PROBLEMS},
    )
    async def represent(
        request: Request, face: OneFace = None, crops: Crops = False
    ) -> JSONResponse:
        """Gives the vectors of a face, and the representation that the head compares."""
        faces = () if face is None else (face,)
        return await asked(
            request, ("photo",), crops, lambda people, _: answers.represent(people[0], faces)
        )

    return application


async def _known_settings(request: Request) -> None:
    """Refuses settings that do not exist, which would else be overlooked, or that stand twice.

    Raises:
        RefusedError: there is one.
    """
    known = [each.alias for each in request.scope["route"].dependant.query_params]
    given = [name for name, _ in request.query_params.multi_items()]
    for name in given:
        if name not in known:
            wanted = f"wanted {', '.join(known)}" if known else "there are none here"
            raise RefusedError(422, f"{one_line(name)[:40]}: is no setting; {wanted}")
        if given.count(name) > 1:
            raise RefusedError(422, f"{name}: stands twice")


def _said(result: dict[str, Any]) -> dict[str, Any]:
    """An answer that calls settings as a query does."""
    for key in ("notes", "sentences"):
        if key in result:
            result[key] = [in_query(line) for line in result[key]]
    return result


def in_query(text: str) -> str:
    """A text that calls settings as a query does, and no longer as the command line does."""
    for pattern, words in OPTIONS:
        text = pattern.sub(words, text)
    return text


def problem(status: int, reason: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Why there is no answer."""
    return JSONResponse({"error": one_line(reason)}, status, headers)


def _explain_problems(application: FastAPI) -> None:
    @application.exception_handler(RefusedError)
    async def refused(request: Request, error: RefusedError) -> Response:
        headers = {"connection": "close"}  # the rest of a body may be on its way
        if error.retry_after is not None:
            headers["retry-after"] = str(error.retry_after)
        return problem(error.status, error.reason, headers)

    @application.exception_handler(KinembedError)
    async def expected(request: Request, error: KinembedError) -> Response:
        return problem(422, in_query(str(error)))

    @application.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> Response:
        return problem(500, "this server failed; see its log")  # which the guard writes

    @application.exception_handler(HTTPException)
    async def general(request: Request, error: HTTPException) -> Response:
        return problem(error.status_code, f"{request.method} {request.url.path}: {error.detail}")

    @application.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"][1:])
        return problem(422, f"{name}: {first['msg']}")

"""The routes of the label page. Knows HTTP and JSON; orders, store and pictures are asked, not known."""

from __future__ import annotations

import shlex
import time
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from qgate.errors import ImageError, LabelError, StoreError
from qgate.labels.agreement import measure
from qgate.labels.answers import NEVER_SHOWN, Answer, Decision, Mark, Purpose
from qgate.labels.exchange import annotator_name
from qgate.labels.store import LabelStore
from qgate.records import REGIONS
from qgate.web.audit import Audit, audit
from qgate.web.faces import Faces
from qgate.web.guard import Access, Guard
from qgate.web.orders import ORDERS, Orders, Rules

TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


def _annotator(text: str) -> str:
    try:
        return annotator_name(text)
    except LabelError as error:
        raise ValueError(str(error)) from error


def _region(text: str) -> str:
    if text not in ("", *REGIONS):
        raise ValueError(f"region {text!r}; allowed are {', '.join(REGIONS)}")
    return text


Annotator = Annotated[str, Field(max_length=200), AfterValidator(_annotator)]
Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{8,64}$")]
Region = Annotated[str, Field(max_length=20), AfterValidator(_region)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Item = Annotated[int, Field(ge=0, le=10**9)]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TokenBody(Body):
    token: str = Field(max_length=200)


class StateBody(Body):
    annotator: Annotator
    order: Purpose


class QueueBody(StateBody):
    count: int = Field(ge=1, le=32)
    have: list[Item] = Field(max_length=100)


class ScoreBody(Body):
    item: Item


class UndoBody(Body):
    annotator: Annotator
    key: Key


class MarkBody(Body):
    region: Region
    points: list[tuple[Fraction, Fraction]] = Field(min_length=1, max_length=2000)
    radius: float = Field(0.0, ge=0, le=0.5)


class AnswerBody(Body):
    key: Key
    faces: str = Field(max_length=32)
    annotator: Annotator
    item: Item
    purpose: Purpose
    decision: Decision
    severity: int | None = Field(None, ge=0, le=3)
    regions: list[Region] = Field([], max_length=len(REGIONS))
    marks: list[MarkBody] = Field([], max_length=100)
    seconds: float | None = Field(None, ge=0, le=10**6)
    score_seen: bool = False


class StaleError(Exception):
    """An answer to the faces of an earlier start."""


class Page:
    """What the routes share."""

    def __init__(self, faces: Faces, store: LabelStore, rules: Rules, annotator: str = "") -> None:
        self.faces, self.store, self.annotator = faces, store, annotator
        self.orders = Orders(faces, store, rules)

    def audit(self) -> Audit:
        return audit((self.faces.shown[item].face for item in self.orders.audit_items), self.store.standing())

    def about(self) -> dict[str, Any]:
        """What the page needs to know once."""
        return {
            "title": self.faces.title,
            "digest": self.faces.digest,
            "faces": len(self.faces),
            "regions": REGIONS,
            "orders": self.orders.offered,
            "annotator": self.annotator,
            "per_face": self.orders.rules.per_face,
            "audit": self.orders.rules.audit,
            "train_command": train_command(self.store.path),
        }

    def state(self, body: StateBody) -> dict[str, Any]:
        """What changes with every answer."""
        done, total = self.orders.progress(body.annotator, body.order)
        given = (answer for answer in self.store.standing() if answer.annotator == body.annotator)
        yours = [answer for answer in given if answer.purpose not in NEVER_SHOWN]
        advice = self.store.advice()
        day_ago = time.time() - 24 * 3600
        return {
            "done": done,
            "total": total,
            "yours": len(yours),
            "today": sum(answer.time > day_ago for answer in yours),
            "scoring_fault": self.faces.scoring_fault,
            "training": {"labelled": advice.labelled, "words": advice.in_words(), "why": advice.why},
            "audit": self.audit().to_json() if self.orders.rules.audit else None,
        }

    def queue(self, body: QueueBody) -> list[dict[str, Any]]:
        asks = self.orders.next(body.annotator, body.order, body.count, body.have)
        return [
            {
                "item": ask.item,
                "purpose": ask.purpose,
                "name": self.faces.shown[ask.item].name,
                "votes": [_vote(vote) for vote in ask.votes],
            }
            for ask in asks
        ]

    def answer(self, body: AnswerBody) -> dict[str, Any]:
        if body.faces != self.faces.digest:
            raise StaleError("qgate label was started with other faces; reload the page")
        if body.item >= len(self.faces):
            raise ImageError(f"there is no face {body.item}")
        if body.purpose not in (*ORDERS, Purpose.GOLD, Purpose.REPEAT):
            raise LabelError(f"purpose {body.purpose}: the page does not ask for that")
        width, height = self.faces.size(body.item) if body.marks else (0, 0)
        kept = self.store.add(
            Answer(
                key=body.key,
                face=self.faces.shown[body.item].face,
                annotator=body.annotator,
                decision=body.decision,
                severity=body.severity,
                regions=tuple(region for region in REGIONS if region in body.regions),
                marks=tuple(Mark(mark.region, tuple(mark.points), mark.radius) for mark in body.marks),
                purpose=body.purpose,
                width=width,
                height=height,
                seconds=body.seconds,
                score_seen=body.score_seen,
            )
        )
        self.orders.release(body.annotator, body.item)
        return {"id": kept.id, "clean_prob": self.faces.clean_prob(body.item)}

    def undo(self, body: UndoBody) -> dict[str, Any] | None:
        answer = self.store.undo(body.annotator, body.key, lambda face: face in self.faces.ids)
        if answer is None:
            return None
        item = self.faces.ids[answer.face]
        return {
            "item": item,
            "purpose": answer.purpose,
            "name": self.faces.shown[item].name,
            "votes": [],
            # The page has told the score after the answer: the next one is not blind.
            "answer": {**_vote(answer), "score_seen": answer.score_seen or self.faces.clean_prob(item) is not None},
        }

    def score(self, body: ScoreBody) -> dict[str, Any]:
        if body.item >= len(self.faces):
            raise ImageError(f"there is no face {body.item}")
        score = self.faces.scores.get(body.item)
        if score is None:
            return {"clean_prob": None, "regions": {}}
        probs = sorted(zip(score.region_probs, REGIONS, strict=False), reverse=True)[:3]
        return {"clean_prob": score.clean_prob, "regions": {name: prob for prob, name in probs}}

    def agreement(self) -> dict[str, Any]:
        return measure(self.store.votes(), self.store.standing()).to_json()


def train_command(store: Path) -> str:
    """What makes a gate of a store's labels, as it is typed."""
    return f"qgate train --labels {shlex.quote(str(store))} --output mygate"


def make_app(page: Page, access: Access) -> ASGIApp:
    """The whole application, with its guard around it."""
    app = FastAPI(title="qgate label", docs_url=None, redoc_url=None, openapi_url=None)
    _add_pages(app, page)
    _add_session(app, access)
    app.get("/api/about")(page.about)
    app.get("/api/agreement")(page.agreement)
    app.post("/api/state")(page.state)
    app.post("/api/queue")(page.queue)
    app.post("/api/answer")(page.answer)
    app.post("/api/undo")(page.undo)
    app.post("/api/score")(page.score)
    app.add_exception_handler(LabelError, _as_error(422))
    app.add_exception_handler(StaleError, _as_error(409))
    app.add_exception_handler(ImageError, _as_error(404))
    # These two may pass: the page sends an answer again until it is kept.
    app.add_exception_handler(StoreError, _as_error(503))
    app.add_exception_handler(Exception, _broken)
    app.add_exception_handler(RequestValidationError, _invalid)
    return Guard(app, access)


def _add_pages(app: FastAPI, page: Page) -> None:
    folder = resources.files(__package__).joinpath("static")
    # All files are read now: no request names a path.
    files = {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.name.split(".")[-1] in TYPES}

    def static(name: str) -> Response:
        if name not in files:
            raise ImageError("there is no such file")
        return Response(files[name], media_type=TYPES[name.split(".")[-1]])

    def picture(item: int) -> Response:
        data, media_type = page.faces.picture(item)
        return Response(data, media_type=media_type)

    app.get("/")(lambda: static("index.html"))
    app.get("/static/{name}")(static)
    app.get("/image/{item}")(picture)


def _add_session(app: FastAPI, access: Access) -> None:
    def session(body: TokenBody) -> Response:
        if access.token and not access.knows_token(body.token):
            return JSONResponse({"error": "that is not the token that qgate printed"}, 401)
        response = JSONResponse({"ok": True})
        if access.token:
            response.set_cookie(access.cookie, access.token, httponly=True, samesite="strict")
        return response

    app.post("/api/session")(session)


def _vote(answer: Answer) -> dict[str, Any]:
    return {
        "annotator": answer.annotator,
        "decision": answer.decision,
        "severity": answer.severity,
        "regions": answer.regions,
        "marks": [asdict(mark) for mark in answer.marks],
    }


def _as_error(status: int) -> Any:
    def handle(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, status)

    return handle


def _broken(request: Request, error: Exception) -> Response:
    """What broke; the server prints the traceback."""
    return JSONResponse({"error": f"{type(error).__name__}: {error}"}, 500)


def _invalid(request: Request, error: Exception) -> Response:
    """What is wrong and where, without repeating what was sent."""
    found = error.errors() if isinstance(error, RequestValidationError) else []
    text = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in found[:5])
    return JSONResponse({"error": text}, 404 if found and found[0]["loc"][0] == "path" else 422)

"""Marks on faces, boxes and brush strokes, in the shapes of COCO and Label Studio."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from qgate.labels.answers import Answer, Decision, Mark
from qgate.records import REGIONS

Parsed = tuple[Decision, int | None, tuple[str, ...], tuple[Mark, ...], tuple[int, int]]
"""Decision, severity, regions, marks, and the width and height of the image."""


def coco_annotations(answer: Answer) -> Iterator[dict[str, Any]]:
    """Each mark as a COCO annotation, without ids; coordinates in pixels. Faces of unknown size have none.

    A stroke is a run-length mask but no crowd: readers leave crowds out of training and evaluation.
    """
    if not (answer.width and answer.height):
        return
    for mark in answer.marks:
        category = 1 + REGIONS.index(mark.region) if mark.region else 0
        shape = _stroke(mark, answer.width, answer.height) if mark.radius else _box(mark, answer.width, answer.height)
        yield {"category_id": category, "iscrowd": 0, "annotator": answer.annotator, **shape}


def studio_results(answer: Answer) -> list[dict[str, Any]]:
    """Decision, severity, regions and marks as the `result` of a Label Studio annotation; percent of the image."""
    results = [_choices("decision", [answer.decision.value])]
    if answer.severity is not None:
        results.append(_choices("severity", [str(answer.severity)]))
    if answer.regions:
        results.append(_choices("regions", list(answer.regions)))
    for number, mark in enumerate(answer.marks):
        left, top, right, bottom = _bounds(mark)
        results.append(
            {
                "id": f"mark{number}",
                "from_name": "box",
                "to_name": "image",
                "type": "rectanglelabels",
                "original_width": answer.width,
                "original_height": answer.height,
                "value": {
                    "x": 100 * left,
                    "y": 100 * top,
                    "width": 100 * (right - left),
                    "height": 100 * (bottom - top),
                    "rotation": 0,
                    "rectanglelabels": [mark.region] if mark.region else [],
                },
                # Label Studio's brush is a mask of its own encoding: the path travels beside its bounds.
                "meta": {"points": mark.points, "radius": mark.radius} if mark.radius else {},
            }
        )
    return results


def studio_rows(results: Sequence[dict[str, Any]]) -> Parsed:
    """What `studio_results` wrote, or a project with the same choice names; ValueError where something is unknown."""
    picked: dict[str, list[str]] = {}
    marks, size = [], (0, 0)
    for result in results:
        value = result["value"]
        if "choices" in value:
            picked.setdefault(result["from_name"], []).extend(value["choices"])
        elif "rectanglelabels" in value:
            size = int(result.get("original_width") or 0), int(result.get("original_height") or 0)
            marks.append(_studio_mark(value, result.get("meta") or {}))
    if len(picked.get("decision", [])) != 1:
        raise ValueError("one choice named 'decision' is expected: clean, artifact or unsure")
    severity = int(picked["severity"][0]) if picked.get("severity") else None
    regions = picked.get("regions", [])
    unknown = [name for name in (*regions, *(mark.region for mark in marks)) if name and name not in REGIONS]
    if unknown:
        raise ValueError(f"region {unknown[0]!r}; allowed are {', '.join(REGIONS)}")
    ordered = tuple(region for region in REGIONS if region in regions)
    return Decision(picked["decision"][0]), severity, ordered, tuple(marks), size


def encode_mask(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """A mask (H, W) run-length encoded: lengths of runs down the columns, the first of zeros. Source: pycocotools."""
    flat = mask.flatten(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], edges, [flat.size]]))
    counts = [0, *runs.tolist()] if flat.size and flat[0] else runs.tolist()
    return {"size": list(mask.shape), "counts": counts}


def _box(mark: Mark, width: int, height: int) -> dict[str, Any]:
    left, top, right, bottom = _bounds(mark)
    x, y, w, h = left * width, top * height, (right - left) * width, (bottom - top) * height
    corners = [x, y, x + w, y, x + w, y + h, x, y + h]
    return {"bbox": [x, y, w, h], "area": w * h, "segmentation": [corners]}


def _stroke(mark: Mark, width: int, height: int) -> dict[str, Any]:
    canvas = Image.new("1", (width, height))
    draw = ImageDraw.Draw(canvas)
    path = [(x * width, y * height) for x, y in mark.points]
    radius = max(mark.radius * width, 0.5)
    if len(path) > 1:
        draw.line(path, fill=1, width=max(round(2 * radius), 1), joint="curve")
    for x, y in path:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1)
    mask = np.asarray(canvas, dtype=np.bool_)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = [0, 0, 0, 0]
    if rows.size:
        left, top = int(columns[0]), int(rows[0])
        box = [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top]
    return {"bbox": box, "area": int(mask.sum()), "segmentation": encode_mask(mask)}


def _bounds(mark: Mark) -> tuple[float, float, float, float]:
    xs, ys = [x for x, _ in mark.points], [y for _, y in mark.points]
    return min(xs), min(ys), max(xs), max(ys)


def _studio_mark(value: dict[str, Any], meta: dict[str, Any]) -> Mark:
    region = (value["rectanglelabels"] or [""])[0]
    if meta.get("radius"):
        return Mark(region, tuple((float(x), float(y)) for x, y in meta["points"]), float(meta["radius"]))
    x, y, width, height = (float(value[name]) / 100 for name in ("x", "y", "width", "height"))
    if not all(math.isfinite(edge) for edge in (x, y, width, height)):
        raise ValueError("a box has coordinates that are no numbers")
    return Mark(region, ((x, y), (x + width, y + height)))


def _choices(name: str, chosen: list[str]) -> dict[str, Any]:
    return {"id": name, "from_name": name, "to_name": "image", "type": "choices", "value": {"choices": chosen}}

"""All figures of a gate on judged faces, as JSON values with intervals. Pure: knows no files and no networks."""

from __future__ import annotations

from typing import Any

import numpy as np

from qgate.rates import rate
from qgate.records import REGIONS
from training.data.tables import THINGS
from training.data.targets import Bools, Floats
from training.metrics.judged import Judged
from training.metrics.metrics import (
    METRICS,
    Metric,
    auroc,
    bootstrap,
    both_kinds,
    ece,
    ece_if_calibrated,
    paired_bootstrap,
)
from training.metrics.tone import TONES

IMAGE_FILES = "image files"
"""The group of faces without a truncation psi."""

PLAIN = "none of these"
"""The faces that show nothing but themselves."""

EVEN = 0.5
"""The threshold at which clean is as likely as artifact; of the tables, beside the recommended one."""

Figure = dict[str, Any]
"""value, and interval: [low, high] of 95 %; shares have hits and faces too."""


def figures(judged: Judged, recommended: float, resamples: int) -> dict[str, Any]:
    """Every metric with its bootstrap interval, and tables of shares with exact ones.

    recommended: the threshold that the gate recommends.
    agreed: the metrics on the faces whose annotators agree, None where these are not of both kinds.
    """
    clean, prob, agreed = judged.clean, judged.prob, judged.agreed
    result: dict[str, Any] = {"truth": "majority of votes, ties left out", **_metrics(clean, prob, resamples)}
    both = both_kinds(clean[agreed])
    result["agreed"] = _metrics(clean[agreed], prob[agreed], resamples) if both else None
    psi = np.where(np.isnan(judged.psi), IMAGE_FILES, judged.psi.astype(str))
    result["by_psi"] = _groups(judged, psi, resamples)
    result["by_source"] = _groups(judged, np.array(judged.source), resamples)
    result["at_threshold"] = [at_threshold(judged, threshold) for threshold in (EVEN, recommended)]
    return result


def at_threshold(judged: Judged, threshold: float) -> dict[str, Any]:
    """Shares of faces that a threshold rejects, by what is wrong with them, how much, and what else they show.

    sure_artifacts: of accepted faces with two votes or more, those that all call an artifact.
    recall_by_region, by severity 2 and 3: of artifacts, higher is better. severity 0 and 1, false_rejects: of clean
    faces, lower is better.
    """
    rejected, clean = judged.prob < threshold, judged.clean
    severity = np.rint(judged.severity).astype(int)
    regions = {name: _share(rejected, ~clean & judged.regions[:, i]) for i, name in enumerate(REGIONS)}
    return {
        "threshold": _round(threshold),
        "purity": _share(clean, ~rejected),
        "accepted": _share(~rejected, np.ones(len(judged), bool)),
        "sure_artifacts": _share(judged.agreed & ~clean, ~rejected & judged.several),
        "false_rejects": _share(rejected, clean),
        "rejected_by_severity": {str(level): _share(rejected, severity == level) for level in range(4)},
        "recall_by_region": regions,
        "clean_accepted_by_contents": _by_contents(judged, ~rejected),
    }


def apart_figures(judged: Judged, recommended: float, resamples: int) -> dict[str, Any]:
    """Faces of other origin, which do not count in the gate's figures: for each source what `figures` has, shorter."""
    found = {}
    for name in sorted(set(judged.source)):
        part = judged.part([row for row, source in enumerate(judged.source) if source == name])
        both = part.both_kinds
        found[name] = {
            "faces": len(part),
            "clean": int(part.clean.sum()),
            "auroc": _figure(auroc, part.clean, part.prob, resamples) if both else None,
            "ece": {
                "value": _round(ece(part.clean, part.prob)),
                "range_if_calibrated": [_round(end) for end in ece_if_calibrated(part.prob, resamples)],
            },
            "at_threshold": [at_threshold(part, threshold) for threshold in (EVEN, recommended)],
        }
    return found


def _by_contents(judged: Judged, accepted: Bools) -> dict[str, Figure]:
    """Share of the clean faces that are accepted, by what the picture shows and by skin tone.

    ratio: to the plain ones, which show none of these things; absent for tones and where there are no plain ones.
    """
    seen = np.array([things is not None for things in judged.contents], bool)
    shows = {t: np.array([things is not None and t in things for things in judged.contents], bool) for t in THINGS}
    plain = _share(accepted, judged.clean & seen & ~np.any(list(shows.values()), axis=0))
    found = {PLAIN: plain} | {thing: _share(accepted, judged.clean & rows) for thing, rows in shows.items()}
    for figure in found.values():
        if figure is not None and plain is not None and plain["value"]:
            figure["ratio"] = _round(figure["value"] / plain["value"])
    tones = np.array(judged.tones)
    found |= {f"skin {tone}": _share(accepted, judged.clean & (tones == tone)) for _, tone in TONES}
    return {name: figure for name, figure in found.items() if figure is not None}


def compare(first: Judged, second: Judged, resamples: int) -> dict[str, Any]:
    """Every metric of the second gate minus that of the first on the same faces, with the paired interval.

    agreed: the same on the faces whose annotators agree, None where these are not of both kinds.
    """

    def of(rows: Bools) -> dict[str, Figure]:
        clean, a, b = first.clean[rows], first.prob[rows], second.prob[rows]
        return {name: difference(metric, clean, a, b, resamples) for name, metric in METRICS.items()}

    both = both_kinds(first.clean[first.agreed])
    return {**of(np.ones(len(first), bool)), "agreed": of(first.agreed) if both else None}


def difference(metric: Metric, clean: Bools, first: Floats, second: Floats, resamples: int) -> Figure:
    """metric(second) - metric(first). clean, first, second: (n,), of the same faces."""
    low, high = paired_bootstrap(metric, clean, first, second, resamples)
    return {"value": _round(metric(clean, second) - metric(clean, first)), "interval": [_round(low), _round(high)]}


def _metrics(clean: Bools, prob: Floats, resamples: int) -> dict[str, Any]:
    """Faces of both kinds: how many, and every metric with its interval."""
    chance = [_round(end) for end in ece_if_calibrated(prob, resamples)]
    return {
        "faces": len(clean),
        "clean": int(clean.sum()),
        **{name: _figure(metric, clean, prob, resamples) for name, metric in METRICS.items()},
        "ece": {"value": _round(ece(clean, prob)), "range_if_calibrated": chance},
    }


def _groups(judged: Judged, names: Any, resamples: int) -> dict[str, Any]:
    """Faces, clean ones and AUROC of each group that has both kinds."""
    found = {}
    for name in np.unique(names):
        rows = names == name
        clean = judged.clean[rows]
        if both_kinds(clean):
            part = _figure(auroc, clean, judged.prob[rows], resamples)
            found[str(name)] = {"faces": len(clean), "clean": int(clean.sum()), "auroc": part}
    return found


def _figure(metric: Metric, clean: Bools, prob: Floats, resamples: int) -> Figure:
    low, high = bootstrap(metric, clean, prob, resamples)
    return {"value": _round(metric(clean, prob)), "interval": [_round(low), _round(high)]}


def _share(hit: Bools, among: Bools) -> Figure | None:
    """The share of `hit` among some faces, None where there are none."""
    share = rate(int((hit & among).sum()), int(among.sum()))
    if share.value is None:
        return None
    interval = [_round(share.low), _round(share.high)]
    return {"value": _round(share.value), "interval": interval, "hits": share.hits, "faces": share.total}


def _round(value: float) -> float:
    return round(float(value), 5)

"""`run.json`: what a run is, and whether another command may go on with it. Knows nothing of shards or images."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from qgate.config import canonical_digest
from qgate.dataset.encode import ImageFormat
from qgate.dataset.layout import Layout
from qgate.errors import OutputError
from qgate.seeds import SeedPlan


@dataclass(frozen=True, slots=True)
class GeneratorFacts:
    """What the manifest and the card say of the generator.

    digest: sha256 hex of its weights.
    truncation_psi: None for images from a folder.
    license: the terms of the pixels, in one sentence.
    """

    name: str
    digest: str
    truncation_psi: float | None
    license: str = ""


@dataclass(frozen=True, slots=True)
class GateFacts:
    """What the manifest and the card say of the gate; `notes` tell how its labels were made."""

    name: str
    digest: str
    notes: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunHeader:
    """All that a run is, as stored in `run.json`; the same for every kill, resume, device and batch size.

    scoring: what decides a probability, as JSON values, besides plan and shard_size, which are added to it.
    plan: the seeds the run walks; it judges `max_candidates` of them at most, shard by shard.
    threshold, count: accepted from this clean_prob on, until there are so many; count None: all that pass.
    review: cap of the random sample of all candidates.
    config: further settings of the command that made it: those needed to draw the candidates again, such as paths,
        and those of tracking; compared with nothing.
    """

    qgate: str
    scoring: Mapping[str, Any]
    plan: SeedPlan
    shard_size: int
    threshold: float
    count: int | None
    max_candidates: int
    image_format: ImageFormat
    review: int
    generator: GeneratorFacts
    gate: GateFacts
    config: Mapping[str, Any]
    versions: Mapping[str, str]

    @property
    def seed_says_all(self) -> bool:
        """Whether generator, seed and truncation psi, as label rows name them, are enough to draw a face again."""
        known = self.config.get("generator", self.generator.name) == self.generator.name
        return known and set(self.config) <= {"generator", "gate", "precision", "tracking"}

    @property
    def full_scoring(self) -> dict[str, Any]:
        return {**self.scoring, "seeds": [list(ends) for ends in self.plan.ranges], "shard_size": self.shard_size}

    @property
    def scoring_digest(self) -> str:
        return canonical_digest(self.full_scoring)

    @property
    def selection(self) -> dict[str, Any]:
        return {"threshold": self.threshold, "count": self.count, "max_candidates": self.max_candidates}

    def positions(self, shard: int) -> range:
        """The positions of the walk that a shard covers, as far as the search goes."""
        start = shard * self.shard_size
        return range(start, max(start, min(start + self.shard_size, self.max_candidates, len(self.plan))))

    def to_json(self) -> dict[str, Any]:
        return {
            "qgate": self.qgate,
            "scoring": self.full_scoring,
            "scoring_digest": self.scoring_digest,
            "selection": self.selection,
            "selection_digest": canonical_digest(self.selection),
            "generator": asdict(self.generator),
            "gate": asdict(self.gate),
            "output": {**asdict(self.image_format), "review": self.review},
            "config": dict(self.config),
            "versions": dict(self.versions),
        }

    def to_bytes(self) -> bytes:
        return (json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n").encode()

    @classmethod
    def read(cls, root: Path) -> RunHeader:
        """The header of the run in `root`. Raises OutputError where it is missing, damaged or altered."""
        path = Layout(root).run_json
        try:
            values = json.loads(path.read_bytes())
            header = cls._from_json(values)
        except FileNotFoundError as error:
            raise OutputError(f"{path}: no such file; give the output folder of a qgate run") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OutputError(f"{path}: is damaged ({error}); restore it or start with another --output") from error
        for key in ("scoring_digest", "selection_digest"):
            if values.get(key) != header.to_json()[key]:
                raise OutputError(f"{path}: {key} does not fit its contents; restore the file as qgate wrote it")
        return header

    @classmethod
    def _from_json(cls, values: dict[str, Any]) -> RunHeader:
        scoring, output = dict(values["scoring"]), dict(values["output"])
        plan = SeedPlan(tuple((int(first), int(last)) for first, last in scoring.pop("seeds")))
        return cls(
            qgate=values["qgate"],
            plan=plan,
            shard_size=scoring.pop("shard_size"),
            scoring=scoring,
            **values["selection"],
            review=output.pop("review"),
            image_format=ImageFormat(**output),
            generator=GeneratorFacts(**values["generator"]),
            gate=GateFacts(**values["gate"]),
            config=values["config"],
            versions=values["versions"],
        )


def reselect(root: Path, recorded: RunHeader, asked: RunHeader, accepted: int, regate: bool) -> RunHeader:
    """The recorded run with the selection that is asked for.

    accepted: how many the recorded run has accepted.
    regate: another threshold is welcome, and so is a smaller count.
    Raises OutputError where the command belongs to another run or another selection.
    """
    differing = [
        f"{key} is {there} there and {here} here"
        for key, there, here in _differences(_identity(recorded), _identity(asked))
    ]
    if differing:
        raise OutputError(f"{root}: holds another run: {', '.join(differing)}; give another --output")
    if not regate and asked.threshold != recorded.threshold:
        raise OutputError(
            f"{root}: was selected with threshold {recorded.threshold:g}, not {asked.threshold:g}; select anew with "
            f"`qgate regate {root} --threshold {asked.threshold:g}` or give another --output"
        )
    if not regate and asked.count is not None and asked.count < accepted:
        raise OutputError(
            f"{root}: holds {accepted} accepted faces already, more than --count {asked.count}; "
            "ask for at least as many or give another --output"
        )
    return replace(recorded, threshold=asked.threshold, count=asked.count, max_candidates=asked.max_candidates)


def _identity(header: RunHeader) -> dict[str, Any]:
    values = header.to_json()
    return {**values["scoring"], "output": values["output"]}


def _differences(there: Any, here: Any, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """The dotted keys at which two JSON values differ, with both values as JSON."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in dict.fromkeys((*there, *here)):
            yield from _differences(there.get(key), here.get(key), f"{prefix}.{key}" if prefix else key)
    elif there != here:
        yield prefix, json.dumps(there), json.dumps(here)

"""Label sources of every kind -> one set of labelled faces.

A face is one face whatever it is called: a drawn one goes by generator, seed and psi, an image file by the sha256 of
its pixels. One annotator has one judgement of a face; what differs from it, in any source, is an error.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from qgate.config import canonical_digest
from qgate.errors import LabelError
from qgate.files import order_place
from qgate.gate.lineage import SourceFacts
from qgate.gate.preprocess import Preprocessing
from qgate.images import list_images, read_image
from qgate.labels.rows import Face, Label, gather_votes
from qgate.labels.store import SUFFIXES as STORE_SUFFIXES
from qgate.labels.store import read_any
from training.config import (
    HOME,
    LABELS,
    SHIPPED,
    SourceSettings,
    SplitSettings,
    TrainConfig,
    Use,
    find,
    find_pictures,
    first_gate,
)
from training.data.pixels import FacePainter, Pixels, ReadImage, Say, Views, draw_faces, read_images
from training.data.split import split_of

OTHERS_WEIGHT = 4
"""People's labels weigh more than the shipped ones, which vision-language models made."""

MACHINES = "vlm-"
"""How the names of annotators begin who are vision-language models."""

TIE = 0.5
"""Share of votes that decides nothing."""

CLASS_FOLDERS = {"clean": 0, "artifact": 3}
"""Folder of an image folder -> severity of what lies in it."""

SHOWN_BAD = 5


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled face.

    identity: what its split follows from: the seed, or the sha256 of an image's pixels.
    votes: one for each annotator; a vote of a source that weighs more stands there as often.
    weight: how often the face counts in training.
    use: what it is for. trust: how far its votes are believed, 0..1.
    """

    face: Face
    identity: str
    votes: tuple[Label, ...]
    weight: int
    source: str
    use: Use = Use.ALL
    trust: float = 1.0

    @property
    def clean_votes(self) -> float:
        """Share of the votes that call it clean, 0..1."""
        return sum(not vote.artifact for vote in self.votes) / len(self.votes)

    @property
    def name(self) -> str:
        """What messages and pictures call it."""
        return Path(self.face.file_name).name if self.face.file_name else f"seed {self.face.seed}"


@dataclass(frozen=True, slots=True)
class LabelSet:
    """All labelled faces of a training, sorted, with what the reader should know of them.

    facts: of each source.
    bad: lines about image files that were left out.
    """

    samples: list[Sample]
    facts: list[SourceFacts]
    bad: list[str] = field(default_factory=list)

    @property
    def digest(self) -> str:
        """Names the faces, their votes and weights."""
        rows = [
            [
                s.face.generator,
                s.face.psi,
                s.identity,
                s.weight,
                s.use,
                s.trust,
                [[v.annotator, v.severity, v.regions] for v in s.votes],
            ]
            for s in self.samples
        ]
        return canonical_digest(rows)

    def views(self, looks: Sequence[Preprocessing], device: torch.device, say: Say) -> Views:
        """What each look sees of all faces in their order, from the cache, or drawn now."""
        faces = [sample.face for sample in self.samples]
        drawn = [face for face in faces if not face.file_name]
        images = [Path(face.file_name) for face in faces if face.file_name]
        kept = dict(zip(drawn, zip(*draw_faces(drawn, looks, device, say), strict=True), strict=True))
        found, bad = read_images(images, looks, say)
        if bad:
            raise LabelError(f"{next(iter(bad.values()))}; it was readable a moment ago")
        places = [found[Path(face.file_name)].kept if face.file_name else kept[face] for face in faces]
        return tuple(Pixels([place[look] for place in places]) for look in range(len(looks)))

    def pictures(self, rows: Sequence[int], device: torch.device) -> Iterator[Tensor]:
        """Whole pictures of some faces, read or drawn anew, uint8 RGB (3, H, W)."""
        painter = FacePainter((), device)
        for row in rows:
            face = self.samples[row].face
            yield read_image(face.file_name) if face.file_name else next(painter.draw([face]))

    def learned(self, identities: Set[str]) -> LabelSet:
        """The same, where faces of these identities, from which an earlier gate learned, are only learned from."""
        samples = [replace(s, use=Use.LEARN) if s.identity in identities else s for s in self.samples]
        return replace(self, samples=samples)

    def part(self, rows: Sequence[int]) -> LabelSet:
        """Some of the faces."""
        return replace(self, samples=[self.samples[row] for row in rows])


@dataclass(frozen=True, slots=True)
class _Read:
    """One source, read. path: where it lies. images: of the faces that are files."""

    settings: SourceSettings
    path: Path
    votes: dict[Face, list[Label]]
    images: dict[Face, ReadImage]

    def identity(self, face: Face) -> str:
        return self.images[face].identity if face.file_name else str(face.seed)


def read_sources(config: TrainConfig, say: Say) -> LabelSet:
    """The labelled faces of all sources, and of the shipped labels where a gate is refined.

    Raises LabelError naming the source, and file and line where there are such.
    """
    sources = list(config.sources)
    if config.rehearse and first_gate(config.pretrained) and not any(is_shipped(source.path) for source in sources):
        sources += [source.model_copy(update={"limit": max(config.rehearse, 8)}) for source in SHIPPED]
    if config.pictures is None and (missing := [source.path for source in sources if source.needs_pictures]):
        say(f"no folder of pictures is given (--pictures): the gate learns nothing from {', '.join(missing)}", True)
        sources = [source for source in sources if not source.needs_pictures]
    bad: list[str] = []
    parts = [_read(source, config, bad, say) for source in sources]
    weights = [part.settings.weight or (1 if is_shipped(part.settings.path) else OTHERS_WEIGHT) for part in parts]
    weights = [max(round(weight / min(weights)), 1) for weight in weights]
    samples: dict[Face, Sample] = {}
    for part, weight in zip(parts, weights, strict=True):
        for face, votes in part.votes.items():
            _add(samples, part, face, votes, weight)
    facts = [_facts(part, weight) for part, weight in zip(parts, weights, strict=True)]
    found = sorted(samples.values(), key=lambda sample: (sample.face, sample.identity))
    _check_enough(found, config)
    return LabelSet(found, facts, bad)


def decided(samples: Sequence[Sample], rows: Sequence[int]) -> list[int]:
    """Those of the rows whose votes are no tie."""
    return [row for row in rows if samples[row].clean_votes != TIE]


def is_shipped(path: str) -> bool:
    """Whether these are labels that come with qgate."""
    return find(path).resolve().parent == (HOME / LABELS).resolve()


def is_machine(vote: Label) -> bool:
    """Whether a vision-language model gave this vote, which then weighs 1 in whatever store it lies."""
    return vote.annotator.startswith(MACHINES)


def read_source(
    path: Path, generators: dict[str, str] | None = None, severity: int | None = None, root: Path | None = None
) -> list[Label]:
    """The label rows of a source; names of image files become paths.

    generators: name in the rows -> what `--generator` calls it. severity: of every picture of a folder; None: its
    folders clean/ and artifact/ say it. root: of the names of image files; None: the folder of `path`.
    Raises LabelError.
    """
    if severity is not None and not path.is_dir():
        raise LabelError(f"labels {path}: severity = {severity} is said of all pictures of a folder; this is none")
    if path.is_dir():
        return _read_folder(path, CLASS_FOLDERS if severity is None else {".": severity})
    if path.suffix not in (".csv", ".jsonl", *STORE_SUFFIXES):
        raise LabelError(
            f"labels {path}: give a .csv or .jsonl file, a label store (.db), or a folder with clean/ and artifact/"
        )
    if not path.exists():
        raise LabelError(f"labels {path}: no such file or folder")
    labels = []
    for label in read_any(path):
        face = label.face
        if face.file_name:
            face = Face(file_name=os.path.abspath((root or path.parent) / face.file_name))
        else:
            face = replace(face, generator=(generators or {}).get(face.generator, face.generator))
        labels.append(replace(label, face=face, origin=label.origin or str(path)))
    if not labels:
        raise LabelError(f"labels {path}: holds no labels; `qgate label` makes some")
    return labels


def take(faces: Iterable[tuple[str, bool]], limit: int, splits: SplitSettings) -> set[int]:
    """Positions of `limit` faces: every split gets its share of both kinds, and one of each where there is one.

    faces: identity, whether clean. A larger limit takes the same and more.
    """
    groups: dict[tuple[str, bool], list[tuple[float, int]]] = {}
    for row, (identity, clean) in enumerate(faces):
        groups.setdefault((split_of(identity, splits), clean), []).append((order_place("limit", identity), row))
    ranked = [(rank / len(group), row) for group in groups.values() for rank, (_, row) in enumerate(sorted(group))]
    return {row for _, row in sorted(ranked)[:limit]}


def _read(source: SourceSettings, config: TrainConfig, bad: list[str], say: Say) -> _Read:
    path = find_pictures(source.path, config)
    root = find_pictures(source.root, config) if source.root else None
    votes = gather_votes(read_source(path, config.generators, source.severity, root))
    files = [face for face in votes if face.file_name]
    for face in files:
        if not Path(face.file_name).is_file():
            raise LabelError(f"labels {votes[face][0].origin}: the image {face.file_name} is missing")
    looks = [look.preprocessing for look in config.looks]
    found, faults = read_images([Path(face.file_name) for face in files], looks, say)
    if len(faults) > config.max_bad_fraction * len(files):
        raise LabelError(
            f"labels {path}: {len(faults)} of {len(files)} images cannot be read, at most "
            f"{config.max_bad_fraction:.1%} may (max_bad_fraction), for example {next(iter(faults.values()))}"
        )
    for fault in list(faults.values())[:SHOWN_BAD]:
        say(f"left out: {fault}", True)
    bad += faults.values()
    votes = {face: given for face, given in votes.items() if Path(face.file_name) not in faults}
    part = _Read(source, path, votes, {Face(file_name=str(path)): image for path, image in found.items()})
    if source.limit is None:
        return part
    kinds = [(part.identity(face), _clean(given)) for face, given in votes.items()]
    rows = take(kinds, source.limit, config.splits)
    return replace(part, votes={face: given for row, (face, given) in enumerate(votes.items()) if row in rows})


def _read_folder(path: Path, severities: Mapping[str, int]) -> list[Label]:
    """severities: name of a folder -> severity of all pictures below it."""
    labels = []
    for name, severity in severities.items():
        if not (path / name).is_dir():
            raise LabelError(
                f"labels {path}: a folder of labelled images has the folders {' and '.join(CLASS_FOLDERS)}, and "
                f"{name}/ is missing; metadata is given by its file, {path / 'metadata.jsonl'}"
            )
        for file in list_images(path / name):
            face = Face(file_name=os.path.abspath(file))
            labels.append(Label(face, severity, (), path.name or "folder", str(file)))
    return labels


def _add(samples: dict[Face, Sample], part: _Read, face: Face, votes: Sequence[Label], weight: int) -> None:
    """Join the votes of one source's face to what other sources, or the same image by another name, say of it."""
    identity = part.identity(face)
    key = Face(file_name=identity) if face.file_name else face
    held = samples.get(key)
    known = () if held is None else held.votes
    given = gather_votes([replace(vote, face=key) for vote in (*dict.fromkeys(known), *votes)])[key]
    named = part.settings.weight is not None
    counts = [(vote, weight if named or not is_machine(vote) else 1) for vote in given if vote not in known]
    samples[key] = Sample(
        face=held.face if held else face,
        identity=identity,
        votes=(*known, *(vote for vote, count in counts for _ in range(count))),
        weight=max([held.weight if held else 1, *(count for _, count in counts)]),
        source=held.source if held else part.settings.path,
        use=max([part.settings.use, *([held.use] if held else [])], key=list(Use).index),
        trust=max(part.settings.trust, held.trust if held else 0.0),
    )


def _check_enough(samples: Sequence[Sample], config: TrainConfig) -> None:
    named = ", ".join(source.path for source in config.sources)
    asked = {source.path for source in config.sources}
    own = [sample for sample in samples if sample.source in asked]
    clean = sum(_clean(sample.votes) for sample in own)
    if len(own) < config.min_faces:
        raise LabelError(
            f"labels {named}: {len(own)} labelled faces are too few, {config.min_faces} are needed (min_faces); label "
            f"{config.min_faces - len(own)} more with `qgate label`"
        )
    if clean in (0, len(own)):
        kind, other = ("clean", "artifacts") if clean else ("artifacts", "clean")
        raise LabelError(f"labels {named}: all {len(own)} faces are {kind}; label some that are {other} too")


def _clean(votes: Sequence[Label]) -> bool:
    return 2 * sum(not vote.artifact for vote in votes) > len(votes)


def _facts(part: _Read, weight: int) -> SourceFacts:
    path = part.path
    return SourceFacts(
        path=part.settings.path,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None,
        faces=len(part.votes),
        clean=sum(map(_clean, part.votes.values())),
        annotators=Counter(vote.annotator for votes in part.votes.values() for vote in votes),
        weight=weight,
        use=part.settings.use.value,
    )

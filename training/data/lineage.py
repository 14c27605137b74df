"""Which faces taught a gate, and the gates that it came from: none of them may judge."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from qgate.gate.bundle import GateCard
from qgate.gate.lineage import SourceFacts, TaughtFacts
from qgate.progress import warn
from training.config import PICTURES, SplitSettings, TaughtSettings, Use, find
from training.data.sources import Sample, read_source
from training.data.split import Split, split_of
from training.data.tables import read_table


def taught_facts(settings: TaughtSettings) -> TaughtFacts:
    """What a card says of what other gates said."""
    digest = hashlib.sha256(find(settings.path).read_bytes()).hexdigest()
    return TaughtFacts(path=settings.path, sha256=digest, share=settings.share)


def only_learned_sources(card: GateCard | None) -> tuple[TaughtFacts | SourceFacts, ...]:
    """Facts of the sources that a gate, or one that it came from, only learned from; none where there is no gate."""
    if card is None or card.training is None:
        return ()
    found: list[TaughtFacts | SourceFacts] = list(filter(_taught_whole, card.training.sources))
    if card.training.taught is not None:
        found.append(card.training.taught)
    return (*found, *(source for source in card.training.earlier_sources if source not in found))


def learned_identities(card: GateCard, samples: Sequence[Sample]) -> set[str]:
    """Seeds of the drawn faces that taught a gate, as far as their own hash does not keep them from judging.

    samples: the faces at hand. Where some of them only judge, which splits them by other shares, what the gate learned
    from by hash counts too.
    A source that is not there any more, or was changed, is warned of: its faces cannot be told from others. So are
    image files, which the card does not name, and a card that does not say what the gate learned from.
    """
    if card.training is None:
        warn(f"the gate {card.name} does not say what it learned from; its faces may be taken for unknown ones")
        return set()
    found = set[str]().union(*(_seeds(source) for source in only_learned_sources(card)))
    judges = [sample for sample in samples if sample.use is Use.JUDGE]
    settings = SplitSettings.model_validate(card.training.recipe.splits.model_dump())
    for source in card.training.sources if judges else ():
        if Use(source.use) not in (Use.ALL, Use.APART):
            continue
        if source.sha256 is None or source.path.startswith(PICTURES):
            if any(sample.face.file_name for sample in judges):
                warn(f"a gate learned from {source.path}; its image files may be taken for unknown ones")
            continue
        found |= {seed for seed in _seeds(source) if split_of(seed, settings, Use(source.use)) is Split.TRAIN}
    return found


def _seeds(source: TaughtFacts | SourceFacts) -> set[str]:
    """Of the faces of a source, as far as they are drawn."""
    path, said = find(source.path), f"a gate learned from {source.path}"
    if not (path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == source.sha256):
        warn(f"{said}, which is not here as it was; its faces may be taken for unknown ones")
        return set()
    if isinstance(source, TaughtFacts):
        faces = [face for face, _, _ in read_table(path, "taught", {}, None)]
    else:
        faces = [label.face for label in read_source(path)]
    if _taught_whole(source) and any(face.file_name for face in faces):
        warn(f"{said}; its image files may be taken for unknown ones")
    return {str(face.seed) for face in faces if not face.file_name}


def _taught_whole(source: TaughtFacts | SourceFacts) -> bool:
    """Whether all faces of a source taught, whatever their hash."""
    return isinstance(source, TaughtFacts) or Use(source.use) is Use.LEARN

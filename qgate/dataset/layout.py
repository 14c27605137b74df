"""Where things lie in the output folder of a run. Knows names, opens nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths below `root`; everything that is named after a shard or a seed sorts in the order of the walk."""

    root: Path

    @property
    def run_json(self) -> Path:
        return self.root / "run.json"

    @property
    def dataset(self) -> Path:
        return self.root / "dataset"

    @property
    def ledger(self) -> Path:
        return self.root / "ledger"

    @property
    def review(self) -> Path:
        return self.root / "review"

    @property
    def staging(self) -> Path:
        """The work area: on the same file system, gone when no run is under way."""
        return self.root / ".staging"

    @property
    def metadata(self) -> Path:
        return self.dataset / "metadata.jsonl"

    @property
    def card(self) -> Path:
        return self.dataset / "README.md"

    @property
    def review_metadata(self) -> Path:
        return self.review / "metadata.jsonl"

    @property
    def derived(self) -> tuple[Path, ...]:
        """What is computed from the ledger at the end of a run, and goes before the ledger changes."""
        return (
            self.metadata,
            self.card,
            self.review_metadata,
            self.root / "report.html",
            self.root / "report.json",
        )

    def images(self, shard: int) -> Path:
        return self.dataset / f"{shard:06d}"

    def parquet(self, shard: int) -> Path:
        return self.ledger / f"{shard:06d}.parquet"

    def seal(self, shard: int) -> Path:
        return self.ledger / f"{shard:06d}.json"

    def work(self, shard: int) -> Path:
        """Where a shard is built; worth nothing after a kill."""
        return self.staging / f"{shard:06d}.work"

    def ready(self, shard: int) -> Path:
        """Where a built shard stands from its commit until it is in its place; a kill between is made good."""
        return self.staging / f"{shard:06d}.ready"

    def review_image(self, seed: int) -> Path:
        return self.review / f"seed{seed:010d}.jpg"


def file_name(shard: int, seed: int, suffix: str) -> str:
    """The path of an accepted image below `dataset/`, as in the ledger; `suffix` with its dot."""
    return f"{shard:06d}/seed{seed:010d}{suffix}"


def seed_of(path: Path) -> int | None:
    """The seed in an image's file name, None for other files."""
    digits = path.stem.removeprefix("seed")
    return int(digits) if path.stem == f"seed{digits}" and len(digits) == 10 and digits.isdecimal() else None

"""What a gate learned from, as its card says it: so that no face that taught it is taken for an unknown one."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Part(BaseModel):
    """Further facts, as cards of other versions of qgate have them, are left out."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class SourceFacts(_Part):
    """One source of labels.

    path: as the recipe names it. sha256: of a file, None for a folder. faces, clean: how many it has.
    annotators: name -> votes. weight: how often each face counted.
    use: `learn`: all its faces taught; `all`, `apart`: those of the train split did; `judge`: none.
    """

    path: str
    sha256: str | None
    faces: int
    clean: int
    annotators: dict[str, int]
    weight: int
    use: Literal["learn", "apart", "all", "judge"]

    @model_validator(mode="before")
    @classmethod
    def _read_learn_only(cls, values: Any) -> Any:
        """How cards said it before there were four uses."""
        if isinstance(values, dict) and "learn_only" in values:
            return {"use": "learn" if values["learn_only"] else "all", **values}
        return values


class TaughtFacts(_Part):
    """What other gates said of faces. path, sha256: of the file. share: of what is learned of a labelled face."""

    path: str
    sha256: str
    share: float


class SplitShares(_Part):
    """Shares of the faces that do not teach, by what they are for."""

    validation: float
    calibration: float
    test: float


class Recipe(_Part):
    """The settings that decided the weights. looks and the last three: for the reader, as the recipe gives them."""

    seed: int
    splits: SplitShares
    looks: list[dict[str, Any]] = []
    targets: dict[str, Any] = {}
    augment: dict[str, Any] = {}
    optimiser: dict[str, Any] = {}


class Lineage(_Part):
    """Where a gate comes from.

    labels: digest of all labelled faces. sources, taught: what it learned from itself.
    earlier_sources: what it only learned from by way of the gates before it.
    started_from: its first weights, in words. faces: how many in each split; votes, tied_faces: of all.
    validation_by_epoch: name of a look -> figures on the validation faces after each epoch; epoch: the one it took.
    seconds: that each look learned, by its name.
    """

    labels: str
    sources: tuple[SourceFacts, ...]
    taught: TaughtFacts | None = None
    earlier_sources: tuple[TaughtFacts | SourceFacts, ...] = ()
    started_from: str
    faces: dict[str, int]
    votes: int
    tied_faces: int
    validation_by_epoch: dict[str, list[dict[str, float]]]
    epoch: dict[str, int]
    seconds: dict[str, float]
    recipe: Recipe = Field(description="its splits say which faces of a source taught")

    @model_validator(mode="before")
    @classmethod
    def _read_one_look(cls, values: Any) -> Any:
        """How cards said it when a gate had one look."""
        if not isinstance(values, dict) or isinstance(values.get("epoch"), dict):
            return values
        found = {"epoch": {"whole": values.get("epoch")}}
        return {**values, **found, "validation_by_epoch": {"whole": values.get("validation_by_epoch")}}

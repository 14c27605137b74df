"""Ledger -> what a reader of the dataset needs: metadata.jsonl, the dataset card, the index of the review sample.

Knows nothing of how the rows came about; everything here can be written again at any time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from qgate import files
from qgate.dataset.header import RunHeader
from qgate.dataset.layout import Layout, seed_of
from qgate.dataset.ledger import iter_rows, read_seals
from qgate.records import Row, Score, Tally, Verdict
from qgate.seeds import class_of

SIZE_CATEGORIES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))
"""Source: dataset card specification of the Hugging Face Hub."""

COLUMNS = {
    "file_name": "path of the image",
    "seed": "identity of the face: z is `numpy.random.RandomState(seed).randn(1, z_dim)`",
    "truncation_psi": "pull towards the mean face, 1 is none",
    "latents": "file of w vectors that was drawn; `seed` is the row in it",
    "class": "class that a conditional generator was asked for",
    "clean_prob": "calibrated probability, by the gate, that the face is free of artifacts; higher is better",
    "generator": "name of the generator",
    "gate": "name of the gate",
    "sha256": "of the bytes of the file",
    "source": "path of the image that was judged",
    "judged_pixels": "`original`: the gate judged the pixels before they were resampled or compressed",
}


def write(layout: Layout, header: RunHeader) -> None:
    """Write metadata and card of the dataset and the metadata of the review sample, each at once or not at all."""
    tally = sum((seal.tally for seal in read_seals(layout.root).values()), Tally())
    files.replace(layout.card, [card(header, tally).encode()], layout.staging)
    files.replace(layout.review_metadata, review_lines(layout), layout.staging)
    files.replace(layout.metadata, dataset_lines(layout, header), layout.staging)


def dataset_lines(layout: Layout, header: RunHeader) -> Iterator[bytes]:
    """The lines of `dataset/metadata.jsonl`, in the order of the seeds."""
    for row in iter_rows(layout.root):
        if row.verdict is Verdict.ACCEPTED:
            yield _to_line(record(header, row))


def review_lines(layout: Layout) -> Iterator[bytes]:
    """The lines of `review/metadata.jsonl`, in the order of the seeds."""
    sampled = {seed_of(path) for path in layout.review.iterdir()}
    for row in iter_rows(layout.root):
        if row.seed in sampled:
            yield _to_line(
                {
                    "file_name": layout.review_image(row.seed).name,
                    "seed": row.seed,
                    "clean_prob": row.score.clean_prob,
                    "verdict": row.verdict.value,
                    "reasons": list(row.reasons),
                }
            )


def record(header: RunHeader, row: Row) -> dict[str, Any]:
    """The line of `dataset/metadata.jsonl` for an accepted row."""
    asked, classes = header.config.get("class_idx"), header.config.get("classes", 0)
    values = {
        "file_name": row.file_name,
        "seed": row.seed,
        "truncation_psi": header.generator.truncation_psi,
        **({"latents": header.config["latents"]} if "latents" in header.config else {}),
        **({"class": class_of(row.seed, asked, classes)} if asked is not None else {}),
        "clean_prob": row.score.clean_prob,
        "generator": header.generator.name,
        "gate": header.gate.name,
        "sha256": row.sha256,
    }
    if not header.image_format.synthetic:
        values["source"] = row.source
    if not header.image_format.keeps_pixels:
        values["judged_pixels"] = "original"
    return values


def card(header: RunHeader, tally: Tally) -> str:
    """The dataset card: YAML front matter for the Hugging Face Hub, then what a user of the faces must know."""
    size = next((name for bound, name in SIZE_CATEGORIES if tally.accepted < bound), "1M<n<10M")
    generator, gate = header.generator, header.gate
    synthetic = header.image_format.synthetic
    columns = record(header, Row(0, Score(None), verdict=Verdict.ACCEPTED))
    listed = "\n".join(f"* `{name}`: {COLUMNS[name]}" for name in columns)
    psi = "" if generator.truncation_psi is None else f", truncation_psi {generator.truncation_psi:g}"
    wanted = "all that pass" if header.count is None else f"{header.count}"
    return f"""---
license: other
task_categories:
- unconditional-image-generation
size_categories:
- {size}
tags:
- faces
- qgate
{"- synthetic" if synthetic else "- selected"}
---

# Faces selected by qgate

{tally.accepted} faces, {"drawn by a generator" if synthetic else "taken from a folder of images"} and kept by a gate \
that looks for artifacts.

* Generator: {generator.name}{psi}; sha256 `{generator.digest}`
* Gate: {gate.name}; sha256 `{gate.digest}`
* Threshold: a face is accepted if its clean_prob is at least {header.threshold:g}
* Faces asked for: {wanted}; accepted: {tally.accepted}
* Candidates judged: {tally.judged}; rejected: {tally.rejected}; failed: {tally.failed}
* Yield (accepted / judged): {f"{tally.accepted / tally.judged:.4f}" if tally.judged else "none judged"}
* Files: {_files(header)}

{gate.notes or "The gate comes without notes on its labels."}

A gate errs: some of these faces have artifacts. `clean_prob` says how sure the gate was of each one.

## Load

```python
from datasets import load_dataset

faces = load_dataset("imagefolder", data_dir="PATH_OF_THIS_FOLDER", split="train")
```

Columns of `metadata.jsonl`:

{listed}

## License

{generator.license or "The terms of the generator's weights apply to its images; this run names none."}
"""


def _files(header: RunHeader) -> str:
    style = header.image_format
    if style.keeps_pixels:
        return "PNG, lossless: the pixels are those that the gate judged"
    size = "" if style.resolution is None else f", area-resampled to {style.resolution} pixels on the longer side"
    kind = "PNG" if style.format == "png" else f"{style.format.upper()} of quality {style.quality}"
    return f"{kind}{size}: the gate judged the original pixels, not these"


def _to_line(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, ensure_ascii=False) + "\n").encode()

"""How often the peak of a heat map lies in the artifact, for several methods and against fixed places.

    python tests/benchmarks/heatmap_hits.py [--gate DIR]

Draws some 105 faces. Two kinds of truth, on faces of the held-out splits of configs/train-weak.yaml, from which neither
that gate nor the shipped one learned:

boxes     faces that every vote calls an artifact. The boxes around what the labels name were drawn by a vision-language
          model (Claude) on sheets of the faces at 480 pixels, not by a person, and are generous: they cover 25 % of the
          picture on average. Those of the 48 from which a gate learned by now are left out.
injected  60 faces labelled clean twice, with two made artifacts each at random places: a swirl, a melt, a blob, a piece
          of another face, a smear, 4 % of the picture on average. An earlier gate minded most of them little (median
          clean_prob 0.98), so this measures order more than certainty.

`fixed place` is the peak of the mean mask of the other faces, which is what a map that ignores the face could do best.

The gradient methods see what the first look sees. With the gate before, of one look at 384 pixels, this printed:

                                    boxes (45)    injected (120)
    fixed place                          0.467             0.117
    gate.explain                         0.933             0.358
    gradient x activation                0.778             0.267
    LayerCAM                             0.822             0.283
    Grad-CAM                             0.889             0.250

The method was chosen earlier, with 48 boxes and the gate of that time (the same network, fewer labels); each is the
mean over image and mirror image, smoothed by 1/32 of the picture. These figures come from the experiment itself; its
injected artifacts were of the same kinds and sizes, but drawn from other random numbers than here:

    fixed place                                        0.479  0.075
    windows of 3x3 last features left out (shipped)    0.896  0.342
    the same without the mirror image                  0.896  0.333
    windows of 1, windows of 5                         0.812  0.292,  0.833  0.233
    windows of 1 and 3; of 1, 3 and 5                  0.854  0.275,  0.854  0.283
    windows of 3, clean and likely regions together    0.938  0.283 (two boxes more, seven injected fewer)
    gradient x activation, last features               0.833  0.242
    gradient x activation, stage of stride 16          0.875  0.275
    LayerCAM, last features                            0.875  0.258
    Grad-CAM, last features                            0.875  0.200
    head on 3x3 windows alone                          0.896  0.133

With 48 and 120 cases a difference below 0.08 is noise. All of them beat the fixed place by far; leaving out is ahead
where artifacts are small, needs no gradients and follows the head's pooling exactly.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

from qgate.gate.bundle import DEFAULT, read_bundle
from qgate.gate.classifier import Gate, LookNetwork
from qgate.labels.rows import Face, gather_votes
from training.config import Use, find, load_train_config
from training.data.pixels import FacePainter
from training.data.sources import read_source, read_sources
from training.data.split import JUDGING, split_rows

BOXES = """
20002 1.4 1 8.6 2.4; 1.3 1.8 2.8 4.1; 7.2 8.6 10 10; 8 3.3 10 5
20055 0 0.1 1.2 6.9
20116 2.4 4.4 8.6 6.2; 2.3 0 10 3.2; 7.5 3 10 5.2
20195 3.4 5.8 7.6 7.6; 0.3 5.8 1.7 9; 7.3 6.8 7.8 7.5
20290 0.6 8 4.3 10
20398 7.5 0 10 10
20479 2.4 4.2 7.2 6.3; 4 8.2 5.2 9.6; 4.2 6.6 5.6 7.4
20551 2.3 4 9 6; 0.7 5 2.9 6.8
20577 0.3 7.4 6.4 10
20611 2.4 0.5 8 3.7; 2.4 0 10 2.2; 8 3.9 10 4.8
20637 2.3 0.7 10 3; 0 1.6 2.9 8
20686 1.4 0 8.2 3.2; 0 6.8 3.5 10; 6.5 8 10 10
20725 0 0 8.2 4.6; 0 4 1.6 10; 6.5 4 8.3 8; 1.6 7.6 6.5 9.6
20776 1.4 0 9.2 4.3
20828 0 0.1 8.7 2.6
20877 9.1 3 10 6.6
20914 7.2 2.2 10 10; 0 6.5 1 8.4
20997 0 0 8.2 5.4; 7.9 2.3 10 10
21025 0.5 0.3 3.2 7; 5 0 9.1 2; 8 2 9.2 6.3; 3.5 6.8 6.6 7.8; 0 0 2.5 9; 8 0 10 9
21114 0.2 0 9.6 4; 8.4 2.2 10 10; 0 4.6 2.2 10
21154 7.5 0 10 10
21192 7.8 0 10 5.6; 8.6 4 10 10
21226 0 0.6 3.3 7.2
21257 5.8 6.1 10 10; 7.8 0.2 10 3.3
21273 0.2 0.8 9.2 3.6; 0 2 2.3 6.5; 0 6.2 10 10
21306 8 7.2 10 9.8
21382 0.3 3.8 7.6 5.4
21414 1.4 4 7.8 5.4; 7.3 0 10 2.8
21458 1.4 3.8 7.8 6.1
21495 6 6.8 8.4 10
21571 2.4 4.4 8 5.8; 7.5 0 10 8; 0 0 2 6.5; 2 0 7.5 2; 3.3 5.8 8 8.2
21610 0 3.5 2.6 10
21664 0 0.6 1.6 5.2; 6.4 2.2 10 10
21714 2.4 4.1 6.2 5.9; 0.5 6.6 3.4 10
21814 2.1 0 7.4 1.4; 7.4 6.4 8.4 8.2; 2.2 6.2 2.9 8
21864 0 0 1.8 8.5
21913 7.7 0 10 9
21994 0.9 8.1 4.9 10
22026 0.9 0 10 4.3
22043 8.8 0.9 10 6.3
22071 8.8 1 10 8.3; 1.9 5.5 2.6 7.2
22098 0.4 3.6 2.2 7; 7.4 4.2 10 6.4; 3 4.2 7.2 8.8; 1.9 6.5 4.7 9.4
22156 6.2 8.2 9.2 10; 7.4 0.2 10 8; 0.3 6.5 10 10
22222 7.4 0 10 3.8; 0 0 2.2 4.2
22259 7.4 0 10 6
22327 8 6.4 8.9 8; 2.6 7.2 3.1 8.2; 0 0.8 2.2 6.5; 7 0 10 7
22346 0 1.5 1 9.6; 7 2 10 8
22360 2.5 3.9 8 5.6
"""
"""Seed, then boxes as left, top, right, bottom in tenths of the picture."""

CPU = torch.device("cpu")
CLEAN = 60
KINDS = ("swirl", "melt", "blob", "piece", "smear")

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]
Picture = NDArray[np.uint8]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gate", type=Path, default=DEFAULT)
    bundle = read_bundle(parser.parse_args().gate)
    gate = Gate(bundle, "cpu")
    look = LookNetwork(bundle, bundle.card.looks[0]).eval().requires_grad_(False)

    truths = make_truths()
    methods: dict[str, Callable[[Tensor], Array]] = {
        "gate.explain": lambda image: gate.explain(image)[0],
        "gradient x activation": lambda image: by_gradient(look, image, lambda a, g: a * g),
        "LayerCAM": lambda image: by_gradient(look, image, lambda a, g: a.relu() * g.relu()),
        "Grad-CAM": lambda image: by_gradient(look, image, lambda a, g: a * g.mean((2, 3), keepdim=True)),
    }
    print(f"{'':24}" + "".join(f"{f'{name} ({len(images)})':>18}" for name, (images, _) in truths.items()))
    print(f"{'fixed place':24}" + "".join(f"{fixed_place(masks):18.3f}" for _, masks in truths.values()), flush=True)
    for name, method in methods.items():
        rates = [
            np.mean([hits(method(torch.from_numpy(image)[None]), mask) for image, mask in zip(*truth, strict=True)])
            for truth in truths.values()
        ]
        print(f"{name:24}" + "".join(f"{rate:18.3f}" for rate in rates), flush=True)


def say(text: str, important: bool = False, done: int = 0, total: int = 0) -> None:
    print(text, file=sys.stderr)


def make_truths() -> dict[str, tuple[Sequence[Picture], Sequence[Mask]]]:
    """Whole faces as they were drawn or changed, and where their artifacts are."""
    boxed, clean = choose_faces()
    painter = FacePainter((), CPU)
    faces = [next(painter.draw([face])).numpy() for face in sorted(boxed)]
    plain = [next(painter.draw([face])).numpy() for face in clean]
    injected = [
        inject(KINDS[(row + 2 * again) % 5], face, plain[(row + 7) % len(plain)], 2 * row + again)
        for row, face in enumerate(plain)
        for again in range(2)
    ]
    return {
        "boxes": (faces, [box_mask(boxed[face], faces[0].shape[-1]) for face in sorted(boxed)]),
        "injected": ([image for image, _ in injected], [mask for _, mask in injected]),
    }


def choose_faces() -> tuple[dict[Face, list[list[float]]], list[Face]]:
    """Held-out faces: those with boxes, and some that are labelled clean twice."""
    weak, last = (load_train_config(Path(f"configs/{name}.yaml")) for name in ("train-weak", "train"))
    votes = gather_votes(read_source(find(weak.sources[0].path), weak.generators))
    faces = sorted(votes)
    rows = split_rows([str(face.seed) for face in faces], weak.splits, [Use.ALL] * len(faces))
    learned = {sample.face for sample in read_sources(last, say).samples if sample.use is Use.LEARN}
    held = [faces[row] for split in JUDGING for row in rows[split] if faces[row] not in learned]
    held.sort()
    boxes: dict[int, list[list[float]]] = {}
    for line in BOXES.strip().splitlines():
        seed, _, rest = line.partition(" ")
        boxes[int(seed)] = [[float(number) for number in box.split()] for box in rest.split(";")]
    clean = [face for face in held if len(votes[face]) == 2 and all(vote.severity == 0 for vote in votes[face])]
    return {face: boxes[face.seed] for face in held if face.seed in boxes}, clean[:CLEAN]


def box_mask(boxes: list[list[float]], side: int) -> Mask:
    mask = np.zeros((side, side), np.bool_)
    for left, top, right, bottom in (np.rint(np.array(box) * side / 10).astype(int) for box in boxes):
        mask[top:bottom, left:right] = True
    return mask


def hits(heat: Array, mask: Mask) -> bool:
    """Whether the peak of a map, of whatever size, lies in the mask."""
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    high, wide = (there / here for there, here in zip(mask.shape, heat.shape, strict=True))
    return bool(mask[int((row + 0.5) * high), int((column + 0.5) * wide)])


def fixed_place(masks: Sequence[Mask]) -> float:
    """Hits of the peak of the mean mask of the other faces."""
    total = np.sum(masks, 0, dtype=np.int32)
    return float(np.mean([mask.flat[(total - mask).argmax()] for mask in masks]))


def by_gradient(look: LookNetwork, image: Tensor, combine: Callable[[Tensor, Tensor], Tensor]) -> Array:
    """A map (S, S) from the last features and the gradient of minus the logit of clean; the mirror image counts too."""
    pixels, network, total = look.preprocessing.resize(image), look.network, 0.0
    for flip in (False, True):
        x = look.preprocessing.normalise(pixels.flip(-1) if flip else pixels)
        features = network.forward_features(x).requires_grad_(True)
        (gradient,) = torch.autograd.grad(-network.forward_head(features)[0, 0], features)
        heat = combine(features.detach(), gradient).sum(1, keepdim=True)
        total = total + (heat.flip(-1) if flip else heat)
    fine = nn.functional.interpolate(total, pixels.shape[-2:], mode="bilinear")[0, 0].numpy()
    return ndimage.gaussian_filter(fine, fine.shape[0] / 32, mode="nearest")


def inject(kind: str, face: NDArray[np.uint8], other: NDArray[np.uint8], seed: int) -> tuple[NDArray[np.uint8], Mask]:
    """A face (3, S, S) with one made artifact, and where it is."""
    random, side = np.random.default_rng(seed), face.shape[-1]
    y, x = np.mgrid[:side, :side].astype(np.float32)
    column, row = random.uniform(0.12, 0.88, 2) * side
    wide, high = random.uniform(0.06, 0.13) * side * random.uniform(0.7, 1.4, 2)
    distance = np.hypot((x - column) / wide, (y - row) / high) + 0.15 * _noise(random, side, 0.04)
    weight, old = np.clip((1.25 - distance) / 0.35, 0, 1), face.astype(np.float32)
    inside = distance < 1

    def warp(along_x: Array, along_y: Array) -> Array:
        return np.stack([ndimage.map_coordinates(c, [along_y, along_x], order=1, mode="reflect") for c in old])

    if kind == "swirl":
        angle = random.uniform(1.5, 3) * np.clip(1.25 - distance, 0, None)
        dx, dy = x - column, y - row
        new = warp(column + dx * np.cos(angle) - dy * np.sin(angle), row + dx * np.sin(angle) + dy * np.cos(angle))
    elif kind == "melt":
        new = warp(*(axis + _noise(random, side, 0.018) * 0.028 * side * weight for axis in (x, y)))
    elif kind == "smear":
        angle, reach = random.uniform(0, np.pi), 0.09 * side
        steps = [weight * step for step in np.linspace(-reach, reach, 15)]
        new = np.mean([warp(x + np.cos(angle) * step, y + np.sin(angle) * step) for step in steps], axis=0)
    else:
        tone = old[:, inside].mean(1)[:, None, None]
        if kind == "blob":
            tone = tone * random.uniform(0.6, 1.4) + random.uniform(-25, 25, 3)[:, None, None]
            piece = tone + 18 * _noise(random, side, 0.02)
        else:
            piece = np.roll(other, tuple(random.integers(-side // 4, side // 4, 2)), (1, 2)).astype(np.float32)
            piece = piece + 0.7 * (tone - piece[:, inside].mean(1)[:, None, None])
        new = old * (1 - weight) + piece * weight
    return np.clip(new, 0, 255).astype(np.uint8), distance < 1.1


def _noise(random: np.random.Generator, side: int, scale: float) -> Array:
    """Smooth noise of unit variance whose grain is `scale` of the side."""
    noise = ndimage.gaussian_filter(random.standard_normal((side, side)), scale * side)
    return noise / noise.std()


if __name__ == "__main__":
    main()

"""Candidates per second through the whole of `qgate run`, against the generator's own engine drawing alone.

    python tests/benchmarks/run_speed.py [--count 40] [--repeats 3] [--set generator.precision=fp32]

The yardstick is the graph of the PyPI package `random-face` run as that package runs it: OpenVINO, one face at a time,
drawing only. The run draws, scores, judges, encodes and writes. Both take turns, so that a machine whose speed
drifts is fair to both; the ratio is formed pair by pair. A yardstick in bf16 is measured too where the CPU has it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from qgate.generators.mobile_stylegan import weights as random_face


def compile_yardstick(wheel: Path, precision: str) -> Any:
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        for name in ("SynthesisNetwork.xml", "SynthesisNetwork.bin"):
            archive.extract(f"random_face/data/{name}", folder)
        model = ov.Core().read_model(Path(folder) / "random_face/data/SynthesisNetwork.xml")
        return ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": precision})


def yardstick_rate(engine: Any, faces: int) -> float:
    latents = np.random.RandomState(0).randn(faces, 1, 512).astype(np.float32)
    engine(latents[0])
    start = time.perf_counter()
    for latent in latents:
        engine(latent)
    return faces / (time.perf_counter() - start)


def run_rate(count: int, threshold: float, seed_start: int, extra: list[str]) -> tuple[float, float, dict[str, Any]]:
    """Candidates per second while the run works, and with the start of the process counted in."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["run", "--count", str(count), "--threshold", str(threshold), "--seed-start", str(seed_start)]
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "qgate.cli.main", *command, "--output", f"{folder}/out", "--json", *extra],
            capture_output=True,
            text=True,
            cwd=folder,
            check=True,
        )
        wall = time.perf_counter() - start
    summary = json.loads(done.stdout)
    return summary["faces_per_second"], summary["judged"] / wall, summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--threshold", type=float, default=0.8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()

    wheel = random_face.locate()
    engines = {precision: compile_yardstick(wheel, precision) for precision in ("f32", "bf16")}
    extra = [word for setting in options.settings for word in ("--set", setting)]
    ratios = []
    for repeat in range(options.repeats):
        yardsticks = {precision: yardstick_rate(engine, 20) for precision, engine in engines.items()}
        working, whole, summary = run_rate(options.count, options.threshold, 1_000_000 + 10_000 * repeat, extra)
        best = max(yardsticks.values())
        ratios.append((working / best, whole / best))
        print(
            f"engine alone: {yardsticks['f32']:.2f} faces/s fp32, {yardsticks['bf16']:.2f} bf16 | "
            f"qgate run: {working:.2f} candidates/s, {whole:.2f} with start-up ({summary['judged']} judged, "
            f"{summary['accepted']} accepted) | ratio {working / best:.2f}, {whole / best:.2f} with start-up"
        )
    working, whole = (statistics.median(column) for column in zip(*ratios, strict=True))
    print(f"median ratio {working:.2f}, with start-up {whole:.2f} (at least 1 is wanted)")


if __name__ == "__main__":
    main()

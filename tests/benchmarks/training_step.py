"""Seconds of a training step on the CPU, where freed memory is given back to the system and where it is kept, in turns.

    python tests/benchmarks/training_step.py [--turns 2] [--steps 8]

A step of the first look of the shipped gate: 16 images, half precision where the CPU computes in it, all but the
first two stages learning. Each turn is a process of its own, since memory that is kept stays kept.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from qgate.gate.bundle import DEFAULT, read_bundle
from qgate.gate.classifier import build_network
from qgate.runtime.executor import pick_precision
from training.fitting.cpu import keep_freed_memory, speed_up
from training.fitting.fit import freeze

WAYS = ("given back", "kept")
BATCH, WARM_UP, FROZEN_STAGES = 16, 2, 2


def seconds_a_step(way: str, steps: int) -> float:
    if way == "kept":
        keep_freed_memory()
    look = read_bundle(DEFAULT).card.looks[0]
    half = pick_precision("auto", torch.device("cpu")) == "bf16"
    network = build_network(look.architecture).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    for layer in freeze(network, FROZEN_STAGES):
        layer.eval()
    if half:
        speed_up(network)
    optimiser = torch.optim.AdamW([weight for weight in network.parameters() if weight.requires_grad])
    x = torch.randn(BATCH, 3, look.preprocessing.size, look.preprocessing.size)
    x = x.contiguous(memory_format=torch.channels_last)
    begin = 0.0
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            begin = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = network(x).float().square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return (time.perf_counter() - begin) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way is not None:
        print(seconds_a_step(options.way, options.steps))
        return
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(options.turns):
        for way in WAYS:
            command = [sys.executable, __file__, "--way", way, "--steps", str(options.steps)]
            found[way].append(float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
            print(f"freed memory {way}: {found[way][-1]:.2f} s a step", flush=True)
    print(f"given back takes {sum(found['given back']) / sum(found['kept']):.2f} times as long")


if __name__ == "__main__":
    main()

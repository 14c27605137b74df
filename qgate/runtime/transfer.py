"""Copies from a device to the host that nobody waits for until their values are needed."""

from __future__ import annotations

import torch
from torch import Tensor


class HostCopy:
    """A tensor on its way to the host; one that is there already is itself.

    The copy goes into pinned memory, after what the current stream has to do; waiting is for this copy alone, not for
    work that is launched after it.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._tensor, self._done = tensor, None
        if tensor.is_cuda:
            with torch.cuda.device(tensor.device):
                self._tensor = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
                self._tensor.copy_(tensor, non_blocking=True)
                self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
                self._done.record()

    def wait(self) -> Tensor:
        """The values, on the host."""
        if self._done is not None:
            self._done.synchronize()
            self._done = None
        return self._tensor

"""What a device is still busy with."""

from __future__ import annotations

import torch


def settled(device: torch.device) -> bool:
    """Whether tensors made so far by this thread's stream may be kept for calls on any other one,
    which is not ordered after it: waits until they hold their numbers.

    False while the stream is captured in a CUDA graph: nothing is computed before its replay.
    """
    if device.type != "cuda":
        return True
    if torch.cuda.is_current_stream_capturing():
        return False
    torch.cuda.current_stream(device).synchronize()
    return True

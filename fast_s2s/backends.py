"""Which implementation of an op runs, and why."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch

# the fastest first
NAMES = ("native", "triton", "reference")

# a plain global: torch.compile guards on it, which it can on neither a ContextVar nor a thread's
# own value
_override: str | None = None


def _load_extension() -> tuple[ModuleType | None, str]:
    if os.environ.get("FAST_S2S_NATIVE", "1") == "0":
        return None, "switched off by FAST_S2S_NATIVE=0"
    try:
        # `from fast_s2s import _C` would call a missing file a circular import
        _C = importlib.import_module("fast_s2s._C")
    except ImportError as error:
        return None, f"the compiled extension fast_s2s._C does not load ({error})"
    # raises for an unknown FAST_S2S_ISA here, not inside a kernel
    _C.build_info()
    return _C, "compiled extension fast_s2s._C"


extension, extension_reason = _load_extension()

if extension is None and os.environ.get("FAST_S2S_NATIVE", "1") != "0":
    warnings.warn(
        f"On the CPU fast_s2s runs on its slow reference backend: {extension_reason}. "
        "Build it with `pip install --no-build-isolation -e .` in the source folder.",
        RuntimeWarning,
        stacklevel=2,
    )

_NATIVE_DTYPES = (torch.float32, torch.float64, torch.bfloat16)
_TRITON_DTYPES = (*_NATIVE_DTYPES, torch.float16)
# those of pyproject.toml
_TRITON_VERSIONS = ((3, 6), (3, 10))


def _find_triton() -> tuple[bool, str]:
    """Whether there is a triton to use, without importing it, and which."""
    if importlib.util.find_spec("triton") is None:
        return False, "triton is not installed (pip install 'fast-s2s[triton]')"
    version = importlib.metadata.version("triton")
    found = tuple(int(part) for part in version.split(".")[:2])
    least, below = _TRITON_VERSIONS
    if not least <= found < below:
        wanted = ">={}.{},<{}.{}".format(*least, *below)
        return False, f"triton{wanted} is needed, {version} is installed"
    return True, f"triton {version}"


triton_found, triton_reason = _find_triton()
# torch calls AMD's GPUs "cuda" too
_ROCM = torch.version.hip is not None
# triton reads it when it is imported; there it runs the kernels on the CPU, slowly
triton_interprets = os.environ.get("TRITON_INTERPRET") == "1"


def _load_cuda_library() -> tuple[bool, str]:
    if os.environ.get("FAST_S2S_NATIVE", "1") == "0":
        return False, "switched off by FAST_S2S_NATIVE=0"
    if torch.version.cuda is None:
        return False, "this torch has no CUDA"
    path = next(Path(__file__).parent.glob("_cuda*.so"), None)
    if path is None:
        return False, "built without CUDA kernels (FAST_S2S_CUDA=1 builds them)"
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        return False, f"the CUDA library {path.name} does not load ({error})"
    return True, f"CUDA library {path.name}"


cuda_loaded, cuda_reason = _load_cuda_library()

# as the planner of the CUDA kernels names them
_CUDA_PRECISIONS = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


class Choice(NamedTuple):
    """A backend's name and why it was chosen."""

    backend: str
    reason: str


def unsupported(
    name: str,
    device_type: str,
    dtype: torch.dtype,
    variant: str = "",
) -> str | None:
    """Why backend `name` cannot serve tensors of this device and type; None if it can."""
    if name == "reference":
        return None
    if variant and name == "native" and device_type != "cpu":
        return f"no {name} kernel with {variant} for device {device_type!r}"
    if name == "triton":
        return _triton_unsupported(device_type, dtype)
    if device_type == "cuda":
        return _cuda_unsupported(dtype)
    if extension is None:
        return extension_reason
    if device_type != "cpu":
        return f"no native kernel for device {device_type!r} in this build"
    if dtype not in _NATIVE_DTYPES:
        return f"no native {device_type} kernel for {dtype}"
    return None


def _cuda_unsupported(dtype: torch.dtype) -> str | None:
    if not cuda_loaded:
        return f"no native kernel for device 'cuda': {cuda_reason}"
    return None if dtype in _CUDA_PRECISIONS else f"no native cuda kernel for {dtype}"


def _triton_unsupported(device_type: str, dtype: torch.dtype) -> str | None:
    if not triton_found:
        return triton_reason
    if device_type == "cpu" and not triton_interprets:
        return "triton kernels run on a GPU; on the CPU by TRITON_INTERPRET=1 alone, for tests"
    if device_type not in ("cpu", "cuda") or _ROCM:
        return f"no triton kernel for device {device_type!r} in this build"
    if dtype not in _TRITON_DTYPES:
        return f"no triton kernel for {dtype}"
    return None


def select(
    device_type: str,
    dtype: torch.dtype,
    override: str | None = None,
    variant: str = "",
) -> Choice:
    """The backend for tensors of this device and type: the fastest one that supports them.

    device_type: `tensor.device.type`
    override:    a name from `NAMES`, as given to `backend()`
    variant:     what makes the layer's formula another than `torch.nn.LSTM`'s, in words

    Raises RuntimeError if the override cannot serve them.
    """
    if override is not None:
        why_not = unsupported(override, device_type, dtype, variant)
        if why_not is not None:
            raise RuntimeError(f"backend {override!r} was asked for, but {why_not}")
        return Choice(override, "asked for by fast_s2s.backend()")
    refusals: list[str] = []
    for name in NAMES:
        why_not = unsupported(name, device_type, dtype, variant)
        if name == "triton" and device_type == "cpu" and why_not is None:
            why_not = "its interpreter is for tests, and runs where it is asked for"
        if why_not is None:
            return Choice(name, "; ".join(refusals) or _serves(name, device_type))
        refusals.append(f"{name}: {why_not}")
    raise AssertionError("the reference backend serves everything")


def _serves(name: str, device_type: str) -> str:
    if name == "triton":
        return triton_reason
    return cuda_reason if device_type == "cuda" else extension_reason


def current(device_type: str, dtype: torch.dtype, variant: str = "") -> Choice:
    """`select` under the override of the enclosing `backend()` block, if any."""
    return select(device_type, dtype, _override, variant)


def has_both_directions(device_type: str, dtype: torch.dtype) -> bool:
    """Whether what serves these tensors runs both directions of a layer at once."""
    return current(device_type, dtype).backend == "native"


@contextlib.contextmanager
def backend(name: str) -> Iterator[None]:
    """Run everything inside the block on one backend, "native", "triton" or "reference"; for
    the whole process, not one thread.

    Raises ValueError for an unknown name; a call inside raises RuntimeError if the backend cannot
    serve its tensors.
    """
    if name not in NAMES:
        raise ValueError(f"name: expected one of {', '.join(NAMES)}, got {name!r}")
    global _override
    before, _override = _override, name
    try:
        yield
    finally:
        _override = before


def explain_cuda(
    properties: Any, dtype: torch.dtype, hidden: int, batch: int, *, backward: bool = False
) -> str:
    """How the CUDA kernels would run a layer of this size, and on what of the device.

    properties: as `torch.cuda.get_device_properties` returns them; needs no GPU otherwise

    Raises RuntimeError without the compiled extension, ValueError for a size below 1.
    """
    if extension is None:
        raise RuntimeError(f"explain_cuda: {extension_reason}")
    data_center = properties.major in (9, 10)
    plan = extension.plan_lstm(
        precision=_CUDA_PRECISIONS[dtype],
        hidden=hidden,
        batch=batch,
        backward=backward,
        sms=properties.multi_processor_count,
        shared_bytes=properties.shared_memory_per_block_optin,
        max_cluster=16 if data_center else 8 if properties.major > 9 else 1,
    )
    return str(plan["explanation"])


def describe() -> str:
    """A few lines on what was built and which backend serves which tensors."""
    lines = [f"extension: {extension_reason}", f"triton: {triton_reason}"]
    if extension is not None:
        facts = extension.build_info()
        lines[1:1] = [f"  {key}: {value}" for key, value in facts.items()]
    devices = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    for device_type in devices:
        for dtype in (*_NATIVE_DTYPES, torch.float16):
            choice = select(device_type, dtype)
            type_name = str(dtype).removeprefix("torch.")
            lines.append(f"{device_type} {type_name}: {choice.backend} ({choice.reason})")
    if cuda_loaded and torch.cuda.is_available() and extension is not None:
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        for hidden in (128, 512, 1024, 2048):
            plan = explain_cuda(properties, torch.bfloat16, hidden, 8)
            lines.append(f"cuda bfloat16, H={hidden}, B=8: {plan}")
    return "\n".join(lines)

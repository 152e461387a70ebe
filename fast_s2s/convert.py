"""Between torch's LSTM modules and ours, sharing the parameters."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, TypeVar, overload

from torch import nn

from fast_s2s.lstm import LSTM, LSTMCell

_TO_FAST: dict[type[nn.Module], type[nn.Module]] = {nn.LSTM: LSTM, nn.LSTMCell: LSTMCell}
_TO_TORCH = {ours: theirs for theirs, ours in _TO_FAST.items()}

# of a warning, so that it names the line of the user's call
_STACK = {"replace_lstm": 4, "restore_lstm": 4, "pack_lstm": 3}

M = TypeVar("M", bound=nn.Module)


@overload
def from_torch(module: nn.LSTM) -> LSTM: ...
@overload
def from_torch(module: nn.LSTMCell) -> LSTMCell: ...
def from_torch(module: nn.Module) -> nn.Module:
    """The fast module with the very parameters, hooks and mode of a `torch.nn.LSTM` or `LSTMCell`.

    Training one trains the other. What `module.compile()` did is to be done again. Raises TypeError
    for any other class, subclasses included: what they add would be lost; ValueError for a module
    with a `forward` of its own, as some tools put in.
    """
    return _twin(module, _TO_FAST, "module")


@overload
def to_torch(module: LSTM) -> nn.LSTM: ...
@overload
def to_torch(module: LSTMCell) -> nn.LSTMCell: ...
def to_torch(module: nn.Module) -> nn.Module:
    """The `torch.nn` module with the very parameters, hooks and mode of a fast one.

    The inverse of `from_torch`. Raises as that does, and ValueError for a module with options that
    torch's lacks: layer norm, zoneout, and in training mode kinds of dropout, which are lost in
    evaluation mode.
    """
    return _twin(module, _TO_TORCH, "module")


def replace_lstm(model: M) -> M:
    """Swap every `torch.nn.LSTM` and `torch.nn.LSTMCell` inside `model` for ours, in place, sharing
    the parameters.

    Returns the model; a model that is itself an LSTM is returned as its twin. A module used in
    several places stays one module. Subclasses (parametrised modules too) may override anything, so
    they are left alone, with a warning, and so are modules with a `forward` of their own. Raises
    TypeError for anything but a module.
    """
    return _swapped(model, _TO_FAST, "replace_lstm")


def restore_lstm(model: M) -> M:
    """Swap every LSTM and LSTMCell of ours inside `model` for torch's, as `replace_lstm` does the
    other way round: for tools that know torch's classes alone.

    Those with options that torch's lack are left alone too, and those of a `Seq2Seq`, which calls
    them with `lengths`.
    """
    return _swapped(model, _TO_TORCH, "restore_lstm")


def _swapped(model: M, classes: dict[type[nn.Module], type[nn.Module]], caller: str) -> M:
    # our cell is one of torch's cells too
    done = tuple(_TO_TORCH) if classes is _TO_FAST else ()
    return swap_modules(
        model,
        caller,
        lambda module: isinstance(module, tuple(classes)) and not isinstance(module, done),
        lambda module: _why_not(module, classes),
        lambda module: _twin(module, classes, "model"),
    )


def swap_modules(
    model: M,
    caller: str,
    wanted: Callable[[nn.Module], bool],
    why_not: Callable[[nn.Module], str],
    make: Callable[[nn.Module], nn.Module],
) -> M:
    """Put what `make` makes of them in place of the modules that are `wanted`.

    Those with a reason in `why_not` are left alone, with a warning in the name of `caller`, and so
    are those of modules that call them as no other LSTM can be called, which `keeps_lstm` says.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    keepers = [module for module in model.modules() if getattr(module, "keeps_lstm", False)]
    kept = {part: type(keeper).__name__ for keeper in keepers for part in keeper.modules()}
    twins: dict[nn.Module, nn.Module] = {}
    for module in model.modules():
        if not wanted(module):
            continue
        reason = f"which its {kept[module]} needs" if module in kept else why_not(module)
        if reason:
            warnings.warn(
                f"{caller}: left a {type(module).__name__}, {reason}, as it is",
                UserWarning,
                stacklevel=_STACK[caller],
            )
        else:
            twins[module] = make(module)
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child in twins:
                setattr(parent, name, twins[child])
    return twins.get(model, model)  # type: ignore[return-value]


def _why_not(module: nn.Module, classes: dict[type[nn.Module], type[nn.Module]]) -> str:
    if type(module) not in classes:
        return f"a subclass of {'torch' if classes is _TO_FAST else 'fast_s2s'}'s"
    if isinstance(module, LSTM) and module.own_options():
        return "one with options that torch's lacks"
    return unusual(module)


def _twin(
    module: nn.Module, classes: dict[type[nn.Module], type[nn.Module]], name: str
) -> nn.Module:
    twin_class = classes.get(type(module))
    if twin_class is None:
        package = "torch.nn" if classes is _TO_FAST else "fast_s2s"
        expected = " or ".join(f"{package}.{c.__name__}" for c in classes)
        kind = type(module)
        got = f"{kind.__module__}.{kind.__name__}".removeprefix("builtins.")
        raise TypeError(f"{name}: expected {expected}, got {got}")
    if unusual(module):
        expected = "real numbers and the forward of its class"
        raise ValueError(f"{name}: expected {expected}, got {unusual(module)}")
    options = module.own_options() if isinstance(module, LSTM) else {}
    if options:
        raise ValueError(
            f"{name}: expected an LSTM without options that torch's lacks, got {options}"
            + ("; dropouts do not count in evaluation mode" if module.training else "")
        )
    twin = twin_class.__new__(twin_class)
    _copy_state(module, twin)
    if isinstance(twin, nn.RNNBase):
        # torch's cached list of weights, which our class derives
        twin.__dict__.pop("_flat_weights", None)
        twin._init_flat_weights()
    return twin


def _copy_state(module: nn.Module, twin: nn.Module) -> None:
    """Everything that `module` has, hooks and mode too, for a module of another class.

    The registries are copied one level deep, so that adding to one module does not add to the
    other, while the parameters inside are shared.
    """
    for key, value in module.__dict__.items():
        twin.__dict__[key] = value.copy() if isinstance(value, (dict, list)) else value
    # what is bound to the other module would run that one
    twin.__dict__.pop("_compiled_call_impl", None)
    hooks: dict[int, Any] = twin._load_state_dict_pre_hooks
    for index, hook in hooks.items():
        if hook.with_module:
            hooks[index] = type(hook)(hook.hook, twin)


def _own_forward(module: nn.Module) -> str:
    """Says so if a tool has put a `forward` into this one module; it is bound to it."""
    return "one with a forward of its own" if "forward" in module.__dict__ else ""


def unusual(module: nn.Module) -> str:
    """Why no twin does what this module does; empty if one does."""
    if any(parameter.is_complex() for parameter in module.parameters(recurse=False)):
        return "one of complex numbers"
    return _own_forward(module)

"""The modules that are exported: their names, one after the other, and what they give."""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from netfuse_onnx.errors import UsageFault
from netfuse_onnx.run.runtime import Array

if TYPE_CHECKING:
    from torch import Tensor, nn

    Modules = Mapping[str, nn.Module] | Iterable[nn.Module] | Iterable[tuple[str, nn.Module]]
    """Modules by name, or one after the other, with names or without."""

ORDER = "A mapping {name: module}, a sequence of modules, or an iterable of modules or (name, module)."


def named(modules: Modules, names: Sequence[str] | None) -> Iterator[tuple[str, nn.Module]]:
    """Yield each module with its name; those without one are model-0, model-1 and so on. Only one module of
    an iterable is held at a time. Raises UsageFault for what is no module, and for names that can't be."""
    from torch import nn

    if isinstance(modules, nn.Module) or not isinstance(modules, Iterable):
        raise UsageFault(f"{type(modules).__name__} is not several modules.", f"Give modules as: {ORDER}")
    if names is not None and isinstance(modules, Mapping):
        raise UsageFault("Names are given by a mapping and by `names`.", "Leave out `names`.")
    taken: set[str] = set()
    for number, one in enumerate(modules.items() if isinstance(modules, Mapping) else modules):
        pair = one if isinstance(one, tuple) and len(one) == 2 else (_name(number, names), one)
        name, module = pair
        if not isinstance(module, nn.Module):
            raise UsageFault(
                f"Model {number} is of type {type(module).__name__}, not a torch.nn.Module.",
                f"Give modules as: {ORDER}",
            )
        if not isinstance(name, str) or not name or "/" in name or "\0" in name or name in taken:
            raise UsageFault(
                f"Model {number} can't be called {name!r}.", "Names are unique, not empty and hold no slash."
            )
        taken.add(name)
        yield name, module
    if not taken or (names is not None and len(names) != len(taken)):
        wanted = "one or more are needed" if names is None else f"{len(names)} names were given"
        raise UsageFault(f"{len(taken)} modules were given, and {wanted}.", "Give all modules to merge.")


def _name(number: int, names: Sequence[str] | None) -> str:
    if names is None:
        return f"model-{number}"
    return names[number] if number < len(names) else ""


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[bool]:
    """Put a module and its parts into evaluation mode, and each back into its own afterwards. Gives True
    where a part was in training mode."""
    training = [part for part in module.modules() if part.training]
    try:
        for part in training:
            part.training = False
        yield bool(training)
    finally:
        for part in training:
            part.training = True


Call = tuple[tuple[Any, ...], dict[str, Any]]
"""The arguments of a call, by position and by name."""


def in_order(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
    """Return a call with the arguments by name in the order of the parameters of `forward`. TorchScript
    exports them in that order, dynamo in the order in which they are given. Raises UsageFault where the call
    does not fit."""
    try:
        bound = inspect.signature(module.forward).bind(*args, **kwargs)
    except TypeError as error:
        raise UsageFault(
            f"{type(module).__name__}.forward does not take these arguments: {error}.",
            "Give `args` a tuple and `kwargs` a mapping.",
        ) from error
    places = {name: place for place, name in enumerate(bound.arguments)}
    last = len(places)  # the place of those that **kwargs takes
    return args, dict(sorted(kwargs.items(), key=lambda item: places.get(item[0], last)))


def inputs(call: Call) -> list[Array]:
    """Return the tensors of a call, in order."""
    return [array(tensor) for tensor in _tensors(call)]


def outputs(module: nn.Module, call: Call) -> list[Array]:
    """Return what a module gives on these arguments, which stay as they are."""
    import torch

    args, kwargs = copy.deepcopy(call)
    with torch.no_grad():
        return [array(tensor) for tensor in _tensors(module(*args, **kwargs))]


def array(tensor: Tensor) -> Array:
    """Return a copy of a tensor as a numpy array; bfloat16 is that of ml_dtypes."""
    import torch

    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        import ml_dtypes

        return np.array(tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16))
    return np.array(tensor.numpy())


def _tensors(values: Any) -> list[Tensor]:
    """Return the tensors of nested values, in order. Numbers are constants of an export."""
    import torch
    from torch.utils import _pytree

    return [leaf for leaf in _pytree.tree_leaves(values) if isinstance(leaf, torch.Tensor)]

"""Looking into a model while it runs: hooks that never outlive their purpose, and forwards replaced for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn


class Reached(Exception):
    """Ends a forward pass once everything wanted from it has been seen: real errors are never swallowed."""


Hooks = Iterable[tuple[nn.Module, Callable[..., Any]]]
"""Modules, each with what is to be called when it runs."""


@contextmanager
def hooked(*, before: Hooks = (), after: Hooks = ()) -> Iterator[None]:
    """Call functions whenever modules run inside; nothing of it stays behind, whatever happens.

    Args:
        before: each function is called ``function(module, args, kwargs)`` ahead of its module's forward, and may
            return other ``(args, kwargs)``.
        after: each function is called ``function(module, args, output)`` after it, and may return another output.
    """
    with ExitStack() as stack:
        for module, function in before:
            stack.callback(module.register_forward_pre_hook(function, with_kwargs=True).remove)
        for module, function in after:
            stack.callback(module.register_forward_hook(function).remove)
        yield


@contextmanager
def patched_forward(model: nn.Module, replacements: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """Replace the ``forward`` of the modules at these paths, and put everything back on the way out."""
    modules = {path: model.get_submodule(path) for path in replacements}
    saved = {path: module.__dict__.get("forward") for path, module in modules.items()}
    try:
        for path, replacement in replacements.items():
            modules[path].forward = replacement  # type: ignore[method-assign]
        yield
    finally:
        for path, module in modules.items():
            original = saved[path]
            if original is None:
                module.__dict__.pop("forward", None)
            else:
                module.forward = original  # type: ignore[method-assign]


def first(output: Any) -> Tensor:
    """The hidden state in a block's output: the output itself, or the first element of a tuple."""
    return output[0] if isinstance(output, tuple) else output


def given(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """The hidden state that a module was called with: the first argument, by position or by name."""
    return args[0] if args else next(iter(kwargs.values()))

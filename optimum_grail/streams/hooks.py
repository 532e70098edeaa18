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


_PARTS: dict[type[nn.Module], int] = {}
"""Classes of blocks that put out a tuple, and of how many things: a class puts out the same whatever its weights."""


def note_parts(block: nn.Module, output: Any) -> None:
    """Remember of the class of ``block`` what a true run of it put out, for :func:`as_put_out`."""
    _PARTS[type(block)] = len(output) if isinstance(output, tuple) else 0


def as_put_out(block: nn.Module, hidden: Tensor) -> Any:
    """``hidden`` in the form in which ``block`` puts it out: by itself, or first in a tuple whose rest is ``None``."""
    parts = _PARTS.get(type(block), 0)
    return (hidden, *[None] * (parts - 1)) if parts else hidden


def passing(block: nn.Module) -> Callable[..., Any]:
    """A forward for ``block`` that returns its hidden state."""
    return lambda *args, **kwargs: as_put_out(block, given(args, kwargs))


def given(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """The hidden state that a module was called with: the first argument, by position or by name."""
    return args[0] if args else next(iter(kwargs.values()))

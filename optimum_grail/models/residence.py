"""Weights that are elsewhere (on disk, in the memory of another device) until they are needed.

A model that accelerate has dispatched holds such weights as empty tensors on the meta device; a hook on each module
knows where they are, and loads them for as long as the module runs. Forward passes of the whole model need nothing
else. What changes weights needs them to be there: :func:`resident` takes the hooks of one part of the model off, puts
the weights in, and when it is done puts the hooks back on. An offloaded module that is built anew without its hook
would go on computing with tensors that have no values, and torch does not always say so.
"""

from __future__ import annotations

import gc
import weakref
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

import torch
from accelerate.hooks import AlignDevicesHook, SequentialHook, add_hook_to_module, remove_hook_from_module
from accelerate.utils import OffloadedWeightsLoader, PrefixedDataset, named_module_tensors, set_module_tensor_to_device
from safetensors import SafetensorError
from torch import Tensor, nn

from optimum_grail.errors import ArchitectureError, CheckpointError
from optimum_grail.models.stamps import is_as, stamp, tensor_of

Values = Mapping[str, Tensor]
"""Tensors of one module by their names in it; they may be read from a file whenever they are looked up."""
Keep = Callable[[str, Values, bool], Values]
"""Takes the tensors of the module at a path, told whether the old ones were in memory or in files, and returns what
finds the new ones again."""
_HOOK = "_hf_hook"
"""Attribute of a module that holds accelerate's hook; accelerate has no function that tells it."""


def hooks_of(module: nn.Module) -> list[AlignDevicesHook]:
    """accelerate's hooks on ``module`` that move weights or inputs."""
    hook = vars(module).get(_HOOK)
    parts = hook.hooks if isinstance(hook, SequentialHook) else (hook,)
    return [part for part in parts if isinstance(part, AlignDevicesHook)]


def hook_of(module: nn.Module) -> AlignDevicesHook | None:
    """The one that loads the weights of ``module`` when it runs; ``None`` where they are there."""
    return next((part for part in hooks_of(module) if part.offload), None)


def is_offloaded(model: nn.Module) -> bool:
    """Whether any weight of ``model`` is loaded only while its module runs."""
    return any(hook_of(module) is not None for module in model.modules())


def no_gradients(model: nn.Module) -> AbstractContextManager[None]:
    """No gradients for passes of ``model``, as cheaply as it allows: hooks make parameters while an offloaded model
    runs, and what is made in inference mode can never be changed outside."""
    return torch.no_grad() if is_offloaded(model) else torch.inference_mode()


def device_of(model: nn.Module) -> torch.device:
    """Where ``model`` computes: the device of its first weight, or the one that it is loaded to."""
    first = next(model.parameters()).device
    if first.type != "meta":
        return first
    hooks = (hook_of(module) for module in model.modules())
    place = next((hook.execution_device for hook in hooks if hook is not None), None)
    return first if place is None else torch.device(place)


def offloaded_names(module: nn.Module, hook: AlignDevicesHook) -> list[str]:
    """Names in ``module`` of the tensors that ``hook`` loads."""
    named = named_module_tensors(
        module, include_buffers=hook.offload_buffers, recurse=hook.place_submodules, remove_non_persistent=True
    )
    return [name for name, _ in named]


def values_of(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Name and values of every parameter and buffer, wherever they are, one at a time; in the dtypes that they are
    kept in. What is on the meta device without a hook is left out."""
    seen: set[str] = set()
    for path, module in model.named_modules():
        hook = hook_of(module)
        for name in offloaded_names(module, hook) if hook is not None else ():
            seen.add(f"{path}.{name}".lstrip("."))
            yield f"{path}.{name}".lstrip("."), hook.weights_map[name]  # type: ignore[union-attr]
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if name not in seen and tensor.device.type != "meta":
            yield name, tensor


def parameters_of(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of ``model``, tied ones once; hooks leave tied parameters behind as several empty ones."""
    if not is_offloaded(model):
        return list(model.parameters())
    tied = tied_weights(model)
    return [parameter for name, parameter in model.named_parameters() if name not in tied]


def tied_weights(model: nn.Module) -> Mapping[str, str]:
    """Names of parameters that are others by another name, and those others; known of transformers' models only."""
    found: Mapping[str, str] = getattr(model, "all_tied_weights_keys", {})
    return found


def retie_(model: nn.Module) -> None:
    """Let empty tensors that stand for one tied weight be one again: hooks leave several, and each would be saved."""
    for name, source in tied_weights(model).items() if is_offloaded(model) else ():
        one, (home, _, local) = model.get_parameter(source), name.rpartition(".")
        owner = model.get_submodule(home)
        other = owner._parameters.get(local)
        if other is not None and one.device.type == other.device.type == "meta":
            owner._parameters[local] = one


def forget_copies(model: nn.Module) -> None:
    """Free copies of an offloaded model's modules that nobody needs any more: the forward that accelerate puts into a
    module holds the module, so a copy stays until Python looks for such circles."""
    if is_offloaded(model):
        gc.collect()


def give_(module: nn.Module, name: str, value: Tensor) -> None:
    """Tell the hook of an offloaded module, if it is one, the value of a tensor that it did not have before."""
    hook = hook_of(module)
    if hook is not None:
        hook.weights_map = ChainMap({name: value}, hook.weights_map)


def refuse_empty(model: nn.Module, paths: set[str]) -> None:
    """Refuse a model some of whose weights are nowhere.

    Args:
        model: dispatched or not.
        paths: of modules whose weights will be read.

    Raises:
        ArchitectureError: a tensor of them is on the meta device, and no hook says where its values are.
    """
    for path in sorted(paths):
        module = model.get_submodule(path)
        for name, tensor in module.named_parameters(recurse=False):
            if tensor.device.type == "meta" and not _is_known(model, path, name):
                raise ArchitectureError(
                    f"{path}.{name} is on the meta device and nothing says where its values are. Load the model with "
                    "from_pretrained, with or without a device_map."
                )


def _is_known(model: nn.Module, path: str, name: str) -> bool:
    """Whether a hook on the module or on one around it loads the tensor."""
    parts = path.split(".")
    for depth in range(len(parts), -1, -1):
        above = ".".join(parts[:depth])
        module, local = model.get_submodule(above), ".".join((*parts[depth:], name))
        hook = hook_of(module)
        if hook is not None and local in offloaded_names(module, hook):
            return True
    return False


@dataclass(frozen=True)
class Holdings:
    """What a model's weights are, without keeping any of them alive.

    Args:
        refs: by name of the parameter, or by path of the module whose weights are elsewhere.
    """

    refs: Mapping[str, weakref.ref[object]]

    @classmethod
    def of(cls, model: nn.Module) -> Holdings:
        """What they are now."""
        return cls({name: weakref.ref(item) for name, item in _held(model).items()})

    def unchanged(self, model: nn.Module) -> bool:
        """Whether ``model`` still has every one of them; it may have more."""
        now = _held(model)
        return all(ref() is not None and ref() is now.get(name) for name, ref in self.refs.items())


def _held(model: nn.Module) -> dict[str, object]:
    found: dict[str, object] = {name: item for name, item in model.named_parameters() if item.device.type != "meta"}
    for path, module in model.named_modules():
        hook = hook_of(module)
        if hook is not None:
            found[f"{path}:"] = hook
    return found


@contextmanager
def resident(model: nn.Module, path: str, keep: Keep | None = None) -> Iterator[nn.Module]:
    """The module at ``path`` with all its weights in memory, in the dtypes that its empty tensors have.

    Where nothing of it is offloaded this does nothing. Else its weights go again afterwards. Modules whose weights were
    changed meanwhile stay in memory, unless ``keep`` puts them elsewhere.

    Args:
        model: the model.
        path: of the module, ``""`` for all of it.
        keep: told the path and the new tensors of every module that was changed.

    Yields:
        the module.
    """
    top = model.get_submodule(path)
    with ExitStack() as stays:
        for local, module in list(top.named_modules()):
            hook = hook_of(module)
            if hook is not None:
                stays.enter_context(_resident(module, hook, ".".join(filter(None, (path, local))), keep))
        yield top


@contextmanager
def _resident(module: nn.Module, hook: AlignDevicesHook, path: str, keep: Keep | None) -> Iterator[None]:
    whole = vars(module)[_HOOK]  # a chain that the hook is a part of, or the hook itself
    names = offloaded_names(module, hook)
    remove_hook_from_module(module)
    try:
        for name in names:
            _fetch(module, hook, name)
    except CheckpointError:
        _leave(module, whole)  # so that it works again when the file is back
        raise
    before = {name: stamp(module, name) for name in names}
    try:
        yield
    except BaseException:
        if is_as(module, before):
            _leave(module, whole)
        raise
    if is_as(module, before):
        _leave(module, whole)
    elif keep is not None:
        now = offloaded_names(module, hook)
        fresh = AlignDevicesHook(
            execution_device=hook.execution_device,
            offload=True,
            io_same_device=hook.io_same_device,
            weights_map=keep(path, {name: tensor_of(module, name).detach() for name in now}, _forgotten(hook, names)),
            offload_buffers=hook.offload_buffers,
            place_submodules=hook.place_submodules,
            skip_keys=hook.skip_keys,
        )
        chain = whole.hooks if isinstance(whole, SequentialHook) else (whole,)
        rest = [fresh if part is hook else part for part in chain]
        _leave(module, SequentialHook(*rest) if len(rest) > 1 else fresh)


def _forgotten(hook: AlignDevicesHook, names: Iterable[str]) -> bool:
    """Let go of a module's old weights if they are in memory; whether they were."""
    found, prefix = hook.weights_map, ""
    while isinstance(found, (ChainMap, PrefixedDataset)):
        prefix += found.prefix if isinstance(found, PrefixedDataset) else ""
        found = found.dataset if isinstance(found, PrefixedDataset) else found.maps[-1]
    held = found.state_dict if isinstance(found, OffloadedWeightsLoader) else found
    keys = [key for key in (f"{prefix}{name}" for name in names) if isinstance(held, dict) and key in held]
    for key in keys:
        del held[key]
    return bool(keys)


def _leave(module: nn.Module, hook: AlignDevicesHook | SequentialHook) -> None:
    """Put the hook back on and empty the module: emptied first, it does not tell the hook to give anything back."""
    parts = hook.hooks if isinstance(hook, SequentialHook) else (hook,)
    for part in (part for part in parts if isinstance(part, AlignDevicesHook) and part.offload):
        for name in offloaded_names(module, part):
            set_module_tensor_to_device(module, name, "meta")
    add_hook_to_module(module, hook)


def _fetch(module: nn.Module, hook: AlignDevicesHook, name: str) -> None:
    """Load one tensor in the dtype of the empty one, into memory of its own: the file that it is mapped from is closed
    when this returns."""
    try:
        value = hook.weights_map[name].to(tensor_of(module, name).dtype, copy=True)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"A weight {name!r} that stays on disk cannot be read any more: {error}. Put the file back as it was; a "
            "run with an output folder (-o) then goes on with --resume."
        ) from error
    set_module_tensor_to_device(module, name, hook.execution_device, value=value)

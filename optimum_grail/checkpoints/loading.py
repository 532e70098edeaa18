"""Loading a saved model: its configuration, the class that wrote it, its weights; what is wrong is told in a line."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from optimum_grail.checkpoints.backbone import backbone_class
from optimum_grail.checkpoints.headers import Stored, local_weights, refuse_pickles, stored_weights
from optimum_grail.checkpoints.misfits import refuse_misfit, refuse_missing
from optimum_grail.checkpoints.offloading import Choice, load_offloaded
from optimum_grail.checkpoints.skeleton import check_numbers, weighed_skeleton
from optimum_grail.errors import ArchitectureError, CheckpointError, ConfigError, GrailError, shorten
from optimum_grail.processes.joining import place

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel
    from transformers.models.auto.auto_factory import _BaseAutoModelClass

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def load_config(
    path: str | Path, trust_remote_code: bool = False, revision: str | None = None, token: str | bool | None = None
) -> Any:
    """The configuration of a model folder or Hub id.

    Raises:
        CheckpointError: missing, out of reach or unreadable.
    """
    folder = _folder(path)
    local = os.path.isdir(folder)
    path = folder if local else path  # others do not know what a tilde stands for
    stored = stored_weights(path) if local else None
    try:
        return _read_config(path, stored, trust_remote_code, revision=revision or "main", token=token)
    except (GrailError, MemoryError):
        raise
    except Exception as error:  # every configuration class has its own ways to fail on wrong values
        if local:
            raise CheckpointError(
                f"config.json in {str(path)!r} cannot be used ({_reason(error)}). Restore the file, or update "
                "transformers if the model is newer."
            ) from error
        raise CheckpointError(
            f"{str(path)!r} is neither a local folder nor a model that the Hub gives ({_reason(error)}). "
            "Check the id, the network, and HF_TOKEN if the model is private."
        ) from error


def _read_config(path: str | Path, stored: Stored | None, trust_remote_code: bool, **place: Any) -> Any:
    """The configuration, whose counts are compared with what is stored before its class sees them."""
    from transformers import AutoConfig, PreTrainedConfig

    values, _ = PreTrainedConfig.get_config_dict(str(path), **place)
    check_numbers(values, stored, path)
    return AutoConfig.from_pretrained(str(path), trust_remote_code=trust_remote_code, **place)


def _folder(path: str | Path) -> Path:
    """Where a local model would be.

    Raises:
        CheckpointError: it can only be meant as a path and there is none, or it holds no config.json.
    """
    folder = Path(os.path.expanduser(path))
    is_path = folder.is_absolute() or str(path).startswith((".", "~")) or str(path).count("/") > 1
    if not os.path.exists(folder) and (is_path or os.path.islink(folder)):  # os.path: no name is too long for it
        raise CheckpointError(
            f"The model path {shorten(str(path), 200)} does not exist. Check the spelling of the path."
        )
    if os.path.exists(folder) and not os.path.isfile(folder / "config.json"):
        raise CheckpointError(f"{str(path)!r} holds no config.json, so it is no model folder. Name the right folder.")
    return folder


def model_class(
    config: PreTrainedConfig, trust_remote_code: bool = False
) -> type[PreTrainedModel | _BaseAutoModelClass]:
    """The class named in ``config.architectures``.

    Returns:
        a class of transformers; or, for a repository's own class that may run, the ``Auto…`` class that loads it.

    Raises:
        ArchitectureError: none is named, or transformers does not know it.
    """
    import transformers

    names = getattr(config, "architectures", None)
    where = getattr(config, "name_or_path", "") or "the model"
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise ArchitectureError(
            f"config.json of {where!r} names no class in 'architectures'. Add it, for example [\"LlamaForCausalLM\"]."
        )
    found = getattr(transformers, names[0], None)
    if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
        return found
    named = getattr(config, "auto_map", None)
    for auto, target in named.items() if isinstance(named, dict) and trust_remote_code else ():
        door = getattr(transformers, auto, None) if str(auto).startswith("AutoModel") else None
        if door is not None and isinstance(target, str) and target.rpartition(".")[2] == names[0]:
            return door
    raise ArchitectureError(
        f"transformers {transformers.__version__} has no model class {shorten(names[0])}, which {where!r} names. "
        "Update transformers, or pass --trust-remote-code if the repository brings the class."
    )


@dataclass(frozen=True)
class Loading:
    """How models of an evaluation are loaded; arguments as of :func:`load_model`."""

    dtype: str | torch.dtype = "auto"
    device: str | torch.device | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False

    def load(self, path: str | Path) -> Any:
        """The model of a folder or of the Hub; errors as of :func:`load_model`."""
        return load_model(
            path,
            dtype=self.dtype,
            device=self.device,
            trust_remote_code=self.trust_remote_code,
            allow_pickle=self.allow_pickle,
        )


def load_model(
    path: str | Path,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
    token: str | bool | None = None,
    allow_pickle: bool = False,
    offload: Choice | None = None,
) -> Any:
    """Load the class named in the configuration, or its backbone where only that is stored, in eval mode.

    Args:
        path: folder or Hub id.
        dtype: ``"auto"`` keeps the checkpoint's; else ``float32``, ``float16``, ``bfloat16`` or a torch dtype.
        device: default a GPU if there is one, else the CPU.
        trust_remote_code: let transformers run code of the repository.
        revision: branch, tag or commit on the Hub.
        token: Hub token.
        allow_pickle: read weights from ``pytorch_model.bin`` where there are no safetensors.
        offload: says whether the weights stay on disk, see :mod:`optimum_grail.checkpoints.offloading`; ``None``: no.

    Raises:
        CheckpointError: missing, out of reach, corrupt, pickled, or without some of the model's weights; or config.json
            asks for far more than is stored.
        ArchitectureError: the class is unknown.
        ConfigError: an unknown dtype, or a device that is not there.
    """
    wanted = _DTYPES.get(dtype, dtype) if isinstance(dtype, str) else dtype
    if isinstance(wanted, str) and wanted != "auto":
        raise ConfigError(f"dtype={dtype!r}: expected 'auto' or one of {', '.join(_DTYPES)}.")
    place = usable_device(device)
    config = load_config(path, trust_remote_code, revision, token)
    kind = model_class(config, trust_remote_code)
    stored = stored_weights(path, revision, token)
    refuse_pickles(stored, path, allow_pickle)
    skeleton = _weigh(kind, config, stored, path)
    if (backbone := backbone_class(skeleton, stored, path)) is not None:
        kind, skeleton = backbone, _weigh(backbone, config, stored, path)
    stays = offload is not None and skeleton is not None and offload(skeleton, place)
    arguments: dict[str, Any] = {"dtype": wanted, "revision": revision or "main", "token": token}
    arguments["use_safetensors"] = None if allow_pickle else True
    if trust_remote_code:
        arguments["trust_remote_code"] = True
    try:
        load = partial(kind.from_pretrained, str(path), output_loading_info=True, ignore_mismatched_sizes=True)
        model, report = load_offloaded(load, place, **arguments) if stays else load(**arguments)
    except (GrailError, MemoryError):
        raise
    except Exception as error:  # safetensors, torch and json have unrelated exceptions for broken files
        raise CheckpointError(
            f"The weights in {str(path)!r} cannot be loaded ({_reason(error)}). The files are missing, corrupt or "
            "truncated, or do not fit config.json; fetch or write them again."
        ) from error
    refuse_misfit(path, sorted(report["mismatched_keys"]))  # ignored above only to be told which
    refuse_missing(path, sorted(report["missing_keys"]), stays)
    return model.eval() if stays else model.to(place).eval()


def load_skeleton(path: str | Path, trust_remote_code: bool = False) -> Any:
    """The model that a folder's or repository's config describes, on the meta device: without its weights.

    Args:
        path: folder or Hub id; the weights need not be there.
        trust_remote_code: let transformers run code of the repository.

    Raises:
        CheckpointError: no such folder or repository in reach, or no config that a model can be built from; or it asks
            for far more than is stored beside it.
        ArchitectureError: its class is unknown.
    """
    from transformers import PreTrainedModel

    config = load_config(path, trust_remote_code)
    kind = model_class(config, trust_remote_code)
    stored = local_weights(path)
    try:
        if not issubclass(kind, PreTrainedModel):
            with torch.device("meta"):
                return kind.from_config(config, trust_remote_code=trust_remote_code)
        return weighed_skeleton(kind, config, stored, path)
    except (GrailError, MemoryError):
        raise
    except Exception as error:  # whatever a class makes of wrong values: zero heads, words for numbers, ...
        raise CheckpointError(
            f"config.json of {str(path)!r} describes no {kind.__name__} that can be built ({_reason(error)}). Restore "
            "the file."
        ) from error


def refuse_oversized(
    build: Callable[[PreTrainedConfig], PreTrainedModel],
    path: str | Path,
    stored: Stored | None,
    config: PreTrainedConfig | None = None,
    trust_remote_code: bool = False,
    **place: Any,
) -> None:
    """Refuse a checkpoint that asks for far more than is stored, before transformers loads it; and nothing else.

    Args:
        build: makes the model from its configuration, such as the ``from_config`` of an auto class.
        path: folder or Hub id.
        stored: the weights that shall go into it, if known.
        config: its configuration; read from ``path`` by default. It is not changed.
        trust_remote_code: let transformers run code of the repository to read the configuration.
        place: where the configuration is: ``revision``, ``subfolder`` and the like.

    Raises:
        CheckpointError: counts, parts or bytes out of proportion.
    """
    try:
        if config is None:
            config = _read_config(path, stored, trust_remote_code, **place)
        weighed_skeleton(build, copy.deepcopy(config), stored, path)
    except (GrailError, MemoryError):
        raise
    except Exception:  # whatever it is, loading meets it too and says it, or knows better
        return


def _weigh(kind: type, config: PreTrainedConfig, stored: Stored | None, path: str | Path) -> PreTrainedModel | None:
    """The model without weights, where it can be built. Refuse what asks for far more than is stored, and nothing else:
    loading has the last word. A class of the repository's own, which runs only where it is trusted, is not weighed."""
    from transformers import PreTrainedModel

    if issubclass(kind, PreTrainedModel):
        try:
            return weighed_skeleton(kind, config, stored, path)
        except (GrailError, MemoryError):
            raise
        except Exception:  # loading fails for the same reason and says it, or knows how to build it all the same
            return None
    return None


def usable_device(device: str | torch.device | None) -> torch.device:
    """``device``, by default a GPU if there is one, else the CPU; raises ``ConfigError`` where it cannot be used."""
    if device is None:
        if not torch.cuda.is_available():
            return torch.device("cpu")
        own = place()  # of several processes on a machine each has a GPU of its own, where there are as many
        return torch.device("cuda", own) if 0 < own < torch.cuda.device_count() else torch.device("cuda")
    try:
        torch.empty(0, device=device)
        return torch.device(device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device={str(device)!r} cannot be used ({_reason(error)}). Try --device cpu.") from error


def _reason(error: BaseException) -> str:
    """The first line of ``error``, not too much of it; the next one too where it only announces that."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    text = " ".join(lines[:2] if lines[0].endswith(":") else lines[:1])
    return text if len(text) <= 300 else f"{text[:300]}..."

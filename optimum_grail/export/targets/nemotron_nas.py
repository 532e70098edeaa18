"""Checkpoints for vLLM's ``DeciLMForCausalLM`` (model type ``nemotron-nas``), whose layers may differ.

Feed-forward networks may have any width, and either sub-block may be missing. Query heads are as many in all layers,
and key-value heads divide them: heads of zeros are added where there are fewer, which costs memory and changes no
output.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import ClassVar

from huggingface_hub import save_torch_state_dict
from torch import Tensor

from optimum_grail.checkpoints.loading import load_config, load_model, model_class
from optimum_grail.checkpoints.output import check_output, staged_folder
from optimum_grail.checkpoints.plan_file import write_json
from optimum_grail.checkpoints.processors import load_processors
from optimum_grail.errors import ArchitectureError
from optimum_grail.export.contract import Exported, Target, by_dtype
from optimum_grail.export.decoder import FAMILIES, read_decoder, reader
from optimum_grail.export.nas import config_values, layers_of, tensors_of
from optimum_grail.export.targets import TARGETS
from optimum_grail.models.hook import install
from optimum_grail.report.progress import Progress

CODE = "configuration_nemotron_nas"
TAKEN = ("llama", "mistral", "qwen2")


@TARGETS.register
@dataclass(frozen=True)
class NemotronNas(Target):
    """A folder for vLLM, where layers may have widths of their own; missing heads are padded with zeros."""

    engine: ClassVar[str] = "vLLM"

    def check(self, model: str | Path, output: str | Path, overwrite: bool = False) -> None:
        """Refuse other families and outputs."""
        check_output(output, overwrite, source=model)
        kind = model_class(load_config(model)).__name__
        if FAMILIES.get(kind) not in TAKEN:
            raise ArchitectureError(
                f"{str(model)!r} is {kind}; vLLM has layers of different widths for {', '.join(TAKEN)} "
                "only. Compress with --allocation uniform: vLLM loads standalone checkpoints as they are."
            )

    def __call__(
        self, model: str | Path, output: str | Path, overwrite: bool = False, progress: Progress | None = None
    ) -> Exported:
        """Write the folder; see :class:`Target`."""
        self.check(model, output, overwrite)
        install()
        loaded = load_model(model, device="cpu")
        decoder, read = read_decoder(loaded), reader(loaded)
        layers, spaces = layers_of(decoder)
        if not layers:
            raise ArchitectureError("The model has no layers left, and vLLM has no models without. Compress it less.")
        config = config_values(loaded.config.to_dict(), decoder, layers, spaces)
        tensors = dict(tensors_of(decoder, layers, spaces, config, read))
        tokenizer, _ = load_processors(model)
        with staged_folder(output, overwrite) as folder:
            save_torch_state_dict(tensors, folder)
            write_json(folder / "config.json", {**config, "auto_map": {"AutoConfig": f"{CODE}.NemotronNasConfig"}})
            code = files("optimum_grail.export").joinpath(f"{CODE}.py.txt").read_text(encoding="utf-8")
            (folder / f"{CODE}.py").write_text(code, encoding="utf-8")
            loaded.generation_config.save_pretrained(folder)
            if tokenizer is not None:
                tokenizer.save_pretrained(folder)
        added = _elements(tensors) - sum(parameter.numel() for parameter in loaded.parameters())
        notes = tuple(_notes(added, spaces[0].all_heads, decoder.window))
        return Exported(Path(output).absolute(), self.engine, "nemotron-nas", tuple(by_dtype(tensors)), notes)


def _elements(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors.values())


def _notes(added: int, heads: int, window: int | None) -> Iterator[str]:
    yield "Load it with trust_remote_code=True (--trust-remote-code): the configuration's class is in the folder."
    if added > 0:
        yield f"{added:,} parameters of zeros bring every layer to {heads} query heads, as vLLM wants them."
    if window is not None:
        yield f"Attention sees {window} tokens in this model and all of them in vLLM: use no more context."

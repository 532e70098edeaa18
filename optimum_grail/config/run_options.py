"""The rows of the table of configuration fields that say how a run goes; light, as that table is."""

from __future__ import annotations

from optimum_grail.config.values import Option

_RUN = "run"

RUN_OPTIONS: tuple[Option, ...] = (
    Option("seed", "seed", 42, "Seed of everything random.", "a whole number >= 0", _RUN),
    Option(
        "standalone",
        "switch",
        None,
        "Whether plain transformers must be able to load the result; where possible when not given.",
        "true or false",
        _RUN,
    ),
    Option(
        "low_memory",
        "switch",
        None,
        "Leave the weights on disk until their layer's turn comes, for models larger than memory; done where they "
        "would take more than 60% of it when not given.",
        "true or false",
        _RUN,
    ),
    Option(
        "offload_streams",
        "switch",
        None,
        "Keep what runs from layer to layer in calibration in files of the temporary folder (TMPDIR), not in memory; "
        "where it would not fit when not given.",
        "true or false",
        _RUN,
    ),
    Option("allow_recompress", "flag", False, "Accept a model that is compressed already.", "true or false", _RUN),
)

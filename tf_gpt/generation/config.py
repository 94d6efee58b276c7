"""`GenerationConfig`: the options of `generate`, checked; and their processors."""

import dataclasses
import json
import os
import pathlib
import tempfile
from typing import Any

from tf_gpt.generation.processors import ALL_TOKENS, Temperature, TopK, TopP

FILE_NAME = "generation_config.json"

# Entries that other libraries write, and that change nothing here.
_NOTES = {
    "transformers_version",
    "_from_model_config",
    "use_cache",
    "cache_implementation",
}

# Options of transformers that this library has no code for: name -> the value
# that asks for nothing. Anything else raises.
_UNSUPPORTED = {
    "num_beams": 1,
    "num_beam_groups": 1,
    "penalty_alpha": None,
    "length_penalty": 1.0,
    "early_stopping": False,
    "diversity_penalty": 0.0,
    "min_length": 0,
    "min_new_tokens": None,
    "min_p": None,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "bad_words_ids": None,
    "force_words_ids": None,
    "constraints": None,
    "renormalize_logits": False,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "remove_invalid_values": False,
    "exponential_decay_length_penalty": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "sequence_bias": None,
    "token_healing": False,
    "guidance_scale": None,
    "watermarking_config": None,
    "stop_strings": None,
    "max_time": None,
    "prompt_lookup_num_tokens": None,
    "dola_layers": None,
    "output_attentions": False,
    "output_hidden_states": False,
}


@dataclasses.dataclass
class GenerationConfig:
    """How new tokens are chosen, and when to stop.

    Args:
        max_new_tokens: Most tokens to add; wins over `max_length`.
        max_length: Most tokens in all, prompt and continuation; 20 if neither
            is given.
        do_sample: Whether to sample; the most probable token otherwise.
        temperature, top_k, top_p: Of the sampling, applied in this order; see
            `processors`. `top_k=0` or None keeps every token. Unused, as
            everywhere, if `do_sample` is False.
        seed: Integer, or one for each prompt, that fixes the sampling; a fresh
            one is drawn if None. A prompt gets the same text for the same seed,
            whatever else is in the batch; so prompts that occur twice in a
            batch need different seeds to differ.
        num_return_sequences: Samples for each prompt.
        bos_token_id: What an empty prompt starts from.
        eos_token_id: Token, or list of tokens, that ends a row.
        pad_token_id: What an ended row goes on with; the first of the
            `eos_token_id` if None.
        return_dict_in_generate: Whether to return a `GenerateOutput`.
        output_scores, output_logits: What it keeps of each step, processed
            and raw.

    Raises:
        ValueError: If a value is out of its range.

    Source: transformers 4.57, GenerationConfig (names and defaults).
    """

    max_new_tokens: int | None = None
    max_length: int = 20
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int | None = 50
    top_p: float = 1.0
    seed: Any = None
    num_return_sequences: int = 1
    bos_token_id: int | None = None
    eos_token_id: int | list | None = None
    pad_token_id: int | None = None
    return_dict_in_generate: bool = False
    output_scores: bool = False
    output_logits: bool = False

    def __post_init__(self):
        for name, minimum in (
            ("max_new_tokens", 1),
            ("max_length", 1),
            ("num_return_sequences", 1),
            ("top_k", 0),
            ("bos_token_id", 0),
            ("pad_token_id", 0),
        ):
            value = getattr(self, name)
            if value is not None and (not _is_integer(value) or value < minimum):
                raise ValueError(
                    f"`{name}` must be an integer of at least {minimum}. "
                    f"Received: {value!r}."
                )
        for token_id in self.eos_token_ids:
            if not _is_integer(token_id) or token_id < 0:
                raise ValueError(
                    "`eos_token_id` must be a token id or a list of them. "
                    f"Received: {self.eos_token_id!r}."
                )
        for seed in self.seed if isinstance(self.seed, (list, tuple)) else [self.seed]:
            if seed is not None and not (_is_integer(seed) and 0 <= seed < 2**31):
                raise ValueError(
                    "`seed` must be an integer in [0, 2**31), or a list of them. "
                    f"Received: {self.seed!r}."
                )
        if self.num_return_sequences > 1 and not self.do_sample:
            raise ValueError(
                "`num_return_sequences` above 1 needs do_sample=True: greedy "
                "decoding has one answer. Received: "
                f"num_return_sequences={self.num_return_sequences}."
            )
        self.processors()

    @property
    def eos_token_ids(self):
        """The end tokens as a list, empty if there is none."""
        if self.eos_token_id is None:
            return []
        is_list = isinstance(self.eos_token_id, (list, tuple))
        return list(self.eos_token_id) if is_list else [self.eos_token_id]

    def processors(self):
        """Returns the processors that the options ask for, in their order."""
        chosen = []
        if self.do_sample:
            # All three whatever their values: one compiled function serves all.
            chosen.append(Temperature(self.temperature))
            chosen.append(TopK(self.top_k or ALL_TOKENS))
            chosen.append(TopP(self.top_p))
        return chosen

    def updated(self, **options):
        """Returns a copy with other options.

        Raises:
            ValueError: If an option is unknown, or known and not supported.
        """
        return type(self)(**{**self.to_dict(), **_supported(options)})

    def to_dict(self):
        """Returns the options that differ from their defaults."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        }

    @classmethod
    def from_dict(cls, options):
        """Returns a config from a dict of options; see `updated` for errors."""
        return cls(**_supported(options))

    @classmethod
    def from_model_config(cls, config):
        """Returns the defaults for a model: its special tokens."""
        return cls(
            bos_token_id=config.bos_token_id,
            eos_token_id=config.eos_token_id,
            pad_token_id=config.pad_token_id,
        )

    @classmethod
    def from_file(cls, path):
        """Reads a `generation_config.json`; errors name the file."""
        try:
            options = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
            return cls.from_dict(options)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{path} is not a usable generation config: {error}"
            ) from None

    @classmethod
    def from_pretrained(cls, name, **hub_options):
        """Reads `generation_config.json` of a model.

        Args:
            name: A directory, a bundled preset, or a Hub repository.
            **hub_options: See `tf_gpt.hub.resolve_files`.

        Raises:
            ValueError: If there is none, or it has an option out of range.
        """
        from tf_gpt.hub import resolve_files

        files = resolve_files(name, [FILE_NAME], **hub_options)
        if FILE_NAME not in files:
            raise ValueError(f"There is no {FILE_NAME} in {name!r}.")
        return cls.from_file(files[FILE_NAME])

    def save_pretrained(self, directory):
        """Writes `generation_config.json` into `directory`."""
        directory = pathlib.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"
        with tempfile.NamedTemporaryFile(
            "w", dir=directory, delete=False, encoding="utf-8"
        ) as file:
            file.write(text)
        os.chmod(file.name, 0o644)
        os.replace(file.name, directory / FILE_NAME)


def _supported(options):
    """Returns the options this library has; raises for those it has not."""
    known = {field.name for field in dataclasses.fields(GenerationConfig)}
    kept = {}
    for name, value in options.items():
        if name in known:
            kept[name] = value
        elif name in _UNSUPPORTED:
            if value is not None and value != _UNSUPPORTED[name]:
                raise ValueError(
                    f"`{name}` is not supported. Received: {name}={value!r}."
                )
        elif name not in _NOTES:
            raise ValueError(f"Unknown option of generation: {name}={value!r}.")
    return kept


def _is_integer(value):
    return isinstance(value, int) and not isinstance(value, bool)

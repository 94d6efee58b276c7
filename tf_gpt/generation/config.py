"""`GenerationConfig`: the options of `generate`, checked; and what they ask for."""

import dataclasses
import json
import math
import pathlib
from typing import Any

from tf_gpt.generation import token_rules
from tf_gpt.generation.processors import (
    ALL_TOKENS,
    EpsilonCutoff,
    EtaCutoff,
    MinP,
    RemoveInvalid,
    Renormalise,
    Temperature,
    TopK,
    TopP,
    TypicalP,
)
from tf_gpt.storage import replaced_file

FILE_NAME = "generation_config.json"

# Entries that other libraries write, and that change nothing here.
_NOTES = {
    "transformers_version",
    "_from_model_config",
    "_commit_hash",
    "use_cache",
    "cache_implementation",
    "cache_config",
    "return_legacy_cache",
    "disable_compile",
    "compile_config",
    "is_assistant",
}

# Options of transformers that this library has no code for: name -> the value
# that asks for nothing. Anything else raises.
_UNSUPPORTED = {
    "encoder_repetition_penalty": 1.0,
    "encoder_no_repeat_ngram_size": 0,
    "decoder_start_token_id": None,
    "force_words_ids": None,
    "constraints": None,
    "token_healing": False,
    "watermarking_config": None,
    "dola_layers": None,
    "low_memory": None,
    "prefill_chunk_size": None,
    "num_assistant_tokens_schedule": "constant",
    "assistant_confidence_threshold": 0.4,
    "assistant_early_exit": None,
    "assistant_lookbehind": 10,
    "target_lookbehind": 10,
}

# Options that do nothing by themselves: name -> (what they need, whether a
# config has it).
_NEEDS = {
    **{
        name: ("do_sample=True", lambda c: c.do_sample)
        for name in (
            "temperature",
            "top_p",
            "min_p",
            "typical_p",
            "epsilon_cutoff",
            "eta_cutoff",
            "seed",
        )
    },
    "top_k": (
        "do_sample=True or penalty_alpha",
        lambda c: c.do_sample or c.penalty_alpha,
    ),
    **{
        name: ("num_beams above 1", lambda c: c.num_beams > 1)
        for name in ("length_penalty", "early_stopping")
    },
    "diversity_penalty": ("num_beam_groups above 1", lambda c: c.num_beam_groups > 1),
    "num_beam_groups": ("num_beams above 1", lambda c: c.num_beams > 1),
    "max_matching_ngram_size": (
        "prompt_lookup_num_tokens",
        lambda c: c.prompt_lookup_num_tokens,
    ),
    **{
        name: ("`eos_token_id`", lambda c: c.eos_token_ids)
        for name in (
            "min_length",
            "min_new_tokens",
            "exponential_decay_length_penalty",
        )
    },
    **{
        name: ("return_dict_in_generate=True", lambda c: c.return_dict_in_generate)
        for name in (
            "output_scores",
            "output_logits",
            "output_attentions",
            "output_hidden_states",
        )
    },
}


@dataclasses.dataclass
class GenerationConfig:
    """How new tokens are chosen, and when to stop.

    Args:
        max_new_tokens: Most tokens to add; wins over `max_length`.
        max_length: Most tokens in all, prompt and continuation; 20 if neither
            is given.
        min_length, min_new_tokens: Tokens in all, or new ones, before which no
            row ends.
        do_sample: Whether to sample; the most probable token otherwise.
        temperature, top_k, top_p, min_p, typical_p, epsilon_cutoff, eta_cutoff:
            Of the sampling, applied in this order; see `processors`. `top_k=0`
            or None keeps every token. In a file they may stand unused; passed
            to `generate` without `do_sample` they raise.
        seed: Integer, or one for each prompt, that fixes the sampling; a fresh
            one is drawn if None. A prompt gets the same text for the same seed,
            whatever else is in the batch; so prompts that occur twice in a
            batch need different seeds to differ.
        num_return_sequences: Samples, or best beams, for each prompt.
        num_beams: Beams of each prompt; 1 for no beam search.
        length_penalty: Beams that end score their log-probability over their
            number of new tokens to this power.
        early_stopping: When a beam search ends; see `beam.BeamSearch`.
        num_beam_groups, diversity_penalty: Groups of beams, and how much of a
            token's score a group loses for each beam of earlier groups that has
            chosen the token at the same step.
        penalty_alpha: Weight of the similarity in contrastive search, in
            (0, 1), which it turns on together with `top_k` above 1.
        prompt_lookup_num_tokens, max_matching_ngram_size: How many tokens to
            guess from the text so far, and the most newest tokens (2 by
            default) that must occur there; see `speculative`.
        num_assistant_tokens: How many tokens an assistant model guesses.
        repetition_penalty, no_repeat_ngram_size, bad_words_ids, sequence_bias,
            forced_bos_token_id, forced_eos_token_id, suppress_tokens,
            begin_suppress_tokens, exponential_decay_length_penalty: See
            `token_rules`. `sequence_bias` is a dict {(3, 5): 1.5} or a list
            [[[3, 5], 1.5]].
        guidance_scale: Above 1 moves the scores away from those after the
            negative prompt; see `loop.Plain`.
        remove_invalid_values, renormalize_logits: Whether scores are made
            finite; are made log-probabilities again, last of all.
        stop_strings: String, or several: a row ends when its new text has one.
            Needs `generate(tokenizer=)`.
        max_time: Seconds after which no further tokens are begun.
        bos_token_id: What an empty prompt starts from.
        eos_token_id: Token, or list of tokens, that ends a row.
        pad_token_id: What an ended row goes on with; the first of the
            `eos_token_id` if None.
        return_dict_in_generate: Whether to return a `GenerateOutput`.
        output_scores, output_logits: What it keeps of each step, processed
            and raw.
        output_attentions, output_hidden_states: Whether it has these.

    Raises:
        ValueError: If a value is out of its range, or two contradict.

    Source: transformers 4.57, GenerationConfig (names and defaults).
    """

    max_new_tokens: int | None = None
    max_length: int = 20
    min_length: int = 0
    min_new_tokens: int | None = None
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int | None = 50
    top_p: float = 1.0
    min_p: float | None = None
    typical_p: float = 1.0
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0
    seed: Any = None
    num_return_sequences: int = 1
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0
    penalty_alpha: float | None = None
    prompt_lookup_num_tokens: int | None = None
    max_matching_ngram_size: int | None = None
    num_assistant_tokens: int = 20
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    bad_words_ids: list | None = None
    sequence_bias: Any = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | list | None = None
    suppress_tokens: list | None = None
    begin_suppress_tokens: list | None = None
    exponential_decay_length_penalty: Any = None
    guidance_scale: float | None = None
    remove_invalid_values: bool = False
    renormalize_logits: bool = False
    stop_strings: str | list | None = None
    max_time: float | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list | None = None
    pad_token_id: int | None = None
    return_dict_in_generate: bool = False
    output_scores: bool = False
    output_logits: bool | None = False
    output_attentions: bool = False
    output_hidden_states: bool = False

    def __post_init__(self):
        self._check_integers()
        self._check_strategy()
        self._check_rest()
        self.processors(n_new=1)

    def _check_integers(self):
        for name, minimum in (
            ("max_new_tokens", 1),
            ("max_length", 1),
            ("min_length", 0),
            ("min_new_tokens", 0),
            ("num_return_sequences", 1),
            ("num_beams", 1),
            ("num_beam_groups", 1),
            ("prompt_lookup_num_tokens", 1),
            ("max_matching_ngram_size", 1),
            ("num_assistant_tokens", 1),
            ("no_repeat_ngram_size", 0),
            ("top_k", 0),
            ("bos_token_id", 0),
            ("pad_token_id", 0),
            ("forced_bos_token_id", 0),
        ):
            value = getattr(self, name)
            if value is not None and (not _is_integer(value) or value < minimum):
                raise ValueError(
                    f"`{name}` must be an integer of at least {minimum}. "
                    f"Received: {value!r}."
                )
        for name in (
            "eos_token_id",
            "forced_eos_token_id",
            "suppress_tokens",
            "begin_suppress_tokens",
        ):
            for token_id in _listed(getattr(self, name)):
                if not _is_integer(token_id) or token_id < 0:
                    raise ValueError(
                        f"`{name}` must be a token id or a list of them. "
                        f"Received: {getattr(self, name)!r}."
                    )
        for seed in self.seed if isinstance(self.seed, (list, tuple)) else [self.seed]:
            if seed is not None and not (_is_integer(seed) and 0 <= seed < 2**31):
                raise ValueError(
                    "`seed` must be an integer in [0, 2**31), or a list of them. "
                    f"Received: {self.seed!r}."
                )

    def _check_strategy(self):
        n_returned, n_beams = self.num_return_sequences, self.num_beams
        if n_beams > 1 and n_returned > n_beams:
            raise ValueError(
                "`num_return_sequences` must not exceed `num_beams`. Received: "
                f"num_return_sequences={n_returned}, num_beams={n_beams}."
            )
        if n_returned > 1 and not self.do_sample and n_beams == 1:
            raise ValueError(
                "`num_return_sequences` above 1 needs do_sample=True or beams: greedy "
                f"decoding has one answer. Received: num_return_sequences={n_returned}."
            )
        if n_beams % self.num_beam_groups:
            raise ValueError(
                "`num_beam_groups` must divide `num_beams`. Received: "
                f"num_beam_groups={self.num_beam_groups}, num_beams={n_beams}."
            )
        if self.num_beam_groups > 1 and not self.diversity_penalty:
            raise ValueError(
                "`num_beam_groups` above 1 needs `diversity_penalty` above 0: all "
                "groups would be equal. Received: "
                f"num_beam_groups={self.num_beam_groups}, diversity_penalty="
                f"{self.diversity_penalty}."
            )
        if self.early_stopping not in (True, False, "never"):
            raise ValueError(
                '`early_stopping` must be True, False or "never". '
                f"Received: {self.early_stopping!r}."
            )
        if self.penalty_alpha is not None:
            if not 0.0 < self.penalty_alpha < 1.0:
                raise ValueError(
                    "`penalty_alpha` must be in (0, 1). "
                    f"Received: penalty_alpha={self.penalty_alpha}."
                )
            if not self.top_k or self.top_k < 2:
                raise ValueError(
                    "`penalty_alpha` needs `top_k` above 1. "
                    f"Received: top_k={self.top_k}."
                )
        kinds = {
            "num_beams": n_beams > 1,
            "penalty_alpha": self.penalty_alpha is not None,
            "prompt_lookup_num_tokens": self.prompt_lookup_num_tokens is not None,
            "guidance_scale": self.guidance_scale not in (None, 1, 1.0),
        }
        chosen = [name for name, is_chosen in kinds.items() if is_chosen]
        if len(chosen) > 1:
            raise ValueError(f"These options cannot be combined: {', '.join(chosen)}.")
        for name, others in (
            ("penalty_alpha", ("do_sample",)),
            ("num_beam_groups", ("do_sample",)),
            ("num_beams", ("stop_strings", "max_time")),
        ):
            value = getattr(self, name)
            for other in others:
                if value not in (None, 1) and getattr(self, other):
                    raise ValueError(
                        f"`{name}` and `{other}` cannot be combined. Received: "
                        f"{name}={value!r}, {other}={getattr(self, other)!r}."
                    )

    def _check_rest(self):
        for name in (
            "length_penalty",
            "diversity_penalty",
            "guidance_scale",
            "max_time",
        ):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and math.isfinite(value)):
                raise ValueError(f"`{name}` must be a number. Received: {value!r}.")
        if self.max_time is not None and self.max_time <= 0:
            raise ValueError(f"`max_time` must be positive. Received: {self.max_time}.")
        if self.diversity_penalty < 0:
            raise ValueError(
                "`diversity_penalty` must not be negative. "
                f"Received: {self.diversity_penalty}."
            )
        if self.guidance_scale is not None and self.guidance_scale < 1:
            raise ValueError(
                f"`guidance_scale` must be at least 1. Received: {self.guidance_scale}."
            )
        for text in self.stop_texts:
            if not isinstance(text, str) or not text:
                raise ValueError(
                    "`stop_strings` must be a string or a list of them, not empty. "
                    f"Received: {self.stop_strings!r}."
                )

    @property
    def stop_texts(self):
        """The stop strings as a list, empty if there is none."""
        return _listed(self.stop_strings)

    @property
    def eos_token_ids(self):
        """The end tokens as a list, empty if there is none."""
        return _listed(self.eos_token_id)

    def tokens(self):
        """Returns the token ids that the options name, a list for each option."""
        words = {"bad_words_ids": self.bad_words_ids or []}
        if self.sequence_bias is not None:
            words["sequence_bias"] = [word for word, _ in _as_pairs(self.sequence_bias)]
        return {
            **{
                name: _listed(getattr(self, name))
                for name in (
                    "eos_token_id",
                    "pad_token_id",
                    "forced_bos_token_id",
                    "forced_eos_token_id",
                    "suppress_tokens",
                    "begin_suppress_tokens",
                )
            },
            **{name: [i for word in ws for i in word] for name, ws in words.items()},
        }

    def processors(self, *, n_new, custom=()):
        """Returns the processors that the options ask for, in their order.

        Args:
            n_new: The most new tokens.
            custom: Further processors: they run before the sampling's.
        """
        eos_ids = tuple(self.eos_token_ids)
        chosen = []
        if self.sequence_bias is not None:
            chosen.append(_biased(_as_pairs(self.sequence_bias)))
        if self.repetition_penalty != 1.0:
            chosen.append(token_rules.RepetitionPenalty(self.repetition_penalty))
        if self.no_repeat_ngram_size:
            chosen.append(token_rules.NoRepeatNgram(self.no_repeat_ngram_size))
        if self.bad_words_ids is not None:
            words = _checked_words(self.bad_words_ids)
            words = [word for word in words if word not in [(e,) for e in eos_ids]]
            if words:
                chosen.append(_biased([(word, -math.inf) for word in words]))
        if self.min_length and eos_ids:
            chosen.append(token_rules.MinLength(self.min_length, eos_ids))
        if self.min_new_tokens and eos_ids:
            chosen.append(token_rules.MinNewTokens(self.min_new_tokens, eos_ids))
        if self.forced_bos_token_id is not None:
            chosen.append(token_rules.ForcedFirst(self.forced_bos_token_id))
        if self.forced_eos_token_id is not None:
            token_ids = tuple(_listed(self.forced_eos_token_id))
            chosen.append(token_rules.ForcedLast(token_ids, n_new - 1))
        if self.remove_invalid_values:
            chosen.append(RemoveInvalid())
        if self.exponential_decay_length_penalty is not None:
            start, factor = _checked_decay(self.exponential_decay_length_penalty)
            if eos_ids:
                chosen.append(token_rules.ExponentialDecay(start, factor, eos_ids))
        if self.suppress_tokens:
            chosen.append(token_rules.SuppressTokens(tuple(self.suppress_tokens)))
        if self.begin_suppress_tokens:
            chosen.append(
                token_rules.BeginSuppress(
                    tuple(self.begin_suppress_tokens),
                    after_forced=self.forced_bos_token_id is not None,
                )
            )
        chosen.extend(custom)
        if self.do_sample:
            chosen.extend(self._sampling_processors())
        if self.renormalize_logits:
            chosen.append(Renormalise())
        return chosen

    def _sampling_processors(self):
        # A beam needs a token to go on with, beside those that may end it.
        at_least = 1 if self.num_beams == 1 else max(2, 1 + len(self.eos_token_ids))
        top_k = max(self.top_k, at_least) if self.top_k else ALL_TOKENS
        # These three whatever their values: one compiled function serves all.
        chosen = [
            Temperature(self.temperature),
            TopK(top_k),
            TopP(self.top_p, at_least),
        ]
        if self.min_p is not None:
            chosen.append(MinP(self.min_p, at_least))
        if self.typical_p != 1.0:
            chosen.append(TypicalP(self.typical_p, at_least))
        if self.epsilon_cutoff != 0.0:
            chosen.append(EpsilonCutoff(self.epsilon_cutoff, at_least))
        if self.eta_cutoff != 0.0:
            chosen.append(EtaCutoff(self.eta_cutoff, at_least))
        return chosen

    def updated(self, **options):
        """Returns a copy with other options.

        Raises:
            ValueError: If an option is unknown, known and not supported, or
                without effect beside the others.
        """
        options = _supported(options)
        config = type(self)(**{**self.to_dict(), **options})
        for name, value in options.items():
            needed, has_it = _NEEDS.get(name, ("", None))
            asks = value is not None and value != _DEFAULTS[name]
            if asks and has_it and not has_it(config):
                raise ValueError(
                    f"`{name}` has no effect without {needed}. Received: "
                    f"{name}={value!r}."
                )
        return config

    def to_dict(self):
        """Returns the options that differ from their defaults."""
        values = {
            name: getattr(self, name)
            for name, default in _DEFAULTS.items()
            if getattr(self, name) != default
        }
        if isinstance(self.sequence_bias, dict):
            pairs = _as_pairs(self.sequence_bias)
            values["sequence_bias"] = [[list(word), bias] for word, bias in pairs]
        return values

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
        with replaced_file(directory / FILE_NAME, "w") as stream:
            stream.write(text)


_DEFAULTS = {
    field.name: field.default for field in dataclasses.fields(GenerationConfig)
}


def _supported(options):
    """Returns the options this library has; raises for those it has not."""
    kept = {}
    for name, value in options.items():
        if name in _DEFAULTS:
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


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _listed(value):
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _as_pairs(bias):
    """Returns the (sequence, bias) pairs of a `sequence_bias`."""
    try:
        pairs = bias.items() if isinstance(bias, dict) else bias
        pairs = [(tuple(word), float(number)) for word, number in pairs]
    except (TypeError, ValueError):
        pairs = []
    if not pairs or not all(_is_word(word) for word, _ in pairs):
        raise ValueError(
            "`sequence_bias` must be a dict from tuples of token ids to numbers, or "
            f"a list of such pairs, not empty. Received: {bias!r}."
        )
    return pairs


def _checked_words(words):
    if not isinstance(words, (list, tuple)) or not words:
        words_are_good = False
    else:
        words_are_good = all(
            isinstance(w, (list, tuple)) and _is_word(w) for w in words
        )
    if not words_are_good:
        raise ValueError(
            "`bad_words_ids` must be a list of lists of token ids, none empty. "
            f"Received: {words!r}."
        )
    return [tuple(word) for word in words]


def _is_word(word):
    return len(word) > 0 and all(_is_integer(i) and i >= 0 for i in word)


def _biased(pairs):
    words = token_rules.SequenceBias.padded([word for word, _ in pairs])
    return token_rules.SequenceBias(words, tuple(bias for _, bias in pairs))


def _checked_decay(value):
    is_pair = isinstance(value, (list, tuple)) and len(value) == 2
    if not is_pair or not _is_integer(value[0]) or not _is_number(value[1]):
        raise ValueError(
            "`exponential_decay_length_penalty` must be (start, factor): an integer "
            f"and a number. Received: {value!r}."
        )
    return value[0], float(value[1])

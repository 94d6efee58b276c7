"""OpenAI's Adam, its three learning-rate schedules, and rates per layer.

Source: OpenAI, finetune-transformer-lm, opt.py.
"""

import math

import keras
import numpy as np
from keras import ops

from tf_gpt.models.pretrained import body_of


class _Warmup(keras.optimizers.schedules.LearningRateSchedule):
    """A rate that rises linearly for a share of the steps, then follows a shape.

    A subclass gives the shape: a function of the steps that remain, as a share
    of all. That is exact in float32 near the end, where the rate is smallest.
    """

    def __init__(self, peak, total_steps, warmup=0.002):
        super().__init__()
        self.peak = _positive("peak", peak)
        self.total_steps = int(
            _number(
                "total_steps",
                total_steps,
                "whole and more than 0",
                lambda x: x > 0 and x == int(x),
            )
        )
        self.warmup = _number("warmup", warmup, "in [0, 1]", lambda x: 0 <= x <= 1)

    def __call__(self, step):
        step = ops.cast(step, "float32")
        remaining = ops.maximum(self.total_steps - step, 0) / self.total_steps
        warm_steps = self.warmup * self.total_steps
        rising, falling = self._shapes(step / (warm_steps or 1.0), remaining)
        return self.peak * ops.where(step <= warm_steps, rising, falling)

    def get_config(self):
        return {
            "peak": self.peak,
            "total_steps": self.total_steps,
            "warmup": self.warmup,
        }


@keras.saving.register_keras_serializable(package="tf_gpt")
class WarmupLinear(_Warmup):
    """Linear warm-up times a linear fall to 0: the paper's, for fine-tuning.

    With x = step / total_steps, (x / warmup if x <= warmup else 1) * (1 - x).
    The first step, which is step 0, has a rate of 0, unless `warmup` is 0.

    Args:
        peak: Rate that the schedule scales. The paper's is 6.25e-5.
        total_steps: Number of updates in the run; from there on the rate is 0.
        warmup: Share of the steps to warm up in, in [0, 1].

    Call arguments:
        step: Scalar, counted from 0.

    Returns:
        Float32 scalar.

    Raises:
        ValueError: If an argument is out of range.

    Source: OpenAI, finetune-transformer-lm, opt.py, warmup_linear.
    """

    def _shapes(self, risen, remaining):
        # Step 0 of no warm-up is the peak.
        rising = risen * remaining if self.warmup else remaining
        return rising, remaining


@keras.saving.register_keras_serializable(package="tf_gpt")
class WarmupCosine(_Warmup):
    """Linear warm-up, then half a cosine down to 0: the paper's pre-training.

    With x = step / total_steps, x / warmup if x <= warmup, else
    (1 + cos(pi * x)) / 2. Arguments as `WarmupLinear`.

    Source: OpenAI, finetune-transformer-lm, opt.py, warmup_cosine.
    """

    def _shapes(self, risen, remaining):
        # The same as the cosine, without the difference of near numbers.
        falling = ops.square(ops.sin(0.5 * math.pi * remaining))
        return (risen if self.warmup else falling), falling


@keras.saving.register_keras_serializable(package="tf_gpt")
class WarmupConstant(_Warmup):
    """Linear warm-up, then the peak for good. Arguments as `WarmupLinear`.

    Source: OpenAI, finetune-transformer-lm, opt.py, warmup_constant.
    """

    def _shapes(self, risen, remaining):
        constant = ops.ones_like(remaining)
        return (risen if self.warmup else constant), constant


@keras.saving.register_keras_serializable(package="tf_gpt")
class OpenAIAdam(keras.optimizers.Optimizer):
    """Adam as the paper's authors wrote it, with decay of the matrices alone.

    In update t, counted from 0, for the gradient g of a weight p:

        m = beta_1 * m + (1 - beta_1) * g
        v = beta_2 * v + (1 - beta_2) * g * g
        rate = lr(t) * sqrt(1 - beta_2 ** (t + 1)) / (1 - beta_1 ** (t + 1))
        p = p - rate * (m / (sqrt(v) + epsilon) + weight_decay * p)

    The decay goes by the corrected rate, not by lr(t), and touches only weights
    of rank 2 and more: no biases, no gains of norms. (Keras's own `weight_decay`
    is applied neither beside it nor to those.) Gradients are first clipped
    together; those of embeddings are made dense before, as repeated tokens
    would otherwise count wrongly in the norm.

    Args:
        learning_rate: Float, or a schedule: see `WarmupLinear`. It is called
            with the number of *updates* made, also with
            `gradient_accumulation_steps`, where Keras's own optimizers count
            batches.
        beta_1, beta_2: Decay rates of the moments, in [0, 1).
        epsilon: Added to the root of the second moment; positive.
        weight_decay: The factor above, or None for no decay.
        global_clipnorm: Largest norm of all gradients together, or None.
        multipliers: Dict from a part of a weight's path to what multiplies its
            learning rate. The part is one or more whole names in a row, such as
            "h_3", "tokens_embed" or "h_3/attn/c_attn/kernel"; the longest that
            fits counts, and 1 for a weight that none fits. See `layer_decay`.
        **options: Those of every Keras optimizer, such as
            `gradient_accumulation_steps`, `use_ema`, `loss_scale_factor`, `name`.

    Raises:
        ValueError: If an argument is out of range. On build, if a multiplier
            fits no weight, or a weight is of less than 32 bits: its moments
            would not move. (A policy as "mixed_bfloat16" keeps 32.)

    Source: OpenAI, finetune-transformer-lm, opt.py, adam; the defaults are
        train.py's.
    """

    def __init__(
        self,
        learning_rate=6.25e-5,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        weight_decay=0.01,
        global_clipnorm=1.0,
        multipliers=None,
        **options,
    ):
        super().__init__(
            learning_rate,
            weight_decay=weight_decay and _not_negative("weight_decay", weight_decay),
            global_clipnorm=global_clipnorm
            if global_clipnorm is None
            else _positive("global_clipnorm", global_clipnorm),
            **options,
        )
        self.beta_1 = _number("beta_1", beta_1, "in [0, 1)", lambda x: 0 <= x < 1)
        self.beta_2 = _number("beta_2", beta_2, "in [0, 1)", lambda x: 0 <= x < 1)
        self.epsilon = _positive("epsilon", epsilon)
        self.multipliers = {
            part: _not_negative(f"multipliers[{part!r}]", factor)
            for part, factor in (multipliers or {}).items()
        }

    def build(self, variables):
        if self.built:
            return
        for variable in variables:
            if keras.backend.standardize_dtype(variable.dtype) not in (
                "float32",
                "float64",
            ):
                raise ValueError(
                    "The weights must be of 32 bits or more; the policy "
                    '"mixed_bfloat16" keeps them so. Received: '
                    f"{_path(variable)} of {variable.dtype}."
                )
        self._factors = _factors(dict(self.multipliers), variables)
        super().build(variables)
        self._momentums, self._velocities = self.add_optimizer_variables(
            variables, ["momentum", "velocity"]
        )

    def apply(self, grads, trainable_variables=None):
        grads = list(grads)
        if trainable_variables is not None:
            trainable_variables = list(trainable_variables)
        known = trainable_variables or self._trainable_variables
        if len(grads) == len(known):  # otherwise Keras says what is wrong
            grads = [_dense(g, v) for g, v in zip(grads, known, strict=True)]
        super().apply(grads, trainable_variables)

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        gradient = ops.cast(gradient, variable.dtype)
        rate = ops.cast(learning_rate, variable.dtype)
        rate = rate * self._factors[index] * self._correction(variable.dtype)

        m, v = self._momentums[index], self._velocities[index]
        self.assign(m, self.beta_1 * m + (1 - self.beta_1) * gradient)
        self.assign(v, self.beta_2 * v + (1 - self.beta_2) * ops.square(gradient))
        direction = m / (ops.sqrt(v) + self.epsilon)
        if self._decays(variable):
            direction = direction + self.weight_decay * variable
        self.assign_sub(variable, rate * direction)

    def get_config(self):
        return {
            **super().get_config(),
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
            "multipliers": dict(self.multipliers),
        }

    def _correction(self, dtype):
        """Returns sqrt(1 - beta_2 ** n) / (1 - beta_1 ** n) for the n-th update."""
        n = ops.cast(self.iterations + 1, dtype)
        # 1 - 0.999 in float32 has but five digits; expm1 has all.
        first, second = (
            -ops.expm1(n * (math.log(beta) if beta else -math.inf))
            for beta in (self.beta_1, self.beta_2)
        )
        return ops.sqrt(second) / first

    def _decays(self, variable):
        is_matrix = len(variable.shape) > 1
        return (
            bool(self.weight_decay) and is_matrix and self._use_weight_decay(variable)
        )

    def _apply_weight_decay(self, variables):
        """Does nothing: the decay is part of the update."""

    def _get_current_learning_rate(self):
        schedule = self._learning_rate
        if isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
            # `_iterations`, which Keras passes, counts batches.
            return schedule(self.iterations)
        return super()._get_current_learning_rate()


def layer_decay(model, factor):
    """Returns `multipliers` that let lower layers learn more slowly.

    A block's is `factor` to the number of blocks above it, that of the token
    and position tables `factor` to the number of all blocks; a head's is 1. (A
    language model's head is the token table, and learns as that does.) Layers
    without trainable weights get none: freeze before.

    Args:
        model: One of the four model classes.
        factor: Number in (0, 1]; 0.95 for example.

    Returns:
        Dict of the layers' names to floats, for `OpenAIAdam(multipliers=...)`.

    Raises:
        ValueError: If `factor` is out of range.

    Source: Howard and Ruder 2018, section 3.2 (arXiv:1801.06146), who divide by
        2.6 from layer to layer.
    """
    factor = _number("factor", factor, "in (0, 1]", lambda x: 0 < x <= 1)
    body = body_of(model)
    n_blocks = len(body.blocks)
    n_above = {body.tokens_embed: n_blocks, body.positions_embed: n_blocks}
    for i, block in enumerate(body.blocks):
        n_above[block] = n_blocks - 1 - i
    return {
        layer.name: factor**n for layer, n in n_above.items() if layer.trainable_weights
    }


def _factors(multipliers, variables):
    """Returns each variable's multiplier; raises for one that fits none."""
    paths = [f"/{_path(variable)}/" for variable in variables]
    lost = [part for part in multipliers if not any(f"/{part}/" in p for p in paths)]
    if lost:
        raise ValueError(
            "Each of `multipliers` must name a part of a trained weight's path, as "
            f'"h_0" or "h_0/attn/c_attn/kernel". Received: {lost}; the first of '
            f"{len(paths)} paths: {[path[1:-1] for path in paths[:4]]}."
        )
    longest_first = sorted(multipliers, key=len, reverse=True)
    return [
        next((multipliers[part] for part in longest_first if f"/{part}/" in path), 1.0)
        for path in paths
    ]


def _path(variable):
    return getattr(variable, "path", variable.name)


def _dense(gradient, variable):
    """Returns a gradient as a tensor: TensorFlow keeps a table's as its rows."""
    if not hasattr(gradient, "indices"):
        return gradient
    return ops.segment_sum(
        gradient.values, gradient.indices, num_segments=variable.shape[0]
    )


def _number(name, value, rule, fits):
    """Returns a number as a float.

    Raises:
        ValueError: If it is none, not finite, or `fits` says that it breaks the rule.
    """
    is_number = isinstance(value, (int, float, np.number)) and value is not True
    if not (is_number and math.isfinite(value) and fits(value)):
        raise ValueError(
            f"`{name}` must be a finite number, {rule}. Received: {value!r}."
        )
    return float(value)


def _positive(name, value):
    return _number(name, value, "more than 0", lambda x: x > 0)


def _not_negative(name, value):
    return _number(name, value, "0 or more", lambda x: x >= 0)

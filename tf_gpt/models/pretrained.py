"""What the four models share: loading, saving, outputs, the internal loss."""

import contextlib
import dataclasses
import functools
import inspect
import json
import pathlib
import tempfile
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from tf_gpt import hub
from tf_gpt.checkpoints.convert import export_weights, load_weights, unset_values
from tf_gpt.checkpoints.readers import read_config
from tf_gpt.checkpoints.writers import save_safetensors
from tf_gpt.config import OpenAIGPTConfig
from tf_gpt.layers.initializers import initialised_by
from tf_gpt.models.inputs import OPTIONS, TENSORS, dtype_name
from tf_gpt.models.losses import IGNORED_LABEL

# Of the mixin's own options, those that say where files come from.
_HUB_OPTIONS = (
    "revision",
    "subfolder",
    "cache_dir",
    "local_files_only",
    "token",
    "force_download",
)


class Target(NamedTuple):
    """Names of labels among the inputs, and of the output that predicts them."""

    labels: str
    scores: str
    is_next_token: bool = False

    def read(self, labels, scores):
        """Returns labels, scores and weights, one for each prediction.

        Labels that are classes, (N,) for scores (N, K), get weights (N,): 0 where
        the label is left out. For any others the weights are None.
        """
        labels = ops.convert_to_tensor(labels)
        is_class = len(labels.shape) == len(scores.shape) - 1 and (
            "int" in dtype_name(labels)
        )
        if not is_class:
            return labels, scores, None
        if self.is_next_token:
            labels, scores = labels[..., 1:], scores[..., :-1, :]
            labels = ops.reshape(labels, (-1,))
            scores = ops.reshape(scores, (-1, scores.shape[-1]))
        kept = ops.not_equal(labels, IGNORED_LABEL)
        return ops.where(kept, labels, 0), scores, ops.cast(kept, "float32")


class PreTrained:
    """Mixed into every model class, in front of `keras.Model`.

    A class using it has a `config`, and a body: `self.transformer`, or itself.
    """

    # What metrics compare, beside the model's own loss; the main task first.
    TARGETS = ()

    @classmethod
    def from_pretrained(
        cls,
        name,
        *,
        config=None,
        dtype=None,
        ignore_mismatched_sizes=False,
        output_loading_info=False,
        **options,
    ):
        """Loads a model.

        Args:
            name: A directory, a bundled preset ("mini"), or a Hub repository
                ("openai-community/openai-gpt").
            config: `OpenAIGPTConfig` in place of the one beside the weights.
            dtype: A Keras dtype or policy of the model, such as
                "mixed_bfloat16"; Keras's global one if None.
            ignore_mismatched_sizes: Whether a weight of another shape keeps its
                fresh values, instead of an error.
            output_loading_info: Whether to return also a dict of the
                `missing_keys`, `unexpected_keys` and `mismatched_keys`.
            **options: `revision`, `subfolder`, `cache_dir`, `local_files_only`,
                `token`, `force_download` say where to look. Any other is a
                field of the config to replace, such as `num_labels=3`.

        Returns:
            The model, or `(model, info)`.

        Raises:
            HubError: If there is no such model (an `OSError`).
            ValueError: If its files are damaged or of another architecture, or
                a weight fits nowhere.
        """
        hub_options = {k: options.pop(k) for k in _HUB_OPTIONS if k in options}
        if config is None:
            config = read_config(name, overrides=options, **hub_options)
        elif options:
            config = OpenAIGPTConfig.from_dict(
                cls.as_config(config).to_dict(), **options
            )
        weights = hub.resolve_weights(name, **hub_options)
        # A weight that may keep its fresh values must have some.
        fresh = contextlib.nullcontext()
        with fresh if ignore_mismatched_sizes else initialised_by(unset_values):
            model = cls(config, dtype=dtype)
        report = load_weights(
            weights_by_path(model),
            weights,
            ignore_mismatched_sizes=ignore_mismatched_sizes,
        )
        model.after_loading(name, hub_options)
        if not output_loading_info:
            return model
        return model, {
            f"{field}_keys": list(names)
            for field, names in dataclasses.asdict(report).items()
        }

    def after_loading(self, name, hub_options):
        """Reads what else belongs to a model; the language model overrides it."""

    def save_beside(self, directory):
        """Writes what else belongs to a model; the language model overrides it."""

    def save_pretrained(
        self,
        directory,
        *,
        max_shard_size="5GB",
        dtype=None,
        push_to_hub=False,
        **hub_options,
    ):
        """Writes the model so that this library and transformers can load it.

        Args:
            directory: Folder, made if it does not exist. Gets `config.json` and
                `model.safetensors` in the PyTorch layout, with LoRA adapters
                added to their kernels.
            max_shard_size: Largest size of a weight file, in bytes or as "5GB".
            dtype: "float32", "float16" or "bfloat16" to store the weights as;
                as they are if None.
            push_to_hub: Whether to upload the folder too.
            **hub_options: See `push_to_hub`; `repo_id` is by default the name of
                the folder.

        Raises:
            ValueError: If a weight is not finite, or an option is unknown.
        """
        if hub_options and not push_to_hub:
            raise ValueError(
                f"These options need push_to_hub=True: {sorted(hub_options)}."
            )
        directory = pathlib.Path(directory)
        save_safetensors(
            export_weights(merged_weights(self), prefix=body_of(self) is not self),
            directory,
            max_shard_size=max_shard_size,
            dtype=dtype,
        )
        architecture = type(self).__name__
        values = {**self.config.to_dict(), "architectures": [architecture]}
        OpenAIGPTConfig.from_dict(values).save_pretrained(directory)
        self.save_beside(directory)
        if push_to_hub:
            repo_id = hub_options.pop("repo_id", None) or directory.name
            hub.upload_folder(repo_id, directory, **hub_options)

    def push_to_hub(
        self, repo_id, *, max_shard_size="5GB", dtype=None, card=None, **hub_options
    ):
        """Uploads the model, with a model card, to a Hub repository.

        Args:
            repo_id: "name" or "owner/name"; made if it does not exist.
            max_shard_size, dtype: See `save_pretrained`.
            card: Text of the model card; a short one if None.
            **hub_options: `commit_message`, `private`, `token`, `create_pr`,
                `revision`.

        Returns:
            The address of the commit.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, max_shard_size=max_shard_size, dtype=dtype)
            card = card or self._card(repo_id)
            (pathlib.Path(folder) / "README.md").write_text(card, encoding="utf-8")
            return hub.upload_folder(repo_id, folder, **hub_options)

    def _card(self, repo_id):
        sizes = {
            name: getattr(self.config, name)
            for name in ("n_layer", "n_embd", "n_head", "n_positions", "vocab_size")
        }
        return (
            "---\nlibrary_name: tf_gpt\ntags:\n- openai-gpt\n- keras\n---\n\n"
            f"# {repo_id}\n\n"
            f"`{type(self).__name__}` with {self.count_params():,} parameters.\n\n"
            f"```json\n{json.dumps(sizes, indent=2)}\n```\n\n"
            "```python\n"
            f"from tf_gpt import {type(self).__name__}\n\n"
            f'model = {type(self).__name__}.from_pretrained("{repo_id}")\n'
            "```\n"
        )

    @staticmethod
    def as_config(config):
        """Returns an `OpenAIGPTConfig` from one or from a dict of its fields."""
        if isinstance(config, OpenAIGPTConfig):
            return config
        if isinstance(config, dict):
            return OpenAIGPTConfig.from_dict(config)
        raise ValueError(
            "`config` must be an OpenAIGPTConfig or a dict. "
            f"Received: {type(config).__name__}."
        )

    def get_input_embeddings(self):
        """Returns the token table's layer, `keras.layers.Embedding`."""
        return body_of(self).tokens_embed

    def get_output_embeddings(self):
        """Returns the language-model head's table: the input's, to which it is tied.

        None for a model without that head.
        """
        has_head = type(self).__name__ in (
            "OpenAIGPTLMHeadModel",
            "OpenAIGPTDoubleHeadsModel",
        )
        return self.get_input_embeddings() if has_head else None

    def set_input_embeddings(self, value):
        """Replaces the token table, and with it the tied head's.

        Args:
            value: Float (V, C) array, or an Embedding layer with such a table.
                Another V changes `config.vocab_size`.

        Raises:
            ValueError: If the hidden size does not fit, or the model has been
                trained already (see `resize_token_embeddings`).
        """
        if isinstance(value, keras.layers.Embedding):
            value = value.embeddings
        table = ops.convert_to_numpy(value)
        if table.ndim != 2 or table.shape[1] != self.config.n_embd:
            raise ValueError(
                f"The table must have the shape (V, {self.config.n_embd}). "
                f"Received: {table.shape}."
            )
        self._check_untrained()
        body = body_of(self)
        self.config.vocab_size = body.config.vocab_size = int(table.shape[0])
        layer = body._embedding(len(table), "tokens_embed")
        layer.embeddings.assign(table)
        _replace(body, "tokens_embed", layer)
        self.forget_compiled()

    def resize_token_embeddings(self, new_num_tokens=None, pad_to_multiple_of=None):
        """Gives the token table another number of rows.

        The first rows are kept, new ones are drawn from
        N(0, `config.initializer_range`), `config.vocab_size` follows, and the
        head stays tied.

        Args:
            new_num_tokens: Number of rows; the present one if None.
            pad_to_multiple_of: Rounds it up to a multiple of this.

        Returns:
            The token table's layer.

        Raises:
            ValueError: If a number is not positive, or the model has been
                compiled and trained: its optimizer knows the old table.
                Compile after resizing.
        """
        n_old = self.config.vocab_size
        n_new = n_old if new_num_tokens is None else new_num_tokens
        step = 1 if pad_to_multiple_of is None else pad_to_multiple_of
        for name, value in (("new_num_tokens", n_new), ("pad_to_multiple_of", step)):
            if value != int(value) or value < 1:
                raise ValueError(
                    f"`{name}` must be a positive integer. Received: {value!r}."
                )
        n_new = -(-int(n_new) // int(step)) * int(step)
        if n_new != n_old:
            table = ops.convert_to_numpy(self.get_input_embeddings().embeddings)
            fresh = keras.random.normal(
                (max(n_new - n_old, 0), table.shape[1]),
                stddev=self.config.initializer_range,
            )
            rows = np.concatenate([table[:n_new], ops.convert_to_numpy(fresh)])
            self.set_input_embeddings(rows)
        return self.get_input_embeddings()

    def prune_heads(self, heads):
        """Removes attention heads, and the weights that belong to them.

        Args:
            heads: Dict from the index of a block to a list of its heads, counted
                as in the unpruned model. Heads gone already stay gone.

        Raises:
            ValueError: If there are no such heads, none would be left in a
                block, or the model has been trained already.
        """
        self._check_untrained()
        if any("/lora_kernel_" in path for path in weights_by_path(self)):
            raise ValueError("Merge the LoRA adapters (`merge_lora`) before pruning.")
        body = body_of(self)
        before = {i: kept_heads(self.config, i) for i in range(len(body.blocks))}
        pruned = {i: set(gone) for i, gone in (self.config.pruned_heads or {}).items()}
        for i, gone in heads.items():
            pruned[int(i)] = pruned.get(int(i), set()) | set(gone)
        fields = {"pruned_heads": {i: list(gone) for i, gone in pruned.items()}}
        config = OpenAIGPTConfig.from_dict(self.config.to_dict(), **fields)
        self.config.pruned_heads = body.config.pruned_heads = config.pruned_heads
        blocks = list(body.blocks)
        for i in heads:
            kept = kept_heads(config, int(i))
            columns = [before[int(i)].index(head) for head in kept]
            blocks[int(i)] = _without_heads(body, int(i), columns)
        _replace(body, "blocks", blocks)
        self.forget_compiled()

    def num_parameters(self, only_trainable=False):
        """Returns the number of weights; the tied head adds none."""
        variables = self.trainable_weights if only_trainable else self.weights
        return sum(int(np.prod(variable.shape)) for variable in variables)

    def gradient_checkpointing_enable(self):
        """Keeps only the blocks' inputs for the backward pass in training.

        Each block is computed again when its gradient is due: about a third more
        time, and memory for one block's inner tensors instead of all.
        """
        body_of(self).rematerialise = True
        self.forget_compiled()

    def gradient_checkpointing_disable(self):
        """Undoes `gradient_checkpointing_enable`."""
        body_of(self).rematerialise = False
        self.forget_compiled()

    def forget_compiled(self):
        """Drops the functions that were traced with what has since changed."""
        self.train_function = self.test_function = self.predict_function = None

    def _check_untrained(self):
        optimizer = getattr(self, "optimizer", None)
        if optimizer is not None and optimizer.built:
            raise ValueError(
                "The optimizer of a trained model knows its weights: change their "
                "shapes before `fit`, or set `model.optimizer = None` and compile "
                "again. Received: an optimizer with "
                f"{len(optimizer.variables)} variables."
            )

    def run_body(self, inputs, training):
        """Returns the body's `BaseModelOutput` for a head's unpacked inputs."""
        # Keras takes tensors in a dict, and everything else by keyword.
        tensors = {name: inputs[name] for name in TENSORS if name in inputs}
        options = {name: inputs[name] for name in OPTIONS if name in inputs}
        options["return_dict"] = True
        return self.transformer(tensors, training=training, **options)

    def asked_for(self, inputs, hidden_states, attentions):
        """Returns the optional entries of an output that this call asks for."""
        wanted = {}
        for name, values in (
            ("hidden_states", hidden_states),
            ("attentions", attentions),
        ):
            option = inputs.get(f"output_{name}")
            if option is None:
                option = getattr(self.config, f"output_{name}")
            if option:
                wanted[name] = tuple(values)
        return wanted

    def finish(self, output, inputs):
        """Returns `output`, as a tuple if `return_dict` is False."""
        return_dict = inputs.get("return_dict")
        if return_dict is None:
            return_dict = self.config.return_dict
        return output if return_dict else output.to_tuple()

    def compile(
        self,
        optimizer="rmsprop",
        loss=None,
        loss_weights=None,
        metrics=None,
        weighted_metrics=None,
        **options,
    ):
        """Configures training, as `keras.Model.compile` does.

        Args:
            loss: None for the model's own loss, which batches with labels among
                their inputs are trained on. Or a loss, or a dict of losses by
                output name ("logits", "mc_logits"), for batches `(x, y)`.
            metrics: A list, for the main task; or a dict by output name. Beside
                the model's own loss they count the labels that it counts: those
                of the next tokens, without -100.
            optimizer, loss_weights, weighted_metrics, **options: As in Keras.

        Raises:
            ValueError: If one of `metrics` and `weighted_metrics` is a list and
                the other a dict.
        """
        # Keras would keep those of an earlier call.
        self.loss = self._compile_loss = self._compile_metrics = None
        if loss is None:  # It tells only the weighted metrics which labels count.
            metrics, weighted_metrics = None, _joined(metrics, weighted_metrics)
        super().compile(
            optimizer=optimizer,
            loss=loss,
            loss_weights=loss_weights,
            metrics=metrics,
            weighted_metrics=weighted_metrics,
            **options,
        )

    def compile_from_config(self, config):
        """Compiles a model that was loaded from a Keras file."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None:
            self.optimizer.build(self.trainable_variables)

    @functools.wraps(keras.Model.fit)
    def fit(self, *arguments, **options):
        given = inspect.signature(keras.Model.fit).bind(self, *arguments, **options)
        # Keras looks the weights up by `y`, and says so by an IndexError.
        weights = given.arguments.get("class_weight")
        if weights is not None and self.compiled and self.loss is None:
            raise ValueError(
                "`class_weight` needs a `loss` in `compile` and batches `(x, y)`: the "
                f"model's own loss counts each example once. Received: {weights!r}."
            )
        return super().fit(*arguments, **options)

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """Returns the model's own loss if the batch held labels, else Keras's.

        Keras calls this in `fit` and `evaluate`. With labels among the inputs
        (and no separate `y`) the output has a `loss`, and that is what is
        trained on.

        Raises:
            ValueError: If the batch, and what `compile` was given, do not say
                which loss is meant.
        """
        if y is None:
            self._check_own_loss(y_pred, sample_weight)
            # Keras's way to add them: over the replicas of a strategy, too.
            own = [ops.mean(y_pred["loss"]), *self.losses]
            return sum(self._aggregate_additional_loss(loss) for loss in own)
        y, y_pred = self._matched(y, y_pred)
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Updates the metrics given to `compile` and returns all results.

        Keras calls this in `fit` and `evaluate`. Without a separate `y` the
        labels are those among the inputs.
        """
        if y is not None:
            y, y_pred = self._matched(y, y_pred)
        elif self._compile_metrics is not None:
            self._check_own_loss(y_pred, sample_weight)
            y, y_pred, sample_weight = self._own_targets(x, y_pred)
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def _check_own_loss(self, y_pred, sample_weight):
        if not isinstance(y_pred, dict) or "loss" not in y_pred:
            labels = ", ".join(target.labels for target in self.TARGETS)
            raise ValueError(
                f"A batch needs labels among its inputs ({labels or 'none here'}), or "
                "a `y` beside them and a `loss` in `compile`. Received: neither."
            )
        if self.loss is not None or sample_weight is not None:
            raise ValueError(
                "With labels among the inputs and no `y`, training is on the model's "
                "own loss: leave out `loss` in `compile`, and sample weights. "
                f"Received: loss={self.loss!r}, sample weights: "
                + ("none." if sample_weight is None else "some.")
            )

    def _own_targets(self, x, y_pred):
        """Returns labels, scores and weights, dicts by output name."""
        present = [t for t in self.TARGETS if x.get(t.labels) is not None]
        wanted = self._compile_metrics._user_weighted_metrics
        if isinstance(wanted, dict):
            missing = wanted.keys() - {t.scores for t in present}
            if missing:
                raise ValueError(
                    "`metrics` must name outputs for which the batch has labels: "
                    f"{[t.scores for t in present]}. Received: {sorted(missing)}."
                )
            present = [t for t in present if t.scores in wanted]
        else:
            present = present[:1]
        found = {t.scores: t.read(x[t.labels], y_pred[t.scores]) for t in present}
        labels, scores, weights = (
            {name: values[i] for name, values in found.items()} for i in range(3)
        )
        no_weights = all(weight is None for weight in weights.values())
        return labels, scores, None if no_weights else weights

    def _matched(self, y, y_pred):
        """Returns labels and scores as dicts of the outputs that `y` names."""
        if not isinstance(y_pred, dict):
            return y, y_pred
        if not isinstance(y, (dict, list, tuple)) and len(self.TARGETS) == 1:
            y = {self.TARGETS[0].scores: y}
        if not isinstance(y, dict) or not y.keys() <= y_pred.keys():
            received = sorted(y) if isinstance(y, dict) else type(y).__name__
            raise ValueError(
                f"`y` must be a dict by output name, of {sorted(y_pred)}. "
                f"Received: {received}."
            )
        return dict(y), {name: y_pred[name] for name in y}

    def get_config(self):
        return {
            "config": self.config.to_dict(),
            "name": self.name,
            "dtype": keras.saving.serialize_keras_object(self.dtype_policy),
        }

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def body_of(model):
    """Returns the `OpenAIGPTModel` inside a model: itself, if it is one.

    A function, since Keras walks a model's properties when it saves, and would
    walk one that returns the model forever.
    """
    return getattr(model, "transformer", model)


def weights_by_path(model):
    """Returns the model's variables by their path in the checkpoint's terms.

    Args:
        model: One of the four model classes.

    Returns:
        Dict from a path such as "h_0/attn/c_attn/kernel" or "score/kernel" to
        the Keras variable: paths do not depend on the names of models.
    """
    body = body_of(model)
    parts = [body.tokens_embed, body.positions_embed, *body.blocks]
    if body is not model:
        parts += [layer for layer in model.layers if layer is not body]
    return {
        layer.name + variable.path.removeprefix(layer.path): variable
        for layer in parts
        for variable in layer.weights
    }


def _joined(metrics, more):
    """Returns two of Keras's lists of metrics, or dicts of them, as one."""
    if not metrics or not more:
        return metrics or more
    if isinstance(metrics, dict) != isinstance(more, dict):
        raise ValueError(
            "`metrics` and `weighted_metrics` must both be lists, or both dicts. "
            f"Received: {type(metrics).__name__} and {type(more).__name__}."
        )
    if not isinstance(metrics, dict):
        return [*metrics, *more]
    return {
        name: keras.tree.flatten([metrics.get(name, []), more.get(name, [])])
        for name in {**metrics, **more}
    }


class _MergedKernel:
    """The kernel of a layer with LoRA, added up when it is asked for."""

    def __init__(self, layer):
        self._layer = layer
        self.shape, self.dtype = layer._kernel.shape, layer._kernel.dtype

    def __array__(self, dtype=None, copy=None):
        kernel = self._layer.merged_kernel()
        return kernel if dtype is None else kernel.astype(dtype)


def merged_weights(model):
    """Returns `weights_by_path`, with each adapter in its kernel."""
    weights = {
        path: variable
        for path, variable in weights_by_path(model).items()
        if "/lora_kernel_" not in path
    }
    for block in body_of(model).blocks:
        for layer in block._flatten_layers():
            if getattr(layer, "lora_enabled", False):
                path = block.name + layer.path.removeprefix(block.path)
                weights[f"{path}/kernel"] = _MergedKernel(layer)
    return weights


def kept_heads(config, i):
    """Returns the indices of the heads that block `i` still has."""
    pruned = (config.pruned_heads or {}).get(i, [])
    return [head for head in range(config.n_head) if head not in pruned]


def _without_heads(body, i, columns):
    """Returns a block like the body's `i`-th with only these of its heads."""
    old, new = body.blocks[i], body._block(i)
    values = {v.path.removeprefix(old.path): v for v in old.weights}
    size = old.head_size
    kept = np.concatenate([np.arange(c * size, (c + 1) * size) for c in columns])
    width = old.n_head * size
    thrice = np.concatenate([kept, kept + width, kept + 2 * width])  # q, k, v
    for variable in new.weights:
        name = variable.path.removeprefix(new.path)
        value = ops.convert_to_numpy(values[name])
        if "/attn/c_attn/" in name:
            value = value[..., thrice]
        elif name.endswith("/attn/c_proj/kernel"):
            value = value[kept]
        variable.assign(value)
    return new


def _replace(model, name, value):
    """Puts layers in the place of others in a model that is built."""
    old = getattr(model, name)
    pairs = zip(old, value, strict=True) if isinstance(old, list) else [(old, value)]
    places = [(model._layers.index(before), after) for before, after in pairs]
    model._tracker.unlock()  # Keras locks what a built model consists of,
    for layer in old if isinstance(old, list) else [old]:
        model._tracker.untrack(layer)  # and keeps a layer that is deleted.
    delattr(model, name)
    setattr(model, name, value)
    for place, layer in places:  # Keras's files name layers by their order.
        model._layers.remove(layer)
        model._layers.insert(place, layer)
    model._tracker.lock()

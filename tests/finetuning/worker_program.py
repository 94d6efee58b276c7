"""One worker of a distributed run, or the single process it is compared with.

    python worker_program.py '{"models": ["lm"], "out": "w.npz"}'

TF_CONFIG says whether there are others. Options: `models` to train in turn with a
plain `fit`, `replicas` for a MirroredStrategy on so many CPUs, `out` for weights and
histories; or `run`, a folder for `train`, `kill_at` and `kill` (worker) for it,
`sharded` for a dataset of this worker's rows.
"""

import json
import os
import pathlib
import signal
import sys

import numpy as np

from tf_gpt.finetuning import distributed

VOCABULARY, LENGTH, ROWS = 40, 10, (6, 6, 6, 5)


def strategy_for(options):
    import tensorflow as tf

    n_replicas = options.get("replicas")
    if n_replicas:
        cpu = tf.config.list_physical_devices("CPU")[0]
        parts = [tf.config.LogicalDeviceConfiguration()] * n_replicas
        tf.config.set_logical_device_configuration(cpu, parts)
        return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(n_replicas)])
    return distributed.make_strategy(start_timeout=60, peer_timeout=5)


def batches_for(kind):
    """Batches whose rows and tokens fall on the replicas as unevenly as can be."""
    rng = np.random.default_rng(5)
    shape = (2,) if kind == "double" else ()
    for n_rows in ROWS:
        ids = rng.integers(1, VOCABULARY, (n_rows, *shape, LENGTH)).astype("int32")
        lengths = np.sort(rng.integers(2, LENGTH + 1, (n_rows, *shape)), axis=0)
        mask = (np.arange(LENGTH) < lengths[..., None]).astype("int32")
        batch = {"input_ids": ids * mask, "attention_mask": mask}
        labels = np.where(mask, ids, -100).astype("int32")
        if kind in ("lm", "double"):
            batch["labels"] = labels
        if kind == "double":
            batch["mc_token_ids"] = (lengths - 1).astype("int32")
            batch["mc_labels"] = rng.integers(0, 2, n_rows).astype("int32")
        if kind in ("classes", "classes_and_lm"):
            batch["labels"] = rng.integers(0, 3, n_rows).astype("int32")
        if kind == "scores":
            batch["labels"] = rng.normal(size=n_rows).astype("float32")
        if kind == "classes_and_lm":
            batch["lm_labels"] = labels
        yield batch


def data_for(kind):
    import tensorflow as tf

    first = next(batches_for(kind))
    signature = {
        name: tf.TensorSpec((None, *value.shape[1:]), value.dtype)
        for name, value in first.items()
    }
    return tf.data.Dataset.from_generator(
        lambda: batches_for(kind), output_signature=signature
    )


def model_for(kind, dropout=0.0, clipnorm=0.1):
    import keras

    import tf_gpt

    keras.utils.set_random_seed(3)
    cls = {
        "lm": tf_gpt.OpenAIGPTLMHeadModel,
        "double": tf_gpt.OpenAIGPTDoubleHeadsModel,
    }.get(kind, tf_gpt.OpenAIGPTForSequenceClassification)
    names = ("embd_pdrop", "attn_pdrop", "resid_pdrop", "summary_first_dropout")
    model = cls(
        tf_gpt.OpenAIGPTConfig(
            vocab_size=VOCABULARY,
            n_positions=LENGTH,
            n_embd=8,
            n_layer=1,
            n_head=2,
            num_labels=1 if kind == "scores" else 3,
            initializer_range=0.3,
            **dict.fromkeys(names, dropout),
        )
    )
    # Momentum keeps what a wrong scale of the gradient would do; the clipping is
    # so tight that it acts in every step.
    optimizer = keras.optimizers.SGD(0.5, momentum=0.9, global_clipnorm=clipnorm)
    model.compile(optimizer=optimizer, jit_compile=False)
    return model


def fit(kind, strategy):
    """Returns the weights and the history of two epochs."""
    with strategy.scope():
        model = model_for(kind)
    data, n_batches = data_for(kind), len(ROWS)
    if distributed.strategy_of(model) is None:
        data = dev = distributed.counted(data, n_batches)
    else:
        data, dev = (
            distributed.share_batches(data, strategy, n_batches) for _ in range(2)
        )
    with distributed.on_replicas(model):
        history = model.fit(data, epochs=2, validation_data=dev, verbose=0)
    weights = np.concatenate([np.ravel(w.numpy()) for w in model.weights])
    return weights, [history.history[n] for n in ("loss", "val_loss")]


def plain_fit(strategy):
    """Returns the weights after a `fit` of Keras alone, on batches split evenly."""
    import tensorflow as tf

    with strategy.scope():
        model = model_for("classes", clipnorm=None)
    data = data_for("classes").take(3)
    data = data.apply(tf.data.experimental.assert_cardinality(3))
    model.fit(data, epochs=2, verbose=0)
    return np.concatenate([np.ravel(w.numpy()) for w in model.weights])


def run(options, strategy):
    from run_program import At, Rows, signal_self, small_run, weights_of

    with strategy.scope():
        model = model_for("lm", dropout=0.2, clipnorm=1.0)
    index = distributed.worker_index(strategy)
    callbacks = []
    if options.get("kill") == index:
        callbacks = [At(options["kill_at"], signal_self(signal.SIGKILL))]
    dataset = Rows(23, batch=4, high=VOCABULARY, length=LENGTH)
    if options.get("sharded"):
        dataset.shard = (index, distributed.n_workers(strategy))
    history = small_run(
        model, options["run"], dev=False, dataset=dataset, callbacks=callbacks
    )
    return weights_of(model), history["loss"]


def main(options):
    strategy = strategy_for(options)
    found = {}
    for kind in options.get("models", ()):
        found[f"{kind}/weights"], found[f"{kind}/history"] = fit(kind, strategy)
    if options.get("plain"):
        found["plain/weights"] = plain_fit(strategy)
    if "run" in options:
        found["run/weights"], found["run/history"] = run(options, strategy)
    out = pathlib.Path(options["out"])
    index = distributed.worker_index(strategy)
    np.savez(out.with_name(f"{out.name}.{index}.npz"), **found)


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    main(json.loads(sys.argv[1]))

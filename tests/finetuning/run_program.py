"""A small run, for the tests and for processes that the tests kill.

python run_program.py FOLDER '{"kill_at": 7}'
"""

import json
import os
import signal
import sys

import keras
import numpy as np
import tensorflow as tf

from tf_gpt import OpenAIGPTConfig, OpenAIGPTLMHeadModel
from tf_gpt.finetuning import checkpoint
from tf_gpt.finetuning.runs import train

N_ROWS, BATCH = 30, 4  # 8 steps an epoch, the last of two rows


class Rows:
    """Stands for a `TaskDataset`: shuffled by (seed, epoch), from any position.

    With `scores`, batches are not a dict with labels but pairs of ids and floats.
    """

    def __init__(
        self,
        n_rows=N_ROWS,
        seed=0,
        streaming=False,
        batch=BATCH,
        scores=False,
        high=50,
        length=12,
    ):
        self.scores = scores
        self.shard = (0, 1)
        rng = np.random.default_rng(seed)
        self.ids = rng.integers(1, high, (n_rows, length)).astype("int32")
        lengths = rng.integers(2, length + 1, n_rows)
        self.mask = (np.arange(length) < lengths[:, None]).astype("int32")
        self.seed = seed
        self.batch = batch
        self.steps_per_epoch = None if streaming else -(-n_rows // batch)
        self.start_at(0, 0)

    def start_at(self, epoch, step):
        self.position = (epoch, step)

    def batches(self, epoch, skip=0):
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.ids))
        for start in range(skip * self.batch, len(order), self.batch):
            rows = order[start : start + self.batch]
            index, count = self.shard
            rows = rows[index * len(rows) // count : (index + 1) * len(rows) // count]
            ids, mask = self.ids[rows] * self.mask[rows], self.mask[rows]
            if self.scores:
                yield ids, ids.mean(axis=1).astype("float32") / 50
                continue
            labels = np.where(mask, ids, -100).astype("int32")
            yield {"input_ids": ids, "attention_mask": mask, "labels": labels}

    def as_tf_data(self):
        def iterate():
            epoch, skip = self.position
            self.position = (epoch + 1, 0)
            yield from self.batches(epoch, skip)

        ids = tf.TensorSpec((None, None), "int32")
        signature = dict.fromkeys(("input_ids", "attention_mask", "labels"), ids)
        if self.scores:
            signature = (ids, tf.TensorSpec((None,), "float32"))
        return tf.data.Dataset.from_generator(iterate, output_signature=signature)


def small_model(dropout=0.2, optimizer=None, **compiled):
    keras.utils.set_random_seed(7)
    model = OpenAIGPTLMHeadModel(
        OpenAIGPTConfig(
            vocab_size=50,
            n_positions=16,
            n_embd=8,
            n_layer=1,
            n_head=2,
            initializer_range=0.2,
            embd_pdrop=dropout,
            attn_pdrop=dropout,
            resid_pdrop=dropout,
        )
    )
    optimizer = optimizer or keras.optimizers.Adam(1e-2, global_clipnorm=1.0)
    model.compile(optimizer=optimizer, **{"jit_compile": False, **compiled})
    return model


def toy_model(optimizer=None, **compiled):
    """No GPT: for what does not depend on the model, since it compiles quickly."""
    keras.utils.set_random_seed(7)
    model = keras.Sequential(
        [
            keras.layers.Embedding(50, 4),
            keras.layers.Dropout(0.2),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(1),
        ]
    )
    model.build((None, None))
    optimizer = optimizer or keras.optimizers.Adam(1e-2)
    options = {"loss": "mse", "metrics": ["mae"], "jit_compile": False, **compiled}
    model.compile(optimizer=optimizer, **options)
    return model


def weights_of(model):
    weights = [np.ravel(keras.ops.convert_to_numpy(w)) for w in model.weights]
    return np.concatenate(weights)


class At(keras.callbacks.Callback):
    """Does something after a number of steps of the run."""

    def __init__(self, step, action):
        super().__init__()
        self.step, self.action = step, action

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations.numpy()) == self.step:
            self.action()


def small_run(model, folder, dev=True, callbacks=(), **options):
    scores = isinstance(model, keras.Sequential)
    dataset = options.pop("dataset", None) or Rows(scores=scores)
    options = {"epochs": 2, "save_every": 3, "progress": False, **options}
    dev = Rows(8, seed=1, scores=scores) if dev else None
    return train(model, dataset, folder, dev=dev, callbacks=callbacks, **options)


def signal_self(number):
    return lambda: os.kill(os.getpid(), number)


def kill_in_the_next_write():
    checkpoint.os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    folder, options = sys.argv[1], json.loads(sys.argv[2])
    actions = {
        "kill_at": signal_self(signal.SIGKILL),
        "interrupt_at": signal_self(signal.SIGINT),
        "kill_in_the_write_after": kill_in_the_next_write,
    }
    make_model = toy_model if options.pop("toy", False) else small_model
    model = make_model(jit_compile=options.pop("jit_compile", False))
    callbacks = [At(step, actions[name]) for name, step in options.items()]
    small_run(model, folder, callbacks=callbacks)

"""A hand-made SavedModel, of a few operations, for what servers and clients do."""

import tensorflow as tf

VOCAB_SIZE = 100


class Toy(tf.Module):
    """Sums rows of ids, scales numbers and joins texts.

    Args:
        offset: Added to every sum: tells one version from another.
    """

    def __init__(self, offset=0):
        super().__init__()
        self.offset = tf.Variable(offset)
        self.values = tf.Variable(tf.range(VOCAB_SIZE))

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None], tf.int32, name="input_ids"),
            tf.TensorSpec([None], tf.int32, name="lengths"),
        ]
    )
    def sums(self, input_ids, lengths):
        kept = tf.sequence_mask(lengths, tf.shape(input_ids)[1], tf.int32)
        # On a CPU the gather fails for an id that is not in the table.
        values = tf.gather(self.values, input_ids) * kept
        return {"sums": tf.reduce_sum(values, axis=1) + self.offset, "ids": input_ids}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.float32, name="x"),
            tf.TensorSpec([None], tf.float32, name="factor"),
        ]
    )
    def scale(self, x, factor=tf.constant([2.0])):  # noqa: B008
        return {"y": x * factor}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
    def shout(self, text):
        return {"text": tf.strings.join([text, "!"])}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
    def raw(self, text):
        return {"raw_bytes": text, "length": tf.strings.length(text)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, name="x")])
    def total(self, x):
        """Has no row for each row: what batching cannot split."""
        return {"total": tf.reduce_sum(x)}


def save(directory, offset=0):
    """Writes a version."""
    toy = Toy(offset)
    signatures = {
        "serving_default": toy.sums,
        "scale": toy.scale,
        "shout": toy.shout,
        "raw": toy.raw,
        "total": toy.total,
    }
    tf.saved_model.save(toy, str(directory), signatures=signatures)

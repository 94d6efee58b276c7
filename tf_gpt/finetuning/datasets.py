"""Examples to batches: padded, of few widths, shuffled so that a run can resume.

    dataset = task.dataset("train.jsonl", batch_size=32, shuffle_seed=0)
    model.fit(dataset.as_tf_data(), epochs=3)

`batches(epoch)` depends on the seed and the epoch alone: any process can go on
where another one stopped.
"""

import itertools
import pathlib

import numpy as np

from tf_gpt.finetuning.allocation import restore_thresholds
from tf_gpt.finetuning.readers import describe, is_file

# Files above this are streamed; below, their rows are kept as ids.
STREAM_FROM_BYTES = 200_000_000
# Rows are sorted by length, and streamed rows shuffled, this many batches at a time.
WINDOW_BATCHES = 64


def widths_up_to(max_length):
    """Returns the widths that batches are padded to: 8, 16, 24, 32, 48, 64, 96, ...

    Powers of two and the middle between them, so that XLA compiles few shapes
    and, from 17 tokens on, less than a third of the width is padding in the
    longest row. All are multiples of 8, but for the last: `max_length`.
    """
    widths, width = [8], 16
    while width < max_length:
        widths += [width, width * 3 // 2]
        width *= 2
    return [*(w for w in widths if w < max_length), max_length]


class TaskDataset:
    """The batches of a task's examples.

    Args:
        task: See `tf_gpt.finetuning.tasks`.
        source: See `read_examples`.
        batch_size: Rows of a (global) batch; the last may have fewer.
        shuffle_seed: Integer of 0 or more: every epoch has its own order. None
            keeps the order of the source.
        bucketed: Whether batches are formed of rows of like length, which saves
            padding: within windows of `WINDOW_BATCHES` batches the rows are
            sorted by length, cut into batches, and these shuffled. None does so
            if rows are shuffled.
        shard: (index, count) of a worker: of every batch it gets its part of
            the rows, padded to the width of the whole batch, so that all have
            equally many batches. A remainder of fewer rows than workers joins
            another batch.
        drop_remainder: Whether to leave out a last batch of fewer rows.
        streaming: Whether to read and encode the source anew in each epoch, in
            place of keeping its rows. Then rows are shuffled within the windows
            only, and the number of batches is unknown. None streams files above
            `STREAM_FROM_BYTES` and sources that do not know their length.
        labelled: Whether batches have labels. Without, they are for prediction,
            and examples need none.

    Attributes:
        num_rows: Number of rows; None if streamed.
        truncated: How many of them were cut to `max_length`; if streamed, of
            those encoded in the latest epoch so far.
        steps_per_epoch: Number of batches; None if streamed.
        widths: The widths that batches may have.

    Raises:
        ValueError: If an argument is out of range, an example is of no use, or
            every row had to be cut: then `max_length` is too small for the
            data.
    """

    def __init__(
        self,
        task,
        source,
        batch_size=32,
        *,
        shuffle_seed=None,
        bucketed=None,
        shard=(0, 1),
        drop_remainder=False,
        streaming=None,
        labelled=True,
    ):
        _check_arguments(batch_size, shuffle_seed, shard)
        self.task = task
        self.source = source
        self.batch_size = batch_size
        self.shuffle_seed = shuffle_seed
        self.bucketed = shuffle_seed is not None if bucketed is None else bucketed
        self.shard = tuple(shard)
        self.drop_remainder = drop_remainder
        self.labelled = labelled
        self.streaming = _is_large(source) if streaming is None else streaming
        self.widths = widths_up_to(task.max_length)
        self.truncated = 0
        self.spec = task.spec(labelled)  # and raises if labels are not known
        self._start = (0, 0)
        self._rows = None
        if not self.streaming:
            self._rows = list(self._encoded())
            self._check_rows(self._rows)
        else:
            next(self._encoded(), None)  # says now what is wrong from the start on

    @property
    def num_rows(self):
        return None if self._rows is None else len(self._rows)

    @property
    def steps_per_epoch(self):
        if self._rows is None:
            return None
        whole, rest = divmod(len(self._rows), self.batch_size)
        if self.drop_remainder or (whole and rest < self._least):
            return whole
        return whole + bool(rest)

    def batches(self, epoch=0, skip=0):
        """Yields the batches of one epoch.

        Args:
            epoch: Which, from 0.
            skip: How many of the first to leave out. (Of a stream they are
                still read.)

        Yields:
            Dicts of NumPy arrays: see `Task.collate`.

        Raises:
            ValueError: If `epoch` or `skip` is negative, or larger than
                `steps_per_epoch`.
        """
        self._check_position(epoch, skip)
        return self._batches(epoch, skip)

    def start_at(self, epoch, step=0):
        """Makes the next iteration of `as_tf_data` begin at a place.

        Args:
            epoch: From 0.
            step: Batches of the epoch that are done. If they are all, the next
                iteration is empty, and the one after it the next epoch.

        Raises:
            ValueError: As `batches`.
        """
        self._check_position(epoch, step)
        self._start = (int(epoch), int(step))

    def as_tf_data(self):
        """Returns a `tf.data.Dataset`, each iteration of which is an epoch.

        The first one is epoch 0, or begins where `start_at` said; the next one
        is the epoch after the last that was produced to its end: an iteration
        that is given up is begun again. `fit` may take it as it is. TensorFlow
        does not shard it over workers: `shard` has.

        In glibc each iteration sets the thresholds of `malloc` for the process: see
        `allocation.restore_thresholds`.

        Of `steps_per_epoch` batches it tells `fit` that many, also where
        `start_at` makes the first iteration shorter.
        """
        import tensorflow as tf

        from tf_gpt.finetuning.distributed import counted

        signature = {
            name: tf.TensorSpec(shape, dtype)
            for name, (shape, dtype) in self.spec.items()
        }
        options = tf.data.Options()
        options.experimental_distribute.auto_shard_policy = (
            tf.data.experimental.AutoShardPolicy.OFF
        )
        dataset = tf.data.Dataset.from_generator(
            self._next_epoch, output_signature=signature
        )
        dataset = dataset.prefetch(tf.data.AUTOTUNE).with_options(options)
        steps = self.steps_per_epoch
        return dataset if steps is None else counted(dataset, steps)

    def _next_epoch(self):
        restore_thresholds()
        epoch, step = self._start
        batches = self.batches(epoch, step)
        batch = next(batches, None)
        while batch is not None:
            following = next(batches, None)
            if following is None:
                self._start = (epoch + 1, 0)
            yield batch
            batch = following
        self._start = (epoch + 1, 0)

    def _batches(self, epoch, skip):
        for group in itertools.islice(self._groups(epoch), skip, None):
            longest = max(row.length for row in group)
            width = next(width for width in self.widths if width >= longest)
            yield self.task.collate(self._own(group), width, self.labelled)

    def _groups(self, epoch):
        """Yields the rows of each (global) batch."""
        size = self.batch_size * WINDOW_BATCHES
        number = -1
        for number, rows in enumerate(_cut(self._epoch_rows(epoch), size, self._least)):
            if self.streaming and number == 0:
                self._check_rows(rows)
            yield from self._window_groups(rows, epoch, number)
        if number < 0:
            self._check_rows([])

    @property
    def _least(self):
        """The fewest rows of a batch: one for each worker."""
        return self.shard[1]

    def _epoch_rows(self, epoch):
        if self.streaming:
            self.truncated = 0
            return self._encoded()
        if self.shuffle_seed is None:
            return self._rows
        rng = np.random.default_rng((self.shuffle_seed, epoch))
        return (self._rows[i] for i in rng.permutation(len(self._rows)))

    def _window_groups(self, rows, epoch, number):
        """Returns the batches of a window: of the order of the rows, if kept."""
        shuffled = self.shuffle_seed is not None
        if shuffled:
            rng = np.random.default_rng((self.shuffle_seed, epoch, number))
            if self.streaming:
                rows = [rows[i] for i in rng.permutation(len(rows))]
        if self.drop_remainder:
            # Before they are sorted: it is not the longest that shall go.
            rows = rows[: len(rows) - len(rows) % self.batch_size]
        if self.bucketed:
            rows = sorted(rows, key=lambda row: row.length)
        groups = list(_cut(rows, self.batch_size, self._least))
        if self.bucketed and shuffled:
            groups = [groups[i] for i in rng.permutation(len(groups))]
        return groups

    def _encoded(self):
        examples = self.task.read(self.source, self.labelled)
        for row in self.task.rows(examples, self.labelled):
            self.truncated += row.is_truncated
            yield row

    def _own(self, group):
        """Returns the rows of this worker's shard."""
        index, count = self.shard
        n = len(group)
        return group[index * n // count : (index + 1) * n // count]

    def _check_rows(self, rows):
        """Checks all rows, or the first window of a stream."""
        received = f"Received: {describe(self.source)}"
        if not rows:
            raise ValueError(
                f"`source` must give a row. {received}, whose texts have too few "
                "tokens."
            )
        if self.labelled and all(row.is_truncated for row in rows):
            raise ValueError(
                f"`max_length` must hold some rows whole. {received}; "
                f"max_length={self.task.max_length} cuts every one of {len(rows)} rows."
            )
        if self.drop_remainder and len(rows) < self.batch_size:
            raise ValueError(
                f"`source` must fill a batch with drop_remainder=True. {received} with "
                f"{len(rows)} rows; batch_size={self.batch_size}."
            )
        if len(rows) < self._least:
            raise ValueError(
                f"`source` must have a row for each worker. {received} with "
                f"{len(rows)} rows; shard={self.shard}."
            )

    def _check_position(self, epoch, step):
        for name, value in (("epoch", epoch), ("step", step)):
            if not _is_integer(value) or value < 0:
                raise ValueError(
                    f"`{name}` must be an integer of 0 or more. Received: {value!r}."
                )
        if self.steps_per_epoch is not None and step > self.steps_per_epoch:
            raise ValueError(
                f"An epoch has {self.steps_per_epoch} batches. Received: step {step}."
            )


def _check_arguments(batch_size, shuffle_seed, shard):
    if not _is_integer(batch_size) or batch_size < 1:
        raise ValueError(
            f"`batch_size` must be an integer of 1 or more. Received: {batch_size!r}."
        )
    if shuffle_seed is not None and (not _is_integer(shuffle_seed) or shuffle_seed < 0):
        raise ValueError(
            "`shuffle_seed` must be an integer of 0 or more, or None. "
            f"Received: {shuffle_seed!r}."
        )
    is_pair = isinstance(shard, (tuple, list)) and len(shard) == 2
    if (
        not is_pair
        or not all(map(_is_integer, shard))
        or not 0 <= shard[0] < shard[1]
        or batch_size % shard[1]
    ):
        raise ValueError(
            "`shard` must be (index, count) with 0 <= index < count, and count must "
            f"divide `batch_size`. Received: shard={shard!r}, batch_size={batch_size}."
        )


def _is_integer(value):
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _is_large(source):
    if is_file(source):
        return pathlib.Path(source).stat().st_size > STREAM_FROM_BYTES
    # A `tf.data.Dataset` has a length, and raises when it does not know it.
    try:
        return len(source) < 0
    except TypeError:
        return True


def _cut(items, size, least):
    """Yields lists of `size` items; a last one below `least` joins the one before."""
    items = iter(items)
    part = list(itertools.islice(items, size))
    while part:
        head = list(itertools.islice(items, least))
        if len(head) < least:
            yield part + head
            return
        yield part
        part = head + list(itertools.islice(items, size - least))

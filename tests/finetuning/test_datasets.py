import json
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from letters import PAD, letters, save_small_model

from tf_gpt.finetuning import datasets
from tf_gpt.finetuning.datasets import widths_up_to
from tf_gpt.finetuning.tasks import Classification, LanguageModelling, Similarity


def task_of(**options):
    options = {"labels": list(range(1000)), "max_length": 64, "lm_coef": 0, **options}
    return Classification(letters(), **options)


def examples(n, seed=0):
    """Returns n texts of 1 to 60 words; the label of each is its index."""
    rng = np.random.default_rng(seed)
    words = list("abcdefgh")
    return [(" ".join(rng.choice(words, rng.integers(1, 61))), i) for i in range(n)]


@pytest.fixture
def small_windows(monkeypatch):
    monkeypatch.setattr(datasets, "WINDOW_BATCHES", 4)


def labels_of(batches):
    return [batch["labels"].tolist() for batch in batches]


def flat(lists):
    return [item for part in lists for item in part]


def assert_equal(batches, expected):
    batches, expected = list(batches), list(expected)
    assert len(batches) == len(expected)
    for batch, other in zip(batches, expected, strict=True):
        assert batch.keys() == other.keys()
        for name in batch:
            assert np.array_equal(batch[name], other[name])


def test_widths_are_few_and_grow_by_half():
    assert widths_up_to(512) == [8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512]
    assert widths_up_to(100) == [8, 16, 24, 32, 48, 64, 96, 100]
    assert widths_up_to(5) == [5]
    for length in range(17, 513):
        width = next(w for w in widths_up_to(512) if w >= length)
        assert (width - length) / width < 1 / 3


def test_without_a_seed_the_order_is_that_of_the_source():
    texts = examples(10)
    dataset = task_of().dataset(texts, 4)
    assert (dataset.num_rows, dataset.steps_per_epoch) == (10, 3)
    for epoch in (0, 1):
        batches = list(dataset.batches(epoch))
        assert labels_of(batches) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
        longest = [
            max(len(t.split()) for t, _ in texts[at : at + 4]) for at in (0, 4, 8)
        ]
        for batch, n in zip(batches, longest, strict=True):
            width = next(w for w in widths_up_to(64) if w >= n + 2)
            assert batch["input_ids"].shape[1] == width
            assert batch["attention_mask"].sum(1).max() == n + 2
            assert (batch["input_ids"] == PAD).sum() == (
                batch["attention_mask"] == 0
            ).sum()


@pytest.mark.parametrize("streaming", [False, True], ids=["memory", "stream"])
@pytest.mark.parametrize("bucketed", [False, True])
def test_an_epoch_has_each_row_once_in_an_order_of_its_own(
    small_windows, streaming, bucketed
):
    options = {"shuffle_seed": 5, "bucketed": bucketed, "streaming": streaming}
    dataset = task_of().dataset(examples(50), 4, **options)
    epochs = [labels_of(dataset.batches(epoch)) for epoch in range(3)]
    for epoch in epochs:
        assert sorted(flat(epoch)) == list(range(50))
        assert flat(epoch) != list(range(50))
        assert sorted(map(len, epoch)) == [2, *[4] * 12]
    assert epochs[0] != epochs[1] != epochs[2]
    # The seed and the epoch alone say which.
    again = task_of().dataset(examples(50), 4, **options)
    assert labels_of(again.batches(2)) == epochs[2]
    other = task_of().dataset(examples(50), 4, **{**options, "shuffle_seed": 6})
    assert labels_of(other.batches(0)) != epochs[0]
    if streaming:  # shuffled within windows of 16 rows
        starts = [min(epoch[at : at + 4]) for epoch in epochs for at in (0, 4, 8)]
        assert [min(flat(epochs[0][at : at + 4])) for at in (0, 4, 8)] == [0, 16, 32]
        assert len(starts) == 9


def test_buckets_save_padding():
    fill = {}
    for bucketed in (False, True):
        dataset = task_of().dataset(examples(600), 8, shuffle_seed=0, bucketed=bucketed)
        masks = [batch["attention_mask"] for batch in dataset.batches()]
        fill[bucketed] = sum(m.sum() for m in masks) / sum(m.size for m in masks)
        widths = {mask.shape[1] for mask in masks}
        assert widths <= set(dataset.widths)
    assert fill[True] > 0.8 > 0.6 > fill[False]


@pytest.mark.parametrize("streaming", [False, True], ids=["memory", "stream"])
@pytest.mark.parametrize("seed", [None, 3])
def test_an_epoch_can_be_taken_up_at_any_batch(small_windows, streaming, seed):
    dataset = task_of().dataset(examples(50), 4, shuffle_seed=seed, streaming=streaming)
    whole = list(dataset.batches(1))
    for skip in (0, 1, 5, 12, 13):
        assert_equal(dataset.batches(1, skip=skip), whole[skip:])


@pytest.mark.parametrize("streaming", [False, True], ids=["memory", "stream"])
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("n", [32, 33, 34, 35, 39, 48, 49])
@pytest.mark.parametrize("drop_remainder", [False, True])
def test_shards_are_the_parts_of_each_batch(
    small_windows, streaming, count, n, drop_remainder
):
    def dataset(shard):
        return task_of().dataset(
            examples(n),
            4,
            shuffle_seed=1,
            shard=shard,
            streaming=streaming,
            drop_remainder=drop_remainder,
        )

    shards = [dataset((i, count)) for i in range(count)]
    parts = [list(shard.batches(1)) for shard in shards]
    n_batches = {len(batches) for batches in parts}
    assert len(n_batches) == 1
    if not streaming:
        assert n_batches == {shards[0].steps_per_epoch}
    labels = []
    for batches in zip(*parts, strict=True):
        assert len({batch["input_ids"].shape[1] for batch in batches}) == 1
        assert all(len(batch["labels"]) for batch in batches)
        labels.append(flat(labels_of(batches)))
    if drop_remainder:
        assert [len(batch) for batch in labels] == [4] * (n // 4)
        assert len(set(flat(labels))) == len(flat(labels))
    else:
        assert sorted(flat(labels)) == list(range(n))
    if n % 4 == 0 or n % 4 >= count:  # no remainder that is too small to share
        assert labels == labels_of(dataset((0, 1)).batches(1))


def test_a_remainder_that_is_dropped_is_not_always_the_longest():
    texts = examples(9)
    longest = max(range(9), key=lambda i: len(texts[i][0].split()))
    dataset = task_of().dataset(texts, 4, shuffle_seed=0, drop_remainder=True)
    assert dataset.steps_per_epoch == 2
    seen = [longest in flat(labels_of(dataset.batches(epoch))) for epoch in range(20)]
    assert any(seen)


def test_a_stream_has_the_content_of_rows_kept(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [{"text": text, "label": i} for text, i in examples(300)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    kept = task_of().dataset(path, 8)
    stream = task_of().dataset(path, 8, streaming=True)
    assert (stream.num_rows, stream.steps_per_epoch) == (None, None)
    assert_equal(stream.batches(), kept.batches())
    for seed in (0, 1):
        stream = task_of().dataset(path, 8, streaming=True, shuffle_seed=seed)
        rows = {}
        for batch in stream.batches():
            for label, ids, mask in zip(
                batch["labels"],
                batch["input_ids"],
                batch["attention_mask"],
                strict=True,
            ):
                rows[int(label)] = ids[mask == 1].tolist()
        for batch in kept.batches():
            for label, ids, mask in zip(
                batch["labels"],
                batch["input_ids"],
                batch["attention_mask"],
                strict=True,
            ):
                assert rows.pop(int(label)) == ids[mask == 1].tolist()
        assert not rows


def test_large_files_and_sources_of_unknown_length_are_streamed(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "label": 0}\n{"text": "b", "label": 1}\n')
    assert not task_of().dataset(path).streaming
    monkeypatch.setattr(datasets, "STREAM_FROM_BYTES", 10)
    assert task_of().dataset(path).streaming
    columns = {"text": ["a", "b"], "label": [0, 1]}
    table = tf.data.Dataset.from_tensor_slices(columns)
    assert not task_of().dataset(table).streaming
    unknown = task_of().dataset(table.filter(lambda row: True))
    assert unknown.streaming
    assert labels_of(unknown.batches()) == [[0, 1]]


def test_a_stream_is_read_a_window_at_a_time(small_windows, tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"text": "a", "label": 0}) + "\n"] * 1000
    path.write_text("".join([*lines, "broken\n"]))
    dataset = task_of().dataset(path, 4, streaming=True, shuffle_seed=0)
    batches = dataset.batches()
    for _ in range(100):
        next(batches)
    with pytest.raises(ValueError, match=r"a\.jsonl:1001: not a line of JSON"):
        list(batches)


def test_rows_that_were_cut_are_counted():
    texts = [("a b c d", 0), ("a", 1), ("a b c", 2)]
    task = task_of(max_length=4)
    assert task.dataset(texts).truncated == 2
    stream = task.dataset(texts, streaming=True)
    for _ in range(2):
        list(stream.batches())
        assert stream.truncated == 2
    for streaming in (False, True):
        with pytest.raises(ValueError, match=r"max_length=4 cuts every one of 2 rows"):
            list(task.dataset(texts[::2], streaming=streaming).batches())
    # To predict, one long text is enough.
    assert task.dataset(["a b c d"], labelled=False).truncated == 1


def test_batches_for_prediction_have_no_labels():
    task = task_of()
    texts = [text for text, _ in examples(5)]
    for source in (texts, examples(5)):
        batches = list(task.dataset(source, 2, labelled=False).batches())
        assert all(set(b) == {"input_ids", "attention_mask"} for b in batches)
        assert sum(len(b["input_ids"]) for b in batches) == 5
    with pytest.raises(ValueError, match=r"row 0.*text, label.*str"):
        task.dataset(texts, 2)


def test_packed_text_streams_and_resumes(tmp_path):
    path = tmp_path / "a.txt"
    texts = [text for text, _ in examples(40)]
    path.write_text("\n".join(texts))
    task = LanguageModelling(letters(), max_length=16)
    ids = task.tokenizer(" ".join(texts))["input_ids"]
    kept = task.dataset(path, 4)
    assert kept.num_rows == -(-len(ids) // 16)
    for dataset in (kept, task.dataset(path, 4, streaming=True)):
        batches = list(dataset.batches())
        tokens = [b["input_ids"][b["attention_mask"] == 1].tolist() for b in batches]
        assert flat(tokens) == ids
        assert_equal(dataset.batches(0, skip=3), batches[3:])


# tf.data.


def test_each_iteration_is_the_next_epoch():
    dataset = task_of().dataset(examples(21), 4, shuffle_seed=2)
    data = dataset.as_tf_data()
    assert int(data.cardinality()) == dataset.steps_per_epoch == 6
    for epoch in range(3):
        assert_equal(data.as_numpy_iterator(), dataset.batches(epoch))
    specs = data.element_spec
    assert specs["input_ids"] == tf.TensorSpec((None, None), "int32")
    assert specs["labels"] == tf.TensorSpec((None,), "int32")
    policy = data.options().experimental_distribute.auto_shard_policy
    assert policy == tf.data.experimental.AutoShardPolicy.OFF


@pytest.mark.parametrize("streaming", [False, True], ids=["memory", "stream"])
def test_an_iteration_begins_where_it_is_told(streaming):
    dataset = task_of().dataset(examples(21), 4, shuffle_seed=2, streaming=streaming)
    data = dataset.as_tf_data()
    dataset.start_at(3, 4)
    assert_equal(data.as_numpy_iterator(), dataset.batches(3, skip=4))
    assert_equal(data.as_numpy_iterator(), dataset.batches(4))
    dataset.start_at(1, 6)  # all of it is done
    assert_equal(data.as_numpy_iterator(), [])
    assert_equal(data.as_numpy_iterator(), dataset.batches(2))


def test_an_iteration_that_is_given_up_is_begun_again():
    dataset = task_of().dataset(examples(400), 4, shuffle_seed=2)
    data = dataset.as_tf_data()
    dataset.start_at(1, 2)
    for _ in range(2):
        assert_equal(data.take(1).as_numpy_iterator(), [next(dataset.batches(1, 2))])
    assert_equal(data.as_numpy_iterator(), dataset.batches(1, 2))
    assert_equal(data.as_numpy_iterator(), dataset.batches(2))


def test_errors_in_a_stream_reach_the_reader_of_tf_data(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "label": 0}\n' * 999 + "broken\n")
    data = task_of().dataset(path, streaming=True).as_tf_data()
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"a\.jsonl:1000"):
        list(data)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("model"))


def test_fit_takes_strings_and_goes_through_every_epoch(pretrained, monkeypatch):
    task = Classification(letters(), ["good", "bad"], max_length=24, lm_coef=0)
    texts = [("a b c", "good"), ("d e f", "bad"), ("a", "good"), ("d d", "bad")] * 5
    model_options = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the head is new
        model = task.load_model(pretrained, **model_options)
    model.compile(optimizer=keras.optimizers.Adam(0.01), jit_compile=False)
    dataset = task.dataset(texts, 6, shuffle_seed=0)
    asked = []
    batches = dataset.batches
    monkeypatch.setattr(
        dataset, "batches", lambda *args: asked.append(args) or batches(*args)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # "Your input ran out of data"
        warnings.filterwarnings("ignore", "`shuffle=True` was passed")
        history = model.fit(
            dataset.as_tf_data(),
            validation_data=task.dataset(texts, 6).as_tf_data(),
            epochs=3,
            verbose=0,
        ).history
    assert asked == [(0, 0), (1, 0), (2, 0)]
    assert int(model.optimizer.iterations) == 3 * dataset.steps_per_epoch == 12
    assert history["val_loss"][-1] < history["val_loss"][0]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch_size": 0}, "`batch_size`.*0"),
        ({"batch_size": True}, "`batch_size`.*True"),
        ({"shuffle_seed": -1}, "`shuffle_seed`.*-1"),
        ({"shuffle_seed": 0.5}, r"`shuffle_seed`.*0\.5"),
        ({"shard": (2, 2)}, r"`shard`.*\(2, 2\)"),
        ({"shard": 2}, "`shard`.*2"),
        ({"shard": (0, 3)}, r"divide `batch_size`.*\(0, 3\), batch_size=4"),
        ({"drop_remainder": True}, "fill a batch.*3 rows; batch_size=4"),
        ({"shard": (0, 4)}, r"a row for each worker.*3 rows; shard=\(0, 4\)"),
    ],
)
@pytest.mark.parametrize("streaming", [False, True], ids=["memory", "stream"])
def test_arguments_out_of_range_are_named(options, message, streaming):
    options = {"batch_size": 4, "streaming": streaming, **options}
    with pytest.raises(ValueError, match=message):
        list(task_of().dataset(examples(3), **options).batches())


def test_places_outside_an_epoch_are_named():
    dataset = task_of().dataset(examples(10), 4)
    for call in (dataset.batches, dataset.start_at):
        with pytest.raises(ValueError, match=r"has 3 batches.*step 4"):
            call(0, 4)
        with pytest.raises(ValueError, match=r"`epoch`.*-1"):
            call(-1, 0)


@pytest.mark.parametrize("streaming", [None, True], ids=["memory", "stream"])
def test_a_source_of_no_use_is_named_at_once(tmp_path, streaming):
    task = task_of()
    for source, message in (
        ([], "at least one example"),
        ([("a", 5000)], "row 0.*5000"),
        (tmp_path / "a.json", r"a\.json"),
        (5, "`source` must be.*a int"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            task.dataset(source, streaming=streaming)
    blank = LanguageModelling(letters(), max_length=8)
    with pytest.raises(ValueError, match=r"must give a row.*too few tokens"):
        list(blank.dataset(["", " "], streaming=streaming).batches())
    [batch] = blank.dataset(["", "a b"], streaming=streaming).batches()
    assert batch["input_ids"].tolist() == [[1, 2, *[PAD] * 6]]
    with pytest.raises(ValueError, match="`scan`"):
        Classification(letters()).dataset(examples(4))


def test_both_orders_have_a_dimension(pretrained):
    dataset = Similarity(letters(), max_length=24).dataset(
        [("a b", "c", 1.0), ("a", "b", 2.0)], 2
    )
    [batch] = dataset.as_tf_data()
    assert batch["input_ids"].shape == (2, 2, 8)
    assert dataset.as_tf_data().element_spec["input_ids"].shape[1] == 2

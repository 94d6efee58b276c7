import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
import worker_program
from run_program import small_model

from tf_gpt.finetuning import checkpoint, distributed

PROGRAM = pathlib.Path(worker_program.__file__)
KINDS = ("lm", "double", "classes", "scores", "classes_and_lm")


def free_ports(n):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def run_workers(n, options, timeout=240):
    """Runs n processes to their ends. Returns `[(status, errors)]`."""
    workers = [f"127.0.0.1:{port}" for port in free_ports(n)]
    processes = []
    try:
        for index in range(n):
            env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
            if n > 1:
                task = {"type": "worker", "index": index}
                cluster = {"cluster": {"worker": workers}, "task": task}
                env["TF_CONFIG"] = json.dumps(cluster)
            processes.append(
                subprocess.Popen(
                    [sys.executable, PROGRAM, json.dumps(options)],
                    env=env,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        end = time.monotonic() + timeout
        errors = [p.communicate(timeout=end - time.monotonic())[1] for p in processes]
        return [(p.returncode, e) for p, e in zip(processes, errors, strict=True)]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def results(n, out, **options):
    for status, errors in run_workers(n, {**options, "out": str(out)}):
        assert status == 0, errors[-3000:]
    return [dict(np.load(f"{out}.{index}.npz")) for index in range(n)]


@pytest.fixture(scope="module")
def one_process():
    strategy = tf.distribute.get_strategy()
    return {kind: worker_program.fit(kind, strategy) for kind in KINDS}


def assert_equal_to_one_process(found, one_process, kinds):
    for kind in kinds:
        weights, history = one_process[kind]
        for worker in found:
            np.testing.assert_allclose(worker[f"{kind}/weights"], weights, atol=1e-5)
            np.testing.assert_allclose(worker[f"{kind}/history"], history, rtol=1e-5)
            np.testing.assert_array_equal(
                worker[f"{kind}/weights"], found[0][f"{kind}/weights"]
            )


def test_two_workers_train_as_one_process(tmp_path):
    alone = {"lm": worker_program.fit("lm", tf.distribute.get_strategy())}
    found = results(2, tmp_path / "out", models=["lm"])
    assert_equal_to_one_process(found, alone, ["lm"])


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 3])
def test_several_workers_train_every_model_as_one_process(tmp_path, one_process, n):
    found = results(n, tmp_path / "out", models=KINDS)
    assert_equal_to_one_process(found, one_process, KINDS)


@pytest.mark.slow
def test_replicas_of_one_machine_train_as_one_process(tmp_path, one_process):
    found = results(1, tmp_path / "out", models=KINDS, replicas=2)
    assert_equal_to_one_process(found, one_process, KINDS)


def test_a_plain_fit_on_replicas_of_one_machine_has_the_gradient_of_one(tmp_path):
    alone = worker_program.plain_fit(tf.distribute.get_strategy())
    (found,) = results(1, tmp_path / "out", plain=True, replicas=2)
    np.testing.assert_allclose(found["plain/weights"], alone, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_lost_worker_is_an_error_and_a_resume_loses_nothing(tmp_path, killed):
    uncut = results(2, tmp_path / "uncut", run=str(tmp_path / "uncut_run"))

    options = {"run": str(tmp_path / "run"), "kill": killed, "kill_at": 8}
    options["out"] = str(tmp_path / "never")
    began = time.monotonic()
    ends = run_workers(2, options)
    assert time.monotonic() - began < 90
    assert ends[killed][0] == -9
    status, errors = ends[1 - killed]
    assert status != 0
    if killed == 1:  # the first worker's own end can take TensorFlow down too
        assert "Another worker stopped or cannot be reached, at epoch 2" in errors
    _, state = checkpoint.open_state(tmp_path / "run" / "checkpoint.safetensors")
    assert state["total_steps"] == 6

    resumed = results(2, tmp_path / "resumed", run=str(tmp_path / "run"))
    for index in range(2):
        np.testing.assert_array_equal(
            resumed[index]["run/weights"], uncut[index]["run/weights"]
        )
    np.testing.assert_allclose(
        resumed[0]["run/history"], uncut[0]["run/history"], rtol=1e-6
    )


@pytest.mark.slow
def test_a_sharded_dataset_trains_like_a_global_one(tmp_path):
    whole = results(2, tmp_path / "whole", run=str(tmp_path / "a"))
    sharded = results(2, tmp_path / "sharded", run=str(tmp_path / "b"), sharded=True)
    for one, other in zip(whole, sharded, strict=True):
        np.testing.assert_array_equal(one["run/weights"], other["run/weights"])


def two_replicas(model):
    """Makes a model pass for one of two replicas, where nothing is run."""

    class Strategy:
        num_replicas_in_sync = 2

    object.__setattr__(model, "_distribute_strategy", Strategy())
    return model


def test_xla_is_refused_by_name():
    model = two_replicas(small_model(jit_compile=True))
    with (
        pytest.raises(
            ValueError, match=r"jit_compile=False.*Received: jit_compile=True"
        ),
        distributed.on_replicas(model),
    ):
        pass


def test_only_this_model_is_changed_and_only_inside():
    model, other = two_replicas(small_model()), small_model()
    trainer = keras.Model._make_function
    with distributed.on_replicas(model):
        assert "_make_function" in vars(model)
        assert "apply" in vars(model.optimizer)
        assert "_make_function" not in vars(other)
        assert keras.Model._make_function is trainer
    changed = {"_make_function", "_maybe_symbolic_build", "compute_loss", "apply"}
    assert not changed & (vars(model).keys() | vars(model.optimizer).keys())


def test_another_keras_is_refused(monkeypatch):
    model = two_replicas(small_model())

    def make_function(self, step_function):
        return step_function

    monkeypatch.setattr(type(model), "_make_function", make_function)
    with (
        pytest.raises(
            RuntimeError, match=rf"Keras {keras.__version__} reduces its logs"
        ),
        distributed.on_replicas(model),
    ):
        pass


def test_of_one_replica_only_the_optimizer_is_changed():
    model = small_model()
    before = vars(model).keys() | set()
    with distributed.on_replicas(model):
        assert vars(model).keys() == before
        assert "apply" in vars(model.optimizer)
    assert "apply" not in vars(model.optimizer)


@pytest.mark.parametrize("clipnorm", [None, 0.1])
def test_rows_of_a_table_are_added_before_they_are_squared(clipnorm):
    rows = tf.IndexedSlices(
        values=tf.constant([[1.0, 2.0], [3.0, 4.0], [1.0, 1.0]]),
        indices=tf.constant([0, 0, 2]),
        dense_shape=tf.constant([4, 2]),
    )

    def after_a_step(gradient):
        model = keras.Sequential([keras.layers.Embedding(4, 2)])
        model.build((None, None))
        model.compile(keras.optimizers.Adam(0.1, global_clipnorm=clipnorm))
        with distributed.on_replicas(model):
            table = model.weights[0]
            table.assign(np.zeros((4, 2)))
            model.optimizer.apply([gradient], [table])
        return table.numpy(), model.optimizer._velocities[0].numpy()

    summed = np.array([[4.0, 6.0], [0.0, 0.0], [1.0, 1.0], [0.0, 0.0]], "float32")
    table, velocity = after_a_step(rows)
    if clipnorm is not None:
        summed *= clipnorm / np.sqrt(np.sum(summed**2))
    np.testing.assert_allclose(velocity, 0.001 * summed**2, rtol=1e-5)
    np.testing.assert_allclose(table, -0.1 * np.sign(summed), rtol=1e-3)


@pytest.mark.parametrize("n_rows, count", [(8, 2), (7, 2), (7, 3), (3, 3)])
def test_rows_are_split_in_order_and_evenly(n_rows, count):
    batch = {"x": tf.range(n_rows), "y": tf.reshape(tf.range(2 * n_rows), (n_rows, 2))}
    parts = [
        distributed._rows_of((batch,), tf.constant(i, tf.int64), count)
        for i in range(count)
    ]
    for name, value in batch.items():
        together = np.concatenate([part[name] for part in parts])
        np.testing.assert_array_equal(together, value)
    sizes = [len(part["x"]) for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_too_few_rows_for_the_replicas_are_an_error():
    with pytest.raises(tf.errors.InvalidArgumentError, match="at least as many rows"):
        distributed._rows_of((tf.range(2),), tf.constant(0, tf.int64), 3)


def test_another_workers_shard_is_refused():
    strategy = tf.distribute.get_strategy()
    with pytest.raises(ValueError, match=r"must be \(0, 1\).*shard=\(1, 2\)"):
        distributed.share_batches(
            tf.data.Dataset.range(3).batch(1), strategy, shard=(1, 2)
        )


def test_counted_data_have_the_length_said_and_end_when_they_end():
    data = tf.data.Dataset.range(10).batch(2)
    counted = distributed.counted(data, 7)
    assert int(counted.cardinality()) == 7
    assert len(list(counted)) == 5
    assert int(data.cardinality()) == 5


TWO = ["10.0.0.1:9000", "10.0.0.2:9000"]


def tf_config(**changes):
    task = {"type": "worker", "index": 1}
    return json.dumps({"cluster": {"worker": TWO}, "task": task, **changes})


def test_tf_config_gives_the_cluster(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", tf_config())
    assert distributed.cluster_from_environment() == (TWO, 1)


def test_tf_config_of_one_worker_is_a_single_process(monkeypatch):
    monkeypatch.setenv(
        "TF_CONFIG",
        tf_config(cluster={"worker": TWO[:1]}, task={"type": "worker", "index": 0}),
    )
    assert distributed.cluster_from_environment() is None


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", r"TF_CONFIG: must be JSON"),
        (
            tf_config(task={"type": "worker", "index": 2}),
            r"`index` must be in \[0, 2\)",
        ),
        (tf_config(task={"type": "worker"}), r"`task` must be"),
        (tf_config(task={"type": "ps", "index": 0}), r"`task` must be"),
        (tf_config(cluster={"chief": TWO[:1], "worker": TWO}), r"no other job.*chief"),
        (tf_config(cluster={"worker": "10.0.0.1:9000"}), r'must be a list of "host'),
        (tf_config(cluster={"worker": TWO[:1] * 2}), r"an address of its own"),
    ],
)
def test_a_wrong_tf_config_is_explained(monkeypatch, text, message):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match=message):
        distributed.make_strategy()


def test_slurm_gives_the_cluster(monkeypatch):
    for name, value in (
        ("PROCID", "2"),
        ("STEP_NUM_TASKS", "4"),
        ("STEP_NODELIST", "n[1-2]"),
        ("STEP_TASKS_PER_NODE", "2(x2)"),
    ):
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert distributed.cluster_from_environment(7000) == (
        ["n1:7000", "n1:7001", "n2:7000", "n2:7001"],
        2,
    )


def test_half_of_slurm_is_explained(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    with pytest.raises(ValueError, match=r"SLURM.*PROCID.*'SLURM_STEP_NUM_TASKS': '4'"):
        distributed.make_strategy("several_machines")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"kind": "ps"}, r"`kind` must be one of auto.*Received: ps"),
        ({"kind": "several_machines"}, r"needs the variable TF_CONFIG"),
        ({"peer_timeout": 0}, r"`peer_timeout` must be a positive.*peer_timeout=0"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        distributed.make_strategy(**options)


def test_a_single_process_gets_tensorflows_default():
    strategy = distributed.make_strategy()
    assert strategy is tf.distribute.get_strategy()
    assert distributed.is_chief(strategy)
    assert distributed.n_workers(strategy) == 1

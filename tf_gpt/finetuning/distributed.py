"""`fit` on several workers: strategies, data and what Keras 3 does not do itself.

    strategy = make_strategy()                    # from TF_CONFIG, SLURM or the GPUs
    with strategy.scope():
        model = OpenAIGPTLMHeadModel.from_pretrained("mini")
        model.compile(optimizer=...)
    with on_replicas(model):
        model.fit(share_batches(dataset.as_tf_data(), strategy), ...)

(`runs.train` does the last two lines itself.) Every worker runs the same program.

What is equal to one process: every step takes the same *global* batch, of which
each replica gets consecutive rows, as many as the others or one more. A mean
over rows (classes, choices, scores) is the mean over the rows of the global
batch, and a mean over tokens (the language-model loss) the mean over the kept
tokens of the global batch, however rows and tokens fall on the replicas.
Gradients are summed over the replicas before the optimizer sees them, so that
`global_clipnorm` clips the gradient of the global batch. Without dropout the
weights are those of one process but for the order of sums; with dropout,
replicas draw the same noise for different rows.
"""

import contextlib
import json
import os
import types

import keras

from tf_gpt.models.classifier import OpenAIGPTForSequenceClassification
from tf_gpt.models.double_heads import OpenAIGPTDoubleHeadsModel
from tf_gpt.models.lm_head import OpenAIGPTLMHeadModel
from tf_gpt.models.losses import IGNORED_LABEL

KINDS = ("auto", "one_machine", "several_machines", "none")


def make_strategy(kind="auto", *, port_base=8888, start_timeout=300, peer_timeout=30):
    """Returns the `tf.distribute.Strategy` for what the program runs on.

    For several machines this must come before anything else TensorFlow does, and
    returns when all workers are there.

    Args:
        kind: "auto" looks for several machines (`TF_CONFIG`, or a SLURM step of
            more than one task), else for several GPUs, else takes "none".
            "several_machines" is `MultiWorkerMirroredStrategy`, "one_machine"
            `MirroredStrategy` on all GPUs, "none" TensorFlow's default.
        port_base: First port of a machine's workers under SLURM.
        start_timeout: Seconds to wait for the other workers.
        peer_timeout: Seconds without a sign of life after which a worker counts
            as dead, and the others stop with an error.

    Raises:
        ValueError: If `kind` is unknown, or `TF_CONFIG` or the variables of
            SLURM do not describe a cluster.
        RuntimeError: If TensorFlow has been used already.
    """
    import tensorflow as tf

    if kind not in KINDS:
        raise ValueError(f"`kind` must be one of {', '.join(KINDS)}. Received: {kind}.")
    for name, value in (
        ("start_timeout", start_timeout),
        ("peer_timeout", peer_timeout),
        ("port_base", port_base),
    ):
        if not isinstance(value, int) or value < 1:
            raise ValueError(
                f"`{name}` must be a positive integer. Received: {name}={value!r}."
            )
    if kind in ("auto", "several_machines"):
        cluster = cluster_from_environment(port_base)
        if cluster is not None:
            return _several_machines(cluster, start_timeout, peer_timeout)
        if kind == "several_machines":
            raise ValueError(
                "kind='several_machines' needs the variable TF_CONFIG, or a SLURM "
                "step (srun). Received: neither is set."
            )
    n_gpus = len(tf.config.list_logical_devices("GPU")) if kind == "auto" else 0
    if kind == "one_machine" or n_gpus > 1:
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


def cluster_from_environment(port_base=8888):
    """Returns `(addresses of the workers, own index)`, None for a single process.

    `TF_CONFIG` goes before SLURM.

    Raises:
        ValueError: If what the environment says is no cluster of workers.
    """
    if os.environ.get("TF_CONFIG"):
        return _cluster_of_tf_config(os.environ["TF_CONFIG"])
    if os.environ.get("SLURM_STEP_NUM_TASKS", "1") != "1":
        return _cluster_of_slurm(port_base)
    return None


def _cluster_of_tf_config(text):
    def refuse(rule):
        return ValueError(f"TF_CONFIG: {rule} Received: {text:.300}")

    try:
        config = json.loads(text)
    except ValueError as error:
        raise refuse(f"must be JSON ({error}).") from error
    cluster = config.get("cluster") if isinstance(config, dict) else None
    if not cluster:
        return None  # as TensorFlow has it: a single process
    task = config.get("task")
    if not isinstance(cluster, dict) or not isinstance(task, dict):
        raise refuse("`cluster` and `task` must be objects.")
    other = sorted(set(cluster) - {"worker"})
    workers = cluster.get("worker")
    if other or not workers:
        # "chief" is only another name for the first worker, and two names for
        # one thing are two ways to number the workers.
        raise refuse(f"`cluster` must hold `worker` and no other job; it has {other}.")
    if not isinstance(workers, list) or not all(isinstance(w, str) for w in workers):
        raise refuse('`worker` must be a list of "host:port".')
    if len(set(workers)) != len(workers):
        raise refuse("each worker needs an address of its own.")
    index = task.get("index")
    if task.get("type") != "worker" or type(index) is not int:
        raise refuse('`task` must be {"type": "worker", "index": number}.')
    if not 0 <= index < len(workers):
        raise refuse(f"`index` must be in [0, {len(workers)}).")
    return (workers, index) if len(workers) > 1 else None


def _cluster_of_slurm(port_base):
    import tensorflow as tf

    try:
        n_tasks = int(os.environ["SLURM_STEP_NUM_TASKS"])
        # Asked for the addresses alone. GPUs are as SLURM binds them: the
        # resolver would count them with nvidia-smi, and fail where there are none.
        resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
            port_base=port_base,
            gpus_per_node=n_tasks,
            gpus_per_task=1,
            auto_set_gpu=False,
        )
        workers = resolver.cluster_spec().as_dict()["worker"]
        return workers, resolver.task_id
    except (RuntimeError, ValueError, KeyError) as error:
        names = ("PROCID", "STEP_NUM_TASKS", "STEP_NODELIST", "STEP_TASKS_PER_NODE")
        seen = {f"SLURM_{name}": os.environ.get(f"SLURM_{name}") for name in names}
        raise ValueError(
            f"The variables of SLURM describe no step: {error} Received: {seen}."
        ) from error


def _several_machines(cluster, start_timeout, peer_timeout):
    import tensorflow as tf
    from tensorflow.python.eager import context

    addresses, index = cluster
    n_gpus = len(tf.config.list_physical_devices("GPU"))
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": addresses}),
        task_type="worker",
        task_id=index,
        num_accelerators={"GPU": n_gpus},
        rpc_layer="grpc",
    )
    # Configured here for its times: the strategy's own would wait for an hour.
    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader="/job:worker/replica:0/task:0",
        cluster_register_timeout_in_ms=1000 * start_timeout,
        heartbeat_timeout_in_ms=1000 * peer_timeout,
        shutdown_barrier_timeout_in_ms=1000 * peer_timeout,
        coordinated_jobs=[
            context.coordination_config_pb2.CoordinatedJob(
                name="worker", num_tasks=len(addresses)
            )
        ],
    )
    try:
        return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
    except RuntimeError as error:
        raise RuntimeError(
            "A strategy for several machines must be made before TensorFlow does "
            f"anything else: call make_strategy first. TensorFlow says: {error}"
        ) from error


def strategy_of(model):
    """Returns the strategy that a model was made under, None for a single replica."""
    strategy = getattr(model, "distribute_strategy", None)
    if strategy is None or strategy.num_replicas_in_sync == 1:
        return None
    return strategy


def n_workers(strategy):
    """Returns the number of processes of a strategy, or of None."""
    resolver = getattr(strategy, "cluster_resolver", None)
    if resolver is None:
        return 1
    return len(resolver.cluster_spec().as_dict().get("worker", [""]))


def worker_index(strategy):
    """Returns the index of this process among the workers of a strategy."""
    return 0 if n_workers(strategy) == 1 else strategy.cluster_resolver.task_id


def is_chief(strategy):
    """Whether this process is the one that writes files."""
    return worker_index(strategy) == 0


def share_batches(dataset, strategy, n_batches=None, shard=(0, 1)):
    """Returns a dataset for `fit` that gives each replica its rows of every batch.

    Args:
        dataset: `tf.data.Dataset`, of global batches, the same on every worker.
            Then each worker reads all of it and keeps its own rows. Or of this
            worker's part of every global batch, as `shard` says.
        strategy: The strategy of the model.
        n_batches: Number of batches that `fit` shall expect; unknown if None.
        shard: (index, count) that the dataset was made with: (0, 1) for global
            batches, else this worker's index and the number of workers.

    Returns:
        `tf.distribute.DistributedDataset`. Iterating fails with
        `tf.errors.InvalidArgumentError` at a batch of fewer rows than replicas.

    Raises:
        ValueError: If `shard` is that of another worker.
    """
    import tensorflow as tf

    n_replicas = strategy.num_replicas_in_sync
    own = (worker_index(strategy), n_workers(strategy))
    if tuple(shard) not in ((0, 1), own):
        raise ValueError(
            f"`shard` must be {own} on this worker, or (0, 1) for global batches. "
            f"Received: shard={tuple(shard)}."
        )

    def of_worker(context):
        n_local = n_replicas // own[1]
        if tuple(shard) == own:
            first, n_parts = 0, n_local
        else:
            first, n_parts = own[0] * n_local, n_replicas
        local = tf.data.Dataset.range(first, first + n_local)
        options = tf.data.Options()
        options.experimental_distribute.auto_shard_policy = (
            tf.data.experimental.AutoShardPolicy.OFF
        )
        return (
            dataset.flat_map(
                lambda *batch: local.map(lambda i: _rows_of(batch, i, n_parts))
            )
            .prefetch(2 * n_local)
            .with_options(options)
        )

    shared = strategy.distribute_datasets_from_function(of_worker)
    return counted(shared, n_batches)


def _rows_of(batch, index, count):
    """Returns the consecutive rows that replica `index` of `count` gets."""
    import tensorflow as tf

    batch = batch[0] if len(batch) == 1 else batch
    n_rows = tf.shape(tf.nest.flatten(batch)[0], out_type=tf.int64)[0]
    count = tf.constant(count, tf.int64)
    enough = tf.debugging.assert_greater_equal(
        n_rows,
        count,
        "A global batch must have at least as many rows as there are replicas: "
        "leave out the remainder, or choose another batch size.",
    )
    with tf.control_dependencies([enough] if enough is not None else []):
        start, stop = index * n_rows // count, (index + 1) * n_rows // count
        return tf.nest.map_structure(lambda x: x[start:stop], batch)


def counted(dataset, n_batches):
    """Returns a dataset to iterate for epochs of `n_batches`, even if some are cut.

    Keras believes what a dataset says of its length, and of one that says
    nothing it believes the length of the first epoch. The first epoch of a
    resumed run is short.

    Args:
        dataset: What `fit` takes: `tf.data.Dataset` or a distributed one.
        n_batches: Number of batches of a whole epoch, None if unknown.
    """
    import tensorflow as tf

    # Larger than any epoch: it ends when the data do.
    length = 2**40 if n_batches is None else n_batches
    cardinality = property(lambda self: length)  # of a distributed dataset
    if isinstance(dataset, tf.data.Dataset):
        dataset = dataset.prefetch(tf.data.AUTOTUNE)  # a new one: yours stays

        def cardinality(self):
            return tf.constant(length, tf.int64)

    # Keras looks for TensorFlow's class among the bases, and asks for this.
    members = {"cardinality": cardinality, "__module__": __name__}
    dataset.__class__ = type("Counted", (type(dataset),), members)
    return dataset


@contextlib.contextmanager
def on_replicas(model):
    """Makes `fit` and `evaluate` of this one model the same on any replicas.

    Within the context, the optimizer gets the gradient of a table as one array.
    TensorFlow has it as the rows that were read, a row of it for each time: of
    these Keras takes the squares, for `global_clipnorm` and in Adam, before it
    adds them up; and threads add them up in an order that differs from run to
    run. A model made under a strategy of several replicas gets besides:

    - two repairs of Keras 3 (keras-team/keras#20585): its symbolic build takes
      one replica's batch, and the logs are the first replica's (metrics are
      synchronised already);
    - as the model's own loss the mean over the global batch (see the module);
    - gradients summed over the replicas before they are clipped.

    Raises:
        ValueError: If such a model is compiled with `jit_compile=True`.
        RuntimeError: If this Keras does not have the parts that are replaced.
    """
    strategy = strategy_of(model)
    if strategy is None:
        with _with_methods((model.optimizer, "apply", _summed(model.optimizer))):
            yield
        return
    if model.jit_compile:
        raise ValueError(
            "Under several replicas the model must be compiled with "
            "jit_compile=False: XLA cannot hold what the replicas exchange. "
            f"Received: jit_compile={model.jit_compile!r}."
        )
    # Of an optimizer within a LossScaleOptimizer it is the inner that sums.
    inner = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    methods = (
        (model, "_make_function", _first_replicas_logs(model)),
        (model, "_maybe_symbolic_build", _build_from_one_replica(model, strategy)),
        (model, "compute_loss", _global_mean_loss(model)),
        (model.optimizer, "apply", _summed(model.optimizer)),
        (inner, "_all_reduce_sum_gradients", list),
    )
    with _with_methods(*methods):
        _forget_functions(model)
        try:
            yield
        finally:
            _forget_functions(model)


@contextlib.contextmanager
def _with_methods(*methods):
    with contextlib.ExitStack() as stack:
        for owner, name, method in methods:
            stack.enter_context(_replaced(owner, name, method))
        yield


@contextlib.contextmanager
def _replaced(owner, name, method):
    """Gives one object a method of its own in place of its class's."""
    if not callable(getattr(type(owner), name, None)) or name in vars(owner):
        raise RuntimeError(
            f"Keras {keras.__version__} has no method {type(owner).__name__}.{name} "
            "as it was when `on_replicas` was written (3.12 to 3.15)."
        )
    object.__setattr__(owner, name, method)
    try:
        yield
    finally:
        object.__delattr__(owner, name)


def _forget_functions(model):
    # They were traced with, or without, the methods replaced.
    model.train_function = model.test_function = model.predict_function = None


def _first_replicas_logs(model):
    """Returns Keras's `_make_function` that takes logs from the first replica."""
    function = type(model)._make_function
    code = function.__code__
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    if function.__closure__ or not any(
        "reduce_per_replica" in c.co_names for c in inner
    ):
        raise RuntimeError(
            f"Keras {keras.__version__} reduces its logs in another way than it did "
            "when `on_replicas` was written (3.12 to 3.15)."
        )

    def reduce_per_replica(values, strategy, reduction):
        return keras.tree.map_structure(
            lambda value: strategy.experimental_local_results(value)[0], values
        )

    # The same code with one other global: Keras's module stays as it is.
    names = {**function.__globals__, "reduce_per_replica": reduce_per_replica}
    own = types.FunctionType(code, names, function.__name__, function.__defaults__)
    return types.MethodType(own, model)


def _build_from_one_replica(model, strategy):
    def build(iterator=None, data_batch=None):
        for _, _, batches in iterator if iterator is not None else ():
            data_batch = keras.tree.map_structure(
                lambda value: strategy.experimental_local_results(value)[0],
                next(batches),
            )
            break
        with strategy.scope():
            model._symbolic_build(data_batch=data_batch)

    return build


def _summed(optimizer):
    """Returns `apply` that adds gradients up first, and makes arrays of them."""

    def apply(grads, trainable_variables=None):
        import tensorflow as tf

        grads = list(grads)
        kept = [i for i, gradient in enumerate(grads) if gradient is not None]
        arrays = [tf.convert_to_tensor(grads[i]) for i in kept]
        context = tf.distribute.get_replica_context()
        if context is not None and context.num_replicas_in_sync > 1:
            arrays = context.all_reduce(tf.distribute.ReduceOp.SUM, arrays)
        for i, array in zip(kept, arrays, strict=True):
            grads[i] = array
        return type(optimizer).apply(optimizer, grads, trainable_variables)

    return apply


def _global_mean_loss(model):
    """Returns `compute_loss` with each replica's share of the global mean."""

    def compute_loss(x=None, y=None, y_pred=None, sample_weight=None, training=True):
        import tensorflow as tf

        context = tf.distribute.get_replica_context()
        own = y is None and isinstance(y_pred, dict) and "loss" in y_pred
        if not own or context is None:
            return type(model).compute_loss(
                model, x, y, y_pred, sample_weight, training
            )
        means, counts = zip(*_means_with_counts(model, x, y_pred), strict=True)
        totals = context.all_reduce(tf.distribute.ReduceOp.SUM, list(counts))
        share = 0.0
        for mean, count, total in zip(means, counts, totals, strict=True):
            share += mean * count / tf.maximum(total, 1.0)
        for extra in model.losses:
            share += tf.reduce_sum(extra) / context.num_replicas_in_sync
        # The gradients are those of the share; what every replica logs is the
        # whole, divided as Keras expects of a loss: then all stop at a NaN.
        whole = context.all_reduce(tf.distribute.ReduceOp.SUM, share)
        logged = whole / context.num_replicas_in_sync
        return share + tf.stop_gradient(logged - share)

    return compute_loss


def _means_with_counts(model, x, outputs):
    """Returns `(mean, number it is the mean of)` for each term of the loss."""
    from keras import ops

    def kept(labels):
        return ops.sum(ops.cast(ops.not_equal(labels, IGNORED_LABEL), "float32"))

    def n_rows(labels):
        return ops.cast(ops.shape(labels)[0], "float32")

    if isinstance(model, OpenAIGPTLMHeadModel):
        return [(outputs["loss"], kept(x["labels"][..., 1:]))]
    if isinstance(model, OpenAIGPTDoubleHeadsModel):
        terms = []
        if "labels" in x:
            weight = model.config.lm_coef if "mc_labels" in x else 1.0
            terms.append((weight * outputs["lm_loss"], kept(x["labels"][..., 1:])))
        if "mc_labels" in x:
            terms.append((outputs["mc_loss"], kept(x["mc_labels"])))
        return terms
    if isinstance(model, OpenAIGPTForSequenceClassification):
        terms = []
        if "labels" in x:
            is_class = (
                model.config.num_labels > 1
                and model.config.problem_type in (None, "single_label_classification")
                and "int" in keras.backend.standardize_dtype(x["labels"].dtype)
            )
            count = kept(x["labels"]) if is_class else n_rows(x["labels"])
            terms.append((outputs.get("task_loss", outputs["loss"]), count))
        if "lm_labels" in x:
            # Here a mean over rows, each of which is a mean over its tokens.
            weight = model.config.lm_coef if "labels" in x else 1.0
            terms.append((weight * outputs["lm_loss"], n_rows(x["lm_labels"])))
        return terms
    raise ValueError(
        "Under several replicas the loss of the model itself is known for the "
        "three classes with heads. Received: "
        f"{type(model).__name__}; pass `y` and compile with a loss."
    )

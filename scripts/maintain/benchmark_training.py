"""Measures a training step at full size beside other libraries, in one run.

    python scripts/maintain/benchmark_training.py --case 8x128 \\
        --peer transformers=/path/to/venv/bin/python \\
        --peer keras-hub=/path/to/venv/bin/python --out training.md

A step is the next-token loss of GPT-1's sizes (12 layers, 768 wide, 40,478 tokens;
GPT-2's base where a library has no GPT-1), its gradients and Adam's update, in
float32, with dropout; those on TensorFlow compiled by XLA, or not. Each contestant
has a process of its own for each case, which does nothing else: its peak memory is
the largest resident set, compiling included. Repetitions go round the contestants,
so that a slow minute of the machine hits all of them. Figures are medians, with the
smallest and the largest.

The share of the limit is `operations of the products x tokens per second / what one
large product reaches`, which NumPy measures between the repetitions. CPU seconds are
those of all threads of a contestant. They change less than the wall clock where
others use the machine; how much of it those took is in the table too. The log has
all figures, should a run be cut off.
"""

import argparse
import datetime
import json
import os
import pathlib
import resource
import statistics
import sys
import time

import benchmark
import numpy as np

LEARNING_RATE = 1e-4
# Memory of a step comes in pages of 2 MB: see docs/SPEED.md.
ENVIRONMENT = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
DESCRIPTIONS = {
    "tf_gpt": "tf_gpt, `fit`, XLA",
    "tf_gpt-graph": "tf_gpt, `fit`, no XLA",
    "transformers": "transformers PyTorch, GPT-1, fused Adam",
    "keras-hub": "KerasHub, GPT-2, TensorFlow, `fit`, XLA",
    "keras-hub-graph": "KerasHub, GPT-2, TensorFlow, `fit`, no XLA",
}


# The contestants: each function returns train(ids (B, T), n_steps), which returns
# the seconds and the CPU seconds that the steps took.


def make_tf_gpt(jit_compile=True):
    sys.path.insert(0, str(benchmark.ROOT))
    import keras

    from tf_gpt import OpenAIGPTConfig, OpenAIGPTLMHeadModel

    model = OpenAIGPTLMHeadModel(OpenAIGPTConfig())
    optimizer = keras.optimizers.Adam(LEARNING_RATE)
    model.compile(optimizer=optimizer, jit_compile=jit_compile)
    return _fit(model, lambda ids: ({"input_ids": ids, "labels": ids},))


def make_tf_gpt_graph():
    return make_tf_gpt(jit_compile=False)


def make_keras_hub(jit_compile=True):
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras
    import keras_hub

    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=benchmark.GPT2_VOCABULARY,
        num_layers=benchmark.SIZES["n_layer"],
        num_heads=benchmark.SIZES["n_head"],
        hidden_dim=benchmark.SIZES["n_embd"],
        intermediate_dim=4 * benchmark.SIZES["n_embd"],
        max_sequence_length=benchmark.SIZES["n_positions"],
    )
    model = keras_hub.models.GPT2CausalLM(backbone=backbone, preprocessor=None)
    model.compile(
        optimizer=keras.optimizers.Adam(LEARNING_RATE),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=jit_compile,
    )

    def batch(ids):
        labels = np.roll(ids, -1, axis=1)
        return {"token_ids": ids, "padding_mask": np.ones_like(ids)}, labels

    return _fit(model, batch)


def make_keras_hub_graph():
    return make_keras_hub(jit_compile=False)


def _fit(model, batch):
    import keras
    import tensorflow as tf

    # At the end of `fit` tf.data waits for its tuning thread, which sleeps twice as
    # long each time: that can take longer than a few steps.
    options = tf.data.Options()
    options.autotune.enabled = False

    class Clock(keras.callbacks.Callback):
        """Times from the first step's beginning to the last one's end."""

        def on_train_batch_begin(self, batch, logs=None):
            if batch == 0:
                self.start = _clocks()

        def on_train_batch_end(self, batch, logs=None):
            float(logs["loss"])  # waits for the step
            self.end = _clocks()

    def train(ids, n_steps):
        data = tf.data.Dataset.from_tensors(batch(ids)).repeat(n_steps)
        data = data.with_options(options)
        clock = Clock()
        model.fit(data, verbose=0, callbacks=[clock])
        return clock.end - clock.start

    return train


def _clocks():
    return np.array([time.perf_counter(), time.process_time()])


def make_transformers():
    import torch
    from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

    torch.set_num_threads(os.cpu_count())
    model = OpenAIGPTLMHeadModel(OpenAIGPTConfig()).train()
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, fused=True)

    def train(ids, n_steps):
        ids = torch.from_numpy(ids.astype("int64"))
        start = _clocks()
        for _ in range(n_steps):
            optimizer.zero_grad()
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
        return _clocks() - start

    return train


MAKERS = {
    "tf_gpt": make_tf_gpt,
    "tf_gpt-graph": make_tf_gpt_graph,
    "transformers": make_transformers,
    "keras-hub": make_keras_hub,
    "keras-hub-graph": make_keras_hub_graph,
}


def work(name):
    """Runs one contestant: an order (JSON) a line in, an answer a line out."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the libraries print goes to standard error
    start = time.perf_counter()
    train = MAKERS[name]()
    load_s = time.perf_counter() - start
    print(json.dumps({"bytes": None, "load_s": load_s}), file=answers)
    random = np.random.default_rng(0)
    for line in sys.stdin:
        order = json.loads(line)
        shape = (order["batch"], order["length"])
        ids = random.integers(10, benchmark.GPT1_VOCABULARY, shape).astype("int32")
        busy, whole = busy_seconds(), _clocks()
        seconds, cpu = train(ids, order["steps"])
        whole = _clocks() - whole
        others = (busy_seconds() - busy - whole[1]) / whole[0] / os.cpu_count()
        answer = {
            "seconds": seconds,
            "cpu": cpu,
            "others": others,
            "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        print(json.dumps(answer), file=answers)


def operations_per_token(name, length):
    """Returns the multiplications and additions of a step's products, a token.

    Each weight of a product counts six times: forward, and for two gradients; so do
    the attention's two products, each of which reads `length` vectors.
    """
    width, n_layer = benchmark.SIZES["n_embd"], benchmark.SIZES["n_layer"]
    vocabulary = (
        benchmark.GPT2_VOCABULARY if name == "keras-hub" else benchmark.GPT1_VOCABULARY
    )
    blocks = n_layer * (12 * width**2 + 2 * length * width)
    return 6 * (blocks + vocabulary * width)


def product_speed(size=2048):
    """Returns the operations a second of a large float32 product: the best of three."""
    factor = np.ones((size, size), "float32")
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        factor @ factor
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


def busy_seconds():
    """Returns the CPU seconds that all processes of the machine have used."""
    line = pathlib.Path("/proc/stat").read_text().splitlines()[0]
    user, nice, system, _, _, irq, softirq = map(int, line.split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def measure(contestants, order, repetitions, log):
    """Returns `(answers by name, product speeds)`, interleaved."""
    for contestant in contestants:
        first = contestant.answer(**{**order, "steps": 1})
        log(f"first step: {contestant.name} {first}")
    answers = {contestant.name: [] for contestant in contestants}
    speeds = []
    for repetition in range(repetitions):
        speeds.append(product_speed())
        log(f"{repetition} a large product: {speeds[-1] / 1e9:.0f} GFLOP/s")
        for contestant in contestants:
            answer = contestant.answer(**order)
            answers[contestant.name].append(answer)
            log(f"{repetition} {contestant.name} {answer}")
    return answers, speeds


def table(contestants, order, answers, speeds):
    """Returns the Markdown of one case."""
    n_tokens = order["batch"] * order["length"] * order["steps"]
    speed = statistics.median(speeds)

    def values(name, key):
        return [answer[key] for answer in answers[name]]

    def rates(name):
        return [n_tokens / seconds for seconds in values(name, "seconds")]

    header = [f"batch {order['batch']} x {order['length']}", "tokens/s", "from - to"]
    header += ["tf_gpt is", "CPU s a step", "tf_gpt's CPU", "of the limit"]
    header += ["others' CPU", "first step s", "peak GB", "tf_gpt's peak"]
    lines = [
        f"{datetime.date.today()}, {benchmark._cpu()}, {os.cpu_count()} cores; "
        f"{len(speeds)} repetitions of {order['steps']} steps. A large product: "
        f"{speed / 1e9:.0f} GFLOP/s (from {min(speeds) / 1e9:.0f} to "
        f"{max(speeds) / 1e9:.0f} between the repetitions).",
        "",
        benchmark._row(header),
        benchmark._row(["---"] * len(header)),
    ]
    ours = contestants[0]
    for contestant in contestants:
        name = contestant.name
        rate = statistics.median(rates(name))
        cpu = statistics.median(values(name, "cpu"))
        share = rate * operations_per_token(name, order["length"]) / speed
        cells = [
            DESCRIPTIONS[name],
            f"{rate:.0f}",
            f"{min(rates(name)):.0f} - {max(rates(name)):.0f}",
            f"{statistics.median(rates(ours.name)) / rate:.2f} x",
            f"{cpu / order['steps']:.1f}",
            f"{statistics.median(values(ours.name, 'cpu')) / cpu:.2f} x",
            f"{share:.2f}",
            f"{statistics.median(values(name, 'others')):.0%}",
            f"{contestant.first_s:.0f}",
            f"{contestant.peak / 1e9:.2f}",
            f"{ours.peak / contestant.peak:.2f} x",
        ]
        lines.append(benchmark._row(cells))
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--worker", choices=MAKERS, help=argparse.SUPPRESS)
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="NAME=PYTHON",
        help=f"a contestant and its Python; names: {', '.join([*MAKERS][1:])}",
    )
    parser.add_argument(
        "--case", default="8x128", metavar="BxT", help="rows and tokens of a batch"
    )
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="steps a repetition")
    parser.add_argument("--out", type=pathlib.Path, help="write the Markdown here too")
    arguments = parser.parse_args()
    if arguments.worker:
        return work(arguments.worker)

    def log(text):
        print(text, file=sys.stderr, flush=True)

    batch, length = map(int, arguments.case.split("x"))
    order = {"batch": batch, "length": length, "steps": arguments.steps}
    pairs = [("tf_gpt", sys.executable)]
    pairs += [peer.split("=", 1) for peer in arguments.peer]
    contestants = [
        benchmark.Contestant(*pair, __file__, **ENVIRONMENT) for pair in pairs
    ]
    answers, speeds = measure(contestants, order, arguments.repetitions, log)
    text = table(contestants, order, answers, speeds)
    for contestant in contestants:
        contestant.close()
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

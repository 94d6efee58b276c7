"""Measures decoding speed at full size beside other libraries, in one run.

    python scripts/maintain/benchmark.py \\
        --peer transformers-gpt1=/path/to/venv/bin/python \\
        --peer transformers-gpt2=/path/to/venv/bin/python \\
        --out speed.md --plot speed.png

Every contestant decodes greedily with random float32 weights of GPT-1's sizes
(GPT-2's base, the same sizes but for the vocabulary, where a library has no
GPT-1). Each runs in its own process, with its own Python, loads once and then
waits for orders; repetitions go round the contestants, so that a slow minute of
the machine hits all of them. Figures are medians; what takes over 45 s a call is
timed once.

The share of the limit is `bytes of the weights x tokens per second / bandwidth`
at batch 1: each token reads every weight once. The bandwidth is measured between
the repetitions, as the best of several passes over large arrays, one thread a
core.

With --more, further tables of this library alone: beams beside a batch of as many
rows, prompt lookup beside plain greedy decoding, and where the time of a first call
goes, without and with the persistent compile cache.
"""

import argparse
import concurrent.futures
import datetime
import json
import os
import pathlib
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
SIZES = {"n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 512}
GPT1_VOCABULARY, GPT2_VOCABULARY = 40478, 50257
DESCRIPTIONS = {
    "tf_gpt": "tf_gpt, XLA",
    "transformers-gpt1": "transformers PyTorch, GPT-1 (no cache)",
    "transformers-gpt2": "transformers PyTorch, GPT-2 with cache",
    "keras-hub": "KerasHub, GPT-2, TensorFlow",
    "ctranslate2": "CTranslate2, GPT-2 float32",
    "llama-cpp": "llama.cpp, GPT-2 f32",
}


# The contestants: each function returns `(generate, bytes of weights)`, and
# generate(ids (B, T), n_new) makes exactly n_new tokens a row.


def make_tf_gpt():
    sys.path.insert(0, str(ROOT))
    from tf_gpt import OpenAIGPTConfig, OpenAIGPTLMHeadModel

    model = OpenAIGPTLMHeadModel(OpenAIGPTConfig())

    def generate(ids, n_new, **options):
        return model.generate(ids, max_new_tokens=n_new, **options).numpy()

    return generate, 4 * model.count_params()


def make_tf_gpt_mini():
    """The bundled model, for texts that real weights continue."""
    sys.path.insert(0, str(ROOT))
    from tf_gpt import OpenAIGPTLMHeadModel, OpenAIGPTTokenizer

    model = OpenAIGPTLMHeadModel.from_pretrained("mini")
    tokenizer = OpenAIGPTTokenizer.from_pretrained("mini")

    def generate(text, n_new, **options):
        ids = tokenizer(text, return_tensors="np")["input_ids"].reshape(1, -1)
        options = {"max_new_tokens": n_new, "eos_token_id": None, **options}
        return model.generate(ids, **options).numpy()

    return generate, 4 * model.count_params()


def _time_tracing():
    """Makes `generate` add up the seconds that its functions are traced for."""
    import tf_gpt.generation.generate as module

    functions, spent = module._functions, [0.0]

    def timed(function):
        def call(**arguments):
            start = time.perf_counter()
            try:
                return function(**arguments)
            finally:
                spent[0] += time.perf_counter() - start

        return call

    def timed_functions(decoder, plan):
        return {name: timed(f) for name, f in functions(decoder, plan).items()}

    module._functions = timed_functions
    return spent


def make_transformers_gpt1():
    from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

    return _torch_generate(OpenAIGPTLMHeadModel(OpenAIGPTConfig()), {})


def make_transformers_gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    return _torch_generate(GPT2LMHeadModel(GPT2Config()), {"use_cache": True})


def _torch_generate(model, options):
    import torch

    torch.set_num_threads(os.cpu_count())
    model = model.eval()
    model.generation_config.eos_token_id = None

    def generate(ids, n_new):
        ids = torch.from_numpy(ids.astype("int64"))
        return model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=n_new,
            do_sample=False,
            pad_token_id=0,
            **options,
        ).numpy()

    return generate, 4 * sum(p.numel() for p in model.parameters())


def make_keras_hub():
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras_hub

    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=GPT2_VOCABULARY,
        num_layers=SIZES["n_layer"],
        num_heads=SIZES["n_head"],
        hidden_dim=SIZES["n_embd"],
        intermediate_dim=4 * SIZES["n_embd"],
        max_sequence_length=SIZES["n_positions"],
    )
    model = keras_hub.models.GPT2CausalLM(backbone=backbone, preprocessor=None)
    model.compile(sampler="greedy")

    def generate(ids, n_new):
        padded = np.pad(ids, ((0, 0), (0, n_new)))
        inputs = {"token_ids": padded, "padding_mask": np.zeros_like(padded)}
        inputs["padding_mask"][:, : ids.shape[1]] = 1
        return model.generate(inputs, stop_token_ids=None)["token_ids"]

    return generate, 4 * backbone.count_params()


def make_ctranslate2():
    import ctranslate2
    from ctranslate2.converters import TransformersConverter
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = pathlib.Path(tempfile.mkdtemp())
    model = GPT2LMHeadModel(GPT2Config())
    n_bytes = 4 * sum(p.numel() for p in model.parameters())
    model.save_pretrained(folder / "torch")
    _write_gpt2_vocabulary(folder / "torch")
    TransformersConverter(str(folder / "torch")).convert(str(folder / "ct2"))
    del model
    generator = ctranslate2.Generator(
        str(folder / "ct2"), inter_threads=1, intra_threads=os.cpu_count()
    )

    def generate(ids, n_new):
        prompts = [[f"<t{i}>" for i in row] for row in ids]
        results = generator.generate_batch(
            prompts,
            max_length=n_new,
            min_length=n_new,
            sampling_topk=1,
            include_prompt_in_result=False,
        )
        return np.array([r.sequences_ids[0] for r in results])

    return generate, n_bytes


def _write_gpt2_vocabulary(folder):
    tokens = [f"<t{i}>" for i in range(GPT2_VOCABULARY - 1)] + ["<|endoftext|>"]
    vocab = {token: i for i, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "GPT2Tokenizer"})
    )


def make_llama_cpp():
    import llama_cpp

    path = pathlib.Path(tempfile.mkdtemp()) / "gpt2.gguf"
    n_bytes = _write_gguf(path)
    model = llama_cpp.Llama(
        str(path),
        n_ctx=SIZES["n_positions"],
        n_threads=os.cpu_count(),
        n_threads_batch=os.cpu_count(),
        verbose=False,
    )

    def generate(ids, n_new):
        if len(ids) != 1:
            raise NotImplementedError("one sequence at a time")
        model.reset()
        made = []
        for token in model.generate(ids[0].tolist(), top_k=1, temp=0.0):
            made.append(token)
            if len(made) == n_new:
                return np.array([made])

    return generate, n_bytes


def _write_gguf(path):
    """Writes a random GPT-2 in float32 and returns the bytes that a token reads."""
    import gguf

    random = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_context_length(SIZES["n_positions"])
    writer.add_embedding_length(SIZES["n_embd"])
    writer.add_block_count(SIZES["n_layer"])
    writer.add_feed_forward_length(4 * SIZES["n_embd"])
    writer.add_head_count(SIZES["n_head"])
    writer.add_layer_norm_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"<t{i}>" for i in range(GPT2_VOCABULARY)])
    writer.add_token_types([gguf.TokenType.NORMAL] * GPT2_VOCABULARY)
    writer.add_token_merges(["a b"])
    n_bytes = 0

    def add(name, *shape):
        nonlocal n_bytes
        values = random.normal(0, 0.02, shape).astype("float32")
        n_bytes += values.nbytes
        writer.add_tensor(name, values)

    width = SIZES["n_embd"]
    add("token_embd.weight", GPT2_VOCABULARY, width)
    add("position_embd.weight", SIZES["n_positions"], width)
    for layer in range(SIZES["n_layer"]):
        for name, n_out, n_in in (
            ("attn_qkv", 3 * width, width),
            ("attn_output", width, width),
            ("ffn_up", 4 * width, width),
            ("ffn_down", width, 4 * width),
        ):
            add(f"blk.{layer}.{name}.weight", n_out, n_in)
            add(f"blk.{layer}.{name}.bias", n_out)
        for name in ("attn_norm", "ffn_norm"):
            add(f"blk.{layer}.{name}.weight", width)
            add(f"blk.{layer}.{name}.bias", width)
    add("output_norm.weight", width)
    add("output_norm.bias", width)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return n_bytes


MAKERS = {
    "tf_gpt": make_tf_gpt,
    "tf_gpt-mini": make_tf_gpt_mini,
    "transformers-gpt1": make_transformers_gpt1,
    "transformers-gpt2": make_transformers_gpt2,
    "keras-hub": make_keras_hub,
    "ctranslate2": make_ctranslate2,
    "llama-cpp": make_llama_cpp,
}


PEERS = [name for name in MAKERS if not name.startswith("tf_gpt")]


def work(name):
    """Runs one contestant: an order (JSON) a line in, an answer a line out."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the libraries print goes to standard error
    start = time.perf_counter()
    generate, n_bytes = MAKERS[name]()
    load_s = time.perf_counter() - start
    traced = _time_tracing() if name.startswith("tf_gpt") else [None]
    print(json.dumps({"bytes": n_bytes, "load_s": load_s}), file=answers)
    random = np.random.default_rng(0)
    for line in sys.stdin:
        order = json.loads(line)
        ids = order.get("text")
        if ids is None:
            shape = (order["batch"], order["prompt"])
            ids = random.integers(10, GPT1_VOCABULARY, shape).astype("int32")
        start = time.perf_counter()
        try:
            generate(ids, order["new"], **order.get("options", {}))
            answer = {"seconds": time.perf_counter() - start, "traced": traced[0]}
        except NotImplementedError:
            answer = {"seconds": None}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({**answer, "peak": peak}), file=answers)


class Contestant:
    """One contestant's process: `script --worker name`, which works off orders."""

    def __init__(self, name, python, script=__file__, **variables):
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **variables}
        environment["CUDA_VISIBLE_DEVICES"] = "-1"
        self.name = name
        self.process = subprocess.Popen(
            [python, script, "--worker", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        loaded = self._answer()
        self.bytes, self.load_s = loaded["bytes"], loaded["load_s"]
        self.peak, self.first_s = 0, None

    def seconds(self, batch, prompt, new, **more):
        return self.answer(batch=batch, prompt=prompt, new=new, **more)["seconds"]

    def answer(self, **order):
        """Sends an order, and returns the answer: a dict with seconds and peak."""
        print(json.dumps(order), file=self.process.stdin, flush=True)
        answer = self._answer()
        self.peak = max(self.peak, answer["peak"])
        if self.first_s is None:
            self.first_s = answer["seconds"]
            self.traced_s = answer.get("traced")
        return answer

    def close(self):
        self.process.stdin.close()
        self.process.wait(60)

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            self.process.wait(60)
            raise SystemExit(f"{self.name} died:\n{self.process.stderr.read()[-3000:]}")
        return json.loads(line)


def bandwidth(n_threads, arrays):
    """Returns bytes a second that `n_threads` read together: the best of three."""
    seconds = []
    with concurrent.futures.ThreadPoolExecutor(n_threads) as pool:
        for _ in range(3):
            start = time.perf_counter()
            list(pool.map(np.max, arrays))
            seconds.append(time.perf_counter() - start)
    return sum(a.nbytes for a in arrays) / min(seconds)


def measure(contestants, cases, repetitions, log):
    """Returns `(seconds by (name, case), bandwidths)`, interleaved."""
    arrays = [np.ones(2**26, "float32") for _ in range(os.cpu_count())]  # 256 MiB each
    seconds = {(c.name, case): [] for c in contestants for case in cases}
    bandwidths = []
    slow = set()  # those whose call takes minutes are timed once
    for contestant in contestants:
        for case in cases:
            log(f"first call: {contestant.name} {case}")
            if (contestant.seconds(*case) or 0) > 45:
                slow.add((contestant.name, case))
    for repetition in range(repetitions):
        for case in cases:
            bandwidths.append(bandwidth(len(arrays), arrays))
            for contestant in contestants:
                if repetition and (contestant.name, case) in slow:
                    continue
                taken = contestant.seconds(*case)
                if taken is not None:
                    seconds[contestant.name, case].append(taken)
                log(f"{repetition} {contestant.name} {case} {taken}")
    medians = {k: statistics.median(v) for k, v in seconds.items() if v}
    return medians, bandwidths


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
        help=f"a contestant and its Python; names: {', '.join(PEERS)}",
    )
    parser.add_argument("--batches", default="1,8", help="sizes of the main table")
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument(
        "--growth",
        action="store_true",
        help="also how cost grows with batch (to 32) and context (to 512)",
    )
    parser.add_argument(
        "--more", action="store_true", help="also beams, prompt lookup, first calls"
    )
    parser.add_argument("--out", type=pathlib.Path, help="write the Markdown here too")
    parser.add_argument("--plot", type=pathlib.Path, help="PNG of the growth")
    arguments = parser.parse_args()
    if arguments.worker:
        return work(arguments.worker)

    def log(text):
        print(text, file=sys.stderr, flush=True)

    batches = [int(size) for size in arguments.batches.split(",")]
    peers = dict(peer.split("=", 1) for peer in arguments.peer)
    contestants = []
    for name, python in {"tf_gpt": sys.executable, **peers}.items():
        log(f"loading {name}")
        contestants.append(Contestant(name, python))
    cases = [(batch, arguments.prompt, arguments.new) for batch in batches]
    medians, bandwidths = measure(contestants, cases, arguments.repetitions, log)
    text = table(contestants, cases, medians, bandwidths)
    if arguments.growth:
        text += growth(contestants[0], arguments, log)
    if arguments.more:
        text += beams(contestants[0], arguments, log)
    for contestant in contestants:
        contestant.close()
    if arguments.more:
        text += lookup(arguments, log) + first_calls(arguments, log)
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")


def table(contestants, cases, medians, bandwidths):
    """Returns the Markdown of the main table."""
    ours = contestants[0]
    speed = statistics.median(bandwidths)
    _, prompt, new = cases[0]
    header = ["", *(f"batch {batch}, tokens/s" for batch, _, _ in cases)]
    header += ["tf_gpt is", "of the limit", "load s", "first call s", "peak GB"]
    lines = [
        f"Prompt {prompt}, {new} new tokens, greedy, float32, random weights; "
        f"{datetime.date.today()}, {_cpu()}, {os.cpu_count()} cores. Memory read: "
        f"{speed / 1e9:.1f} GB/s (from {min(bandwidths) / 1e9:.1f} to "
        f"{max(bandwidths) / 1e9:.1f} between the repetitions).",
        "",
        _row(header),
        _row(["---"] * len(header)),
    ]
    for contestant in contestants:
        rates, ratios = [], []
        for case in cases:
            seconds = medians.get((contestant.name, case))
            rates.append(case[0] * new / seconds if seconds else None)
            if seconds:
                ratios.append(f"{seconds / medians[ours.name, case]:.2f} x")
        share = rates[0] * contestant.bytes / speed if cases[0][0] == 1 else None
        lines.append(
            _row(
                [
                    DESCRIPTIONS[contestant.name],
                    *("-" if rate is None else f"{rate:.1f}" for rate in rates),
                    ", ".join(ratios),
                    "-" if share is None else f"{share:.2f}",
                    f"{contestant.load_s:.1f}",
                    f"{contestant.first_s:.1f}",
                    f"{contestant.peak / 1e9:.1f}",
                ]
            )
        )
    return "\n".join(lines) + "\n"


def growth(contestant, arguments, log):
    """Returns the Markdown of cost by batch size and by context."""
    by_batch, by_context = {}, {}
    for batch in (1, 2, 4, 8, 16, 32):
        case = (batch, arguments.prompt, arguments.new)
        log(f"growth: {case}")
        contestant.seconds(*case)
        by_batch[batch] = batch * case[2] / contestant.seconds(*case)
    for context in (32, 64, 128, 256, 384, 480):
        log(f"growth: context {context}")
        few, many = (1, context, 4), (1, context, 32)
        for case in (few, many):
            contestant.seconds(*case)
        # The difference of two calls leaves the prompt's own cost out.
        differences = [
            contestant.seconds(*many) - contestant.seconds(*few)
            for _ in range(arguments.repetitions)
        ]
        by_context[context] = statistics.median(differences) / 28
    if arguments.plot:
        _plot(arguments.plot, by_batch, by_context)
    lines = [
        "",
        _row(["batch", *by_batch]),
        _row(["---"] * (len(by_batch) + 1)),
        _row(["tokens/s", *(f"{rate:.0f}" for rate in by_batch.values())]),
        "",
        _row(["context before the new token, batch 1", *by_context]),
        _row(["---"] * (len(by_context) + 1)),
        _row(["ms a token", *(f"{1000 * s:.1f}" for s in by_context.values())]),
    ]
    return "\n".join(lines) + "\n"


def beams(contestant, arguments, log):
    """Returns the Markdown of four beams beside a batch of four."""
    case = (arguments.prompt, arguments.new)
    kinds = {
        "batch of 4": (4, *case, {}),
        "4 beams": (1, *case, {"num_beams": 4}),
        "4 beams, batch of 4": (4, *case, {"num_beams": 4}),
        "batch of 16": (16, *case, {}),
    }
    medians = _medians(contestant, kinds, arguments.repetitions, log)
    four, sixteen = medians["batch of 4"], medians["batch of 16"]
    ratios = {
        "batch of 4": four,
        "4 beams": four,
        "4 beams, batch of 4": sixteen,
        "batch of 16": sixteen,
    }
    lines = ["", _row(["", "seconds", "beside as many rows"]), _row(["---"] * 3)]
    lines += [
        _row([name, f"{seconds:.2f}", f"{seconds / ratios[name]:.2f} x"])
        for name, seconds in medians.items()
    ]
    return "\n".join(lines) + "\n"


# Texts that repeat themselves; the bundled model goes on with them.
REPEATING = {
    "table": "| tom | dog | red | \n | lily | cat | blue | \n " * 5,
    "list": "".join(
        f"the {a} said to the fox, come here. " for a in ("cat", "dog") * 5
    ),
    "story": "once upon a time, there was a king who had a daughter. " * 4,
    "no repetition": "the old man went down to the sea in the morning, and",
}


def lookup(arguments, log):
    """Returns the Markdown of prompt lookup beside plain greedy decoding."""
    contestant = Contestant("tf_gpt-mini", sys.executable)
    guessing = {"prompt_lookup_num_tokens": 8}
    lines = [
        "",
        _row(["greedy, `mini`, tokens/s", "plain", "prompt lookup", "ratio"]),
        _row(["---"] * 4),
    ]
    for name, text in REPEATING.items():
        kinds = {
            "plain": (1, 0, arguments.new, {}, text),
            "lookup": (1, 0, arguments.new, guessing, text),
        }
        medians = _medians(contestant, kinds, arguments.repetitions, log)
        lines.append(_lookup_row(name, medians, arguments.new))
    contestant.close()
    # At full size a step's cost is reading the weights. The text of random weights
    # soon goes round in a circle: the most that guessing can gain.
    contestant = Contestant("tf_gpt", sys.executable)
    kinds = {
        "plain": (1, arguments.prompt, arguments.new, {}),
        "lookup": (1, arguments.prompt, arguments.new, guessing),
    }
    medians = _medians(contestant, kinds, arguments.repetitions, log)
    lines.append(_lookup_row("full size, going round", medians, arguments.new))
    contestant.close()
    return "\n".join(lines) + "\n"


def _lookup_row(name, medians, new):
    plain, guessed = (new / medians[kind] for kind in ("plain", "lookup"))
    return _row([name, f"{plain:.0f}", f"{guessed:.0f}", f"{guessed / plain:.2f} x"])


def _medians(contestant, kinds, repetitions, log):
    """Returns the median seconds of each kind of call, interleaved."""

    def run(batch, prompt, new, options, text=None):
        more = {"options": options}
        if text is not None:
            more["text"] = text
        return contestant.seconds(batch, prompt, new, **more)

    seconds = {name: [] for name in kinds}
    for repetition in range(-1, repetitions):
        for name, kind in kinds.items():
            taken = run(*kind)
            log(f"{repetition} {contestant.name} {name} {taken}")
            if repetition >= 0:  # the first call compiles
                seconds[name].append(taken)
    return {name: statistics.median(values) for name, values in seconds.items()}


def first_calls(arguments, log):
    """Returns the Markdown of a cold process's first call, and its parts."""
    lines = [
        "",
        _row(["first call, s", "import and build", "trace", "XLA", "run", "in all"]),
        _row(["---"] * 6),
    ]
    case = (1, arguments.prompt, arguments.new)
    with tempfile.TemporaryDirectory() as folder:
        for name, variables in (
            ("cold", {}),
            ("fills the compile cache", {"TF_GPT_COMPILE_CACHE": folder}),
            ("from the compile cache", {"TF_GPT_COMPILE_CACHE": folder}),
        ):
            contestant = Contestant("tf_gpt", sys.executable, **variables)
            first = contestant.seconds(*case)
            run = contestant.seconds(*case)
            log(f"first call, {name}: {first}, then {run}")
            traced = contestant.traced_s
            parts = [contestant.load_s, traced, first - run - traced, run]
            cells = [f"{s:.1f}" for s in [*parts, sum(parts)]]
            lines.append(_row([name, *cells]))
            contestant.close()
    return "\n".join(lines) + "\n"


def _plot(path, by_batch, by_context):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.5))
    left.plot(list(by_batch), list(by_batch.values()), marker="o")
    left.set(xlabel="batch", ylabel="tokens/s", xscale="log", ylim=0)
    milliseconds = [1000 * s for s in by_context.values()]
    right.plot(list(by_context), milliseconds, marker="o")
    right.set(xlabel="context", ylabel="ms a token, batch 1", ylim=0)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def _row(cells):
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _cpu():
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1] for line in lines if line.startswith("model name")]
    return names[0].strip() if names else platform.machine()


if __name__ == "__main__":
    main()

"""Fine-tunes `mini` on labelled tasks, and writes docs/RESULTS.md and its plot.

    python scripts/maintain/fine_tuning_results.py --data TASKS --runs RUNS [--part 0/2]
    python scripts/maintain/fine_tuning_results.py --data TASKS --runs RUNS --report

TASKS holds a folder for each task, with train, dev and test as .jsonl.gz. Each run
(task, arm, transferred layers, seed) leaves one JSON file in RUNS; those that are
there are not repeated, so that the program may be stopped at any time. `--part`
shares the runs among several processes.

Needs scikit-learn (the baselines) and matplotlib (the plot).
"""

import argparse
import collections
import datetime
import gzip
import itertools
import json
import pathlib
import statistics
import time
import typing

import numpy as np

N_LAYERS = 6  # of mini
LEARNING_RATE = 5e-4
WARMUP = 0.1  # of the steps, which are few; the paper's 0.002 is less than one


class Setting(typing.NamedTuple):
    """What is run of a task.

    Entries:
        kind: "classification", "entailment", "similarity" or "multiple choice".
        n_train, n_test: The most examples: as many of each class, or evenly spaced.
        batch_size: Examples of a batch.
        max_length: Tokens of a sequence.
        epochs: Epochs.
        seeds: Seeds of the four arms.
        n_classes: The first classes of a task with many.
        folder: The task's, where it is not its name.
    """

    kind: str
    n_train: int
    n_test: int
    batch_size: int
    max_length: int
    epochs: int
    seeds: int
    n_classes: int | None = None
    folder: str | None = None


TASKS = {
    "clinc150": Setting("classification", 300, 900, 32, 32, 10, 3, n_classes=30),
    "clinc150_900": Setting(
        "classification", 900, 900, 32, 32, 5, 1, n_classes=30, folder="clinc150"
    ),
    "stsb": Setting("similarity", 1500, 1379, 32, 48, 3, 2),
    "balanced_copa": Setting("multiple choice", 800, 200, 16, 32, 2, 1),
    "scitail_small": Setting("entailment", 800, 652, 32, 48, 3, 1),
    "snli_small": Setting("entailment", 1500, 1000, 32, 48, 2, 1),
    "codah": Setting("multiple choice", 400, 555, 8, 48, 2, 1),
    "mctest500": Setting("multiple choice", 240, 300, 8, 320, 2, 1),
}
# Of the plot of transferred layers.
TRANSFER = ("clinc150",)


class Run(typing.NamedTuple):
    """One fine-tuning: -1 transferred layers is a random initialisation."""

    task: str
    n_transfer: int
    lm_coef: float
    seed: int

    @property
    def file_name(self):
        return f"{self.task}-{self.n_transfer}-{self.lm_coef}-{self.seed}.json"


def all_runs():
    """Returns every run, those that say most first."""
    runs = []
    for seed in range(max(setting.seeds for setting in TASKS.values())):
        for task, setting in TASKS.items():
            if seed < setting.seeds:
                arms = itertools.product((N_LAYERS, -1), (0.5, 0.0))
                runs += [Run(task, n, lm_coef, seed) for n, lm_coef in arms]
        for task in TRANSFER:
            if seed < TASKS[task].seeds:
                runs += [Run(task, n, 0.5, seed) for n in range(N_LAYERS)]
    return runs


def read_split(data, task, split, limit):
    """Returns the examples of a split, as many of each class, at most `limit`."""
    file = data / (TASKS[task].folder or task) / f"{split}.jsonl.gz"
    with gzip.open(file, "rt", encoding="utf-8") as stream:
        examples = [json.loads(line) for line in stream]
    kind = TASKS[task].kind
    if kind in ("classification", "entailment"):
        by_label = collections.defaultdict(list)
        for example in examples:
            by_label[example["label"]].append(example)
        by_label = dict(sorted(by_label.items())[: TASKS[task].n_classes])
        share = -(-limit // len(by_label))
        examples = [x for same in by_label.values() for x in same[:share]]
    if kind == "similarity":  # around 0, since the head has no bias
        examples = [{**x, "score": x["score"] / 2.5 - 1} for x in examples]
    if task == "balanced_copa":
        words = {"cause": "because", "effect": "so"}
        examples = [{**x, "question": words[x["question"]]} for x in examples]
    # Evenly, since some files begin with one source of several.
    n_kept = min(limit, len(examples))
    return [examples[i * len(examples) // n_kept] for i in range(n_kept)]


def splits(data, task):
    """Returns (training, test) examples; COPA's own test set is its dev file."""
    setting = TASKS[task]
    folder = data / (setting.folder or task)
    test = "test" if (folder / "test.jsonl.gz").exists() else "dev"
    return (
        read_split(data, task, "train", setting.n_train),
        read_split(data, task, test, setting.n_test),
    )


def gold(kind, examples):
    """Returns the labels, as what a prediction is compared with."""
    return [x["score" if kind == "similarity" else "label"] for x in examples]


def quality(kind, predicted, expected):
    """Returns the accuracy, or Pearson's correlation for scores."""
    if kind == "similarity":
        return float(np.corrcoef(predicted, expected)[0, 1])
    return float(np.mean([a == b for a, b in zip(predicted, expected, strict=True)]))


def fine_tune(run, data, learning_rate=LEARNING_RATE):
    """Runs one fine-tuning. Returns its row."""
    import keras

    from tf_gpt import OpenAIGPTTokenizer
    from tf_gpt.finetuning import optimizers, tasks, transfer

    setting = TASKS[run.task]
    train, test = splits(data, run.task)
    keras.utils.set_random_seed(run.seed)
    classes = {
        "classification": tasks.Classification,
        "entailment": tasks.Entailment,
        "similarity": tasks.Similarity,
        "multiple choice": tasks.MultipleChoice,
    }
    task = classes[setting.kind](
        OpenAIGPTTokenizer.from_pretrained("mini"),
        max_length=setting.max_length,
        lm_coef=run.lm_coef,
    )
    task.scan(train)
    dataset = task.dataset(train, setting.batch_size, shuffle_seed=run.seed)
    model = task.load_model("mini")
    if run.n_transfer < N_LAYERS:
        transfer.transfer_layers(model, run.n_transfer, seed=run.seed)
    steps = dataset.steps_per_epoch * setting.epochs
    model.compile(
        optimizers.OpenAIAdam(
            optimizers.WarmupLinear(learning_rate, steps, warmup=WARMUP)
        ),
        jit_compile=False,  # so short a run spends its time compiling
    )
    began = time.monotonic()
    history = model.fit(dataset.as_tf_data(), epochs=setting.epochs, verbose=0)
    seconds = time.monotonic() - began
    # Batch by batch, since two heads give every token's scores as well.
    name = "mc_logits" if setting.kind == "multiple choice" else "logits"
    batches = task.dataset(test, 16, labelled=False).batches()
    scores = [model.predict_on_batch(batch)[name] for batch in batches]
    scores = np.concatenate(scores)
    if setting.kind == "similarity":
        predicted = scores[:, 0]
    elif setting.kind == "multiple choice":
        predicted = scores.argmax(-1).tolist()
    else:
        predicted = [task.label_names[i] for i in scores.argmax(-1)]
    return {
        **run._asdict(),
        "quality": quality(setting.kind, predicted, gold(setting.kind, test)),
        "loss": history.history["loss"],
        "seconds": round(seconds, 1),
        "learning_rate": learning_rate,
        **{k: v for k, v in setting._asdict().items() if k != "seeds"},
    }


def baselines(data, task):
    """Returns {name: quality} of what needs no language model."""
    setting = TASKS[task]
    train, test = splits(data, task)
    expected = gold(setting.kind, test)
    known = gold(setting.kind, train)
    if setting.kind == "similarity":
        return {"bag of words": quality("similarity", _overlap(train, test), expected)}
    common = collections.Counter(known).most_common(1)[0][0]
    found = {"majority": quality(setting.kind, [common] * len(test), expected)}
    fit = _choose if setting.kind == "multiple choice" else _classify
    found["bag of words"] = quality(setting.kind, fit(train, test), expected)
    return found


def _classify(train, test):
    """Logistic regression on the words of each text and, of pairs, their products."""
    from scipy import sparse
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    fields = [name for name in ("text", "premise", "hypothesis") if name in train[0]]
    counter = CountVectorizer(binary=True, ngram_range=(1, 2), token_pattern=r"\S+")
    counter.fit(x[name].lower() for x in train for name in fields)

    def features(examples):
        parts = [
            counter.transform(x[name].lower() for x in examples) for name in fields
        ]
        if len(parts) == 2:
            parts.append(parts[0].multiply(parts[1]))
        return sparse.hstack(parts).tocsr()

    model = LogisticRegression(C=10, max_iter=1000)
    model.fit(features(train), [x["label"] for x in train])
    return list(model.predict(features(test)))


def _choose(train, test):
    """Takes the answer that looks most like a right one, by its words and overlap."""
    from scipy import sparse
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    def asked(example):
        return f"{example['context']} {example['question']}"

    vectorizer = TfidfVectorizer()
    vectorizer.fit(t for x in train for t in (asked(x), *x["choices"]))

    def features(examples):
        flat = [(asked(x), choice) for x in examples for choice in x["choices"]]
        left, right = (vectorizer.transform(texts) for texts in zip(*flat, strict=True))
        overlap = sparse.csr_matrix(left.multiply(right).sum(axis=1))
        return sparse.hstack([right, overlap]).tocsr()

    def right_ones(examples):
        return [i == x["label"] for x in examples for i in range(len(x["choices"]))]

    model = LogisticRegression(class_weight="balanced", max_iter=1000)
    model.fit(features(train), right_ones(train))
    n_choices = len(test[0]["choices"])
    scores = model.decision_function(features(test)).reshape(-1, n_choices)
    return scores.argmax(-1).tolist()


def _overlap(train, test):
    """The cosine of two texts' weighted words."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer()
    vectorizer.fit(t for x in train for t in (x["text_a"], x["text_b"]))
    left, right = (
        vectorizer.transform(x[name] for x in test) for name in ("text_a", "text_b")
    )
    return np.asarray(left.multiply(right).sum(axis=1))[:, 0]


# The report.


def report(data, rows, folder):
    """Writes RESULTS.md and transfer.png into a folder."""
    by_arm = collections.defaultdict(list)
    for row in rows:
        by_arm[row["task"], row["n_transfer"], row["lm_coef"]].append(row["quality"])

    def cell(*arm):
        values = by_arm.get(arm)
        if not values:
            return "-"
        mean = 100 * statistics.mean(values)
        if len(values) == 1:
            return f"{mean:.1f}"
        return f"{mean:.1f} ({100 * min(values):.1f}-{100 * max(values):.1f})"

    lines = [
        "| task | examples | seeds | majority | bag of words | random | "
        "random, with LM loss | pre-trained | pre-trained, with LM loss |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for task, setting in TASKS.items():
        simple = {k: f"{100 * v:.1f}" for k, v in baselines(data, task).items()}
        n_train, n_test = map(len, splits(data, task))
        arms = [(n, lm_coef) for n in (-1, N_LAYERS) for lm_coef in (0.0, 0.5)]
        seeds = max(len(by_arm.get((task, *arm), [])) for arm in arms)
        lines.append(
            f"| {task} ({setting.kind}) | {n_train}, {n_test} | {seeds} | "
            f"{simple.get('majority', '-')} | {simple['bag of words']} | "
            + " | ".join(cell(task, *arm) for arm in arms)
            + " |"
        )
    plot_transfer(by_arm, folder / "transfer.png")
    template = (folder / "RESULTS.md").read_text(encoding="utf-8")
    before, _, rest = template.partition("<!-- table -->")
    _, _, after = rest.partition("<!-- end of table -->")
    today = datetime.date.today().isoformat()
    table = "\n".join(lines)
    text = f"{before}<!-- table -->\n{table}\n\n{len(rows)} runs, {today}.\n"
    text += f"<!-- end of table -->{after}"
    (folder / "RESULTS.md").write_text(text, encoding="utf-8")


def plot_transfer(by_arm, file):
    """Draws the quality against the number of transferred layers."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for task in TRANSFER:
        numbers = [n for n in range(-1, N_LAYERS + 1) if (task, n, 0.5) in by_arm]
        seeds = [[100 * value for value in by_arm[task, n, 0.5]] for n in numbers]
        measure = "Pearson" if TASKS[task].kind == "similarity" else "accuracy"
        means = [statistics.mean(values) for values in seeds]
        axes.plot(numbers, means, marker="o", label=f"{task} ({measure})")
        axes.vlines(numbers, *zip(*((min(v), max(v)) for v in seeds), strict=True))
    axes.set_xticks(range(-1, N_LAYERS + 1))
    axes.set_xticklabels(["none", "emb.", *range(1, N_LAYERS + 1)])
    axes.set_xlabel("transferred layers")
    axes.set_ylabel("test, x 100")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(file, dpi=120)


def read_rows(folder):
    """Returns the rows of the runs that are done, in the order of `all_runs`."""
    files = [folder / run.file_name for run in all_runs()]
    return [json.loads(f.read_text(encoding="utf-8")) for f in files if f.exists()]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--runs", type=pathlib.Path, required=True)
    parser.add_argument("--part", default="0/1", help="such as 0/2 and 1/2")
    parser.add_argument("--report", action="store_true", help="of what is there")
    options = parser.parse_args()
    docs = pathlib.Path(__file__).parents[2] / "docs"
    if not options.report:
        from tqdm import tqdm

        from tf_gpt.finetuning.allocation import keep_freed_memory

        keep_freed_memory()
        options.runs.mkdir(parents=True, exist_ok=True)
        part, parts = map(int, options.part.split("/"))
        for run in tqdm(all_runs()[part::parts], unit="run"):
            file = options.runs / run.file_name
            if not file.exists():
                row = fine_tune(run, options.data)
                file.write_text(json.dumps(row) + "\n", encoding="utf-8")
                tqdm.write(f"{file.stem}: {row['quality']:.4f}, {row['seconds']} s")
    report(options.data, read_rows(options.runs), docs)


if __name__ == "__main__":
    main()

"""Trains the bundled model, `mini`, from scratch on stories and books.

    python scripts/maintain/pretrain_mini.py --text TEXT_FOLDER --work WORK_FOLDER

The text folder holds one folder per source (see `SOURCES`) with xz-packed text:
one paragraph a line, an empty line between documents. Everything is kept in the
work folder: the vocabulary, the token ids, the loss log and `checkpoint.keras`,
from which an interrupted run goes on where it stopped. `export` in the end
writes the preset: config, vocabulary, float16 weights.
"""

import argparse
import csv
import json
import lzma
import os
import pathlib
import random

import numpy as np

# Source -> (file, how often each document is read in one pass, share of the
# documents that is used). Short stories in plain words come first: they are
# what a model of this size can learn to tell.
SOURCES = {
    "tinystories_sample": ("tinystories_sample.txt.xz", 3, 1.0),
    "fairytaleqa_stories": ("fairytaleqa_stories.txt.xz", 2, 1.0),
    "storybooks_cc_by": ("storybooks_cc_by.txt.xz", 2, 1.0),
    "classic_children": ("classic_children.txt.xz", 1, 0.5),
}
# One document in so many of each source is kept aside for the perplexity.
HELD_OUT_EVERY = 40

VOCAB_SIZE = 8192
SPECIAL_TOKENS = ["<unk>", "<pad>", "<eos>"]

CONFIG = {
    "vocab_size": VOCAB_SIZE,
    "n_positions": 512,
    "n_embd": 256,
    "n_layer": 6,
    "n_head": 4,
    # 0.02 scaled to the width. Smaller embeddings are drowned by the first
    # block's biases before they have grown, and the model learns word counts.
    "initializer_range": 0.04,
    # Less than two passes over most of the text: dropout would only slow it.
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 2,
}

# (share of the steps, batch size, length): first short windows, which cost
# less; then the full length, so that every position is trained.
PHASES = ((0.85, 4, 256), (1.0, 2, 512))
TOKENS_PER_STEP = 1024
STEPS_PER_EPOCH = 100
PEAK_LEARNING_RATE = 8e-4
WARMUP_STEPS = 300


def read_documents(text_folder, source):
    """Returns the documents of a source, paragraphs joined by line breaks."""
    name, _, share = SOURCES[source]
    with lzma.open(text_folder / source / name, "rt", encoding="utf-8") as file:
        documents = [d.strip() for d in file.read().split("\n\n")]
    documents = [d for d in documents if d]
    return documents[: max(1, round(len(documents) * share))]


def words_of(documents):
    """Yields each document's words: ftfy, spaCy's rules, lower case."""
    from tqdm import tqdm

    from tf_gpt.tokenization.pretokenizers import pre_tokenizer

    openai, memory = pre_tokenizer("openai"), {}
    for document in tqdm(documents, desc="words", unit=" documents"):
        words = []
        for chunk in openai.chunks(document):
            if chunk not in memory:
                memory[chunk] = openai.split(chunk)
            words.extend(memory[chunk])
        yield words


def train_bpe(words_per_document, work):
    """Trains the vocabulary; writes `tokenizer.json`, `vocab.json`, `merges.txt`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    # Words come joined by spaces; a line break is a word of its own.
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=SPECIAL_TOKENS,
        end_of_word_suffix="</w>",
        limit_alphabet=70,
        show_progress=True,
    )
    tokenizer.train_from_iterator((" ".join(w) for w in words_per_document), trainer)
    tokenizer.save(str(work / "bpe.json"))
    tokenizer.model.save(str(work))
    return tokenizer


def prepare(text_folder, work):
    """Writes the vocabulary, `train.npy` and one `held_out_*.npy` a source."""
    documents = {source: read_documents(text_folder, source) for source in SOURCES}
    words = {source: list(words_of(d)) for source, d in documents.items()}
    bpe = train_bpe((w for source in words.values() for w in source), work)
    eos = bpe.token_to_id("<eos>")
    training = []
    for source, (_, repeats, _) in SOURCES.items():
        encoded = bpe.encode_batch([" ".join(w) for w in words[source]])
        ids = [[*e.ids, eos] for e in encoded]
        held_out = np.concatenate(ids[::HELD_OUT_EVERY]).astype("uint16")
        np.save(work / f"held_out_{source}.npy", held_out)
        kept = [d for i, d in enumerate(ids) if i % HELD_OUT_EVERY]
        print(source, len(kept), "documents,", sum(map(len, kept)), "tokens")
        training += kept * repeats
    # A book is cut up, so that no stretch of the training is one book alone.
    pieces = [d[i : i + 2048] for d in training for i in range(0, len(d), 2048)]
    random.Random(0).shuffle(pieces)
    np.save(work / "train.npy", np.concatenate(pieces).astype("uint16"))


def window_batch(ids, i, batch_size, length):
    """Returns the i-th batch (batch_size, length) of windows over the stream."""
    n_windows = len(ids) // length - 1
    rows = []
    for j in range(i * batch_size, (i + 1) * batch_size):
        passes, k = divmod(j, n_windows)
        order = np.random.default_rng([passes, length]).permutation(n_windows)
        start = order[k] * length + (passes * 97) % length
        rows.append(ids[start : start + length])
    return np.stack(rows).astype("int32")


def train(work, n_steps):
    """Trains through `model.fit`, from the checkpoint if there is one."""
    import keras
    import tensorflow as tf

    from tf_gpt.config import OpenAIGPTConfig
    from tf_gpt.models.lm_head import OpenAIGPTLMHeadModel

    keras.utils.set_random_seed(0)
    checkpoint = work / "checkpoint.keras"
    if checkpoint.exists():
        model = keras.models.load_model(checkpoint)
    else:
        model = OpenAIGPTLMHeadModel(OpenAIGPTConfig(**CONFIG))
        schedule = keras.optimizers.schedules.CosineDecay(
            0.0,
            decay_steps=n_steps - WARMUP_STEPS,
            warmup_target=PEAK_LEARNING_RATE,
            warmup_steps=WARMUP_STEPS,
        )
        optimizer = keras.optimizers.AdamW(
            schedule, weight_decay=0.01, epsilon=1e-8, global_clipnorm=1.0
        )
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        model.compile(optimizer=optimizer, jit_compile=True)

    class Checkpoint(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            temporary = work / "checkpoint_new.keras"
            self.model.save(temporary)
            os.replace(temporary, checkpoint)

    ids = np.load(work / "train.npy")
    done = 0
    for share, batch_size, length in PHASES:
        end = round(share * n_steps) // STEPS_PER_EPOCH * STEPS_PER_EPOCH
        first = max(int(model.optimizer.iterations), done)
        if first < end:
            dataset = tf.data.Dataset.from_generator(
                lambda first=first, done=done, end=end, b=batch_size, n=length: (
                    {"input_ids": x, "labels": x}
                    for x in (
                        window_batch(ids, i - done, b, n) for i in range(first, end)
                    )
                ),
                output_signature={
                    name: tf.TensorSpec((batch_size, length), tf.int32)
                    for name in ("input_ids", "labels")
                },
            ).prefetch(4)
            model.fit(
                dataset,
                steps_per_epoch=STEPS_PER_EPOCH,
                initial_epoch=first // STEPS_PER_EPOCH,
                epochs=end // STEPS_PER_EPOCH,
                callbacks=[
                    keras.callbacks.CSVLogger(work / "loss.csv", append=True),
                    Checkpoint(),
                ],
                verbose=2 if os.environ.get("TERM", "dumb") == "dumb" else 1,
            )
        done = end
    return model


def perplexity(model, work, source, length=512):
    """Returns (perplexity, tokens) on the held-out documents of a source."""
    ids = np.load(work / f"held_out_{source}.npy").astype("int32")
    ids = ids[: len(ids) // length * length].reshape(-1, length)
    losses = [float(model({"input_ids": x[None], "labels": x[None]}).loss) for x in ids]
    return float(np.exp(np.mean(losses))), ids.size


def export(model, work, preset):
    """Writes the preset: vocabulary, config, weights and card."""
    from tf_gpt.tokenization.tokenizer import OpenAIGPTTokenizer

    tokenizer = OpenAIGPTTokenizer(
        work / "vocab.json",
        work / "merges.txt",
        unk_token="<unk>",
        pad_token="<pad>",
        bos_token="<eos>",
        eos_token="<eos>",
        model_max_length=CONFIG["n_positions"],
        pre_tokenizer="openai",
        clean_up_tokenization_spaces=True,
    )
    tokenizer.save_pretrained(preset)
    for rate in ("resid_pdrop", "embd_pdrop", "attn_pdrop"):
        setattr(model.config, rate, 0.1)  # as in the paper, for fine-tuning
    model.save_pretrained(preset, dtype="float16")
    figures = {source: perplexity(model, work, source) for source in SOURCES}
    prompts = (
        "Once upon a time",
        "The king had a daughter",
        "One day, Tom and his dog",
    )
    samples = []
    for prompt in prompts:
        ids = model.generate(
            tokenizer(prompt, return_tensors="np")["input_ids"],
            max_new_tokens=120,
            do_sample=True,
            temperature=0.7,
            top_p=0.9,
            top_k=0,
            seed=1,
        )
        samples.append(tokenizer.decode(ids[0], skip_special_tokens=True))
    n_tokens = int(model.optimizer.iterations) * TOKENS_PER_STEP
    (preset / "README.md").write_text(card(model, figures, samples, n_tokens))


def card(model, figures, samples, n_tokens):
    """Returns the text of the model card."""
    table = "\n".join(
        f"| {source} | {value:.1f} | {n:,} |" for source, (value, n) in figures.items()
    )
    texts = "\n\n".join("> " + text.replace("\n", "\n> ") for text in samples)
    config = model.config
    return f"""---
license: mit
language: en
library_name: tf_gpt
tags: [openai-gpt, keras, text-generation]
---

# mini

A small GPT-1 that tells children's stories: for trying things out, for tests, and for
teaching. It has the released architecture at another size: {config.n_layer} layers of
{config.n_embd}, {config.n_head} heads, {config.n_positions} positions, and its own
lower-case byte-pair vocabulary of {config.vocab_size:,} entries;
{model.num_parameters():,} weights, stored in float16. Text is split into words as
OpenAI split it. Stories end with `<eos>`, which also begins one.

## How it was trained

By `scripts/maintain/pretrain_mini.py`, through `model.fit`, on two processor cores, for
{n_tokens:,} tokens: {PHASES[0][0]:.0%} of the steps on windows of {PHASES[0][2]} tokens
and the rest on {PHASES[1][2]}, {TOKENS_PER_STEP:,} tokens a step. Of the paper's
settings it has Adam, linear warm-up and a cosine to zero, weight decay 0.01 on all
but biases and gains, and clipping at 1. Others are fitted to its size: a peak rate of
{PEAK_LEARNING_RATE:g} after {WARMUP_STEPS} steps, initial weights from
N(0, {config.initializer_range:g}) since it is a third as wide, no dropout since it read
little text more than a few times, and far less text. The config names the paper's
dropout, for fine-tuning.

![loss](loss.png)

Perplexity on held-out documents (one in {HELD_OUT_EVERY} of each source), in windows of
512 of its own tokens:

| source | perplexity | tokens |
|---|---|---|
{table}

## What it writes

Sampled with temperature 0.7 and top-p 0.9, seed 1, not picked:

{texts}

It knows few words and no facts, loses the thread after some sentences, and repeats what
its texts say of people. Do not use it for anything that matters.

## Texts

- tinystories_sample: a sample of TinyStories (Eldan and Li 2023), CDLA-Sharing-1.0.
- fairytaleqa_stories: the fairy tales of FairytaleQA (Xu et al. 2022), Apache-2.0; the
  tales are from Project Gutenberg.
- storybooks_cc_by: picture books of the African Storybook and of Pratham
  books, CC BY. [CREDITS.md](CREDITS.md) names each book and its author.
- classic_children: public-domain children's books, the first half of the collection.
"""


def credits(text_folder):
    """Returns the list of the CC BY books, which asks for their authors' names."""
    sources = text_folder / "storybooks_cc_by" / "sources.json"
    rows = [
        f"- {book['title']}: {book['text_by']} ({book['license']}, {book['repo']})"
        for book in json.loads(sources.read_text(encoding="utf-8"))
    ]
    return "# Picture books that `mini` was trained on\n\n" + "\n".join(rows) + "\n"


def plot(work, path):
    """Draws the loss against the tokens read."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    with open(work / "loss.csv") as file:
        rows = list(csv.DictReader(file))
    tokens = [
        (int(r["epoch"]) + 1) * STEPS_PER_EPOCH * TOKENS_PER_STEP / 1e6 for r in rows
    ]
    figure, axes = plt.subplots(figsize=(7, 4))
    axes.plot(tokens, [float(r["loss"]) for r in rows])
    axes.set_xlabel("tokens read (millions)")
    axes.set_ylabel("training loss (nats a token)")
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=pathlib.Path, required=True)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--export", type=pathlib.Path, help="preset folder to write")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    if not (arguments.work / "train.npy").exists():
        prepare(arguments.text, arguments.work)
    model = train(arguments.work, arguments.steps)
    if arguments.export:
        arguments.export.mkdir(parents=True, exist_ok=True)
        export(model, arguments.work, arguments.export)
        (arguments.export / "CREDITS.md").write_text(
            credits(arguments.text), encoding="utf-8"
        )
        plot(arguments.work, arguments.export / "loss.png")


if __name__ == "__main__":
    main()

"""`generate` beside transformers' PyTorch `generate`, on small random models."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tf_gpt import OpenAIGPTLMHeadModel  # noqa: E402

pytestmark = pytest.mark.reference

torch.set_num_threads(1)  # more only get in each other's way at these sizes

V, N_NEW = 61, 12
EOS = 7


@pytest.fixture(scope="module")
def theirs():
    torch.manual_seed(3)
    config = transformers.OpenAIGPTConfig(
        vocab_size=V,
        n_positions=64,
        n_embd=24,
        n_layer=2,
        n_head=3,
        initializer_range=0.25,
    )
    return transformers.OpenAIGPTLMHeadModel(config).eval()


@pytest.fixture(scope="module")
def ours(theirs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    theirs.save_pretrained(folder)
    return OpenAIGPTLMHeadModel.from_pretrained(folder)


@pytest.fixture(scope="module")
def prompts():
    """200 prompts of 1 to 8 tokens, those of one length together."""
    random = np.random.default_rng(0)
    return [random.integers(0, V, (25, length)) for length in range(1, 9)]


def generate_theirs(model, ids, **options):
    ids = torch.from_numpy(ids)
    return model.generate(
        ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **options
    )


SINGLE = {
    "greedy": {},
    "end": {"eos_token_id": EOS},
    "ends": {"eos_token_id": [EOS, 11, 30]},
    "beam": {"num_beams": 3},
    "beam end": {"num_beams": 3, "eos_token_id": EOS},
    "beam ends": {"num_beams": 3, "eos_token_id": [EOS, 11, 30]},
    "beam several": {"num_beams": 4, "num_return_sequences": 4, "eos_token_id": EOS},
    "beam early": {"num_beams": 3, "early_stopping": True, "eos_token_id": [EOS, 11]},
    "beam never": {
        "num_beams": 3,
        "early_stopping": "never",
        "eos_token_id": [EOS, 11],
    },
    "beam long": {
        "num_beams": 3,
        "length_penalty": 2.0,
        "early_stopping": "never",
        "eos_token_id": [EOS, 11],
    },
    "beam short": {"num_beams": 3, "length_penalty": -1.0, "eos_token_id": [EOS, 11]},
    "repetition": {"repetition_penalty": 1.3},
    "repeat": {"repetition_penalty": 0.8},
    "ngram 1": {"no_repeat_ngram_size": 1},
    "ngram 2": {"no_repeat_ngram_size": 2},
    "ngram 3": {"no_repeat_ngram_size": 3},
    "bad words": {
        "bad_words_ids": [[3], [20, 5], [9, 9, 9], [EOS]],
        "eos_token_id": EOS,
    },
    "bias": {"sequence_bias": [[[3], 2.5], [[20, 5], -4.0], [[9, 9, 9], 3.0]]},
    "min length": {"min_length": 9, "eos_token_id": [EOS, 11, 30]},
    "min new": {"min_new_tokens": 6, "eos_token_id": [EOS, 11, 30]},
    "forced first": {"forced_bos_token_id": 5},
    "forced last": {"forced_eos_token_id": 5, "eos_token_id": 5},
    "suppress": {"suppress_tokens": list(range(0, V, 3))},
    "begin suppress": {"begin_suppress_tokens": list(range(0, V, 2))},
    "decay": {"exponential_decay_length_penalty": (2, 1.4), "eos_token_id": EOS},
    # With a cache theirs would look for one that this model does not have.
    "guidance": {"guidance_scale": 1.7, "use_cache": False},
    "invalid": {"remove_invalid_values": True},
    "renormalise": {"renormalize_logits": True},
}

MIXED = [
    {"repetition_penalty": 1.2, "no_repeat_ngram_size": 2, "eos_token_id": EOS},
    {"num_beams": 4, "no_repeat_ngram_size": 2, "repetition_penalty": 1.5},
    {"num_beams": 3, "min_new_tokens": 5, "eos_token_id": [EOS, 11, 30]},
    {"bad_words_ids": [[3], [20, 5]], "sequence_bias": [[[9], 1.5], [[9, 4], 2.0]]},
    {"num_beams": 2, "bad_words_ids": [[3], [20, 5]], "length_penalty": 0.5},
    {"forced_bos_token_id": 5, "begin_suppress_tokens": [1, 2, 3, 9], "min_length": 6},
    {"num_beams": 3, "forced_eos_token_id": EOS, "suppress_tokens": [20, 3, 9]},
    {
        "exponential_decay_length_penalty": (1, 1.2),
        "min_length": 7,
        "eos_token_id": [EOS, 11],
        "renormalize_logits": True,
    },
    {
        "guidance_scale": 1.4,
        "use_cache": False,
        "repetition_penalty": 1.1,
        "suppress_tokens": [4, 20],
    },
    {
        "num_beams": 4,
        "num_return_sequences": 3,
        "early_stopping": True,
        "length_penalty": 1.5,
        "no_repeat_ngram_size": 3,
        "eos_token_id": [EOS, 11, 30],
        "renormalize_logits": True,
    },
]


def without_end(options):
    """Options that need an end token to mean anything, dropped without one."""
    return (
        options
        if "eos_token_id" in options
        else {k: v for k, v in options.items() if k != "min_length"}
    )


@pytest.mark.parametrize(
    "options",
    [*SINGLE.values(), *MIXED],
    ids=[*SINGLE, *(f"mixed {i}" for i in range(10))],
)
def test_ids_are_those_of_transformers(ours, theirs, prompts, options):
    options = without_end(options)
    for ids in prompts:
        expected = generate_theirs(theirs, ids, max_new_tokens=N_NEW, **options).numpy()
        result = ours.generate(
            ids, pad_token_id=0, max_new_tokens=N_NEW, jit_compile=False, **options
        ).numpy()
        width = min(expected.shape[1], result.shape[1])
        np.testing.assert_array_equal(result[:, :width], expected[:, :width])
        assert not result[:, width:].any()
        assert not expected[:, width:].any()


@pytest.mark.parametrize(
    "options", [{}, {"num_beams": 3, "num_return_sequences": 2, "eos_token_id": EOS}]
)
def test_scores_and_transition_scores_are_those_of_transformers(
    ours, theirs, prompts, options
):
    options = {
        "max_new_tokens": 8,
        "return_dict_in_generate": True,
        "output_scores": True,
        "output_logits": True,
        "repetition_penalty": 1.3,
        **options,
    }
    ids = prompts[3]
    expected = generate_theirs(theirs, ids, **options)
    out = ours.generate(ids, pad_token_id=0, jit_compile=False, **options)
    np.testing.assert_array_equal(out.sequences, expected.sequences)
    assert len(out.scores) == len(expected.scores)
    if "num_beams" in options:
        np.testing.assert_allclose(
            out.sequences_scores, expected.sequences_scores, atol=1e-5
        )
        np.testing.assert_array_equal(out.beam_indices, expected.beam_indices)
    else:
        for ours_, theirs_ in zip(
            [*out.scores, *out.logits],
            [*expected.scores, *expected.logits],
            strict=True,
        ):
            np.testing.assert_allclose(ours_, theirs_, atol=2e-5)
    for normalize in (False, True):
        np.testing.assert_allclose(
            ours.compute_transition_scores(
                out.sequences, out.scores, out.beam_indices, normalize_logits=normalize
            ),
            theirs.compute_transition_scores(
                expected.sequences,
                expected.scores,
                expected.get("beam_indices"),
                normalize_logits=normalize,
            ),
            atol=2e-5,
        )


def test_attentions_and_hidden_states_are_those_of_transformers(ours, theirs, prompts):
    ids = prompts[4]
    options = {
        "max_new_tokens": 4,
        "return_dict_in_generate": True,
        "output_attentions": True,
        "output_hidden_states": True,
    }
    expected = generate_theirs(theirs, ids, **options)
    out = ours.generate(ids, **options)
    assert len(out.attentions) == len(out.hidden_states) == 4
    for i in range(4):
        for name, part in (("attentions", out.attentions), ("hidden_states", None)):
            part = out[name][i]
            # Without a cache theirs are of all tokens at each step.
            for layer, values in enumerate(expected[name][i]):
                n = part[layer].shape[-2]
                np.testing.assert_allclose(part[layer], values[..., -n:, :], atol=2e-5)


WARPERS = [
    {"temperature": 0.7, "top_k": 0},
    {"top_k": 8},
    {"top_k": 0, "top_p": 0.7},
    {"top_k": 0, "min_p": 0.1},
    {"top_k": 0, "typical_p": 0.6},
    {"top_k": 0, "epsilon_cutoff": 0.02},
    {"top_k": 0, "eta_cutoff": 0.05},
    {"temperature": 1.5, "top_k": 20, "top_p": 0.9, "min_p": 0.02, "typical_p": 0.9},
]


@pytest.mark.parametrize("options", WARPERS, ids=str)
def test_sampling_scores_are_those_of_transformers(ours, theirs, prompts, options):
    options = {
        "do_sample": True,
        "max_new_tokens": 1,
        "return_dict_in_generate": True,
        "output_scores": True,
        **options,
    }
    for ids in prompts:
        expected = generate_theirs(theirs, ids, **options).scores[0].numpy()
        result = ours.generate(ids, jit_compile=False, seed=1, **options)
        scores = result.scores[0].numpy()
        np.testing.assert_array_equal(np.isneginf(scores), np.isneginf(expected))
        kept = np.isfinite(expected)
        np.testing.assert_allclose(scores[kept], expected[kept], atol=2e-5)


@pytest.mark.parametrize("options", [{}, WARPERS[-1], {"num_beams": 2}], ids=str)
def test_samples_are_distributed_as_those_of_transformers(
    ours, theirs, prompts, options
):
    n, size = 20_000, 2000
    ids = np.repeat(prompts[3][:1], size, axis=0)
    options = {"do_sample": True, "max_new_tokens": 2, **options}
    torch.manual_seed(0)
    draws = {"theirs": [], "ours": []}
    for i in range(n // size):
        draws["theirs"].append(generate_theirs(theirs, ids, **options).numpy()[:, -2:])
        seeds = list(range(i * size, (i + 1) * size))
        result = ours.generate(ids, seed=seeds, jit_compile=False, **options)
        draws["ours"].append(result.numpy()[:, -2:])
    counts = [
        np.bincount(np.concatenate(rows) @ [V, 1], minlength=V * V)
        for rows in draws.values()
    ]
    # Two samples of one distribution: pairs of tokens, the rare ones together.
    common = counts[0] + counts[1] >= 20
    a, b = (np.append(c[common], c[~common].sum()) for c in counts)
    kept = (a + b) > 0
    chi_square = ((a - b)[kept] ** 2 / (a + b)[kept]).sum()
    freedom = kept.sum() - 1
    assert chi_square < freedom + 4 * np.sqrt(2 * freedom)


def passes(model, rows):
    """Returns hidden states (B, T, C) and log-probabilities after the last token."""
    with torch.no_grad():
        body = model.transformer(torch.tensor(rows))
        hidden = body.last_hidden_state
        logits = model.lm_head(hidden[:, -1])
    return hidden.double(), torch.log_softmax(logits.double(), -1).numpy()


def diverse_beams(model, prompt, n_new, n_beams, n_groups, penalty):
    """Diverse beam search by its definition: each group in turn, plain lists."""
    size = n_beams // n_groups
    groups = [[(0.0, list(prompt))] for _ in range(n_groups)]
    for _ in range(n_new):
        taken = np.zeros(V)
        log_probs = passes(model, [ids for group in groups for _, ids in group])[1]
        log_probs = iter(log_probs)
        for g, beams in enumerate(groups):
            candidates = []
            for score, ids in beams:
                totals = score + next(log_probs) - penalty * taken
                candidates += [(totals[t], [*ids, t]) for t in range(V)]
            groups[g] = sorted(candidates, key=lambda c: -c[0])[:size]
            for _, ids in groups[g]:
                taken[ids[-1]] += 1
    beams = sorted((b for group in groups for b in group), key=lambda b: -b[0])
    return [ids for _, ids in beams]


def test_diverse_beams_follow_the_definition(ours, theirs, prompts):
    """By its definition: 4.57 has it no more, but for code on the Hub."""
    for ids in prompts:
        result = ours.generate(
            ids,
            max_new_tokens=5,
            num_beams=4,
            num_beam_groups=2,
            diversity_penalty=0.7,
            num_return_sequences=4,
            jit_compile=False,
        ).numpy()
        for i, prompt in enumerate(ids):
            expected = diverse_beams(theirs, prompt.tolist(), 5, 4, 2, 0.7)
            assert result[4 * i : 4 * i + 4].tolist() == expected


def contrastive(model, ids, n_new, k, alpha):
    """Contrastive search by its definition, a full pass for each candidate."""
    ids = list(ids)
    for _ in range(n_new):
        probs = np.exp(passes(model, [ids])[1][0])
        tokens = np.argsort(-probs)[:k].tolist()
        hidden = passes(model, [[*ids, token] for token in tokens])[0]
        hidden = hidden / hidden.norm(dim=-1, keepdim=True)
        similar = (hidden[:, :-1] @ hidden[:, -1:].mT).amax((1, 2)).numpy()
        values = (1 - alpha) * probs[tokens] - alpha * similar
        ids.append(tokens[int(np.argmax(values))])
    return ids


def test_contrastive_search_follows_the_definition(ours, theirs, prompts):
    """By its definition: 4.57 has it no more, but for code on the Hub."""
    for ids in prompts:
        result = ours.generate(
            ids, max_new_tokens=10, penalty_alpha=0.6, top_k=5, jit_compile=False
        ).numpy()
        for row, prompt in zip(result, ids, strict=True):
            assert row.tolist() == contrastive(theirs, prompt, 10, k=5, alpha=0.6)

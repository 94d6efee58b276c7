import numpy as np
import pytest
import tensorflow as tf

from tf_gpt.generation.noise import gumbel, threefry2x32

# From the authors' Random123 library, file kat_vectors: counter, key, result.
KNOWN_ANSWERS = [
    ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
]


@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("counter, key, expected", KNOWN_ANSWERS)
def test_threefry_gives_the_published_answers(counter, key, expected, jit):
    counter, key = (
        tuple(tf.constant(word, tf.uint32) for word in words)
        for words in (counter, key)
    )
    x, y = tf.function(threefry2x32, jit_compile=jit)(key, counter)
    assert (int(x), int(y)) == expected


def test_noise_is_standard_gumbel():
    noise = gumbel(np.arange(20), np.zeros(20), 3, 10_000).numpy().ravel()
    assert np.isfinite(noise).all()
    # Mean and variance of the distribution: Euler's constant, pi^2 / 6.
    assert abs(noise.mean() - 0.5772) < 0.01
    assert abs(noise.var() - np.pi**2 / 6) < 0.03
    # Its distribution function makes it uniform.
    counts = np.histogram(np.exp(-np.exp(-noise)), bins=50, range=(0, 1))[0]
    chi_square = ((counts - 4000) ** 2 / 4000).sum()
    assert chi_square < 90  # 49 degrees of freedom; 85 is exceeded once in 1,000


def test_noise_differs_by_seed_sample_step_and_token():
    def draw(seed, sample, step):
        return gumbel(np.array([seed]), np.array([sample]), step, 100).numpy()[0]

    draws = [draw(0, 0, 0), draw(1, 0, 0), draw(0, 1, 0), draw(0, 0, 1)]
    draws.append(draws[0][::-1])
    for i, a in enumerate(draws):
        for b in draws[:i]:
            assert (a == b).mean() < 0.05


def test_noise_of_a_row_does_not_depend_on_the_batch():
    alone = gumbel(np.array([5]), np.array([2]), 7, 64).numpy()[0]
    seeds, samples = np.array([1, 5, 5]), np.array([0, 2, 3])
    np.testing.assert_array_equal(gumbel(seeds, samples, 7, 64).numpy()[1], alone)

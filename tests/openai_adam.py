"""OpenAI's optimizer written out in NumPy, after opt.py; for comparison."""

import numpy as np

PEAK = 6.25e-5

# The schedules: x the share of the steps made, w that of the warm-up.
SHAPES = {
    "linear": lambda x, w: (x / w if x <= w else 1) * (1 - x),
    "cosine": lambda x, w: x / w if x <= w else 0.5 * (1 + np.cos(np.pi * x)),
    "constant": lambda x, w: x / w if x <= w else 1,
}


class Adam:
    """OpenAI's `adam` on a list of arrays, all in one NumPy type.

    Args:
        weights: List of arrays; `p` holds them as they are updated.
        rate: Function from the number of updates made to the learning rate.
        l2: Decay of the matrices.
        max_norm: Largest norm of all gradients together; None for no limit.
        dtype: Type that the updates are computed in.
    """

    def __init__(self, weights, rate, l2=0.01, max_norm=1.0, dtype="float64"):
        self.p = [w.astype(dtype) for w in weights]
        self.m = [np.zeros_like(p) for p in self.p]
        self.v = [np.zeros_like(p) for p in self.p]
        self.rate, self.l2, self.max_norm = rate, l2, max_norm
        self.number = np.dtype(dtype).type
        self.t = 0

    def update(self, grads, multipliers=None):
        b1, b2, e = (self.number(x) for x in (0.9, 0.999, 1e-8))
        norm = np.sqrt(sum(np.sum(np.square(g.astype("float64"))) for g in grads))
        clips = self.max_norm is not None and norm > self.max_norm
        scale = self.number(self.max_norm / norm if clips else 1)
        lrt = self.rate(self.t)
        lrt *= np.sqrt(1 - 0.999 ** (self.t + 1)) / (1 - 0.9 ** (self.t + 1))
        for i, g in enumerate(grads):
            g = g.astype(self.number) * scale
            self.m[i] = b1 * self.m[i] + (1 - b1) * g
            self.v[i] = b2 * self.v[i] + (1 - b2) * g * g
            step = self.m[i] / (np.sqrt(self.v[i]) + e)
            if self.p[i].ndim > 1:
                step = step + self.number(self.l2) * self.p[i]
            mine = lrt if multipliers is None else lrt * multipliers[i]
            self.p[i] = self.p[i] - self.number(mine) * step
        self.t += 1

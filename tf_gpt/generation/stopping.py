"""Stopping on what Python decides: texts, the clock, a caller's own rule.

These look at the tokens between compiled chunks of the loop. A row that ended
within a chunk is cut there, so that the ids do not depend on the chunks.
"""

import time


class StopOnText:
    """Ends a row when its new text has one of some strings.

    Args:
        tokenizer: Its `decode` turns ids into text.
        texts: The strings.

    Call arguments:
        ids: NumPy (n,), a row so far, without padding.
        n_prompt: How many of them are the prompt.

    Returns:
        Whether the row ends with its newest token.
    """

    def __init__(self, tokenizer, texts):
        self.tokenizer = tokenizer
        self.texts = texts

    def __call__(self, ids, n_prompt):
        text = self.tokenizer.decode(ids[n_prompt:].tolist())
        return any(stop in text for stop in self.texts)


class Stopping:
    """Watches the rows of one call of `generate`.

    Args:
        criteria: Callables (ids, n_prompt) -> bool, as `StopOnText`.
        max_time: Seconds after which no chunk is begun, or None.
        eos_ids: The end tokens.
        pad_id: What an ended row goes on with.
    """

    def __init__(self, criteria, max_time, eos_ids, pad_id):
        self.criteria = list(criteria)
        self.max_time = max_time
        self.eos_ids = eos_ids
        self.pad_id = pad_id
        self._start = time.monotonic()
        self._told = 0  # new tokens that were looked at
        self._ends = {}  # row -> its new tokens, once it has ended

    def __bool__(self):
        """Whether there is anything to watch."""
        return bool(self.criteria) or self.max_time is not None

    def is_late(self):
        """Returns whether the time is over."""
        return (
            self.max_time is not None
            and time.monotonic() - self._start >= self.max_time
        )

    def cut(self, ids, n_prompt, step):
        """Ends rows among their newest tokens.

        Args:
            ids: Int32 NumPy (B, S), padded with -1 before each prompt; what
                follows a row's end is changed in place.
            n_prompt: Slots of the prompt.
            step: New tokens.

        Returns:
            `(ended, step)`: the list of rows that have ended, and the number of
            new tokens, fewer if every row ended before.
        """
        for row, slots in enumerate(ids):
            if row not in self._ends:
                for n_new in range(self._told + 1, step + 1):
                    if self._is_end(slots[: n_prompt + n_new], n_new):
                        self._ends[row] = n_new
                        break
            if row in self._ends:
                slots[n_prompt + self._ends[row] : n_prompt + step] = self.pad_id
        self._told = step
        if len(self._ends) == len(ids):
            step = max(self._ends.values())
        return sorted(self._ends), step

    def _is_end(self, slots, n_new):
        ids = slots[slots >= 0]
        return ids[-1] in self.eos_ids or any(
            stops(ids, len(ids) - n_new) for stops in self.criteria
        )

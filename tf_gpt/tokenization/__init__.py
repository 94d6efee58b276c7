"""Tokenizers: text to ids and back.

`tokenizer` and `fast` have the two tokenizers, `graph` the fast one inside a
TensorFlow graph, `corpus` big files, `task_tokens` the tokens that GPT lacks. Only
`graph` imports TensorFlow.
"""

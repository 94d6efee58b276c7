"""Tokenizers: text to ids and back. Only `graph` imports TensorFlow."""

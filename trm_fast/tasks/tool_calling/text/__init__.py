"""Text of requests and tools: tokenizers, words and how rare they are, and the values that stand in them."""

"""Processing of the text of requests and tools: tokenizers, words and their rarity, and values."""

"""Conversations with tools: what they are, their files and formats on disk, how they are drawn."""

"""Conversations with tools: their classes, their files and formats on disk, and their drawings."""

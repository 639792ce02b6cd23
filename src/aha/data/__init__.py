"""Data: where they come from, how they become token ids, and how those are packed."""

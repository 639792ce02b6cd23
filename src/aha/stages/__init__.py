"""The three stages. Each turns data and a checkpoint into a new checkpoint, in a process of its own."""

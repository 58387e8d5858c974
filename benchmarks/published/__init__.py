"""The published pipelines in plain PyTorch, as their authors run them: peers to measure against."""

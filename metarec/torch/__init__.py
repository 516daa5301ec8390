"""Learners and the text encoder in PyTorch."""

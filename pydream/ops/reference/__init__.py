"""Every op in plain PyTorch: the oracle of the tests, and the fallback on other devices."""

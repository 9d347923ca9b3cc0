"""The Hugging Face Hub: snapshots by commit, verified, and the retry policy of requests."""

"""Models and tokenizers: loading, and checks of their folders."""

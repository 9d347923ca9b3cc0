"""Models, tokenizers and adapters: loading, saving, and checks of their folders."""

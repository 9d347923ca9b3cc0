"""A finished run → the files of a repository on the Hugging Face Hub.

publication.py   which files are published, and that no access token is in them
shared.py        records without secrets, and of local paths the names alone; the page made of them
model_card.py    the card, by model_card.md.jinja; claims.py: its figures against the answers in eval/
metadata.py      the YAML at its top                usage.py      the code that asks the model
origins.py       base model and problems: names, commits, licences
"""

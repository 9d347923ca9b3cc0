"""One configuration trained with several seeds, and one verdict over them.

train_seeds.py   from the seeds that are asked for to seeds.json and its page: read this first
folder.py        the folder of their runs, and what is in it already
runs.py          the runs, each a `tiny-math train` of its own: one after the other, or one on each GPU
"""

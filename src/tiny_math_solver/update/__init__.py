"""Rows of an optimizer step → gradient of the adapter.

policy_update.py    one step: gather, cut, score, gradient
passes.py           rows → passes of about the same number of tokens
scorer.py           the interface: log-probabilities with their gradient
torch_scorer.py     by the model's own modules, on any device
merged_scorer.py    by kernels of our own from the rollouts' merged weights
ragged.py           the rows of its passes, without padding and with each prompt once
weight_gradients.py from its projections to the adapter
"""

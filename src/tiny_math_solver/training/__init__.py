"""Training with TRL: the trainer at its hooks, and what accompanies a run.

plan.py             problems, prompts and the run in numbers      build.py          all of it put together
trainer.py          TRL's GRPOTrainer at its hooks
generation.py       a batch: rollouts, graded completions         recorder.py       rollouts.jsonl and counts
dev_evaluation.py   dev accuracy, the best adapter                metrics_log.py    metrics.jsonl
guards.py           what can go wrong, found in the metrics       watchdog.py       the guards at work
checkpointing.py    everything that shapes the rest of a run      trl_state.py      the part that is TRL's
signals.py          graceful shutdown                             live_view.py      the console of a run
agreement.py        one decision in all processes
trackers.py         W&B, TensorBoard, Trackio                     sample_tables.py  completions for them
step_metrics.py     times and dev accuracy in a step's line
"""

"""The GRPO run: TRL's trainer with our rollouts, records and dev evaluation around it."""

"""Losses: functions of logits, unreduced."""

"""Metrics per task, episodes, recommendation lists and significance; NumPy in, pandas out.

Import from the module that owns the name: `from metarec.evaluation.evaluate import evaluate`.
Nothing is imported here, so that importing metarec stays cheap.
"""

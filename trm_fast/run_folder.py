"""The names of the files in a run folder."""

CONFIG, METRICS, SUMMARY, MODEL, BEST = "config.yaml", "metrics.jsonl", "summary.json", "model", "best_model"

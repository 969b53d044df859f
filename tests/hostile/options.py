"""Wrong values of options, arguments and settings."""

from __future__ import annotations

from .case import EVAL, MODEL, PUZZLE, SMALL, SOLVE, TRAIN, Case, each

MAZES = ("data", "maze", "--out", "new/mazes.csv")
SUDOKUS = ("data", "sudoku", "--size", "4", "--out", "new/sudokus.csv")
IMPORT = ("import", "weights/good.safetensors", "--task", "{name: sudoku, size: 4}", "--out", "new/model")
CYCLED = (*IMPORT, "--cycles", "1", "--latent-steps", "1")
SWEEP = ("sweep", "--preset", MODEL, "--out", "new/sweep", "--variant", "a:")
TOKENIZER = ("tokenizer", "train", "--data", "rows/chat.jsonl", "--out", "new/tokenizer")

WRONG = ("", "x", "-1", "nan", "1e999", "9" * 30, "9" * 5000, "²")
"""Values that no option for a count takes."""
WHOLE = {
    "--max-steps": SOLVE,
    "--min-steps": SOLVE,
    "--rollouts": SOLVE,
    "--symmetries": SOLVE,
    "--batch-size": SOLVE,
    "--seed": SOLVE,
    "--hints": SOLVE,
    "--resample-every": SOLVE,
    "--limit": EVAL,
    "--steps": TRAIN,
    "--count": SUDOKUS,
    "--size": ("data", "sudoku", "--out", "new/sudokus.csv"),
    "--min-givens": SUDOKUS,
    "--max-givens": SUDOKUS,
    "--min-distance": MAZES,
    "--heads": CYCLED,
    "--cycles": (*IMPORT, "--latent-steps", "1"),
    "--latent-steps": (*IMPORT, "--cycles", "1"),
    "--prefix-tokens": CYCLED,
    "--puzzles": CYCLED,
    "--port": ("mcp", "--transport", "http"),
    "--optuna": SWEEP,
    "--vocab-size": TOKENIZER,
    "--preview": ("data", "hermes", "rows/chat.jsonl"),
}
FRACTIONS = {
    "--noise": (*SOLVE, "--rollouts", "2"),
    "--budget": SOLVE,
    "--epochs": ("train", "--preset", MODEL, "--out", "new/run"),
    "--minutes": TRAIN,
    "--val-split": ("data", "hermes", "rows/chat.jsonl", "--out", "new/a.json"),
}

COUNTS = [
    case
    for option, command in WHOLE.items()
    for value in WRONG
    for case in each((*command, option, "{}"), option.lstrip("-").replace("-", " ").split()[-1], value)
]
SHARES = [
    case
    for option, command in FRACTIONS.items()
    for value in ("", "x", "-1", "nan")
    for case in each((*command, option, "{}"), option.lstrip("-").replace("-", " ").split()[-1], value)
]

COMMANDS = [
    Case(("nonsense",), "nonsense"),
    Case(("solve",), "MODEL"),
    Case(("solve", MODEL, PUZZLE, "further"), "further"),
    Case((*SOLVE, "--no-such"), "--no-such"),
    Case((*SOLVE, "--select", "best"), "--select"),
    Case((*SOLVE, "--start", "here"), "--start"),
    Case((*SOLVE, "--answer-only-if", "confidence>=2"), "confidence>=X"),
    Case((*SOLVE, "--answer-only-if", "valid" * 30_000), "answer-only-if"),
    Case((*SOLVE, "--symmetries", "100000", "--rollouts", "100000"), "rollouts x symmetries"),
    Case((*SOLVE, "--resample-every", "2"), "rollouts"),
    Case((*SOLVE, "--hints", "2"), "rollouts"),
    Case((*SOLVE, "--noise", "1e308", "--rollouts", "2"), "noise"),
    Case((*SOLVE, "--submission", "new/s.json"), "submission"),
    *each((*SOLVE, "--device", "{}"), "--device", "meta", "hpu", "privateuseone", "cuda:99999", "cpu:x", "x" * 9999),
    *each((*SOLVE, "--from", "{}"), "--from", "²", "step_", "step_-1", "9" * 5000, "newest"),
    *each(("solve", "{}", PUZZLE), "there is no run or model", "x" * 5000, "no\nsuch", "\x1b[31m", "~", "a/b/c"),
    Case(("solve", "", PUZZLE), "is not a model"),
    Case(("solve", "--task", "chess", PUZZLE), "chess"),
    Case((*SOLVE, "--task", "maze"), "--task maze"),
    Case((*EVAL, "--split", "middle"), "--split"),
    Case((*EVAL, "--data", "missing.csv"), "missing.csv"),
    Case((*EVAL, "--data", "hf:"), "hf:"),
    *each((*EVAL, "--sweep", "{}"), "--sweep", "", "steps", "steps=", "steps=x", "other=1", "steps=1 noise=1,2"),
    Case((*EVAL, "--sweep", "steps=" + "9" * 40), "max_steps"),
    Case((*EVAL, "--sweep", "steps=1", "--plot", "new/plot.docx"), ".docx"),
    Case(("train", "--preset", "sudoku", "--config", "configs/good.yaml"), "--preset"),
    Case(("train", "--preset", "none", "--out", "new/run"), "none"),
    Case(("train", "--config", "missing.yaml", "--out", "new/run"), "missing.yaml"),
    Case((*TRAIN, "--epochs", "1"), "--steps or --epochs"),
    Case((*SMALL, "--data", "missing.csv"), "missing.csv"),
    Case((*SMALL, "--init-from", "missing"), "missing"),
    Case((*SMALL, "--from", "step_1"), "--from"),
    Case((*SMALL, "--log", "printer"), "--log printer"),
    Case(("train", "--resume", "missing"), "missing"),
    Case((*SWEEP, "--seeds", "1,1"), "--seeds"),
    Case((*SWEEP, "--seeds", "²"), "--seeds"),
    Case((*SWEEP, "--vary", "training.steps"), "--vary"),
    Case((*SWEEP, "--vary", "training.steps=5..1"), "--vary"),
    Case((*SWEEP, "--vary", "training.nothing=1,2"), "nothing"),
    Case(("plot", "missing"), "missing"),
    Case((*SUDOKUS, "--min-givens", "9", "--max-givens", "5"), "givens"),
    *each((*MAZES, "--size", "{}"), "1 to 64", "0", "65"),
    *each((*MAZES, "--size", "{}"), "--size", "", "x", "3x", "3x3x3", "²", "9" * 5000),
    Case((*MAZES, "--min-density", "0.9", "--max-density", "0.1"), "densities"),
    *each((*MAZES, "--min-density", "{}"), "densities", "-1", "nan", "1e300"),
    *each((*MAZES, "--max-density", "{}"), "densities", "-1", "nan", "inf"),
    Case((*MAZES, "--size", "3", "--min-distance", "500"), "distance"),
    Case(("mcp", "--host", "0.0.0.0"), "--transport http"),
    Case(("mcp", "--transport", "http", "--host", "0.0.0.0"), "TRM_FAST_MCP_TOKEN"),
    Case(("mcp", "--transport", "http", "--host", "no such host", "--token", "0123456789abcdef"), "no such host"),
    Case(("mcp", "--transport", "http", "--token", "short"), "at least 16"),
    Case(("mcp", "--transport", "http", "--allowed-host", "http://x"), "--allowed-host"),
    Case(("call", MODEL, "--query", "hello"), "calls no tools"),
    Case(("call", MODEL, "--query", ""), "--query"),
    Case(("call", MODEL), "--query"),
    Case(("export", MODEL), "--format"),
    Case(("export", MODEL, "--format", "gguf"), "--format"),
    Case(("export", MODEL, "--format", "safetensors", "--part", "step"), "--part"),
    Case(("import", "weights/good.safetensors", "--task", "chess", "--out", "new/m"), "chess"),
    Case(("import", "missing", "--task", "sudoku", "--out", "new/m"), "missing"),
]

SETTINGS = [
    Case((*SMALL, "--set", setting), words)
    for setting, words in [
        ("training.batch_size", "section.key=value"),
        ("=1", "section.key=value"),
        ("batch_size=1", "section.key=value"),
        ("training.batch_size=", "training.batch_size"),
        ("training.batch_size=0", "training.batch_size"),
        ("training.batch_size=2.5", "training.batch_size"),
        ("training.batch_size='4'", "training.batch_size"),
        ("training.batch_size=[4]", "training.batch_size"),
        ("training.batch_size=1e3", "training.batch_size"),
        ("training.batch_size=yes", "training.batch_size"),
        ("training.batch_size=900000000", "memory"),
        ("training.learning_rate=.nan", "training.learning_rate"),
        ("training.learning_rate=.inf", "training.learning_rate"),
        ("training.learning_rate=-1", "training.learning_rate"),
        ("training.optimizer=lion", "lion"),
        ("training.optimizer=" + "x" * 100_000, "training.optimizer"),
        ("training.nothing=1", "training.nothing"),
        ("training=1", "section.key=value"),
        ("training.log_every=" + "9" * 5000, "too many digits"),
        ("training.warmup_steps=" + "9" * 40, "training.warmup_steps"),
        ("training.seed=" + "9" * 40, "training.seed"),
        ("training.seed=-1", "training.seed"),
        ("training.log_every={a: 1", "YAML"),
        ("training.log_every=" + "[" * 20_000, "nested"),
        ("training.log_every=!!python/object:os.system x", "training.log_every"),
        ("model.hidden_size=0", "model.hidden_size"),
        ("model.hidden_size=200000", "training needs"),
        ("model.hidden_size=" + "9" * 20, "model.hidden_size"),
        ("model.num_layers=1000000", "model.num_layers"),
        ("model.num_heads=0", "model.num_heads"),
        ("model.T_cycles=1000000", "model.T_cycles"),
        ("model.expansion=1e308", "model.expansion"),
        ("model.expansion=0", "model.expansion"),
        ("model.norm_eps=0", "model.norm_eps"),
        ("model.inner_multiple=1000000000000", "model.inner_multiple"),
        ("model.prefix_tokens=1000000000", "model.prefix_tokens"),
        ("model.seq_len=17", "seq_len"),
        ("model.vocab_size=3", "vocab_size"),
        ("model.mixing=magic", "model.mixing"),
        ("model.outputs=slots", "slots"),
        ("model.outputs=values", "values"),
        ("model.inputs=bags", "bags"),
        ("model.dropout=1.5", "model.dropout"),
        ("model.q_threshold=2", "model.q_threshold"),
        ("task.size=5", "task.size"),
        ("task.size=9999999999", "task.size"),
        ("task.givens=[9, 4]", "givens"),
        ("task.givens=[1]", "task.givens"),
        ("task.train_count=0", "task.train_count"),
        ("task.train_count=99999999", "memory"),
        ("task.name=chess", "chess"),
        ("task.name=:x", "MODULE:CLASS"),
        ("task.name=.x:y", "MODULE:CLASS"),
        ("task.name=os:system", "os:system"),
        ("task.name=no_such_module:Task", "no_such_module"),
        ("data.source=missing.csv", "missing.csv"),
        ("data.source=rows", "rows"),
        ("data.holdout=2", "data.holdout"),
        ("data.test=missing.csv", "missing.csv"),
        ("solver.max_steps=" + "9" * 30, "solver.max_steps"),
        ("solver.noise=-1", "solver.noise"),
        ("solver.nothing=1", "solver.nothing"),
        ("nothing.at_all=1", "nothing"),
    ]
]

CASES = COUNTS + SHARES + COMMANDS + SETTINGS

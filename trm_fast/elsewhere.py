"""Names that other programs give to keys of a configuration, for the hints in messages about unknown keys."""

from __future__ import annotations

ELSEWHERE: dict[str, str] = {
    name: key
    for key, names in {
        "training.learning_rate": "lr",
        "training.embedding_learning_rate": "embedding_lr emb_lr",
        "training.puzzle_learning_rate": "puzzle_emb_lr",
        "training.puzzle_weight_decay": "puzzle_emb_weight_decay",
        "training.warmup_steps": "lr_warmup_steps num_warmup_steps warmup",
        "training.final_learning_rate": "lr_min_ratio min_lr_ratio",
        "training.schedule": "lr_scheduler scheduler",
        "training.betas": "beta1 beta2",
        "training.batch_size": "global_batch_size per_device_batch_size",
        "training.gradient_accumulation": "gradient_accumulation_steps accumulation_steps",
        "training.steps": "epochs num_epochs max_steps total_steps",
        "training.clip_norm": "max_grad_norm gradient_clip_norm grad_clip",
        "training.ema_decay": "ema use_ema ema_rate",
        "training.exploration": "halt_exploration_prob",
        "training.halting_weight": "q_loss_weight act_loss_weight halt_loss_weight",
        "training.dtype": "forward_dtype precision mixed_precision",
        "training.log_every": "log_interval",
        "training.eval_every": "eval_interval",
        "training.checkpoint_every": "save_interval checkpoint_interval checkpoint_every_eval",
        "model.hidden_size": "d_model embed_dim hidden_dim dim",
        "model.num_heads": "n_heads heads",
        "model.num_layers": "n_layers layers L_layers l_layers",
        "model.T_cycles": "H_cycles h_cycles n_recursion_steps num_recursions T_deep_recursion T",
        "model.n_latent_steps": "L_cycles l_cycles n_cycles n_latent_recursion n",
        "model.max_supervision_steps": "halt_max_steps n_supervision_steps N_supervision N_sup",
        "model.latent_width": "latent_dim reasoning_dim",
        "model.answer_width": "action_dim",
        "model.puzzle_embedding_size": "puzzle_emb_ndim",
        "model.prefix_tokens": "puzzle_emb_len",
        "model.positions": "pos_encodings",
        "model.mixing": "mlp_t use_attention",
        "task.seq_len": "max_seq_len max_length",
        "task.tokenizer": "tokenizer_path",
        "data.source": "data_path data_paths train_data",
        "data.test": "data_paths_test val_data",
        "data.holdout": "val_split",
    }.items()
    for name in names.split()
}
"""The key of this project by the name that other programs give it."""

"""What is known of names outside the project: wrappers, frameworks, words of evaluation."""

from __future__ import annotations

import re

# methods that return the model they are called on
SAME_METHODS = frozenset(
    [
        *("to", "cuda", "cpu", "half", "float", "double", "bfloat16", "type", "xpu", "npu"),
        *("requires_grad_", "share_memory", "to_empty", "compile", "ipu", "hpu", "mlu"),
    ]
)
# attributes behind which the same model stands
SAME_ATTRIBUTES = frozenset(["module", "_orig_mod", "_fsdp_wrapped_module"])
# calls that give back the models that they are given
WRAPPERS = re.compile(
    r"(^|\.)(DataParallel|DistributedDataParallel\w*|DDP|FullyShardedDataParallel|FSDP|compile"
    r"|prepare|prepare_model|prepare_for_training|initialize|setup|setup_module|script|optimize"
    r"|convert_sync_batchnorm|convert_syncbn_model|unwrap_model|unwrap|extract_model_from_parallel"
    r"|get_peft_model|prepare_model_for_\w+|weight_norm|spectral_norm|fully_shard|checkpoint_wrapper"
    r"|data_parallel|DataParallelModel|ShardedDataParallel|distribute_model|wrap_model|get_model"
    r"|de_parallel|de_complete_parallel|unwrap_ddp_model|OptimizedModule|auto_model|accelerate)$"
)
# of the project too: what they do inside need not be followed
OWN_WRAPPERS = re.compile(
    r"(^|\.)(get_peft_model|prepare_model_for_\w+|unwrap_model|unwrap|de_parallel|weight_norm"
    r"|spectral_norm|convert_\w*batchnorm|convert_splitbn_model|inject_adapter\w*|add_adapter"
    r"|de_complete_parallel|data_parallel|wrap_model|distribute_model|unwrap_ddp_model)$"
)
# those of them that take several things and give them back in order
MANY = re.compile(r"(^|[._])(prepare|initialize|setup)$")
# functions that read a model and leave its mode alone
HARMLESS = re.compile(
    r"^(print|len|isinstance|issubclass|hasattr|id|type|str|repr|list|tuple|dict|set|sum|max|min"
    r"|zip|enumerate|iter|next|sorted|reversed|any|all|map|filter|callable|vars|dir|super|setattr"
    r"|bool|int|float|format|hash|delattr)$"
    r"|^(torch\.(save|optim|nn\.utils|cuda|distributed|nn\.init|numel|profiler|amp|backends"
    r"|autograd|onnx|jit|export|_C|ao|quantization|func|manual_seed|set_|load|no_grad|fx)|numpy"
    r"|np|os|sys|logging|logger|time|math|json|pickle|gc|wandb|mlflow|torchsummary|random|copy"
    r"|tensorboard|warnings|weakref|functools|itertools|contextlib|bitsandbytes|apex|tqdm|inspect"
    r"|thop|ptflops|fvcore|torchprofile|safetensors|horovod|hvd|xm|torch_xla|pprint|collections"
    r"|lr_scheduler|optim|warmup_scheduler|torch_optimizer|adabound|madgrad)\b"
    r"|(^|\.)(count_param\w*|num_param\w*|\w*Scheduler|\w*Adam\w*|SGD|\w*Optimizer|RMSprop|Lamb|LARS"
    r"|get_optimizer\w*|build_optimizer\w*|create_optimizer\w*|configure_optimizers|clip_grad\w*"
    r"|SummaryWriter|watch|save_checkpoint|save_model|save|save_pretrained|save_state|add_graph"
    r"|log|info|debug|warning|get_parameters|\w*EMA|\w*ema|AveragedModel|ModelEma\w*|\w*Saver"
    r"|\w*Loss|init_weights|weights_init\w*|EarlyStopping|early_stopping|log_model|print_\w*"
    r"|broadcast_\w+|sync_\w+|param_groups\w*|register_\w*hook|track|update_ema\w*|ema_update\w*"
    r"|backup|store|parameters_to_vector|GradScaler|Checkpointer|CheckpointManager)$"
)
OPTIMIZER_LIKE = re.compile(
    r"(^|\.)(optim\.\w+|torch\.optim\.|\w*Adam\w*|SGD|\w*Optimizer|\w*Scheduler|lr_scheduler\.\w+"
    r"|GradScaler|\w*EMA|\w*Loss|SummaryWriter|Checkpointer|RMSprop|Lamb|LARS)$"
)
# frameworks that switch the modes of the models that they are given
FRAMEWORKS = re.compile(
    r"(^|\.)(pytorch_lightning|lightning|lightning_fabric|pl|ignite|fastai|catalyst|composer|skorch"
    r"|mmengine|mmcv|detectron2|accelerate_trainer|poutyne|torchbearer|flair|allennlp|ludwig|trl"
    r"|setfit|sentence_transformers|spacy|gluonts|darts|stable_baselines3|tianshou|rllib|torchtnt"
    r"|torchrl|d2go|mmcls|mmdet|mmseg|parlai|nemo|speechbrain|fairseq|espnet|espnet2|pythae)\."
    r"|(^|\.)(LightningModule|LightningDataModule|Trainer|Seq2SeqTrainer|Learner|NeuralNet\w*"
    r"|ComposerModel|DefaultTrainer|SimpleTrainer|TrainerBase|BaseRunner|EpochBasedRunner|Brain"
    r"|IterBasedRunner|Engine|Runner|TrainerCallback|Callback|FairseqTask|LightningLite|Fabric"
    r"|Estimator|BaseEstimator|PyTorchModel|SentenceTransformer|SFTTrainer|DPOTrainer)$"
)
# decorators that leave the modes of what they are given alone
PLAIN_DECORATORS = re.compile(
    r"(^|\.)(no_grad|inference_mode|enable_grad|set_grad_enabled|staticmethod|classmethod|property"
    r"|cached_property|abstractmethod|override|overload|final|wraps|lru_cache|cache|command|option"
    r"|argument|group|main|jit|script|script_method|ignore|unused|compile|autocast|record|profile"
    r"|timer|timeit|time_it|contextmanager|fixture|parametrize|skipif|task|flow|cli|app|deprecated"
    r"|custom_fwd|custom_bwd|register\w*|hydra_main|with_config|automain|capture|typechecked"
    r"|jaxtyped|beartype|wrap|dataclass|validate_arguments|retry|rank_zero_only|master_only"
    r"|setter|remote|callback|get|post|route|experiment|catch|logger|log_time|measure_time)$"
    r"|^(click|typer|hydra|fire|functools|typing|contextlib|pytest|numba|abc)\b"
)
GRAD_OFF = frozenset(["torch.no_grad", "torch.inference_mode", "torch.autograd.no_grad"])
STEPS = frozenset(["step", "optimizer_step", "clip_and_step"])
BACKWARD = frozenset(["backward", "manual_backward", "scaled_backward", "backward_step"])
# of a function or a loop: this is where a model is judged or used
EVALUATES = re.compile(
    r"(^|[_.])(eval|evaluate\w*|evaluation|test|tests|testing|valid|validate\w*|validation|val|dev"
    r"|infer|inference|predict\w*|prediction\w*|generate\w*|translate\w*|transcribe\w*|decode\w*"
    r"|score\w*|accuracy|acc|metrics?|demo|caption\w*|summarize\w*|classify|answer\w*|chat|sample\w*"
    r"|benchmark_accuracy|perplexity|reward|estimate_loss)([_.]|$)"
    r"|(?<=[a-z])(Eval|Evaluate|Test|Validate|Validation|Valid|Predict|Inference)(?![a-z])",
)
STRICTLY_EVALUATES = re.compile(
    r"^_?(eval|evaluate|evaluation|test|validate|validation|valid|val|infer|inference|predict"
    r"|translate)(_(model|epoch|one_epoch|loop|step|net|network|randomly|all|iters|batch|set|dataset"
    r"|loss|data|accuracy|acc))?$"
    r"|^(run|do|model)_?(eval|evaluate|evaluation|test|validation|inference|predict)$"
)
# of a file that is a script: what it does with a model that it has loaded
SCRIPT_EVALUATES = re.compile(
    r"^(generate|evaluate|evaluation|eval|test|predict|prediction|infer|inference|demo|translate"
    r"|sample|caption|detect|classify|transcribe|synthesize|visualize)(_\w+)?$"
)
MEASURES = re.compile(
    r"^(argmax|topk|accuracy|\w*_score|compute_\w*(metric|score|acc)\w*|\w*accuracy\w*|f1\w*|bleu\w*"
    r"|rouge\w*|roc_auc\w*|confusion_matrix|mean_absolute_error|mean_squared_error|metrics?|\w*_metrics?"
    r"|evaluate|compute_score|edit_distance|\w*_iou|mIoU|psnr|ssim|eq|imshow|savefig|save_image)$"
)
HELD_OUT = re.compile(
    r"(^|_)(test|val|valid|validation|dev|eval|evaluation|hold_?out|held_?out)\w*_?"
    r"(loader|dl|data|dataloader|dataset|set|iter|iterator|batches|gen|generator|queue|ds)?s?$"
)
# phases that need, or do not mind, train mode
SPARED = re.compile(
    r"bn_update|update_bn|recalibrat|calibrat|swa|rollout|explor|collect|select_action|choose_action"
    r"|\bact\b|act_|_act$|ema|momentum|teacher|target|pseudo|warm_?up|profile|bench|flops|latency"
    r"|speed|throughput|mc_?drop|monte|bayes|uncertain|stochastic|ensemble|summary|param|init|gan"
    r"|discriminat|generator_step|fake|adversar|attack|perturb|augment|hook|shape|dummy|smoke|toy",
    re.IGNORECASE,
)
NOT_FORWARD = re.compile(
    r"^(parameters|named_\w+|state_dict|load_\w+|children|modules|buffers|zero_grad|apply|register_\w+"
    r"|add_module|get_submodule|get_parameter|share_memory|extra_repr|save\w*|to_\w+|set_\w+|get_\w+"
    r"|init\w*|reset\w*|freeze\w*|unfreeze\w*|num_\w+|count_\w+|print\w*|__\w+__|from_\w+|resize_\w+"
    r"|enable_\w+|disable_\w+|gradient_checkpointing_\w+|tie_weights|post_init|push_to_hub|items|keys"
    r"|values|append|extend|update\w*|configure_\w+|optimizer\w*|log\w*|size|dim|step|backward|no_sync"
    r"|clip_\w+|build\w*|make\w*|create\w*|add_\w+|remove_\w+|merge\w*|load|pop|insert|index|copy|join"
    r"|numel|format|split|strip|lower|is_\w+|has_\w+|requires_grad_|eval|train)$"
)
# a test that is true at the end of an epoch, after which train() is called again
LAST_BATCH = re.compile(
    r"len\([^)]*\)\s*-\s*1|==\s*len\(|(^|_)last(_|$)|is_last|end_of_epoch|epoch_end"
)
# calls that record a model as a graph, and the names under which it may be passed
EXPORTS = {
    "torch.jit.trace": "func",
    "torch.jit.trace_module": "mod",
    "torch.export.export": "mod",
    "torch.onnx.export": "model",
    "torch.onnx.dynamo_export": "model",
}
EXITS = frozenset(["sys.exit", "exit", "quit", "os._exit", "os.abort"])
TEST_FILE = re.compile(
    r"(^|/)(tests?|testing|unittests?)/|(^|/)(test_[^/]*|[^/]*_test|conftest)\.py$"
)
# outside of the project, but modules with dropout or batch norm inside
MODE_LAYERS = re.compile(
    r"^torch\.nn\.(Lazy)?((Sync)?BatchNorm\w*|Dropout\w*|AlphaDropout|FeatureAlphaDropout|RReLU)$"
    r"|^torch\.nn\.Transformer(Encoder|Decoder)?(Layer)?$"
    r"|^(transformers|timm)\.\w+(Model|For\w+|create_model)(\.from_(pretrained|config))?$"
    r"|^torchvision\.models\.(?!\w*(squeezenet|vit|convnext|swin))\w+$|^segmentation_models_pytorch\."
    r"|(^|\.)DropPath$|(^|\.)BatchNorm[123]?d?$"
)
# those of them that drop
DROPOUT_LAYERS = re.compile(
    r"^torch\.nn\.(Dropout\w*|AlphaDropout|FeatureAlphaDropout)$"
    r"|^torch\.nn\.Transformer(Encoder|Decoder)?(Layer)?$|(^|\.)DropPath$"
)
RATE_LAYERS = re.compile(r"^torch\.nn\.(LSTM|GRU|RNN|MultiheadAttention)$")
RATE_WORDS = re.compile(
    r"(^|_)(dropout|drop_?rate|drop_?prob|p_?drop|drop_?path(_?rate)?|drop)(_|$)"
)
DROPOUT = re.compile(r"^torch\.nn\.(Feature)?(Alpha)?Dropout[123]?d?$")
DROPS = re.compile(r"^torch\.(nn\.functional\.)?(\w*dropout\w*)$")
# attention kernels, and the position of the rate among their arguments
KERNELS: dict[str, int] = {
    **dict.fromkeys(("scaled_dot_product_attention", "_scaled_dot_product_attention"), 4),
    **dict.fromkeys(("memory_efficient_attention", "memory_efficient_attention_forward"), 4),
    **{"flash_attn_func": 3, "flash_attn_qkvpacked_func": 1, "flash_attn_kvpacked_func": 2},
    **dict.fromkeys(("flash_attn_varlen_func", "flash_attn_unpadded_func"), 7),
    **dict.fromkeys(("flash_attn_varlen_qkvpacked_func", "flash_attn_unpadded_qkvpacked_func"), 3),
    **dict.fromkeys(("flash_attn_varlen_kvpacked_func", "flash_attn_unpadded_kvpacked_func"), 6),
}

"""The small edits that mlx-audio needs: `mlx_audio.load`, plugins, the speaker category."""

from pathlib import Path

from .tree import Tree

TEMPLATES = Path(__file__).resolve().parent / "templates"
INIT, REGISTRY, UTILS, CONVERT = (f"mlx_audio/{name}.py" for name in ("__init__", "registry", "utils", "convert"))
IMPORT = "from mlx_audio.registry import model_type_from_config\n"


def create_from_template(tree: Tree, *paths: str) -> None:
    """Add files as they stand in `templates/`."""
    for path in paths:
        tree.create(path, (TEMPLATES / path).read_text(encoding="utf-8"))


def add_load(tree: Tree) -> None:
    """`mlx_audio.load`, in a commit of its own.

    Raises:
        AnchorError: the source is another; so for all functions here.
    """
    tree.after(
        INIT,
        'os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"\n',
        '''

def load(model_name: str):
    """Load any model that mlx-audio knows; the same as ``mlx_audio.utils.load_model``."""
    from mlx_audio.utils import load_model

    return load_model(model_name)
''',
    )
    create_from_template(tree, "mlx_audio/tests/test_load.py")
    tree.commit(
        """feat: add mlx_audio.load

One entry point for all kinds of models, under the name that users try first.
It imports nothing until it is called."""
    )


def add_plugins(tree: Tree) -> None:
    """The entry-point group `mlx_audio.models`, in a commit of its own."""
    tree.before(
        REGISTRY,
        "def classify_model(",
        '''PLUGIN_GROUP = "mlx_audio.models"


@lru_cache(maxsize=None)
def plugin_models(kind: str) -> Dict[str, str]:
    """Model types that installed packages add to a kind, with their modules.

    A package registers an entry point ``<kind>.<model_type> = "package.module"`` in
    the group ``mlx_audio.models``. The module exports ``Model`` and ``ModelConfig``,
    as the packages under ``mlx_audio/<kind>/models`` do. Nothing is imported here,
    and what mlx-audio has itself is left out.
    """
    from importlib.metadata import entry_points

    found: Dict[str, object] = {}
    for point in entry_points(group=PLUGIN_GROUP):
        point_kind, _, model_type = point.name.partition(".")
        if point_kind != kind or model_type in supported_model_types(kind):
            continue
        other = found.setdefault(model_type.lower(), point)
        if other.value != point.value:
            names = [
                item.dist.name if item.dist else item.value for item in (other, point)
            ]
            raise ValueError(
                f"Two packages register the model type {point.name!r}: "
                f"{names[0]} and {names[1]}; uninstall one of them."
            )
    return {model_type: point.value for model_type, point in found.items()}


def model_module(kind: str, model_type: str) -> str:
    """Module of a model type: a plugin's, or where mlx-audio has its own."""
    own = f"mlx_audio.{kind}.models.{model_type}"
    return plugin_models(kind).get(model_type, own)


''',
    )
    tree.replace(
        REGISTRY,
        "            return kind\n\n    return None\n",
        """            return kind

    for kind in available:
        if model_type in plugin_models(kind):
            return kind

    return None
""",
        "classify_model",
    )
    _plugins_in_utils(tree)
    _plugins_in_convert(tree)
    create_from_template(tree, "mlx_audio/tests/test_plugins.py")
    tree.commit(
        """feat: find models in other packages through entry points

A package adds a model type with one entry point in the group mlx_audio.models:
lid.my_type = "my_package.my_module". The module follows the conventions of the
packages under mlx_audio/<kind>/models. Types of mlx-audio's own always win, and
no plugin is imported before a model of its type is loaded."""
    )


def _plugins_in_utils(tree: Tree) -> None:
    tree.replace(
        UTILS,
        IMPORT,
        """from mlx_audio.registry import (
    kinds,
    model_module,
    model_type_from_config,
    plugin_models,
)
""",
    )
    tree.replace(
        UTILS,
        "    elif model_name is not None:\n",
        "    elif model_name is not None and model_type not in plugin_models(category):\n",
        "get_model_class",
    )
    tree.replace(
        UTILS,
        'module_path = f"mlx_audio.{category}.models.{model_type}"',
        "module_path = model_module(category, model_type)",
        "get_model_class",
    )
    tree.replace(
        UTILS,
        "                if _has_model_module(module_path):\n                    return category\n\n    return None\n",
        """                if _has_model_module(module_path):
                    return category

    return next((kind for kind in kinds() if model_type in plugin_models(kind)), None)
""",
        "get_model_category",
    )


def _plugins_in_convert(tree: Tree) -> None:
    tree.replace(
        CONVERT,
        IMPORT,
        "from mlx_audio.registry import model_module, model_type_from_config, plugin_models\n",
    )
    tree.replace(
        CONVERT,
        "        _model_types_cache[domain_str] = _discover_model_types(domain_str)\n",
        """        _model_types_cache[domain_str] = _discover_model_types(domain_str) | set(
            plugin_models(domain_str)
        )
""",
        "get_model_types",
    )
    tree.replace(
        CONVERT,
        'module_path = f"mlx_audio.{domain}.models.{model_type}"',
        "module_path = model_module(domain, model_type)",
        "_discover_detection_hints",
    )
    tree.replace(
        CONVERT,
        'module_path = f"mlx_audio.{domain.value}.models.{model_type}"',
        "module_path = model_module(domain.value, model_type)",
        "get_model_class",
    )


def add_speaker_category(tree: Tree) -> None:
    """The kind `spk`, and checkpoints that state their task, in a commit of its own; needs the commit of plugins."""
    tree.replace(
        REGISTRY,
        "    return model_type\n",
        """    if model_type == "ecapa_tdnn" and kind_from_config(config) == "lid":
        return "ecapa_tdnn_lid"
    return model_type


_TASK_KINDS = {
    "speaker-embedding": "spk",
    "language-identification": "lid",
    "audio-classification": "lid",
}


def kind_from_config(config: dict) -> Optional[str]:
    \"\"\"Kind of a checkpoint whose config states its task, and its features or output.\"\"\"
    if "front_end" in config or "embed_dim" in config:
        return _TASK_KINDS.get(str(config.get("task")))
    return None
""",
        "model_type_from_config",
    )
    _speakers_in_utils(tree)
    _speakers_in_convert(tree)
    create_from_template(
        tree,
        *(f"mlx_audio/spk/{name}.py" for name in ("__init__", "utils", "models/__init__", "tests/__init__")),
        "mlx_audio/spk/tests/test_spk_category.py",
    )
    tree.commit(
        """feat(spk): add a category for speaker embeddings

mlx_audio.spk loads models that say who is speaking: model.encode(audio) gives a
vector of unit length. Their configs state the task, so neither the name of a
repository nor that of a folder is asked what they are. The models follow.

The lists of categories in .github/workflows are not touched here."""
    )


def _speakers_in_utils(tree: Tree) -> None:
    tree.before(UTILS, "    kinds,\n    model_module,\n", "    kind_from_config,\n")
    tree.after(UTILS, "\n_vad_utils = None\n_lid_utils = None\n", "_spk_utils = None\n")
    tree.after_function(
        UTILS,
        "_get_lid_utils",
        '''

def _get_spk_utils():
    """Lazy load SPK utils."""
    global _spk_utils
    if _spk_utils is None:
        from mlx_audio.spk import utils as spk_utils

        _spk_utils = spk_utils
    return _spk_utils
''',
    )
    tree.after(UTILS, "    lid_utils = _get_lid_utils()\n", "    spk_utils = _get_spk_utils()\n", "get_model_category")
    tree.after(
        UTILS,
        '        ("vad", vad_utils.MODEL_REMAPPING),\n',
        '        ("spk", spk_utils.MODEL_REMAPPING),\n',
        "get_model_category",
    )
    tree.replace(
        UTILS,
        "    model_category = get_model_category(model_type, model_name_parts)\n",
        """    model_category = kind_from_config(config) or get_model_category(
        model_type, model_name_parts
    )
""",
        "load_model",
    )
    tree.after(
        UTILS,
        '        "vad": _get_vad_utils().load_model,\n',
        '        "spk": _get_spk_utils().load_model,\n',
        "load_model",
    )


def _speakers_in_convert(tree: Tree) -> None:
    tree.replace(
        CONVERT,
        "from mlx_audio.registry import model_module, model_type_from_config, plugin_models\n",
        """from mlx_audio.registry import (
    kind_from_config,
    model_module,
    model_type_from_config,
    plugin_models,
)
""",
    )
    tree.after(CONVERT, '    MUSIC = "music"\n', '    SPK = "spk"\n', "Domain")
    tree.before(
        CONVERT,
        "    Domain.MUSIC: DomainConfig(\n",
        '''    Domain.SPK: DomainConfig(
        name="SPK",
        tags=["speaker-embedding", "speaker-verification", "speech", "spk"],
        cli_example="python -c \\"import mlx_audio; print(mlx_audio.load('{repo}').encode('audio.wav'))\\"",
        python_example="""
        from mlx_audio.spk import load

        model = load("{repo}")
        embedding = model.encode("path_to_audio.wav")  # unit length
        print(model.verify("a.wav", "b.wav", threshold=0.5))
        """,
    ),
''',
    )
    tree.before(
        CONVERT,
        "    model_identifier = _get_model_identifier(config)\n",
        """    if kind := kind_from_config(config):
        return Domain(kind)
""",
        "detect_model_domain",
    )

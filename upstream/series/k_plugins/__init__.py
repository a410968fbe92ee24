"""feat: add mlx_audio.load and find models of other packages

mlx_audio.load(name) is mlx_audio.utils.load_model under the name that users try
first. A package adds a model type with one entry point in the group
mlx_audio.models; types of mlx-audio's own always win.
"""

from upstream.tree import Tree

TEST = "mlx_audio/tests/test_plugins.py"
RELATED = (
    "mlx_audio/tests/test_lazy_imports.py",
    "mlx_audio/tests/test_model_resolution.py",
    "mlx_audio/lid/tests/test_lid.py",
    "tests/test_registry.py",
)
LOAD = '''

def load(model_name: str):
    """Load any model that mlx-audio knows; see ``mlx_audio.utils.load_model``."""
    from mlx_audio.utils import load_model

    return load_model(model_name)
'''
PLUGINS = '''@lru_cache(maxsize=None)
def plugin_models(kind: str) -> Dict[str, str]:
    """Model types that installed packages add to a kind, with their modules.

    A package declares ``<kind>.<model_type> = "package.module"`` in the entry-point
    group ``mlx_audio.models``. The module exports ``Model`` and ``ModelConfig``, as
    those under ``mlx_audio/<kind>/models`` do. Nothing is imported here, and types
    of mlx-audio's own win.
    """
    from importlib.metadata import entry_points

    found: Dict[str, str] = {}
    for point in entry_points(group="mlx_audio.models"):
        point_kind, _, model_type = point.name.lower().partition(".")
        if point_kind != kind or model_type in supported_model_types(kind):
            continue
        if found.setdefault(model_type, point.value) != point.value:
            raise ValueError(
                f"Two packages add {point.name!r}: {found[model_type]}, {point.value}"
            )
    return found


'''
PAGE = """## A model in a package of its own

A package can add a model without a change here. It declares an entry point, and its
module exports `Model` and `ModelConfig` as above; `mlx_audio.load` then finds it by
the `model_type` of a checkpoint's `config.json`.

```toml
[project.entry-points."mlx_audio.models"]
"lid.my_type" = "my_package.my_module"
```

"""


def change(tree: Tree) -> None:
    registry, utils = "mlx_audio/registry.py", "mlx_audio/utils.py"
    tree.after("mlx_audio/__init__.py", 'os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"\n', LOAD)
    tree.before(registry, "def classify_model(", PLUGINS)
    tree.after(
        registry,
        "    available = kinds()\n",
        """
    for kind in available:
        if model_type in plugin_models(kind):
            return kind
""",
        "classify_model",
    )
    tree.replace(
        utils,
        "from mlx_audio.registry import model_type_from_config\n",
        "from mlx_audio.registry import kinds, model_type_from_config, plugin_models\n",
    )
    tree.replace(
        utils,
        "    elif model_name is not None:\n",
        "    elif model_name is not None and model_type not in plugin_models(category):\n",
        "get_model_class",
    )
    tree.replace(
        utils,
        '        module_path = f"mlx_audio.{category}.models.{model_type}"\n',
        """        module_path = plugin_models(category).get(
            model_type, f"mlx_audio.{category}.models.{model_type}"
        )
""",
        "get_model_class",
    )
    tree.before(
        utils,
        "    candidates = [model_type] + (model_name or [])\n",
        """    for kind in kinds():
        if model_type in plugin_models(kind):
            return kind

""",
        "get_model_category",
    )
    if tree.has("docs/contributing/adding-a-model.md"):
        tree.before("docs/contributing/adding-a-model.md", "## Checklist\n", PAGE)

"""The house rules that a program can check."""

import ast
import pathlib
import subprocess
import sys

import pytest

import tf_gpt

PACKAGE = pathlib.Path(tf_gpt.__file__).parent

# A part of the package may import itself and what stands on lower levels, or
# what is named beside it.
LEVELS = (
    {"errors", "config", "outputs", "hub", "storage"},
    {"tokenization"},
    {"generation", "layers", "checkpoints"},
    {"models"},
    {"finetuning", "serving"},
    {"cli"},
)


def part_of(module):
    """Returns the part of the package that a dotted module name lies in."""
    names = module.split(".")
    return names[1] if len(names) > 1 else ""


def imports_of(path):
    """Yields every tf_gpt module that a file imports, late imports too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {path}"
            modules = [node.module]
            if node.module == "tf_gpt":
                modules = [f"tf_gpt.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (m for m in modules if m.split(".")[0] == "tf_gpt")


def files():
    return sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    if parts[0] in ("__init__", "__main__"):
        return
    level = next(i for i, names in enumerate(LEVELS) if parts[0] in names)
    allowed = set().union({parts[0]}, *LEVELS[:level])
    if level == 0:
        allowed = LEVELS[0]
    if parts[0] == "cli":  # the command line uses what a user would
        return
    for module in imports_of(path):
        assert part_of(module) in allowed, f"{path} imports {module}"


def test_layers_read_in_order():
    order = ["layers.attention", "layers.block", "models.gpt"]
    for i, name in enumerate(order):
        path = PACKAGE / (name.replace(".", "/") + ".py")
        later = {f"tf_gpt.{n}" for n in order[i + 1 :]}
        assert not later & set(imports_of(path))


def test_the_library_never_prints():
    for path in files():
        if "cli" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            is_print = isinstance(node, ast.Call) and (
                getattr(node.func, "id", None) == "print"
            )
            assert not is_print, f"{path}:{node.lineno}"


@pytest.mark.parametrize(
    "statement",
    [
        "import tf_gpt",
        "import tf_gpt.tokenization.tokenizer, tf_gpt.tokenization.fast",
        "import tf_gpt.config, tf_gpt.hub",
        "import tf_gpt.finetuning.tasks, tf_gpt.finetuning.datasets",
        "from tf_gpt.cli.main import build_parser; build_parser()",
    ],
)
def test_import_is_light(statement):
    check = (
        f"{statement}; import sys; "
        "print([m for m in ('tensorflow', 'keras', 'spacy', 'h5py', "
        "'huggingface_hub') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_every_public_name_can_be_imported():
    for name in tf_gpt.__all__:
        assert getattr(tf_gpt, name) is not None
    assert tf_gpt.TFOpenAIGPTLMHeadModel is tf_gpt.OpenAIGPTLMHeadModel
    with pytest.raises(AttributeError, match="GPT2"):
        _ = tf_gpt.GPT2

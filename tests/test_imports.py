"""Imports run one way: a module imports from its own layer or from those before it."""

import ast
from pathlib import Path

import interact_jax

PACKAGE = Path(interact_jax.__file__).parent
# Each layer may import those above it, and modules of one layer one another, where no name of the
# layer is in APART.
LAYERS = (
    {
        "schema",
        "settings",
        "shipped",
        "remote",
        "places",
        "printable",
        "files",
        "digests",
        "lock",
        "store",
        "buckets",
        "bucket_lock",
        "stage",
        "orbax_errors",
        "json_files",
        "flops",
        "chips",
        "hlo",
        "foreign",
        "logits",
        "divergences",
        "ends",
        "startup",
        "progress",
        "cluster",
        "device_order",
    },
    {"sharding", "models", "data"},
    {"prepare"},
    {
        "scoring",
        "objectives",
        "optim",
        "checkpoint",
        "saved",
        "generation",
        "endpoints",
        "opening",
        "teachers",
        "run_state",
        "memory",
        "guard",
    },
    {
        "methods",
        "staged",
        "resuming",
        "loggers",
        "metrics",
        "signal",
        "continuations",
        "known",
        "skipping",
        "hindsight_check",
        "held_out",
        "best",
    },
    {"pocket", "users", "online", "feeds"},
    {"config"},
    {
        "train",
        "bench",
        "plan",
        "judges",
        "aloe",
        "evaluation",
        "finished",
        "report",
        "cli",
        "arguments",
        "help_text",
        "sampling_flags",
        "commands",
        "__main__",
        "card",
        "hub",
        "leaderboards",
        "harness",
    },
    {"chatting"},
)
APART = {
    ("models", "data"),
    ("data", "models"),
    ("objectives", "models"),
    ("objectives", "scoring"),
}
FLAGS = {"absl", "argparse"}


def modules():
    for file in sorted(PACKAGE.rglob("*.py")):
        top = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if top != "__init__":
            yield top, file


def imported(file):
    """Names of packages that a file imports: ours by their part of the package."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            yield parts[0], "".join(parts[1:2])


def layer_of(name):
    (layer,) = [number for number, layer in enumerate(LAYERS) if name in layer]
    return layer


def test_imports_run_one_way():
    seen = set()
    for top, file in modules():
        seen.add(top)
        for package, part in imported(file):
            if package != "interact_jax" or part in (top, "", "__version__"):
                continue
            assert layer_of(part) <= layer_of(top), f"{file} imports {part}"
            assert (top, part) not in APART, f"{file} imports {part}"
    assert seen == set().union(*LAYERS)


def test_nothing_in_the_package_knows_about_flags():
    """Nothing but what the programs in launch/ share."""
    knowing = {top for top, file in modules() if FLAGS & {name for name, _ in imported(file)}}
    assert knowing == {"arguments", "cli", "help_text", "sampling_flags"}


def test_torch_is_never_imported_by_the_package():
    for _, file in modules():
        assert "torch" not in {package for package, _ in imported(file)}, file

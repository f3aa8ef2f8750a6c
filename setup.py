"""Which packages a wheel has, and the part of `results/` that goes with them. All else: pyproject.

`results/` lies beside the packages in a checkout; in a wheel what is read of it is the data package
`benchmarks.results` (`benchmarks/records/store.py` looks there). Records and figures stay behind.
"""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["sppo*", "baselines*", "benchmarks*"]),
        "sppo.config.hardware_profiles",
        "benchmarks.results",
    ],
    package_dir={"benchmarks.results": "results"},
    package_data={
        "sppo": ["*.pyi"],
        "benchmarks.reporting": ["*.mplstyle"],
        "benchmarks.site": ["assets/*", "templates/*.html"],
        "sppo.config.hardware_profiles": ["*.json"],
        "benchmarks.results": [
            "expected/*.json",
            "paper/*.json",
            "published/emulation/*.json",
            "published/limits/*.json",
            "published/tuning/*.json",
        ],
    },
)

"""What do help and the verbs that need no torch cost, beside Python itself and beside importing torch?"""

from __future__ import annotations

from side_by_side import machine, process_costs

LINES = (
    "--help",
    "predict --help",
    "moments --function gelu",
    "classify --function tanh",
    "phases resnet --points 32",
    "predict resnet",
)


def main() -> None:
    codes = {
        "python -c pass": "pass",
        "import numpy": "import numpy",
        "import xarray": "import xarray",
        "import torch": "import torch",
        "import criticality": "import criticality",
        **{
            line: f"from criticality.cli.main import main; main({line.split()!r}, standalone_mode=False)"
            for line in LINES
        },
    }
    costs = process_costs(codes)
    seconds, megabytes = costs["python -c pass"]
    torch_seconds = costs["import torch"][0] - seconds
    print(machine())
    print("more than python -c pass: seconds of processor time (share of what importing torch takes), MB")
    for name, (used, peak) in costs.items():
        more = used - seconds
        print(f"{name:28s} {more:6.2f} s ({more / torch_seconds:5.2f}) {peak - megabytes:7.1f} MB")


if __name__ == "__main__":
    main()
